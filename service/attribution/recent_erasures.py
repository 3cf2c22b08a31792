"""Which installs were erased: what was under way for one then is neither kept nor answered.

What can go wrong: an open that began before its install's erasure ends after it, and is written down, claims
a click or is answered with one (every open is compared with its install's erasure before it is kept, and
what it left behind is deleted); a later open under the same id is taken for the erased install (it began
later).
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping, Sequence

from service.domain.errors import StoreFailed
from service.domain.ports import KeptErasures
from service.telemetry.background import Background


class RecentErasures:
    """Remembers erasures, and deletes what an open under way has left behind."""

    def __init__(self, kept: KeptErasures, background: Background) -> None:
        self._kept = kept
        self._background = background
        self._erased_at: dict[str, float] = {}
        self._sweep: Callable[[str], Coroutine[None, None, None]] = _nothing
        self._sweeping: set[asyncio.Task[None]] = set()

    def sweep_with(self, sweep: Callable[[str], Coroutine[None, None, None]]) -> None:
        """Set what deletes everything that is kept of a device; it never raises."""
        self._sweep = sweep

    async def load(self) -> None:
        """Learn what was erased before a restart, as far as the database says so."""
        with contextlib.suppress(StoreFailed):
            self.learn(await self._kept.load())

    def learn(self, erased_at: Mapping[str, float]) -> None:
        """Take note of erasures: when each device was erased, in Unix seconds."""
        for device, at in erased_at.items():
            self._erased_at[device] = max(at, self._erased_at.get(device, 0))

    async def add(self, devices: Sequence[str], at: float) -> None:
        """Erase devices as of a time (Unix seconds); raises ``StoreFailed``."""
        self._erased_at.update(dict.fromkeys(devices, at))
        await self._kept.add(devices, at)

    def covers(self, device: str, opened_at: float) -> bool:
        """Return True if an open of this device began before the device was erased."""
        erased_at = self._erased_at.get(device)
        return erased_at is not None and opened_at <= erased_at

    def erased_at(self, device: str) -> float:
        """Return when a device was erased, in Unix seconds; 0 if it was not."""
        return self._erased_at.get(device, 0)

    def sweep(self, device: str) -> None:
        """Delete, soon, what an open that was under way has left behind."""
        task = self._background.spawn(self._sweep(device), "erasure")
        self._sweeping.add(task)
        task.add_done_callback(self._sweeping.discard)

    async def close(self) -> None:
        """Wait for what is being deleted."""
        await asyncio.gather(*self._sweeping, return_exceptions=True)


async def _nothing(_: str) -> None:
    """Delete nothing, until ``sweep_with`` says how."""
