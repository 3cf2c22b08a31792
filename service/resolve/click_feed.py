"""An app's window of clicks, kept up to date from Dub's ``/events`` whenever an open asks.

What can go wrong: a final "none" from a fetch that began before the open arrived (such a fetch is waited
out, and another one made); events that show up late or out of order, and pages that shift while they are
read (an overlap, ascending order, one pinned ``end``, on until an empty page); opens that wait for each
other's syncs until Dub's budget is gone (all that wait share one).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Literal, Protocol
from urllib.parse import urlencode

from msgspec import Raw, Struct

from service.resolve.click_events import read_events, split_page
from service.resolve.errors import (
    DubGarbled,
    DubRefused,
    DubThrottled,
    DubUnavailable,
    NotConfigured,
    OverBudget,
    StoreFailed,
)
from service.resolve.events import EventFeed
from service.resolve.flights import Flight, Flights
from service.resolve.matching import CLOCK_DIFFERENCE_S, Click
from service.resolve.model import App
from service.resolve.networks import Networks
from service.resolve.window import ClickWindow
from service.telemetry import Event, Log, where

PAGE_EVENTS = 1000  # Dub's most
OVERLAP_S = 120  # how late an event may show up and still be seen
EVENTS_AT_A_TIME = 100  # decoded between two turns of the event loop

_PAGES_MAX = 2000  # two million clicks: a Dub that ignores ``page`` must end, too
_PAUSE_MIN_S = 0.01
_EXPIRY_STEPS = 20  # after a fetch, so that whoever waits for it does not wait for these
_KEY = b"clicks"

Status = Literal["synced", "late", "over_budget", "unavailable"]
Problem = Literal[
    "plan", "key", "refused", "throttled", "down", "garbled", "not_configured", "not_shared", "failed"
]

_REFUSALS: dict[int, Problem] = {401: "key", 403: "plan"}
_PROBLEMS: tuple[tuple[type[Exception], Problem], ...] = (
    (DubThrottled, "throttled"),
    (DubGarbled, "garbled"),
    (DubUnavailable, "down"),
    (NotConfigured, "not_configured"),
    (StoreFailed, "not_shared"),
)

# How long Dub is left alone after it said no, in seconds; a 429 says itself.
HOLD_S: dict[Problem, float] = {"plan": 60, "key": 60, "refused": 60, "not_configured": 60}
HOLD_ELSE_S = 1.0


class Outcome(Struct, frozen=True):
    """What came of waiting for a sync. Only ``synced`` makes a "none" final."""

    status: Status
    problem: Problem | None = None
    retry_after_s: float = 0.0

    @property
    def is_final(self) -> bool:
        """Whether every click that Dub showed when the open arrived is in the window."""
        return self.status == "synced"


SYNCED = Outcome("synced")
LATE = Outcome("late")
SPENT = Outcome("over_budget")


class Together(Protocol):
    """One window for all replicas: whose turn it is asks Dub, everybody reads. Raises ``StoreFailed``."""

    async def turn(self) -> tuple[bool, int]:
        """Wait for a fetch that began after this to be over, or for one's own turn to make one.

        Returns whether it is one's own, and how far fetches have seen, in Unix milliseconds.
        """
        ...

    def read(self) -> AsyncIterator[list[tuple[int, Click]]]:
        """Yield what others found since the last time, with the network of each click."""
        ...

    async def share(self, clicks: Sequence[tuple[int, Click]]) -> None:
        """Let every replica read what was found."""
        ...

    async def over(self, seen_to_ms: int) -> None:
        """End a turn that saw everything up to then."""
        ...

    async def give_up(self) -> None:
        """End a turn that came to nothing; never raises."""
        ...


class ClickFeed:
    """Syncs the window of one app. ``clock`` is monotonic seconds, ``wall`` Unix seconds."""

    def __init__(
        self,
        *,
        app: App,
        events: EventFeed,
        window: ClickWindow,
        networks: Networks,
        log: Log,
        clock: Callable[[], float],
        wall: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        together: Together | None = None,
    ) -> None:
        self.window = window
        self._together = together
        self.malformed = 0  # events left out, so far
        self._app = app
        self._events = events
        self._networks = networks
        self._log = log
        self._clock = clock
        self._wall = wall
        self._sleep = sleep
        self._flights: Flights[Outcome] = Flights()
        self._began = float("-inf")  # the fetch under way, or the last one, on the clock
        self._synced = float("-inf")  # when the last complete one began
        self._unshared: dict[str, tuple[int, Click]] = {}  # found here, and the others may not have them
        self._shared_to_ms = 0  # how far fetches had seen when last asked
        self._shares_all = False  # in this turn: what was shared before is lost
        self._seen_to_ms = 0  # by Dub's clock: everything older was seen, but for what shows up late
        self._start_ms = 0  # of the fetch under way
        self._now_ms = 0
        self._spent = False  # waiting for Dub's budget just now
        self._held_until = float("-inf")
        self._problem: Outcome | None = None

    @property
    def problem(self) -> Problem | None:
        """Return why clicks cannot be had at the moment; ``None`` while they can."""
        return self._problem.problem if self._problem else None

    async def sync(self, arrived: float, timeout_s: float) -> Outcome:
        """Bring the window up to an open that ``arrived`` (on the clock), within ``timeout_s`` seconds.

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
            if outcome.status != "synced" and self._began >= arrived:
                return outcome
            await asyncio.sleep(0)  # a fetch that just ended is still on the list: let it go from there
        return SYNCED

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
        return SYNCED

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
        """Bring the window up to now: by what other replicas found, or in one's own turn from Dub."""
        if self._together is None:
            await self._fetch_pages()
            return
        began = self._began
        mine, seen_to_ms = await self._together.turn()
        try:
            async for clicks in self._together.read():
                for seen in clicks:
                    self.window.add(*seen)
                await asyncio.sleep(0)
            self._shares_all = seen_to_ms < self._shared_to_ms
            self._seen_to_ms = seen_to_ms
            if mine:
                await self._fetch_pages()
                await self._together.over(self._seen_to_ms)
        except BaseException:
            if mine:
                await self._together.give_up()
            raise
        self._shared_to_ms = self._seen_to_ms
        if not mine:
            self._synced = began
            await self._expire(int(self._wall() * 1000))

    async def _fetch_pages(self) -> None:
        """Read every page from where we were to now."""
        events = await self._page(self._begin)
        number = 1
        while events:
            await self._take(events)
            number += 1
            if number > _PAGES_MAX:
                raise DubGarbled("pages of events without end")
            events = await self._page(partial(self._query, number))
        self._seen_to_ms = self._now_ms
        self._synced = self._began
        await self._expire(self._now_ms)

    async def _expire(self, now_ms: int) -> None:
        for _ in range(_EXPIRY_STEPS):
            if not self.window.expire(now_ms):
                break
            await asyncio.sleep(0)

    async def _page(self, query: Callable[[], str]) -> list[Raw]:
        """Ask for a page as soon as the budget allows; the query is made when it is asked."""
        while True:
            try:
                page = await self._events.page(self._app, query())
                break
            except OverBudget as exc:
                self._spent = True
                await self._sleep(max(exc.retry_after_s, _PAUSE_MIN_S))
                self._spent = False
        return split_page(b"".join([chunk async for chunk in page.chunks()]))

    def _begin(self) -> str:
        """Pin the stretch of time of this fetch, and return the query for its first page."""
        self._began = self._clock()
        self._now_ms = now_ms = int(self._wall() * 1000)
        overlap_ms = (OVERLAP_S + CLOCK_DIFFERENCE_S) * 1000
        window_ms = (self.window.window_s + CLOCK_DIFFERENCE_S) * 1000
        self._start_ms = max(now_ms - window_ms, min(self._seen_to_ms, now_ms) - overlap_ms)
        return self._query(1)

    def _query(self, page: int) -> str:
        asked = {
            "event": "clicks",
            "domain": ",".join(self._app.domains),
            "start": _iso(self._start_ms),
            "end": _iso(self._now_ms + CLOCK_DIFFERENCE_S * 1000),
            "sortOrder": "asc",
            "page": page,
            "limit": PAGE_EVENTS,
        }
        return urlencode(asked)

    async def _take(self, events: list[Raw]) -> None:
        """Put a page into the window, with a turn of the loop between slices of it."""
        last_ms = 0
        for at in range(0, len(events), EVENTS_AT_A_TIME):
            for event in read_events(events[at : at + EVENTS_AT_A_TIME]):
                if isinstance(event, str):
                    self.malformed += 1
                    continue
                last_ms = event.at_ms
                seen = event.seen(self._networks)
                if seen is None:
                    continue
                is_new = self.window.add(*seen)
                if self._together is not None and (is_new or self._shares_all):
                    self._unshared[seen[1].id] = seen
            self.window.expire(self._now_ms)
            await asyncio.sleep(0)
        if self._unshared and self._together is not None:
            await self._together.share(list(self._unshared.values()))
            self._unshared.clear()
        self._seen_to_ms = max(self._seen_to_ms, min(last_ms, self._now_ms))


def _problem_of(exc: Exception) -> Problem:
    if isinstance(exc, DubRefused):
        return _REFUSALS.get(exc.status, "refused")
    return next((problem for kind, problem in _PROBLEMS if isinstance(exc, kind)), "failed")


def _iso(at_ms: int) -> str:
    """Write a time as Dub does: UTC, milliseconds, ``Z``."""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
