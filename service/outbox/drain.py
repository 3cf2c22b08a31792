"""Takes due entries of one kind from the store and starts them, a few at a time.

Looking costs a query, so it looks when something may have become due, and else once a second: another
replica, or a command line, may have queued something.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from service.domain.outbox_entries import DELAY_MAX_S, UNDECRYPTABLE, Entry, Kind, TakenEntry
from service.domain.ports import OutboxStore

POLL_S = 1.0

_PAGES = 10  # as many entries are taken as are started at a time, times this: fewer commits


class Drain:
    """One kind's entries.

    ``start`` begins to send one, ``held`` returns for how many seconds an app's are held back,
    ``undecryptable`` is told how many entries of a look could not be decrypted.
    """

    def __init__(
        self,
        kind: Kind,
        store: OutboxStore,
        *,
        apps: Sequence[str],
        at_a_time: int,
        spread_s: float,
        held: Callable[[str], float],
        start: Callable[[Entry], None],
        undecryptable: Callable[[int], None],
        unix_time: Callable[[], float],
    ) -> None:
        self.waiting: dict[str, Entry] = {}  # leased, to be started when there is room
        self._page = _PAGES * at_a_time
        self._kind = kind
        self._store = store
        self._apps = apps
        self._at_a_time = at_a_time
        self._spread_s = spread_s
        self._held = held
        self._start = start
        self._undecryptable = undecryptable
        self._unix_time = unix_time
        self._under_way: set[str] = set()  # ordering keys
        self._running_low = asyncio.Event()
        self._look_at = 0.0
        self._written = False  # something that was just written behind may be due
        self._wake = asyncio.Event()
        self._dub_is_back = False

    def look_by(self, when: float, *, written: bool = False) -> None:
        """Look for due entries at this time (Unix seconds) at the latest.

        ``written``: what was written behind until now makes some due.
        """
        self._written = self._written or written
        if when < self._look_at:
            self._look_at = when
            self._wake.set()

    def dub_is_back(self) -> None:
        """Try what failed before, spread over some seconds."""
        self._dub_is_back = True
        self.look_by(self._unix_time())

    def ended(self, entry: Entry) -> None:
        """Take note that an entry that was started has ended, and start the next."""
        self._under_way.discard(entry.ordering_key)
        self._start_waiting()

    def stop(self) -> list[Entry]:
        """Start nothing more of what was taken, and return it. Its caller ends ``round``, too."""
        entries = list(self.waiting.values())
        self.waiting.clear()
        return entries

    async def round(self) -> None:
        """Wait until something may be due, and start what is; raises ``StoreFailed``.

        The next page is taken while the last one is still being sent: on a busy event loop a commit takes as
        long as sending several entries.
        """
        await self._pause()
        while len(self.waiting) >= self._page:
            self._running_low.clear()
            await self._running_low.wait()
        now = self._unix_time()
        written, self._written = self._written, False
        self._look_at = now + POLL_S
        if self._dub_is_back:
            await self._store.due_soon(self._kind, self._apps, self._spread_s)
            self._dub_is_back = False
        held_s = {app: self._held(app) for app in self._apps}
        apps = [app for app, seconds in held_s.items() if seconds <= 0]
        if len(apps) < len(held_s):
            self.look_by(now + min(seconds for seconds in held_s.values() if seconds > 0), written=written)
        if not apps:
            return
        taken = await self._store.take_due(self._kind, apps, self._page, written=written)
        if len(taken) >= self._page:
            self.look_by(now, written=True)  # there are more, most likely: no need to ask
        self._keep(taken)
        self._start_waiting()

    async def _pause(self) -> None:
        """Wait until it is time to look: for a second at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                while (wait_s := self._look_at - self._unix_time()) > 0:
                    self._wake.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(wait_s):
                            await self._wake.wait()

    def _keep(self, taken: Sequence[TakenEntry]) -> None:
        """Keep what was taken. What cannot be decrypted stays queued: its secret may be listed again."""
        undecryptable = [each.id for each in taken if each.entry is None]
        for entry_id in undecryptable:
            next_attempt_at = self._unix_time() + DELAY_MAX_S
            self._store.reschedule(entry_id, next_attempt_at, UNDECRYPTABLE, attempted=False)
        if undecryptable:
            self._undecryptable(len(undecryptable))
            self.look_by(self._unix_time(), written=True)  # the next entry of its key need not wait
        self.waiting.update({each.id: each.entry for each in taken if each.entry is not None})

    def _start_waiting(self) -> None:
        """Start what was taken, as there is room for it and as long as Dub is asked at all.

        The store knows no order among opens, but one link of one device is never reported twice at once: Dub
        might count two clicks.
        """
        while len(self._under_way) < self._at_a_time:
            entry = next(
                (each for each in self.waiting.values() if each.ordering_key not in self._under_way), None
            )
            if entry is None:
                break
            del self.waiting[entry.id]
            if self._held(entry.app) > 0:
                self._store.give_back(entry.id, entry.next_try)
            else:
                self._under_way.add(entry.ordering_key)
                self._start(entry)
        if len(self.waiting) < self._page:
            self._running_low.set()
