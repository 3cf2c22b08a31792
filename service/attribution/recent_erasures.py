"""Remember erased installs, so that opens in flight during an erasure are neither stored nor answered.

What can go wrong: an open that began before the erasure of its install ends after it, and is stored, claims a
click or is answered with one (each open is checked against erasures before it is stored, and what it has
written is deleted); a new open under the same id is treated as erased (only opens that began before the
erasure are); erasures fill the memory (they are forgotten when nothing older can come back).
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping, Sequence

from service.domain.errors import StoreFailed
from service.domain.ports import KeptErasures
from service.telemetry.background import Background


class RecentErasures:
    """Remembers erasures for ``kept_s`` seconds, and deletes what opens in flight wrote during an erasure.

    ``unix_time`` returns Unix seconds.
    """

    def __init__(
        self, kept: KeptErasures, background: Background, unix_time: Callable[[], float], kept_s: float
    ) -> None:
        self._kept = kept
        self._background = background
        self._unix_time = unix_time
        self._kept_s = kept_s
        self._erased_at: dict[str, float] = {}  # in the order in which they were learned
        self._sweep: Callable[[str], Coroutine[None, None, None]] = _nothing
        self._sweeping: set[asyncio.Task[None]] = set()

    def sweep_with(self, sweep: Callable[[str], Coroutine[None, None, None]]) -> None:
        """Set the function that deletes all data of a device; it must not raise."""
        self._sweep = sweep

    async def load(self) -> None:
        """Load earlier erasures from the database, if it is available."""
        with contextlib.suppress(StoreFailed):
            self.learn(await self._kept.load())

    def learn(self, erased_at: Mapping[str, float]) -> None:
        """Add erasures: the time of each device's erasure, in Unix seconds."""
        for device, at in erased_at.items():
            self._erased_at[device] = max(at, self._erased_at.pop(device, 0))
        oldest = self._unix_time() - self._kept_s
        while self._erased_at and self._erased_at[device := next(iter(self._erased_at))] < oldest:
            del self._erased_at[device]

    async def add(self, devices: Sequence[str], at: float) -> None:
        """Record and store that devices were erased at a time (Unix seconds); raises ``StoreFailed``."""
        self.learn(dict.fromkeys(devices, at))
        await self._kept.add(devices, at)

    def covers(self, device: str, opened_at: float) -> bool:
        """Return True if an open of this device began before the device was erased."""
        erased_at = self._erased_at.get(device)
        return erased_at is not None and opened_at <= erased_at

    def erased_at(self, device: str) -> float:
        """Return when a device was erased, in Unix seconds; 0 if it was not."""
        return self._erased_at.get(device, 0)

    def sweep(self, device: str) -> None:
        """Delete in the background what an open in flight has written."""
        task = self._background.spawn(self._sweep(device), "erasure")
        self._sweeping.add(task)
        task.add_done_callback(self._sweeping.discard)

    async def close(self) -> None:
        """Wait until the deletions in progress are done."""
        await asyncio.gather(*self._sweeping, return_exceptions=True)


async def _nothing(_: str) -> None:
    """Do nothing; the default until ``sweep_with`` is called."""
