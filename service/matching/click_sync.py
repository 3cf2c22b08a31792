"""The clicks of an app's matching window, brought up to date from Dub's ``/events`` whenever an open asks.

Dub widens ``start`` and ``end`` to whole days, so a sync asks for the newest events first and stops at the
first one that is older than what earlier syncs have seen: one call, however busy the day was.

What can go wrong with that:

- Pages shift while they are read: each new click moves all older ones by one place towards later pages. So
  some events are read twice (their ids tell), and none is skipped.
- A sync that fails half-way has read the newest events only and leaves a gap below them. Nothing new counts
  as known until a later sync has closed the gap; that sync skips the pages that were read before.
- Something else than an older event ends a sync: a short page, from which Dub left out events of deleted
  links (only an empty page is the end); a page in ascending order (refused); a page on which no time can be
  read (no "none" is final then).

And with syncs in general: a final "none" from a sync that began before the open arrived (such a sync is
waited out, and another one made); events that show up late (each sync reads an overlap again); opens that
wait for each other's syncs until Dub's budget is gone (all that wait share one, on all replicas); a sync
that cannot store what it read (it has failed, as if Dub had not answered).
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

PAGE_EVENTS = 1000  # Dub's most
FEW_EVENTS = 100  # of a sync's first page, where few are new: an event is some 2 KB
OVERLAP_S = 120  # how late an event may show up and still be seen

_PAGES_MAX = 2000  # two million clicks: a Dub that ignores ``page`` must end, too
_PAUSE_MIN_S = 0.01
_STORED_MAX = 50_000  # ids of clicks that are known to be stored, so that the overlap is not stored again
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
# A 403 is for the plan, or for the month's clicks; nothing documents that the code always tells which.
_OVER_USAGE = re.compile(r"\b(?:limit|usage)\b", re.IGNORECASE)
_PROBLEMS: tuple[tuple[type[Exception], Problem], ...] = (
    (DubThrottled, "throttled"),
    (InvalidDubResponse, "garbled"),
    (DubUnavailable, "down"),
    (NotConfigured, "not_configured"),
    (StoreFailed, "database"),
)

# How long Dub is left alone after it said no, in seconds; a 429 says itself.
HOLD_S: dict[Problem, float] = {"plan": 60, "usage": 60, "key": 60, "refused": 60, "not_configured": 60}
HOLD_ELSE_S = 1.0


class Outcome(Struct, frozen=True):
    """What came of waiting for a sync. Only ``synced`` makes a "none" final."""

    status: Status
    problem: Problem | None = None
    retry_after_s: float = 0.0

    @property
    def allows_match(self) -> bool:
        """Whether every click is stored that Dub showed when the open arrived and that can be read."""
        return self.status in ("synced", "unreadable")

    @property
    def is_final(self) -> bool:
        """Whether that is every click that Dub showed when the open arrived: then a "none" is final, too."""
        return self.status == "synced"


SYNCED = Outcome("synced")
UNREADABLE = Outcome("unreadable")
LATE = Outcome("late")
SPENT = Outcome("over_budget")


@dataclass
class _Reading:
    """One sync under way. Times are Unix milliseconds, those of events by Dub's clock."""

    began_ms: int  # by our clock: when its first page was asked for
    stop_ms: int  # what is older is known, or too old to be matched
    pages: int = 0  # read so far
    events: int = 0  # of a known time, and no older than ``stop_ms``
    newest_ms: int = 0
    oldest_ms: int = 0
    is_complete: bool = False  # everything newer than ``stop_ms`` was read
    unread: Counter[Fault] = field(default_factory=Counter)

    @property
    def known_to_ms(self) -> int:
        """Return the time up to which Dub has shown this sync every event, but for those that come late."""
        newest_ms = min(self.newest_ms, self.began_ms + _CLOCK_DIFFERENCE_MS)
        return max(newest_ms, self.began_ms - _CLOCK_DIFFERENCE_MS)

    def forget(self) -> None:
        """Reset the counts, since the same events are about to be read again."""
        self.events = 0
        self.unread.clear()


class _Unfinished(Struct, frozen=True):
    """What a sync that failed half-way has read: every event up to ``known_to_ms`` on so many pages.

    Events only move to later pages, so these pages still hold only events that were read, and new ones.
    """

    known_to_ms: int
    pages: int


class ClickSync:
    """Syncs the clicks of one app: those of the last ``window_s`` seconds.

    ``clock`` is monotonic seconds, ``unix_time`` wall clock seconds; ``unreadable`` counts, by
    fault, each time that an event could not be read.
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
        self.unread: Mapping[Fault, int] = {}  # of the last sync's events, by what was wrong with them
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
        self._began = float("-inf")  # the fetch under way, or the last one, on the clock
        self._synced = float("-inf")  # when the last complete one began
        self._found: dict[str, tuple[int, Click]] = {}  # read from Dub, and not stored yet
        self._stored: OrderedDict[str, int] = OrderedDict()  # clicks of the overlap, and when they were made
        self._known_to_ms = 0  # by Dub's clock: everything older was seen, but for what shows up late
        self._reading = _Reading(0, 0)  # the fetch under way, or the last one
        self._last_events = 0  # that the last sync took
        self._unfinished: _Unfinished | None = None
        self._spent = False  # waiting for Dub's budget just now
        self._held_until = float("-inf")
        self._problem: Outcome | None = None

    @property
    def problem(self) -> Problem | None:
        """Return why clicks cannot be had at the moment; ``None`` while they can."""
        return self._problem.problem if self._problem else None

    async def sync(self, arrived: float, timeout_s: float) -> Outcome:
        """Bring the clicks up to an open that ``arrived`` (on the clock), within ``timeout_s`` seconds.

        Never raises. Whoever gives up early costs the others nothing: the sync goes on.
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
                return SPENT if self._spent else LATE
            if not outcome.allows_match and self._began >= arrived:
                return outcome
            await asyncio.sleep(0)  # a fetch that just ended is still on the list: let it go from there
        return self._outcome()

    async def close(self, grace_s: float = 0) -> None:
        """Give up what is under way."""
        await self._flights.close(grace_s)

    def _launch(self) -> Flight[Outcome]:
        self._began = self._clock()
        return self._flights.launch(_KEY, self._app.name, self._run())

    async def _run(self) -> Outcome:
        """Sync once, and remember whether Dub let us. Never raises."""
        try:
            await self._fetch()
        except Exception as exc:  # noqa: BLE001  whoever waits is answered, whatever it is
            return self._failed(exc)
        finally:
            self._spent = False
        if self._problem is not None:
            self._problem = None
            self._log.info(Event.CLICKS_AVAILABLE, app=self._app.name)
        return self._outcome()

    def _outcome(self) -> Outcome:
        return UNREADABLE if self.unread else SYNCED

    def _failed(self, exc: Exception) -> Outcome:
        """Leave Dub alone for a while; one log line until the problem is another, or over."""
        problem = _problem_of(exc)
        hold_s = exc.retry_after_s if isinstance(exc, DubThrottled) else HOLD_S.get(problem, HOLD_ELSE_S)
        if self.problem != problem:
            about = {"error": type(exc).__name__, "where": where(exc)}
            self._log.warning(Event.CLICKS_UNAVAILABLE, app=self._app.name, problem=problem, **about)
        self._held_until = self._clock() + hold_s
        self._problem = Outcome("unavailable", problem, hold_s)
        return self._problem

    async def _fetch(self) -> None:
        """Bring the stored clicks up to now: with Dub, if no other replica does so at the moment."""
        began = self._began
        self._found.clear()
        async with self._clicks.sync_round() as sync_round:
            if sync_round.synced_to_ms != self._known_to_ms:
                self._known_to_ms = sync_round.synced_to_ms
                self._unfinished = None  # another replica has read on from somewhere else
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
        """Read from the newest event down to what is known, and say in the turn what is known then."""
        self._reading = _Reading(0, 0)
        await self._read_down()
        reading = self._reading
        if reading.is_complete:
            sync_round.synced_to_ms = reading.known_to_ms
        sync_round.unread = dict(reading.unread)
        sync_round.clicks = list(self._found.values())
        self._last_events = reading.events

    async def _read_down(self) -> None:
        """Read pages, newest first, until one shows something known, or is empty, or has no times."""
        limit = FEW_EVENTS if self._expects_few() else PAGE_EVENTS
        before, number = self._unfinished, 1
        while events := await self._read_page(number, limit):
            await self._store()
            if limit == FEW_EVENTS:
                if number == 1 and events < FEW_EVENTS:
                    number = 2  # likely to be empty, and so to say that this was all
                else:  # more is new than was expected: read it again, in large pages
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
        """Return whether a small page is likely to hold all that is new since the last sync."""
        return self._clock() - self._synced < OVERLAP_S and self._last_events <= FEW_EVENTS // 2

    def _note_unread(self, unread: Mapping[Fault, int]) -> None:
        """Remember what the last sync could not read; one log line for each fault until it is over."""
        for fault in unread.keys() - self.unread.keys():
            self._log.warning(Event.CLICKS_UNREADABLE, app=self._app.name, fault=fault, events=unread[fault])
        self.unread = dict(unread)

    async def _store(self) -> None:
        """Store what was read so far."""
        await self._clicks.add(list(self._found.values()))
        self._note_stored()

    def _note_stored(self) -> None:
        """Remember which clicks are stored, for as long as later syncs read them again."""
        self._stored.update((each, click.at_ms) for each, (_, click) in self._found.items())
        self._found.clear()
        oldest_ms = self._known_to_ms - _OVERLAP_MS
        while self._stored:
            click_id, at_ms = next(iter(self._stored.items()))
            if at_ms >= oldest_ms and len(self._stored) <= _STORED_MAX:
                break
            del self._stored[click_id]

    async def _read_page(self, number: int, limit: int) -> int:
        """Read a page; return how many events it had, or 0 if nothing older is to be read."""
        events = await self._page(number, limit)
        reading = self._reading
        reading.pages += 1
        if reading.pages > _PAGES_MAX:
            raise InvalidDubResponse("pages of events without end")
        if not events:
            reading.is_complete = True
            return 0
        _refuse_oldest_first(events)
        has_times = await self._take(events)
        return len(events) if has_times and not reading.is_complete else 0

    async def _page(self, number: int, limit: int) -> ClickPage:
        """Ask for a page as soon as the budget allows; a sync begins when its first page is asked for."""
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
                )
            except OverBudget as exc:
                self._spent = True
                await self._sleep(max(exc.retry_after_s, _PAUSE_MIN_S))
                self._spent = False

    def _begin(self) -> None:
        """Set the time range of this sync."""
        self._began = self._clock()
        now_ms = int(self._unix_time() * 1000)
        oldest_wanted_ms = now_ms - self._window_s * 1000 - _CLOCK_DIFFERENCE_MS
        known_ms = min(self._known_to_ms, now_ms) - _OVERLAP_MS
        self._reading = _Reading(now_ms, max(oldest_wanted_ms, known_ms))

    async def _take(self, page: ClickPage) -> bool:
        """Find the clicks of a page, with a turn of the loop between slices of it.

        Stops at the first event that is older than this sync reads. Returns False if no event on the page has
        a readable time: nobody can tell then how old the next page is.
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
    """Raise ``InvalidDubResponse`` for a page in ascending order: a sync would stop at its first event."""
    first_ms, last_ms = page.ends_ms()
    if first_ms is not None and last_ms is not None and last_ms > first_ms + _TIE_MS:
        raise InvalidDubResponse("a page of events that is not newest first")


def _problem_of(exc: Exception) -> Problem:
    if isinstance(exc, DubRefused):
        if exc.status == _FORBIDDEN and (exc.code == "exceeded_limit" or _OVER_USAGE.search(exc.message)):
            return "usage"
        return _REFUSALS.get(exc.status, "refused")
    return next((problem for kind, problem in _PROBLEMS if isinstance(exc, kind)), "failed")
