"""Syncs of the window from Dub's events: fresh, shared, complete, and within Dub's budget."""

import asyncio
from collections.abc import Iterator
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.resolve.click_feed import (
    EVENTS_AT_A_TIME,
    HOLD_ELSE_S,
    LATE,
    OVERLAP_S,
    PAGE_EVENTS,
    SPENT,
    SYNCED,
    Problem,
)
from service.resolve.errors import DubFailed, DubRefused, DubThrottled, DubUnavailable, DubUnreachable
from service.resolve.matching import CLOCK_DIFFERENCE_S
from service.resolve.window import ClickWindow
from service.telemetry import Event, configure_logs
from tests.fake_events import APP, LONG_S, NOON, World, iso, seconds_between
from tests.support import LogLines, until


@pytest.fixture
def logs() -> Iterator[LogLines]:
    lines = LogLines()
    yield lines
    configure_logs("critical")


async def test_a_sync_brings_the_clicks() -> None:
    """What Dub shows is in the window when the sync is done, and the query asks for what the page says."""
    world = World()
    world.dub.click("one", 42)
    assert await world.feed.sync(world.clock(), LONG_S) == SYNCED
    assert world.held == {"one"}
    first, last = world.dub.queries
    assert first == last | {"page": "1"}
    assert (first["event"], first["domain"]) == ("clicks", "acme.link,go.acme.com")
    assert (first["sortOrder"], first["limit"]) == ("asc", "1000")
    assert seconds_between(first["end"], iso(world.dub.now)) == CLOCK_DIFFERENCE_S
    assert seconds_between(iso(world.dub.now), first["start"]) == 3600 + CLOCK_DIFFERENCE_S


async def test_who_waits_shares_one_sync() -> None:
    """Fifty opens that arrive before a fetch begins cost one fetch: a page, and the empty one."""
    world = World()
    world.dub.click("one")
    arrived = world.clock()
    outcomes = await asyncio.gather(*(world.feed.sync(arrived, LONG_S) for _ in range(50)))
    assert set(outcomes) == {SYNCED}
    assert len(world.dub.queries) == 2
    assert await world.feed.sync(arrived, 0) == SYNCED
    assert len(world.dub.queries) == 2


async def test_a_fetch_that_began_before_is_not_fresh() -> None:
    """An open that arrives during a fetch waits for another one, and finds what only that one shows."""
    world = World()
    world.dub.gate = asyncio.Event()
    first = asyncio.create_task(world.feed.sync(world.clock(), LONG_S))
    await until(lambda: world.dub.queries)
    world.clock.advance(1)
    world.dub.click("just now")
    second = asyncio.create_task(world.feed.sync(world.clock(), LONG_S))
    await asyncio.sleep(0)
    world.dub.gate.set()
    assert (await first, await second) == (SYNCED, SYNCED)
    assert world.held == {"just now"}
    assert len(world.dub.queries) == 3


async def test_a_fetch_that_waits_for_the_budget_has_not_begun() -> None:
    """Opens that arrive while it waits are served by it: it asks for events up to then."""
    world = World(app=msgspec.structs.replace(APP, analytics_calls_per_s=1))
    world.budget.spend(APP.dub_api_key, 1)
    world.sleeping = asyncio.Event()
    first = asyncio.create_task(world.feed.sync(world.clock(), LONG_S))
    await until(lambda: world.feed._spent)
    world.clock.advance(0.5)
    world.dub.click("just now")
    second = asyncio.create_task(world.feed.sync(world.clock(), LONG_S))
    await asyncio.sleep(0)
    world.sleeping.set()
    assert (await first, await second) == (SYNCED, SYNCED)
    assert world.held == {"just now"}
    assert len(world.dub.queries) == 2


async def test_a_later_sync_asks_for_what_is_new() -> None:
    """From where the last one was, less the overlap in which late events still show up."""
    world = World()
    assert await world.sync() == "synced"
    world.dub.click("late", late_s=OVERLAP_S - 11)
    world.dub.click("too late", late_s=3600)
    world.clock.advance(10)
    assert await world.sync() == "synced"
    assert world.held == set()
    world.clock.advance(OVERLAP_S - 30)
    assert await world.sync() == "synced"
    assert world.held == set()
    world.clock.advance(10)
    assert await world.sync() == "synced"
    assert world.held == {"late"}
    assert (
        seconds_between(iso(world.dub.now), world.dub.queries[-1]["start"])
        == OVERLAP_S + CLOCK_DIFFERENCE_S + 10
    )


async def test_pages_are_read_to_an_empty_one() -> None:
    """A page that is short for deleted links is not the last; all pages of a fetch have one pinned end."""
    world = World()
    for number in range(2500):
        ip = f"203.0.{number // 250}.{number % 250}"
        world.dub.click(f"{number}", 3000 - number, deleted=number % 2 == 0, ip=ip)
    assert await world.sync() == "synced"
    assert len(world.window) == 1250
    assert [query["page"] for query in world.dub.queries] == ["1", "2", "3", "4"]
    assert len({(query["start"], query["end"]) for query in world.dub.queries}) == 1


async def test_a_budget_that_ends_ends_the_wait_alone() -> None:
    """A caller goes when its time is up; the fetch goes on and serves the next."""
    world = World()
    world.dub.click("one")
    world.dub.gate = asyncio.Event()
    arrived = world.clock()
    assert await world.feed.sync(arrived, 0) == LATE
    world.dub.gate.set()
    assert await world.feed.sync(arrived, LONG_S) == SYNCED
    assert world.held == {"one"}
    assert len(world.dub.queries) == 2


async def test_a_spent_budget_is_told_from_a_slow_dub() -> None:
    """Who gives up while Dub's budget is spent hears that; the fetch is made once there is a call again."""
    world = World(app=msgspec.structs.replace(APP, analytics_calls_per_s=1))
    world.budget.spend(APP.dub_api_key, 1)
    world.sleeping = asyncio.Event()
    arrived = world.clock()
    assert await world.feed.sync(arrived, 0) == SPENT
    assert world.dub.queries == []
    world.sleeping.set()
    assert await world.feed.sync(arrived, LONG_S) == SYNCED


async def test_the_budget_is_kept() -> None:
    """However many pages there are, no second has more calls than the plan allows."""
    world = World(app=msgspec.structs.replace(APP, analytics_calls_per_s=2))
    for number in range(4 * PAGE_EVENTS + 1):
        world.dub.click(f"{number}", 600, ip=f"203.{number // 250}.0.{number % 250}")
    assert await world.sync() == "synced"
    assert len(world.window) == 4 * PAGE_EVENTS + 1
    called = world.dub.called_at
    assert len(called) == 6
    assert all(third - first >= 1 for first, third in zip(called, called[2:], strict=False))


@pytest.mark.parametrize(
    ("failure", "problem", "hold_s"),
    [
        (DubRefused(403, "forbidden", "x"), "plan", 60),
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
    logs: LogLines, failure: Exception | bytes, problem: Problem, hold_s: float
) -> None:
    """The outcome names the problem, the log has one line of it, Dub is left alone, and then asked again."""
    world = World(log=configure_logs("info", logs))
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
    assert world.held == {"one"}
    assert not world.feed.problem
    assert [line["problem"] for line in logs.events(Event.CLICKS_UNAVAILABLE)] == [problem]
    assert len(logs.events(Event.CLICKS_AVAILABLE)) == 1


async def test_no_key_is_a_problem_of_its_own(logs: LogLines) -> None:
    """An app without a Dub API key asks nothing, fails nothing, and says so once."""
    world = World(app=msgspec.structs.replace(APP, dub_api_key=""), log=configure_logs("info", logs))
    for _ in range(3):
        outcome = await world.feed.sync(world.clock(), LONG_S)
        assert (outcome.status, outcome.problem) == ("unavailable", "not_configured")
        world.clock.advance(100)
    assert world.dub.queries == []
    assert len(logs.events(Event.CLICKS_UNAVAILABLE)) == 1


async def test_a_fetch_cut_short_is_taken_up_where_it_was() -> None:
    """Pages that were read are in the window; the next fetch begins at the last of them, less the overlap."""
    world = World()
    for number in range(PAGE_EVENTS + 10):
        world.dub.click(f"{number}", 3000 - number, ip=f"203.{number // 250}.0.{number % 250}")
    world.dub.failures = [None, DubUnreachable("reset")]
    assert await world.sync() == "unavailable"
    assert len(world.window) == PAGE_EVENTS
    world.clock.advance(HOLD_ELSE_S)
    assert await world.sync() == "synced"
    assert len(world.window) == PAGE_EVENTS + 10
    ago_s = seconds_between(iso(world.dub.now), world.dub.queries[2]["start"])
    assert ago_s == 3000 - (PAGE_EVENTS - 1) + HOLD_ELSE_S + OVERLAP_S + CLOCK_DIFFERENCE_S


async def test_a_bad_event_costs_no_page() -> None:
    """It is counted and left out; a page of nothing else is not an empty one."""
    world = World()
    for number in range(PAGE_EVENTS):
        world.dub.odd(b'{"click": {"id": %d}}' % number)
    world.clock.advance(1)
    world.dub.click("one")
    assert await world.sync() == "synced"
    assert (world.held, world.feed.malformed) == ({"one"}, PAGE_EVENTS)


async def test_pages_without_end_end() -> None:
    """A Dub that answers every page alike is garbled, not asked for ever."""
    world = World(app=msgspec.structs.replace(APP, analytics_calls_per_s=100))
    world.dub.click("one")
    world.dub.keeps_page = world.dub._answer({**QUERY, "page": "1"})
    assert (await world.feed.sync(world.clock(), LONG_S)).problem == "garbled"
    assert world.held == {"one"}


async def test_a_large_page_is_taken_in_slices() -> None:
    """Between two turns of the event loop, no more than a slice of events is decoded."""
    world = World()
    for number in range(PAGE_EVENTS):
        world.dub.click(f"{number}", 600, ip=f"203.0.{number // 250}.{number % 250}")
    syncing = asyncio.create_task(world.feed.sync(world.clock(), LONG_S))
    sizes = [0]
    while not syncing.done():
        await asyncio.sleep(0)
        sizes.append(len(world.window))
    assert sizes[-1] == PAGE_EVENTS
    assert max(after - before for before, after in pairwise(sizes)) <= EVENTS_AT_A_TIME


async def test_what_is_too_old_goes_with_a_sync() -> None:
    """The window is emptied as time goes by, by the syncs that fill it."""
    world = World()
    world.dub.click("one")
    assert await world.sync() == "synced"
    world.clock.advance(2 * 3600)
    assert await world.sync() == "synced"
    assert len(world.window) == 0


async def test_a_closed_feed_is_quiet() -> None:
    """Closing gives up what is under way."""
    world = World()
    world.dub.gate = asyncio.Event()
    assert await world.feed.sync(world.clock(), 0) == LATE
    await world.feed.close()
    assert world.feed._flights.under_way(b"clicks") is None


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


@given(happenings)
def test_every_click_that_dub_shows_is_found(happened: list[tuple[int, str, int, int, bool]]) -> None:
    """However late within the overlap, however out of order: after a sync the window holds what was shown."""

    async def play() -> None:
        world = World()
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
                assert await world.sync() == "synced"
                now = world.dub.now
                due = {each for each, (at, visible) in shown.items() if visible <= now and at >= now - 3600}
                assert due <= world.held <= set(shown)

    asyncio.run(play())


async def test_an_open_that_arrives_as_a_sync_ends_waits_for_another() -> None:
    """A sync that is done, but not yet off the list, is not asked over and over: the loop gets its turn."""
    world = World()
    late: list[asyncio.Task[str]] = []
    asked = 0

    class Window(ClickWindow):
        def expire(self, now_ms: int) -> bool:
            """Run at the end of a sync; what is started here comes before the sync's own callbacks."""
            if not late:
                world.clock.advance(1)
                late.append(asyncio.create_task(world.sync()))
            return super().expire(now_ms)

    def clock() -> float:
        nonlocal asked
        asked += 1
        assert asked < 1000
        return world.clock()

    world.feed.window = Window(3600)
    world.feed._clock = clock
    assert await world.sync() == "synced"
    assert await late[0] == "synced"
    assert [query["page"] for query in world.dub.queries] == ["1", "1"]
