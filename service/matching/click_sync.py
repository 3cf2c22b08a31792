"""Sync the clicks of an app's matching window from Dub's ``/events``, on demand by an open.

Dub widens ``start`` and ``end`` to whole days. So a sync reads the newest events first and stops at the first
event that is older than those of earlier syncs: usually one call, even on a busy day.

What can go wrong when pages are read:

- Pages shift: each new click moves all older events one place towards later pages. So some events are read
  twice, which their ids show, but none is skipped.
- A sync that fails half-way has read only the newest events and leaves a gap below them. ``synced_to_ms``
  does not advance until a later sync has closed the gap; that sync skips the pages that were read before.
- A sync ends too early: at a short page, from which Dub omitted events of deleted links (only an empty page
  is the end); at a page in ascending order (refused); at a page without any readable time (a "none" is not
  final then).

What can go wrong with any sync: a "none" becomes final by a sync that began before the open arrived (the open
waits for such a sync and then starts another); events appear late (each sync reads an overlap again); the
syncs of many opens use up the budget of Dub calls (all waiting opens share one sync, on all replicas); a sync
cannot store what it read (it fails, as if Dub had not answered).
"""

import asyncio
import re
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from msgspec import Struct

from service.aio.single_flight import Flight, SingleFlight
from service.domain.clicks import Fault, SyncRound, UnreadEvent
from service.domain.errors import (
    DubRefused,
    DubThrottled,
    DubUnavailable,
    InvalidDubResponse,
    NotConfigured,
    OverBudget,
    StoreFailed,
)
from service.domain.match_rules import CLOCK_DIFFERENCE_S, Click
from service.domain.models import App
from service.domain.networks import Networks
from service.domain.ports import ClickEvent, ClickPage, ClickSource, WindowClicks
from service.telemetry import Event, FastCounter, Log, where
from service.telemetry.background import Background

PAGE_EVENTS = 1000  # Dub's maximum
FEW_EVENTS = 100  # size of the first page if few events are expected, because an event is about 2 KB
OVERLAP_S = 120  # how late an event may appear at Dub and still be read

_PAGES_MAX = 2000  # two million clicks; a sync must also end if Dub ignores ``page``
_PAUSE_MIN_S = 0.001
_STORED_MAX = 50_000  # remembered ids of stored clicks, so that the overlap is not stored again
_KEY = b"clicks"
_FORBIDDEN = 403
_OVERLAP_MS = OVERLAP_S * 1000
_CLOCK_DIFFERENCE_MS = CLOCK_DIFFERENCE_S * 1000
_TIE_MS = 1000  # a JavaScript date text has no milliseconds

Status = Literal["synced", "unreadable", "late", "over_budget", "unavailable"]
Problem = Literal[
    "plan",
    "usage",
    "key",
    "refused",
    "throttled",
    "down",
    "garbled",
    "not_configured",
    "database",
    "failed",
]

_REFUSALS: dict[int, Problem] = {401: "key", _FORBIDDEN: "plan"}
# A 403 means that the plan lacks /events or that the month's clicks are used up; the code may not say which.
_OVER_USAGE = re.compile(r"\b(?:limit|usage)\b", re.IGNORECASE)
_PROBLEMS: tuple[tuple[type[Exception], Problem], ...] = (
    (DubThrottled, "throttled"),
    (InvalidDubResponse, "garbled"),
    (DubUnavailable, "down"),
    (NotConfigured, "not_configured"),
    (StoreFailed, "database"),
)

# Seconds without calls to Dub after a refusal. A 429 has its own Retry-After.
HOLD_S: dict[Problem, float] = {"plan": 60, "usage": 60, "key": 60, "refused": 60, "not_configured": 60}
HOLD_ELSE_S = 1.0


class Outcome(Struct, frozen=True):
    """The result of waiting for a sync. A "none" is final only with the status ``synced``."""

    status: Status
    problem: Problem | None = None
    retry_after_s: float = 0.0

    @property
    def allows_match(self) -> bool:
        """Return True if all readable clicks that Dub had when the open arrived are stored."""
        return self.status in ("synced", "unreadable")

    @property
    def is_final(self) -> bool:
        """Return True if all clicks that Dub had when the open arrived are stored: then a "none" is final."""
        return self.status == "synced"


SYNCED = Outcome("synced")
UNREADABLE = Outcome("unreadable")
LATE = Outcome("late")
OVER_BUDGET = Outcome("over_budget")


@dataclass
class _Reading:
    """The progress of one sync. Times are Unix milliseconds; those of events are by Dub's clock."""

    began_ms: int  # by our clock: when the first page was requested
    stop_ms: int  # events before this time are already stored, or too old to be matched
    pages: int = 0  # read so far
    events: int = 0  # read so far, with a readable time not before ``stop_ms``
    newest_ms: int = 0
    oldest_ms: int = 0
    is_complete: bool = False  # all events from ``stop_ms`` on were read
    unread: Counter[Fault] = field(default_factory=Counter)

    @property
    def known_to_ms(self) -> int:
        """Return the time before which this sync has read all events, except those that appear late."""
        newest_ms = min(self.newest_ms, self.began_ms + _CLOCK_DIFFERENCE_MS)
        return max(newest_ms, self.began_ms - _CLOCK_DIFFERENCE_MS)

    def forget(self) -> None:
        """Reset the counts, because the same events are read again."""
        self.events = 0
        self.unread.clear()


class _Unfinished(Struct, frozen=True):
    """The pages that a failed sync has read: all events up to ``known_to_ms`` on the first ``pages`` pages.

    Events only move to later pages, so these pages now contain only events that were read, and new ones.
    """

    known_to_ms: int
    pages: int


class ClickSync:
    """Syncs the clicks of one app from the last ``window_s`` seconds.

    ``clock`` returns monotonic seconds, ``unix_time`` wall clock seconds. ``unreadable`` counts events that
    could not be decoded, by fault; an event that is read again is counted again.
    """

    def __init__(
        self,
        *,
        app: App,
        source: ClickSource,
        clicks: WindowClicks,
        window_s: int,
        networks: Networks,
        log: Log,
        unreadable: FastCounter,
        clock: Callable[[], float],
        unix_time: Callable[[], float],
        background: Background,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.unread: Mapping[Fault, int] = {}  # events of the last sync that could not be decoded
        self._app = app
        self._clicks_of_dub = source
        self._clicks = clicks
        self._window_s = window_s
        self._networks = networks
        self._log = log
        self._unreadable = unreadable
        self._clock = clock
        self._unix_time = unix_time
        self._sleep = sleep
        self._flights: SingleFlight[Outcome] = SingleFlight(partial(background.spawn, name="clicks_sync"))
        self._began = float("-inf")  # start of the current or last fetch, in monotonic seconds
        self._synced = float("-inf")  # start of the last successful fetch
        self._found: dict[str, tuple[int, Click]] = {}  # read from Dub and not stored yet
        self._stored: OrderedDict[str, int] = OrderedDict()  # times of the overlap's clicks, by click id
        self._known_to_ms = 0  # all clicks before this time are stored, except those that appear late
        self._reading = _Reading(0, 0)  # progress of the current or last fetch
        self._last_events = 0  # number of events of the last sync
        self._unfinished: _Unfinished | None = None
        self._over_budget = False  # True while the sync waits for the budget of Dub calls
        self._held_until = float("-inf")
        self._problem: Outcome | None = None

    @property
    def problem(self) -> Problem | None:
        """Return why clicks cannot be synced at the moment, or None if they can."""
        return self._problem.problem if self._problem else None

    @property
    def synced_ago_s(self) -> float | None:
        """Return how many seconds ago the last successful sync began; None before the first."""
        return None if self._synced == float("-inf") else self._clock() - self._synced

    @property
    def is_idle(self) -> bool:
        """Return True if no sync is in progress."""
        return self._flights.is_idle

    async def sync(self, arrived: float, timeout_s: float) -> Outcome:
        """Wait up to ``timeout_s`` seconds for a sync that began at ``arrived`` (monotonic seconds) or later.

        Starts a sync if none is in progress. Never raises. A caller that times out does not stop the sync.
        """
        deadline = self._clock() + timeout_s
        while self._synced < arrived:
            flight = self._flights.under_way(_KEY)
            if flight is None:
                if self._problem is not None and self._clock() < self._held_until:
                    return self._problem
                flight = self._launch()
            outcome = await flight.wait(max(deadline - self._clock(), 0))
            if outcome is None:
                return OVER_BUDGET if self._over_budget else LATE
            if not outcome.allows_match and self._began >= arrived:
                return outcome
            await asyncio.sleep(0)  # lets the fetch that just ended be removed from the single flight
        return self._outcome()

    async def close(self, grace_s: float = 0) -> None:
        """Cancel the sync in progress after ``grace_s`` seconds."""
        await self._flights.close(grace_s)

    def _launch(self) -> Flight[Outcome]:
        self._began = self._clock()
        return self._flights.launch(_KEY, self._app.name, self._run())

    async def _run(self) -> Outcome:
        """Sync once, and record whether it succeeded. Never raises."""
        try:
            await self._fetch()
        except Exception as exc:  # noqa: BLE001  waiting opens must get an outcome after any error
            return self._failed(exc)
        finally:
            self._over_budget = False
        if self._problem is not None:
            self._problem = None
            self._log.info(Event.CLICKS_AVAILABLE, app=self._app.name)
        return self._outcome()

    def _outcome(self) -> Outcome:
        return UNREADABLE if self.unread else SYNCED

    def _failed(self, exc: Exception) -> Outcome:
        """Suspend syncs for a while. The problem is logged once, until it changes or ends."""
        problem = _problem_of(exc)
        hold_s = exc.retry_after_s if isinstance(exc, DubThrottled) else HOLD_S.get(problem, HOLD_ELSE_S)
        if self.problem != problem:
            about = {"error": type(exc).__name__, "where": where(exc)}
            self._log.warning(Event.CLICKS_UNAVAILABLE, app=self._app.name, problem=problem, **about)
        self._held_until = self._clock() + hold_s
        self._problem = Outcome("unavailable", problem, hold_s)
        return self._problem

    async def _fetch(self) -> None:
        """Sync from Dub, or wait for another replica that holds the lease to do so."""
        began = self._began
        self._found.clear()
        async with self._clicks.sync_round() as sync_round:
            if sync_round.synced_to_ms != self._known_to_ms:
                self._known_to_ms = sync_round.synced_to_ms
                self._unfinished = None  # another replica has synced, so this progress is outdated
            if sync_round.mine:
                await self._fetch_pages(sync_round)
        self._known_to_ms = sync_round.synced_to_ms
        if sync_round.mine:
            began = self._began
            self._note_stored()
            if self._reading.is_complete:
                self._unfinished = None
        self._note_unread(sync_round.unread)
        self._synced = began

    async def _fetch_pages(self, sync_round: SyncRound) -> None:
        """Read events down to the last sync's, and set the results in ``sync_round``."""
        self._reading = _Reading(0, 0)
        await self._read_down()
        reading = self._reading
        if reading.is_complete:
            sync_round.synced_to_ms = reading.known_to_ms
        sync_round.unread = dict(reading.unread)
        sync_round.clicks = list(self._found.values())
        self._last_events = reading.events

    async def _read_down(self) -> None:
        """Read pages, newest first, until one has an event before ``stop_ms``, is empty, or has no times."""
        limit = FEW_EVENTS if self._expects_few() else PAGE_EVENTS
        before, number = self._unfinished, 1
        while events := await self._read_page(number, limit):
            await self._store()
            if limit == FEW_EVENTS:
                if number == 1 and events < FEW_EVENTS:
                    number = 2  # probably empty, which confirms that there are no more events
                else:  # more new events than expected: start again with large pages
                    limit, number = PAGE_EVENTS, 1
                    self._reading.forget()
                continue
            if before is not None and (
                number >= before.pages or self._reading.oldest_ms < before.known_to_ms - _OVERLAP_MS
            ):  # skip the pages that were read before the last sync failed
                number, before = max(number, before.pages), None
            if before is None:
                self._unfinished = _Unfinished(self._reading.known_to_ms, number)
            number += 1

    def _expects_few(self) -> bool:
        """Return True if a small page probably contains all events since the last sync."""
        return self._clock() - self._synced < OVERLAP_S and self._last_events <= FEW_EVENTS // 2

    def _note_unread(self, unread: Mapping[Fault, int]) -> None:
        """Record which events the last sync could not decode. Each fault is logged once, until it ends."""
        for fault in unread.keys() - self.unread.keys():
            self._log.warning(Event.CLICKS_UNREADABLE, app=self._app.name, fault=fault, events=unread[fault])
        self.unread = dict(unread)

    async def _store(self) -> None:
        """Store the clicks that were read so far."""
        await self._clicks.add(list(self._found.values()))
        self._note_stored()

    def _note_stored(self) -> None:
        """Remember the ids of stored clicks for as long as later syncs read them again."""
        self._stored.update((each, click.at_ms) for each, (_, click) in self._found.items())
        self._found.clear()
        oldest_ms = self._known_to_ms - _OVERLAP_MS
        while self._stored:
            click_id, at_ms = next(iter(self._stored.items()))
            if at_ms >= oldest_ms and len(self._stored) <= _STORED_MAX:
                break
            del self._stored[click_id]

    async def _read_page(self, number: int, limit: int) -> int:
        """Read a page; return the number of its events, or 0 if no further page is needed."""
        events = await self._page(number, limit)
        reading = self._reading
        reading.pages += 1
        if reading.pages > _PAGES_MAX:
            raise InvalidDubResponse("too many pages of events")
        if not events:
            reading.is_complete = True
            return 0
        _refuse_oldest_first(events)
        has_times = await self._take(events)
        return len(events) if has_times and not reading.is_complete else 0

    async def _page(self, number: int, limit: int) -> ClickPage:
        """Request a page as soon as the budget allows; a sync begins when it requests its first page."""
        while True:
            if not self._reading.pages:
                self._begin()
            try:
                reading = self._reading
                return await self._clicks_of_dub.page(
                    self._app,
                    start_ms=reading.stop_ms,
                    end_ms=reading.began_ms + _CLOCK_DIFFERENCE_MS,
                    number=number,
                    limit=limit,
                    begins_sync=not reading.pages,
                )
            except OverBudget as exc:
                self._over_budget = True
                await self._sleep(max(exc.retry_after_s, _PAUSE_MIN_S))
                self._over_budget = False

    def _begin(self) -> None:
        """Set the time range of this sync."""
        self._began = self._clock()
        now_ms = int(self._unix_time() * 1000)
        oldest_wanted_ms = now_ms - self._window_s * 1000 - _CLOCK_DIFFERENCE_MS
        known_ms = min(self._known_to_ms, now_ms) - _OVERLAP_MS
        self._reading = _Reading(now_ms, max(oldest_wanted_ms, known_ms))

    async def _take(self, page: ClickPage) -> bool:
        """Collect the clicks of a page in slices, and yield to the event loop between them.

        Stops at the first event before ``stop_ms``. Returns False if no event on the page has a readable
        time, because then the age of the next page is unknown.
        """
        reading = self._reading
        before = reading.events
        for some in page.slices():
            self._take_slice(some)
            if reading.is_complete:
                break
            await asyncio.sleep(0)
        return reading.events > before

    def _take_slice(self, events: Iterator[ClickEvent | UnreadEvent]) -> None:
        reading = self._reading
        for event in events:
            if event.at_ms is not None:
                if event.at_ms < reading.stop_ms:
                    reading.is_complete = True
                    return
                reading.events += 1
                reading.newest_ms = max(reading.newest_ms, event.at_ms)
                reading.oldest_ms = event.at_ms
            if isinstance(event, UnreadEvent):
                reading.unread[event.fault] += 1
                self._unreadable.add(event.fault)
                continue
            if event.click_id not in self._stored and (seen := event.seen(self._networks)) is not None:
                self._found[event.click_id] = seen


def _refuse_oldest_first(page: ClickPage) -> None:
    """Raise ``InvalidDubResponse`` if a page is in ascending order: a sync would stop at its first event."""
    first_ms, last_ms = page.ends_ms()
    if first_ms is not None and last_ms is not None and last_ms > first_ms + _TIE_MS:
        raise InvalidDubResponse("a page of events is not sorted newest first")


def _problem_of(exc: Exception) -> Problem:
    if isinstance(exc, DubRefused):
        if exc.status == _FORBIDDEN and (exc.code == "exceeded_limit" or _OVER_USAGE.search(exc.message)):
            return "usage"
        return _REFUSALS.get(exc.status, "refused")
    return next((problem for kind, problem in _PROBLEMS if isinstance(exc, kind)), "failed")
