"""Show operators the opens of all replicas as they come.

Opens are written behind to the database in any case. While somebody watches an app, one poller on that
replica reads what was written since, and gives it to all watchers there. So an open does nothing for it, and
nothing runs while nobody watches.

What can go wrong: rows become visible in another order than opens were reported, because replicas commit
separately, or because an open waited for Dub (each poll reads the last seconds again, every fourth one
further back, and leaves out what was shown); an answer improves after it was shown (pending opens are read
again for a minute); more opens come than anybody can read (a bounded number is shown per poll, those of test
devices first, and the others are counted); a watcher reads slowly or is gone (a bounded number of opens waits
for it, then it misses some; after a minute it is disconnected); the poller fails (its watchers are
disconnected, and connect again); the service stops (watchers are disconnected at once).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from service.aio.tasks import cancel_all
from service.attribution.recent_opens import OpenFilter, RecentOpens, land
from service.domain.errors import StoreFailed, TooManyWatchers
from service.domain.live_opens import ANY_TEST_DEVICE, Arrival, LiveFilter, LiveOpen, Repeated
from service.domain.models import App, Open
from service.domain.ports import KeptSessions, LiveSource
from service.telemetry import Metrics
from service.telemetry.background import Background

WATCHERS_MAX: Final = 20  # of one replica
SHOWN_AT_ONCE: Final = 50  # opens of one poll

_POLL_S = 0.25
_OVERLAP_S = 2.5  # an open with the usual budget of 1.5 s is stored this long after it came, at the latest
_LATE_S = 15.0  # for one with the longest budget, and for replicas whose clocks differ
_LATE_EVERY = 4  # polls
_SCANNED_MAX = 2000
_PENDING_S = 60.0
_PENDING_MAX = 200
_WAITING_MAX = 2 * SHOWN_AT_ONCE
_GONE_S = 60.0
_RESUMED_S = 600.0


class Watcher:
    """One connection. Take opens with ``next``, and call ``close`` in any case."""

    def __init__(self, app: App, wanted: LiveFilter, leave: Callable[["Watcher"], None]) -> None:
        self.app = app
        self.wanted = wanted
        self.skipped = 0  # opens that fitted, and were not shown
        self.has_ended = False
        self._leave = leave
        self._waiting: deque[LiveOpen] = deque()
        self._news = asyncio.Event()
        self._on_end: Callable[[], None] = _nothing
        self._seen_at = asyncio.get_running_loop().time()

    async def next(self, timeout_s: float) -> list[LiveOpen]:
        """Return opens in the order in which they came; none after ``timeout_s`` seconds."""
        self._seen_at = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            return []
        self._news.clear()
        found = list(self._waiting)
        self._waiting.clear()
        return found

    def on_end(self, call: Callable[[], None]) -> None:
        """Set what to call when the watcher must be disconnected; at once, if it must be already."""
        self._on_end = call
        if self.has_ended:
            call()

    def end(self) -> None:
        """Disconnect this watcher."""
        if not self.has_ended:
            self.has_ended = True
            self._on_end()

    def close(self) -> None:
        """Forget this watcher."""
        self._on_end = _nothing
        self._leave(self)

    def offer(self, opens: Iterable[LiveOpen]) -> int:
        """Queue the opens that are wanted; return how many had to be dropped."""
        fitting = [
            each
            for each in opens
            if self.wanted.fits(each.open.match.type, each.test_device, each.route.reason)
        ]
        if not fitting:
            return 0
        self._waiting.extend(fitting)
        self._news.set()
        dropped = max(len(self._waiting) - _WAITING_MAX, 0)
        for _ in range(dropped):
            self._waiting.popleft()
        self.skip(dropped)
        return dropped

    def skip(self, count: int) -> None:
        """Count opens that were not shown."""
        if count:
            self.skipped += count
            self._news.set()

    def is_gone(self, now: float) -> bool:
        """Return True if nothing was taken for a long time; ``now`` is the event loop's time."""
        return now - self._seen_at > _GONE_S


class LiveFeed:
    """Gives opens to watchers. ``is_stopping`` says that the service stops; ``unix_time`` is in seconds."""

    def __init__(
        self,
        source: LiveSource,
        sessions: KeptSessions,
        recent: RecentOpens,
        *,
        is_stopping: Callable[[], bool],
        unix_time: Callable[[], float],
        background: Background,
        metrics: Metrics,
    ) -> None:
        self._source = source
        self._sessions = sessions
        self._recent = recent
        self._is_stopping = is_stopping
        self._unix_time = unix_time
        self._background = background
        self._metrics = metrics
        self._watched: dict[str, _WatchedApp] = {}

    async def watch(self, app: App, wanted: LiveFilter) -> Watcher:
        """Return a watcher that gets the opens from now on; raises ``TooManyWatchers`` or ``StoreFailed``."""
        if sum(len(each.watchers) for each in self._watched.values()) >= WATCHERS_MAX:
            raise TooManyWatchers(f"{WATCHERS_MAX} connections follow live opens on this replica already")
        watched = self._watched.get(app.name)
        if watched is None:
            watched = self._watched[app.name] = _WatchedApp(app)
            watched.poller = self._background.spawn(self._run(watched), "live_feed", expected=StoreFailed)
        watcher = Watcher(app, wanted, self._leave)
        watched.watchers.add(watcher)
        self._metrics.live_watchers.inc()
        try:
            await asyncio.shield(watched.begun)
        except BaseException:
            watcher.close()
            raise
        return watcher

    async def latest(self, app: App, wanted: LiveFilter, limit: int) -> list[LiveOpen]:
        """Return the latest opens that are wanted, oldest first; raises ``StoreFailed``."""
        if wanted.test_device is None:
            page = await self._recent.page(app, OpenFilter(wanted.match_type, wanted.outcome))
            opens = [each.open for each in page.opens]
        else:
            name = "" if wanted.test_device == ANY_TEST_DEVICE else wanted.test_device
            opens = await self._source.of_test_devices(app.name, name, limit)
        shown = [_live(app, opened) for opened in reversed(opens[:limit])]
        return [each for each in shown if _fits(wanted, each)]

    async def since(self, app: App, wanted: LiveFilter, since_ms: int) -> list[LiveOpen]:
        """Return the opens since a time that are wanted, for a watcher that was disconnected, oldest first.

        Opens from just before that time are among them. Raises ``StoreFailed``.
        """
        now_ms = self._unix_time() * 1000
        first_ms = int(max(since_ms - _OVERLAP_S * 1000, now_ms - _RESUMED_S * 1000))
        arrivals = await self._source.arrivals(app.name, first_ms, _SCANNED_MAX)
        fitting = [each.open_id for each in arrivals if wanted.fits(each.match_type, each.test_device)]
        opens = sorted(await self._source.several(fitting[:_PENDING_MAX]), key=_opened_at)
        return [shown for shown in (_live(app, opened) for opened in opens) if _fits(wanted, shown)]

    async def close(self) -> None:
        """Disconnect all watchers."""
        await cancel_all([each.poller for each in self._watched.values() if each.poller is not None])

    def _leave(self, watcher: Watcher) -> None:
        watched = self._watched.get(watcher.app.name)
        if watched is not None and watcher in watched.watchers:
            watched.watchers.remove(watcher)
            self._metrics.live_watchers.dec()

    async def _run(self, watched: "_WatchedApp") -> None:
        """Poll until nobody watches, or the service stops."""
        try:
            await self._begin(watched)
            while watched.watchers and not self._is_stopping():
                await asyncio.sleep(_POLL_S)
                try:
                    await self._poll(watched)
                except StoreFailed:
                    continue  # the watchers wait, as the database is back at some time
                now = asyncio.get_running_loop().time()
                for watcher in [each for each in watched.watchers if each.is_gone(now)]:
                    watcher.end()
                    self._leave(watcher)
        finally:
            del self._watched[watched.app.name]
            self._metrics.live_watchers.dec(len(watched.watchers))
            for watcher in watched.watchers:
                watcher.end()

    async def _begin(self, watched: "_WatchedApp") -> None:
        """Read what is stored already: it is not shown. Raises ``StoreFailed``, also to the watchers."""
        since_ms = self._before(_LATE_S)
        try:
            arrivals, repeats = await self._arrived(watched, since_ms)
        except BaseException as exc:
            failed = exc if isinstance(exc, StoreFailed) else StoreFailed("live opens cannot be read")
            watched.begun.set_exception(failed)
            watched.begun.exception()  # it may be that nobody waits for it any more
            raise
        watched.unseen(arrivals, repeats, since_ms)
        watched.begun.set_result(None)

    async def _poll(self, watched: "_WatchedApp") -> None:
        """Read what was stored since the last poll, and give it to the watchers; raises ``StoreFailed``."""
        watched.polls += 1
        is_late = watched.polls % _LATE_EVERY == 0
        arrivals, repeats = await self._arrived(watched, self._before(_LATE_S if is_late else _OVERLAP_S))
        new, again = watched.unseen(arrivals, repeats, self._before(2 * _LATE_S))
        wanted = [each for each in new if watched.is_wanted(each)]
        wanted.sort(key=_test_devices_first)
        shown = wanted[:SHOWN_AT_ONCE]
        again = again[-SHOWN_AT_ONCE:]
        if len(wanted) > len(shown):
            self._skip(watched, wanted[len(shown) :])
        pending = watched.still_pending(self._unix_time() - _PENDING_S) if is_late else []
        asked = {each.open_id for each in shown} | {each.open_id for each in again} | set(pending)
        if not asked:
            return
        opens = {opened.open_id: opened for opened in await self._source.several(list(asked))}
        found = [_live(watched.app, opens[each.open_id]) for each in shown if each.open_id in opens]
        found += [_again(watched.app, opens[each.open_id], each) for each in again if each.open_id in opens]
        found += [_live(watched.app, opens[each]) for each in pending if _is_better(opens.get(each))]
        watched.note_pending(found)
        found.sort(key=_at)
        for watcher in list(watched.watchers):
            self._metrics.live_skipped.inc(watcher.offer(found))

    async def _arrived(self, watched: "_WatchedApp", since_ms: int) -> tuple[list[Arrival], list[Repeated]]:
        name = watched.app.name
        return await asyncio.gather(
            self._source.arrivals(name, since_ms, _SCANNED_MAX), self._sessions.repeats(name, since_ms)
        )

    def _skip(self, watched: "_WatchedApp", arrivals: Sequence[Arrival]) -> None:
        self._metrics.live_skipped.inc(len(arrivals))
        for watcher in watched.watchers:
            watcher.skip(sum(watcher.wanted.fits(each.match_type, each.test_device) for each in arrivals))

    def _before(self, seconds: float) -> int:
        return int((self._unix_time() - seconds) * 1000)


class _WatchedApp:
    """An app that is watched, and which of its opens were shown."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.watchers: set[Watcher] = set()
        self.poller: asyncio.Task[None] | None = None
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.polls = 0
        self._shown: dict[str, int] = {}  # by openId or repeat: when, in Unix milliseconds
        self._pending: dict[str, float] = {}  # by openId: when it was opened, in Unix seconds

    def unseen(
        self, arrivals: Iterable[Arrival], repeats: Iterable[Repeated], forget_ms: int
    ) -> tuple[list[Arrival], list[Repeated]]:
        """Return what was not seen before, and forget what no poll will read again."""
        if any(at_ms < forget_ms for at_ms in self._shown.values()):
            self._shown = {name: at_ms for name, at_ms in self._shown.items() if at_ms >= forget_ms}
        new = [each for each in arrivals if each.open_id not in self._shown]
        again = [each for each in repeats if f"{each.open_id} {each.at_ms}" not in self._shown]
        self._shown.update((each.open_id, each.opened_at_ms) for each in new)
        self._shown.update((f"{each.open_id} {each.at_ms}", each.at_ms) for each in again)
        return new, again

    def is_wanted(self, arrival: Arrival) -> bool:
        """Return True if a watcher may want an open."""
        return any(each.wanted.fits(arrival.match_type, arrival.test_device) for each in self.watchers)

    def note_pending(self, opens: Iterable[LiveOpen]) -> None:
        """Remember which opens to read again."""
        for each in opens:
            self._pending.pop(each.open.open_id, None)
            if each.open.pending and len(self._pending) < _PENDING_MAX:
                self._pending[each.open.open_id] = each.open.opened_at

    def still_pending(self, since: float) -> list[str]:
        """Return the opens to read again."""
        self._pending = {name: at for name, at in self._pending.items() if at >= since}
        return list(self._pending)


def _live(app: App, opened: Open) -> LiveOpen:
    return LiveOpen(opened, land(app, opened), opened.test_device)


def _again(app: App, opened: Open, repeated: Repeated) -> LiveOpen:
    return LiveOpen(opened, land(app, opened), repeated.test_device, repeated.at_ms / 1000)


def _is_better(opened: Open | None) -> bool:
    return opened is not None and not opened.pending


def _fits(wanted: LiveFilter, shown: LiveOpen) -> bool:
    return wanted.fits(shown.open.match.type, shown.test_device, shown.route.reason)


def _test_devices_first(arrival: Arrival) -> tuple[bool, int]:
    return arrival.test_device is None, -arrival.opened_at_ms


def _opened_at(opened: Open) -> float:
    return opened.opened_at


def _at(shown: LiveOpen) -> float:
    return shown.at


def _nothing() -> None:
    """Disconnect nothing: there is no connection yet, or none any more."""
