"""Syncs of the window from Dub's events: fresh, shared, complete, and within Dub's budget."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.clicks import SyncRound, UnreadEvent
from service.domain.errors import (
    DubFailed,
    DubRefused,
    DubThrottled,
    DubUnavailable,
    DubUnreachable,
    StoreFailed,
)
from service.domain.match_rules import CLOCK_DIFFERENCE_S, Click
from service.dub.click_events import EVENTS_AT_A_TIME, ClickEvent, read_events
from service.matching import click_sync as click_feed
from service.matching.click_sync import (
    FEW_EVENTS,
    HOLD_ELSE_S,
    LATE,
    OVER_BUDGET,
    OVERLAP_S,
    PAGE_EVENTS,
    SYNCED,
    UNREADABLE,
    Problem,
)
from service.storage.database import Database
from service.storage.statements import Row, Statement
from service.telemetry import Event, configure_logs
from tests.databases import sqlite
from tests.fake_events import APP, LONG_S, NOON, World, iso, javascript, seconds_between
from tests.support import LogLines, until


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with sqlite(tmp_path) as database:
        yield database


@pytest.fixture
def logs() -> Iterator[LogLines]:
    lines = LogLines()
    yield lines
    configure_logs("critical")


async def test_a_sync_brings_the_clicks(database: Database) -> None:
    """What Dub shows is in the window when the sync is done, and the query asks for what the page says.

    A page that is not full is not the last (dub-api.md, "GET /events"): the second one is empty.
    """
    world = World(database)
    world.dub.click("one", 42)
    assert await world.feed.sync(world.clock(), LONG_S) == SYNCED
    assert await world.held() == {"one"}
    first, last = world.dub.queries
    assert first == last | {"page": "1"}
    assert (first["event"], first["domain"]) == ("clicks", "acme.link,go.acme.com")
    assert (first["sortOrder"], first["limit"]) == ("desc", "1000")
    assert seconds_between(first["end"], iso(world.dub.now)) == CLOCK_DIFFERENCE_S
    assert seconds_between(iso(world.dub.now), first["start"]) == 3600 + CLOCK_DIFFERENCE_S


async def test_who_waits_shares_one_sync(database: Database) -> None:
    """Fifty opens that arrive before a fetch begins cost one fetch: a page, and the empty one."""
    world = World(database)
    world.dub.click("one")
    arrived = world.clock()
    outcomes = await asyncio.gather(*(world.feed.sync(arrived, LONG_S) for _ in range(50)))
    assert set(outcomes) == {SYNCED}
    assert len(world.dub.queries) == 2
    assert await world.feed.sync(arrived, 0) == SYNCED
    assert len(world.dub.queries) == 2


async def test_a_fetch_that_began_before_is_not_fresh(database: Database) -> None:
    """An open that arrives during a fetch waits for another one, and finds what only that one shows."""
    world = World(database)
    world.dub.blocked = asyncio.Event()
    first = asyncio.create_task(world.feed.sync(world.clock(), LONG_S))
    await until(lambda: world.dub.queries)
    world.clock.advance(1)
    world.dub.click("just now")
    second = asyncio.create_task(world.feed.sync(world.clock(), LONG_S))
    await asyncio.sleep(0)
    world.dub.blocked.set()
    assert (await first, await second) == (SYNCED, SYNCED)
    assert await world.held() == {"just now"}
    assert len(world.dub.queries) == 3


async def test_a_fetch_that_waits_for_the_budget_has_not_begun(database: Database) -> None:
    """Opens that arrive while it waits are served by it: it asks for events up to then."""
    world = World(database, app=msgspec.structs.replace(APP, analytics_calls_per_s=1))
    world.budget.spend(APP.dub_api_key, 1)
    world.sleeping = asyncio.Event()
    first = asyncio.create_task(world.feed.sync(world.clock(), LONG_S))
    await until(lambda: world.feed._over_budget)
    world.clock.advance(0.5)
    world.dub.click("just now")
    second = asyncio.create_task(world.feed.sync(world.clock(), LONG_S))
    await asyncio.sleep(0)
    world.sleeping.set()
    assert (await first, await second) == (SYNCED, SYNCED)
    assert await world.held() == {"just now"}
    assert len(world.dub.queries) == 2


async def test_a_click_that_shows_up_late_is_found(database: Database) -> None:
    """As long as it is not later than the overlap of two syncs."""
    world = World(database)
    assert await world.sync() == "synced"
    world.dub.click("late", late_s=OVERLAP_S - 11)
    world.dub.click("too late", late_s=3600)
    world.clock.advance(10)
    assert await world.sync() == "synced"
    assert await world.held() == set()
    world.clock.advance(OVERLAP_S - 30)
    assert await world.sync() == "synced"
    assert await world.held() == set()
    world.clock.advance(10)
    assert await world.sync() == "synced"
    assert await world.held() == {"late"}


async def test_a_later_sync_asks_for_what_is_new(database: Database) -> None:
    """From where the last one was by Dub's clock, less the overlap in which late events still show up."""
    world = World(database)
    assert await world.sync() == "synced"
    world.clock.advance(10)
    assert await world.sync() == "synced"
    ago_s = seconds_between(iso(world.dub.now), world.dub.queries[-1]["start"])
    assert ago_s == 10 + OVERLAP_S + CLOCK_DIFFERENCE_S
    world.clock.advance(1)
    world.dub.click("one", 4)
    assert await world.sync() == "synced"
    world.clock.advance(10)
    assert await world.sync() == "synced"
    ago_s = seconds_between(iso(world.dub.now), world.dub.queries[-1]["start"])
    assert ago_s == 4 + 10 + OVERLAP_S


async def test_pages_are_read_to_an_empty_one(database: Database) -> None:
    """A page that is short for deleted links is not the last; all pages of a fetch have one pinned end."""
    world = World(database)
    for number in range(2500):
        ip = f"203.0.{number // 250}.{number % 250}"
        world.dub.click(f"{number}", 3000 - number, deleted=number % 2 == 0, ip=ip)
    assert await world.sync() == "synced"
    assert len(await world.stored()) == 1250
    assert [query["page"] for query in world.dub.queries] == ["1", "2", "3", "4"]
    assert len({(query["start"], query["end"]) for query in world.dub.queries}) == 1


def spread_clicks(world: World, number: int, *, from_s: int, to_s: int, name: str = "") -> None:
    """Let clicks have been made evenly between two times, in seconds ago, each from an address of its own."""
    for each in range(number):
        ago_s = from_s + (to_s - from_s) * each / number
        world.dub.click(f"{name}{each}", ago_s, ip=f"203.{each // 62_500}.{each // 250 % 250}.{each % 250}")


async def test_a_busy_day_costs_a_sync_one_call(database: Database) -> None:
    """Dub widens ``start`` to midnight (dub-api.md, "GET /events"): the order keeps it from being read.

    Neither the first sync of a process nor any later one reads what is older than its window.
    """
    world = World(database)
    spread_clicks(world, 12_000, from_s=3600, to_s=43_000)
    world.dub.click("one", 30)
    assert await world.sync() == "synced"
    assert await world.held() == {"one"}
    assert len(world.dub.queries) == 1
    for number in range(5):
        world.clock.advance(1)
        world.dub.click(f"more {number}")
        assert await world.sync() == "synced"
    assert await world.held() == {"one", *(f"more {number}" for number in range(5))}
    assert len(world.dub.queries) == 6


async def test_a_first_sync_reads_no_more_than_the_window(database: Database) -> None:
    """A service that starts on a busy day pages through its matching window, and then only what is new."""
    world = World(database, app=msgspec.structs.replace(APP, analytics_calls_per_s=100))
    spread_clicks(world, 3500, from_s=200, to_s=3600)
    spread_clicks(world, 8500, from_s=3700, to_s=43_000)
    assert await world.sync() == "synced"
    assert len(await world.stored()) == 3500
    assert [query["page"] for query in world.dub.queries] == ["1", "2", "3", "4"]
    world.clock.advance(1)
    assert await world.sync() == "synced"
    assert len(world.dub.queries) == 5


async def test_a_quiet_app_asks_for_small_pages(database: Database) -> None:
    """Where little was new a moment ago, a sync asks for a hundred events, and for a thousand if all are new.

    A small page that is not full is no reason to ask for a large one.
    """
    world = World(database)
    spread_clicks(world, 500, from_s=200, to_s=3600)
    asked = []
    for number in range(5):
        world.clock.advance(1)
        if number == 3:
            spread_clicks(world, 600, from_s=0, to_s=1, name="new")
        assert await world.sync() == "synced"
        asked.append([int(query["limit"]) for query in world.dub.queries])
        world.dub.queries.clear()
    assert asked == [[PAGE_EVENTS] * 2, [PAGE_EVENTS], [FEW_EVENTS], [FEW_EVENTS, PAGE_EVENTS], [PAGE_EVENTS]]
    assert len(await world.stored()) == 600 + 500


async def test_the_first_click_of_a_day_costs_two_small_pages(database: Database) -> None:
    """Nothing older is there to stop at, so the empty page has to be seen (dub-api.md, "GET /events")."""
    world = World(database)
    assert await world.sync() == "synced"
    world.clock.advance(1)
    world.dub.click("one")
    assert await world.sync() == "synced"
    assert await world.held() == {"one"}
    pages = [(query["page"], int(query["limit"])) for query in world.dub.queries]
    assert pages == [("1", PAGE_EVENTS), ("1", FEW_EVENTS), ("2", FEW_EVENTS)]


async def test_clicks_that_arrive_between_two_pages_hide_none(database: Database) -> None:
    """They push older events onto the next page: those are read twice, none is skipped, each is held once."""
    world = World(database, app=msgspec.structs.replace(APP, analytics_calls_per_s=100))
    spread_clicks(world, 3000, from_s=60, to_s=3000)
    pushed = 0

    def push() -> None:
        nonlocal pushed
        for _ in range(70):
            pushed += 1
            world.dub.click(f"new {pushed}", ip=f"198.51.{pushed // 250}.{pushed % 250}")

    world.dub.meanwhile = push
    assert await world.sync() == "synced"
    assert len(await world.stored()) == 3000
    world.dub.meanwhile = None
    world.clock.advance(1)
    assert await world.sync() == "synced"
    assert len(await world.stored()) == 3000 + pushed


async def test_a_page_that_is_oldest_first_is_refused(database: Database) -> None:
    """A Dub that takes no notice of ``sortOrder`` is a problem with a name, not a sync that found nothing."""
    world = World(database)
    world.dub.ignores_order = True
    world.dub.click("yesterday's", 40_000)
    world.dub.click("one", 10)
    assert (await world.feed.sync(world.clock(), LONG_S)).problem == "garbled"
    world.dub.ignores_order = False
    world.clock.advance(HOLD_ELSE_S)
    assert await world.sync() == "synced"
    assert await world.held() == {"one"}


async def test_a_budget_that_ends_ends_the_wait_alone(database: Database) -> None:
    """A caller goes when its time is up; the fetch goes on and serves the next."""
    world = World(database)
    world.dub.click("one")
    world.dub.blocked = asyncio.Event()
    arrived = world.clock()
    assert await world.feed.sync(arrived, 0) == LATE
    world.dub.blocked.set()
    assert await world.feed.sync(arrived, LONG_S) == SYNCED
    assert await world.held() == {"one"}
    assert len(world.dub.queries) == 2


async def test_a_spent_budget_is_told_from_a_slow_dub(database: Database) -> None:
    """Who gives up while Dub's budget is spent hears that; the fetch is made once there is a call again."""
    world = World(database, app=msgspec.structs.replace(APP, analytics_calls_per_s=1))
    world.budget.spend(APP.dub_api_key, 1)
    world.sleeping = asyncio.Event()
    arrived = world.clock()
    waiting = asyncio.create_task(world.feed.sync(arrived, LONG_S))
    await until(lambda: world.feed._over_budget)
    assert await world.feed.sync(arrived, 0) == OVER_BUDGET
    assert world.dub.queries == []
    world.sleeping.set()
    assert await waiting == SYNCED


async def test_the_budget_is_kept(database: Database) -> None:
    """However many pages there are, no second has more calls than the plan allows."""
    world = World(database, app=msgspec.structs.replace(APP, analytics_calls_per_s=2))
    for number in range(4 * PAGE_EVENTS + 1):
        world.dub.click(f"{number}", 600, ip=f"203.{number // 250}.0.{number % 250}")
    assert await world.sync() == "synced"
    assert len(await world.stored()) == 4 * PAGE_EVENTS + 1
    called = world.dub.called_at
    assert len(called) == 6
    assert all(third - first >= 1 for first, third in zip(called, called[2:], strict=False))


async def test_syncs_that_follow_each_other_are_paced(database: Database) -> None:
    """Many opens come one after another: none of them waits for nearly a second."""
    world = World(database, app=msgspec.structs.replace(APP, analytics_calls_per_s=4))
    for number in range(FEW_EVENTS):
        world.dub.click(f"{number}", OVERLAP_S + 60)
    assert await world.sync() == "synced"
    world.clock.advance(2)
    world.dub.called_at.clear()
    for _ in range(12):
        world.clock.advance(0.001)  # each open arrives after the sync before it has begun
        assert await world.sync() == "synced"
    gaps = [later - earlier for earlier, later in pairwise(world.dub.called_at)]
    assert len(gaps) >= 11
    assert gaps[0] < 0.01
    assert max(gaps) < 0.4


@pytest.mark.parametrize(
    ("failure", "problem", "hold_s"),
    [
        (DubRefused(403, "forbidden", "Unauthorized: Need higher plan."), "plan", 60),
        (DubRefused(403, "exceeded_limit", "x"), "usage", 60),
        (DubRefused(403, "forbidden", "You've reached your monthly limit of 1,000 clicks."), "usage", 60),
        (DubRefused(401, "unauthorized", "x"), "key", 60),
        (DubRefused(422, "unprocessable_entity", "x"), "refused", 60),
        (DubThrottled(17), "throttled", 17),
        (DubUnreachable("refused"), "down", HOLD_ELSE_S),
        (DubFailed(500), "down", HOLD_ELSE_S),
        (DubUnavailable("cut short"), "down", HOLD_ELSE_S),
        (b'{"error": {}}', "garbled", HOLD_ELSE_S),
        (ZeroDivisionError(), "failed", HOLD_ELSE_S),
    ],
)
async def test_a_dub_that_cannot_be_asked(
    database: Database, logs: LogLines, failure: Exception | bytes, problem: Problem, hold_s: float
) -> None:
    """The outcome names the problem, the log has one line of it, Dub is left alone, and then asked again."""
    world = World(database, log=configure_logs("info", logs))
    world.dub.click("one")
    world.dub.failures = [failure, failure]
    outcome = await world.feed.sync(world.clock(), LONG_S)
    assert (outcome.status, outcome.problem, outcome.retry_after_s) == ("unavailable", problem, hold_s)
    assert world.feed.problem == problem
    world.clock.advance(hold_s - 0.01)
    assert await world.sync() == "unavailable"
    assert len(world.dub.queries) == 1
    world.clock.advance(0.01)
    assert await world.sync() == "unavailable"
    assert len(world.dub.queries) == 2
    world.clock.advance(hold_s)
    assert await world.sync() == "synced"
    assert await world.held() == {"one"}
    assert not world.feed.problem
    assert [line["problem"] for line in logs.events(Event.CLICKS_UNAVAILABLE)] == [problem]
    assert len(logs.events(Event.CLICKS_AVAILABLE)) == 1


async def test_no_key_is_a_problem_of_its_own(database: Database, logs: LogLines) -> None:
    """An app without a Dub API key asks nothing, fails nothing, and says so once."""
    world = World(
        database, app=msgspec.structs.replace(APP, dub_api_key=""), log=configure_logs("info", logs)
    )
    for _ in range(3):
        outcome = await world.feed.sync(world.clock(), LONG_S)
        assert (outcome.status, outcome.problem) == ("unavailable", "not_configured")
        world.clock.advance(100)
    assert world.dub.queries == []
    assert len(logs.events(Event.CLICKS_UNAVAILABLE)) == 1


async def test_a_sync_that_fails_half_way_marks_nothing_as_known(database: Database) -> None:
    """The clicks below the page where it failed are read by the next one, which goes on at that page."""
    world = World(database, app=msgspec.structs.replace(APP, analytics_calls_per_s=100))
    spread_clicks(world, 5 * PAGE_EVENTS + 10, from_s=30, to_s=3500)
    world.dub.failures = [None, None, None, DubUnreachable("reset")]
    assert await world.sync() == "unavailable"
    assert len(await world.stored()) == 3 * PAGE_EVENTS
    world.clock.advance(HOLD_ELSE_S)
    for number in range(20):
        world.dub.click(f"new {number}", ip=f"198.51.100.{number}")
    assert await world.sync() == "synced"
    assert len(await world.stored()) == 5 * PAGE_EVENTS + 30
    assert [query["page"] for query in world.dub.queries] == ["1", "2", "3", "4", "1", "4", "5", "6", "7"]
    world.clock.advance(1)
    assert await world.sync() == "synced"
    assert len(world.dub.queries) == 10


async def test_a_sync_that_fails_among_new_clicks_loses_no_ground(database: Database) -> None:
    """What an earlier one had read below them is not read again."""
    world = World(database, app=msgspec.structs.replace(APP, analytics_calls_per_s=100))
    spread_clicks(world, 4 * PAGE_EVENTS, from_s=400, to_s=3000)
    reset = DubUnreachable("reset")
    world.dub.failures = [None, None, None, reset, None, reset]
    assert await world.sync() == "unavailable"
    world.clock.advance(OVERLAP_S)
    spread_clicks(world, PAGE_EVENTS + 500, from_s=0, to_s=OVERLAP_S, name="new")
    assert await world.sync() == "unavailable"
    world.clock.advance(HOLD_ELSE_S)
    assert await world.sync() == "synced"
    assert len(await world.stored()) == 5 * PAGE_EVENTS + 500
    pages = [query["page"] for query in world.dub.queries]
    assert pages == ["1", "2", "3", "4", "1", "2", "1", "2", "4", "5", "6", "7"]


async def test_syncs_that_fail_again_and_again_close_the_gap(database: Database) -> None:
    """However often a sync fails, and however much arrives meanwhile, in the end every click was read."""
    world = World(database, app=msgspec.structs.replace(APP, analytics_calls_per_s=100))
    spread_clicks(world, 6 * PAGE_EVENTS, from_s=30, to_s=3000)
    reset = DubUnreachable("reset")
    for fails_at in (3, 2, 1, 4, 0, 3):
        world.dub.failures = [*([None] * fails_at), reset]
        assert await world.sync() == "unavailable"
        world.clock.advance(HOLD_ELSE_S)
        spread = len(world.dub.queries)
        for number in range(600):
            world.dub.click(f"{spread} {number}", ip=f"198.{spread}.{number // 250}.{number % 250}")
    assert await world.sync() == "synced"
    assert len(await world.stored()) == 6 * PAGE_EVENTS + 6 * 600


async def test_an_event_that_cannot_be_read_costs_no_other_one(database: Database, logs: LogLines) -> None:
    """It is counted each time and logged once; a "none" is not final until a sync reads everything again."""
    world = World(database, log=configure_logs("info", logs))
    world.dub.click("one", 5)
    world.dub.odd({"click": {"id": 7}, "timestamp": javascript(world.dub.now)})
    world.dub.odd({"click": {"id": 8}, "timestamp": javascript(world.dub.now)})
    for _ in range(2):
        assert await world.feed.sync(world.clock(), LONG_S) == UNREADABLE
        assert world.feed.unread == {"malformed": 2}
        world.clock.advance(1)
    assert await world.held() == {"one"}
    assert counted(world) == {"malformed": 4}
    world.clock.advance(OVERLAP_S + CLOCK_DIFFERENCE_S)
    assert await world.sync() == "unreadable"  # once more, and by then they are older than the next overlap
    world.clock.advance(1)
    assert await world.sync() == "synced"
    assert not world.feed.unread
    world.dub.odd("no event at all")
    world.clock.advance(1)
    assert await world.sync() == "unreadable"
    lines = logs.events(Event.CLICKS_UNREADABLE)
    assert [(line["fault"], line["events"]) for line in lines] == [("malformed", 2), ("malformed", 1)]


async def test_times_in_an_unknown_form_are_told_at_once_and_cost_one_call(database: Database) -> None:
    """A page without a readable time ends a sync, which cannot say what is older: nothing is known by it."""
    world = World(database, app=msgspec.structs.replace(APP, analytics_calls_per_s=100))
    world.dub.click("known", 1000)
    assert await world.sync() == "synced"
    calls = len(world.dub.queries)
    world.clock.advance(950)
    spread_clicks(world, 3 * PAGE_EVENTS, from_s=10, to_s=900)
    world.dub.writes_times = False
    for _ in range(3):
        assert await world.sync() == "unreadable"
        world.clock.advance(1)
    assert await world.held() == {"known"}
    assert len(world.dub.queries) - calls == 3
    assert world.feed.unread.keys() == {"timestamp"}
    world.dub.writes_times = True
    assert await world.sync() == "synced"
    assert len(await world.stored()) == 3 * PAGE_EVENTS + 1


def counted(world: World) -> dict[str, float]:
    """Return the metric of unreadable events, by fault."""
    (family,) = world.metrics.events_unreadable.collect()
    return {sample.labels["fault"]: sample.value for sample in family.samples}


async def test_pages_without_end_end(database: Database) -> None:
    """A Dub that answers every page alike is garbled, not asked for ever."""
    world = World(database, app=msgspec.structs.replace(APP, analytics_calls_per_s=100))
    world.dub.click("one")
    world.dub.keeps_page = world.dub.answer({**QUERY, "page": "1"})
    assert (await world.feed.sync(world.clock(), LONG_S)).problem == "garbled"
    assert await world.held() == {"one"}


async def test_a_large_page_is_taken_in_slices(database: Database) -> None:
    """Between two turns of the event loop, no more than a slice of events is decoded."""
    world = World(database)
    for number in range(PAGE_EVENTS):
        world.dub.click(f"{number}", 600, ip=f"203.0.{number // 250}.{number % 250}")
    sync_round = 0
    read: dict[int, int] = {}  # events, by turn of the loop

    def counted(events: Sequence[msgspec.Raw]) -> Iterator[ClickEvent | UnreadEvent]:
        if len(events) > 1:  # not one that is looked at beforehand
            read[sync_round] = read.get(sync_round, 0) + len(events)
        return read_events(events)

    with patch("service.dub.click_events.read_events", counted):
        syncing = asyncio.create_task(world.sync())
        while not syncing.done():
            await asyncio.sleep(0)
            sync_round += 1
    assert sum(read.values()) == PAGE_EVENTS
    assert max(read.values()) <= EVENTS_AT_A_TIME
    assert len(await world.stored()) == PAGE_EVENTS


async def test_a_restart_goes_on_where_the_last_sync_ended(tmp_path: Path) -> None:
    """The window is not read from Dub again, unless it is another one by now."""
    async with sqlite(tmp_path) as database:
        world = World(database)
        spread_clicks(world, 2 * PAGE_EVENTS, from_s=200, to_s=3000)
        assert await world.sync() == "synced"
    async with sqlite(tmp_path) as database:
        restarted = World(database, beside=world)
        restarted.clock.advance(1)
        restarted.dub.click("new")
        restarted.dub.queries.clear()
        assert await restarted.sync() == "synced"
        assert [query["page"] for query in restarted.dub.queries] == ["1"]
        assert len(await restarted.stored()) == 2 * PAGE_EVENTS + 1
        other = World(database, beside=world, scope="another window")
        other.clock.advance(1)
        other.dub.queries.clear()
        assert await other.sync() == "synced"
        assert [query["page"] for query in other.dub.queries] == ["1", "2", "3", "4"]
        assert len(await other.stored()) == 2 * PAGE_EVENTS + 1


async def test_what_was_stored_a_moment_ago_is_not_stored_again(database: Database) -> None:
    """Syncs read the overlap again and again; only what is new in it is written."""
    world = World(database)
    spread_clicks(world, 50, from_s=1, to_s=50)
    assert await world.sync() == "synced"
    stored: list[str] = []
    add = world.kept.store._add

    async def noted(clicks: Sequence[tuple[int, Click]]) -> list[Statement]:
        stored.extend(click.id for _, click in clicks)
        return await add(clicks)

    with patch.object(world.kept.store, "_add", noted):
        for number in range(3):
            world.clock.advance(1)
            world.dub.click(f"new {number}")
            assert await world.sync() == "synced"
    assert stored == ["new 0", "new 1", "new 2"]


async def test_what_cannot_be_stored_is_not_known(database: Database, logs: LogLines) -> None:
    """A database that fails is a problem with a name; the sync after it reads and stores everything."""
    world = World(database, log=configure_logs("info", logs))
    spread_clicks(world, PAGE_EVENTS + 10, from_s=200, to_s=3000)
    real, writes, fails_at = database.write, 0, 0

    async def write(*unit: Statement, timeout_s: float | None = None) -> list[list[Row]]:
        nonlocal writes
        writes += 1
        if writes == fails_at:
            raise StoreFailed("disk full")
        return await real(*unit, timeout_s=timeout_s)

    for fails_at in (1, 2, 1):  # noqa: B007  read above
        writes = 0
        with patch.object(database, "write", write):
            outcome = await world.feed.sync(world.clock(), LONG_S)
        assert (outcome.status, outcome.problem) == ("unavailable", "database")
        world.clock.advance(HOLD_ELSE_S)
    assert [line["problem"] for line in logs.events(Event.CLICKS_UNAVAILABLE)] == ["database"]
    assert await world.sync() == "synced"
    assert len(await world.stored()) == PAGE_EVENTS + 10


async def test_a_closed_feed_is_quiet(database: Database) -> None:
    """Closing gives up what is under way."""
    world = World(database)
    world.dub.blocked = asyncio.Event()
    assert await world.feed.sync(world.clock(), 0) == LATE
    await world.feed.close()
    assert world.feed._flights.under_way(b"clicks") is None


def in_a_database(play: Callable[[Database], Awaitable[None]]) -> None:
    """Run one example over a database of its own."""

    async def run() -> None:
        with TemporaryDirectory() as folder:
            async with sqlite(Path(folder)) as database:
                await play(database)

    asyncio.run(run())


QUERY = {"start": iso(NOON - 3600), "end": iso(NOON + 60), "limit": str(PAGE_EVENTS)}
happenings = st.lists(
    st.tuples(
        st.integers(0, 120),  # seconds until the next
        st.sampled_from(["click", "click", "click", "sync"]),
        st.integers(0, 50),  # how long ago Dub says it was
        st.integers(0, OVERLAP_S - 50),  # how late it shows up
        st.booleans(),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=50)
@given(happenings)
def test_every_click_that_dub_shows_is_found(happened: list[tuple[int, str, int, int, bool]]) -> None:
    """However late within the overlap, however out of order: after a sync the window holds what was shown."""

    async def play(database: Database) -> None:
        world = World(database)
        shown: dict[str, tuple[float, float]] = {}
        for number, (after_s, what, ago_s, late_s, deleted) in enumerate(
            [*happened, (0, "sync", 0, 0, False)]
        ):
            world.clock.advance(after_s)
            if what == "click":
                world.dub.click(f"{number}", ago_s, late_s=ago_s + late_s, deleted=deleted)
                if not deleted:
                    shown[f"{number}"] = (world.dub.now - ago_s, world.dub.now + late_s)
            else:
                world.clock.advance(0.001)  # a sync of this very instant would do for the next one
                assert await world.sync() == "synced"
                now = world.dub.now
                due = {each for each, (at, visible) in shown.items() if visible <= now and at >= now - 3600}
                assert due <= await world.held() <= set(shown)

    in_a_database(play)


busy = st.lists(
    st.tuples(
        st.integers(1, 300),  # seconds until the next sync
        st.lists(st.integers(0, 200), max_size=20),  # clicks since the last one, by how long ago
        st.integers(0, 3),  # more of them between two pages
        st.integers(0, 9),  # the page at which Dub fails
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None, max_examples=50)
@given(busy)
def test_nothing_is_skipped_however_syncs_fail(syncs: list[tuple[int, list[int], int, int]]) -> None:
    """Pages that shift, syncs that fail half-way and go on later: the next whole sync has read everything."""

    async def play(database: Database) -> None:
        world = World(database, app=msgspec.structs.replace(APP, analytics_calls_per_s=100))
        made: dict[str, float] = {}

        def click(ago_s: float) -> None:
            number = len(made)
            made[str(number)] = world.dub.now - ago_s
            world.dub.click(str(number), ago_s, ip=f"198.18.{number // 250}.{number % 250}")

        def click_between_pages() -> None:
            for _ in range(between):
                click(0)

        world.dub.meanwhile = click_between_pages
        for after_s, clicks, between, fails_at in [*syncs, (HOLD_ELSE_S, [], 0, 1000)]:  # noqa: B007  read above
            world.clock.advance(after_s)
            for ago_s in clicks:
                click(min(ago_s, after_s))
            shown = {each for each, at in made.items() if at >= world.dub.now - 3600}
            world.dub.failures = [*([None] * fails_at), DubUnreachable("reset")]
            status = await world.sync()
            if status == "synced":
                assert shown <= await world.stored()
        assert status == "synced"

    with patch.multiple(click_feed, PAGE_EVENTS=5, FEW_EVENTS=2):
        in_a_database(play)


async def test_an_open_that_arrives_as_a_sync_ends_waits_for_another(database: Database) -> None:
    """A sync that is done, but not yet off the list, is not asked over and over: the loop gets its turn."""
    world = World(database)
    late: list[asyncio.Task[str]] = []
    asked = 0

    async def finish(sync_round: SyncRound) -> None:
        """End a sync; what is started here comes before the sync's own callbacks."""
        await real(sync_round)
        if not late:
            world.clock.advance(1)
            late.append(asyncio.create_task(world.sync()))

    def clock() -> float:
        nonlocal asked
        asked += 1
        assert asked < 1000
        return world.clock()

    real = world.kept.store._finish
    world.feed._clock = clock
    with patch.object(world.kept.store, "_finish", finish):
        assert await world.sync() == "synced"
        assert await late[0] == "synced"
    assert [query["page"] for query in world.dub.queries] == ["1", "1"]
