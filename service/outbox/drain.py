"""Take due entries of one kind from the store, and start a limited number of them at a time.

Each check of the store takes a query. It is made when an entry may have become due, and at least once a
second, because another replica or the command line may have queued entries.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Sequence

from service.domain.outbox_entries import DELAY_MAX_S, UNDECRYPTABLE, Entry, Kind, TakenEntry
from service.domain.ports import OutboxStore

POLL_S = 1.0

_PAGES = 10  # so many times the number of concurrent attempts is taken at once, for fewer commits


class Drain:
    """Sends the queued entries of one kind.

    ``start`` starts the attempt of an entry, ``retry_in_s`` returns for how many seconds an app's entries
    must not be sent, ``undecryptable`` is called with the number of entries that could not be decrypted.
    ``take_max`` returns how many entries may be taken at once; None: as many as are useful.
    """

    def __init__(
        self,
        kind: Kind,
        store: OutboxStore,
        *,
        apps: Collection[str],
        at_a_time: int,
        spread_s: float,
        retry_in_s: Callable[[str], float],
        start: Callable[[Entry], None],
        undecryptable: Callable[[int], None],
        unix_time: Callable[[], float],
        take_max: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.waiting: dict[str, Entry] = {}  # leased, to be started when an attempt ends
        self._page = _PAGES * at_a_time
        self._kind = kind
        self._store = store
        self._apps = apps
        self._at_a_time = at_a_time
        self._spread_s = spread_s
        self._retry_in_s = retry_in_s
        self._start = start
        self._undecryptable = undecryptable
        self._unix_time = unix_time
        self._take_max = take_max
        self._keys_in_flight: set[str] = set()  # ordering keys of the entries that are being sent
        self._running_low = asyncio.Event()
        self._check_at = 0.0
        self._written = False  # an entry that was just written behind may be due
        self._wake = asyncio.Event()
        self._receiver_is_back = False

    def check_by(self, when: float, *, written: bool = False) -> None:
        """Check for due entries at this time (Unix seconds) at the latest.

        ``written``: rows that were written behind before this call make entries due.
        """
        self._written = self._written or written
        if when < self._check_at:
            self._check_at = when
            self._wake.set()

    def receiver_is_back(self) -> None:
        """Retry entries that failed before, spread over some seconds."""
        self._receiver_is_back = True
        self.check_by(self._unix_time())

    def ended(self, entry: Entry) -> None:
        """Record that the attempt of an entry has ended, and start the next."""
        self._keys_in_flight.discard(entry.ordering_key)
        self._start_waiting()

    def stop(self) -> list[Entry]:
        """Stop starting attempts, and return the entries that are leased but not started.

        The caller must also cancel ``round``.
        """
        entries = list(self.waiting.values())
        self.waiting.clear()
        return entries

    async def round(self) -> None:
        """Wait until entries may be due, and start those that are; raises ``StoreFailed``.

        The next page is taken while the last one is still being sent, because on a busy event loop a commit
        takes as long as sending several entries.
        """
        await self._pause()
        while len(self.waiting) >= self._page:
            self._running_low.clear()
            await self._running_low.wait()
        now = self._unix_time()
        written, self._written = self._written, False
        self._check_at = now + POLL_S
        if self._receiver_is_back:
            await self._store.due_soon(self._kind, tuple(self._apps), self._spread_s)
            self._receiver_is_back = False
        wait_s = {app: self._retry_in_s(app) for app in self._apps}
        apps = [app for app, seconds in wait_s.items() if seconds <= 0]
        if len(apps) < len(wait_s):
            self.check_by(now + min(seconds for seconds in wait_s.values() if seconds > 0), written=written)
        if not apps:
            return
        wanted = min(self._page, self._take_max() or self._page)
        taken = await self._store.take_due(self._kind, apps, wanted, written=written)
        if len(taken) >= self._page:
            self.check_by(now, written=True)  # there are probably more: skip the check
        self._accept(taken)
        self._start_waiting()

    async def _pause(self) -> None:
        """Wait until the time of the next check, ``POLL_S`` seconds at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                while (wait_s := self._check_at - self._unix_time()) > 0:
                    self._wake.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(wait_s):
                            await self._wake.wait()

    def _accept(self, taken: Sequence[TakenEntry]) -> None:
        """Add entries to ``waiting``; undecryptable ones stay queued, as their secret may be listed later."""
        undecryptable = [each.id for each in taken if each.entry is None]
        for entry_id in undecryptable:
            next_attempt_at = self._unix_time() + DELAY_MAX_S
            self._store.reschedule(entry_id, next_attempt_at, UNDECRYPTABLE, attempted=False)
        if undecryptable:
            self._undecryptable(len(undecryptable))
            self.check_by(self._unix_time(), written=True)  # the next entry of the key may be sent
        self.waiting.update({each.id: each.entry for each in taken if each.entry is not None})

    def _start_waiting(self) -> None:
        """Start waiting entries up to the limit; release those that must not be sent now.

        The store does not order opens, but two reports of one link by one device are never sent at the same
        time, because Dub might count two clicks.
        """
        while len(self._keys_in_flight) < self._at_a_time:
            entry = next(
                (each for each in self.waiting.values() if each.ordering_key not in self._keys_in_flight),
                None,
            )
            if entry is None:
                break
            del self.waiting[entry.id]
            if self._retry_in_s(entry.app) > 0:
                self._store.give_back(entry.id, entry.next_try)
            else:
                self._keys_in_flight.add(entry.ordering_key)
                self._start(entry)
        if len(self.waiting) < self._page:
            self._running_low.set()
