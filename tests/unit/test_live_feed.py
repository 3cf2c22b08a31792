"""Live opens: each is shown once to those who want it, a bounded number of them, while anybody watches."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec import structs

from service.attribution import live_feed
from service.attribution.live_feed import SHOWN_AT_ONCE, WATCHERS_MAX, LiveFeed, Watcher
from service.attribution.recent_opens import RecentOpens
from service.domain.errors import StoreFailed, TooManyWatchers
from service.domain.live_opens import ANY_TEST_DEVICE, Arrival, LiveFilter, LiveOpen, Repeated
from service.domain.models import App, Match, Open
from service.domain.routing import Router
from service.telemetry import Metrics
from tests.support import background, until

NOW = 1_785_585_600.0
ACME = App("acme", ("acme.link",), Router((), default_screen="home"))
NAME = "k7qf-m2xd"
EVERYTHING = LiveFilter()


class Rows:
    """What is stored: ``LiveSource`` and the repeats of ``KeptSessions``."""

    def __init__(self) -> None:
        self.opens: list[Open] = []
        self.again: list[Repeated] = []
        self.polls = 0
        self.failing = False

    def add(self, number: int, at: float = NOW, **fields: Any) -> Open:
        opened = Open(
            app="acme", open_id=f"{number:032x}", device="00" * 8, opened_at=at, repeat_until=0.0, **fields
        )
        self.opens = [each for each in self.opens if each.open_id != opened.open_id] + [opened]
        return opened

    async def arrivals(self, app: str, since_ms: int, limit: int) -> list[Arrival]:
        self.polls += 1
        if self.failing:
            raise StoreFailed("away")
        rows = [each for each in self.opens if each.app == app and each.opened_at * 1000 >= since_ms]
        rows.sort(key=lambda each: -each.opened_at)
        return [
            Arrival(each.open_id, int(each.opened_at * 1000), each.match.type, each.test_device)
            for each in rows[:limit]
        ]

    async def several(self, open_ids: Sequence[str]) -> list[Open]:
        return [each for each in self.opens if each.open_id in open_ids]

    async def of_test_devices(self, app: str, name: str, limit: int) -> list[Open]:
        found = [
            each
            for each in self.opens
            if each.app == app and each.test_device and name in (each.test_device, "")
        ]
        return found[::-1][:limit]

    async def repeats(self, app: str, since_ms: int) -> list[Repeated]:
        return [each for each in self.again if app == "acme" and each.at_ms >= since_ms]

    async def before(self, *_: object) -> tuple[list[Open], None]:
        return self.opens[::-1], None


class Stage:
    """A feed over rows, with a clock that stands still."""

    def __init__(self) -> None:
        self.rows = Rows()
        self.stopping = False
        self.metrics = Metrics()
        rows: Any = self.rows
        self.feed = LiveFeed(
            rows,
            rows,
            RecentOpens(rows),
            is_stopping=lambda: self.stopping,
            unix_time=lambda: NOW,
            background=background(),
            metrics=self.metrics,
        )

    async def polled(self, times: int = 1) -> None:
        """Wait until that many polls have begun and ended."""
        wanted = self.rows.polls + times + 1
        await until(lambda: self.rows.polls >= wanted)


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    monkeypatch.setattr(live_feed, "_POLL_S", 0.001)
    stage = Stage()
    yield stage
    await stage.feed.close()


@asynccontextmanager
async def watching(stage: Stage, wanted: LiveFilter = EVERYTHING) -> AsyncIterator[Watcher]:
    watcher = await stage.feed.watch(ACME, wanted)
    yield watcher
    watcher.close()


async def taken(watcher: Watcher, count: int) -> list[LiveOpen]:
    """Take as many opens as there should be, and no more than came with them."""
    found: list[LiveOpen] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            found += await watcher.next(1)
    return found


def ids(shown: Sequence[LiveOpen]) -> list[int]:
    return [int(each.open.open_id, 16) for each in shown]


async def test_what_is_stored_later_is_shown_once_in_order(stage: Stage) -> None:
    """Nothing from before, and an open whose row becomes visible after those of later opens."""
    stage.rows.add(1)
    async with watching(stage) as watcher:
        stage.rows.add(3, NOW - 1)
        stage.rows.add(4, NOW)
        assert ids(await taken(watcher, 2)) == [3, 4]
        stage.rows.add(2, NOW - 2)
        assert ids(await taken(watcher, 1)) == [2]
        stage.rows.add(5, NOW - 10)  # such an old one is looked for at every fourth poll
        assert ids(await taken(watcher, 1)) == [5]
        await stage.polled(8)
        assert await watcher.next(0) == []


async def test_nothing_runs_while_nobody_watches(stage: Stage) -> None:
    async with watching(stage):
        await stage.polled()
    await until(lambda: not stage.feed._watched)
    polls = stage.rows.polls
    await asyncio.sleep(0.02)
    assert stage.rows.polls == polls
    async with watching(stage) as watcher:
        stage.rows.add(1)
        assert ids(await taken(watcher, 1)) == [1]


async def test_filters(stage: Stage) -> None:
    """By kind of match, by where the open lands, by test device: each watcher gets its own."""
    by_address = LiveFilter(match_type="ip")
    unlisted = LiveFilter(outcome="unlisted")
    device, any_device = LiveFilter(test_device=NAME), LiveFilter(test_device=ANY_TEST_DEVICE)
    async with (
        watching(stage, by_address) as ip,
        watching(stage, unlisted) as nowhere,
        watching(stage, device) as phone,
        watching(stage, any_device) as phones,
        watching(stage) as everything,
    ):
        stage.rows.add(1, match=Match("ip", guaranteed=False))
        stage.rows.add(2, url="https://acme.com/press")
        stage.rows.add(3, test_device=NAME)
        stage.rows.add(4, test_device="aaaa-aaaa")
        assert set(ids(await taken(everything, 4))) == {1, 2, 3, 4}
        assert ids(await taken(ip, 1)) == [1]
        assert ids(await taken(nowhere, 1)) == [2]
        assert ids(await taken(phone, 1)) == [3]
        assert set(ids(await taken(phones, 2))) == {3, 4}
        latest = await stage.feed.latest(ACME, device, 50)
        assert ids(latest) == [3]


async def test_a_pending_open_comes_again_when_it_is_settled(stage: Stage) -> None:
    async with watching(stage) as watcher:
        opened = stage.rows.add(1, looking=True)
        assert [each.open.pending for each in await taken(watcher, 1)] == [True]
        await stage.polled(8)
        assert await watcher.next(0) == []
        stage.rows.add(1, click_id="click", match=Match("ip", guaranteed=False))
        assert [each.open.click_id for each in await taken(watcher, 1)] == ["click"]
        assert opened.click_id is None
        await stage.polled(8)
        assert await watcher.next(0) == []


async def test_a_test_device_s_repeats_are_shown(stage: Stage) -> None:
    """The open that is repeated may be from before the session."""
    stage.rows.add(1, NOW - 3600)
    async with watching(stage, LiveFilter(test_device=NAME)) as watcher:
        stage.rows.again.append(Repeated(f"{1:032x}", int(NOW * 1000), NAME))
        (shown,) = await taken(watcher, 1)
        assert (shown.test_device, shown.repeated_at) == (NAME, NOW)


async def test_more_opens_than_anybody_reads(stage: Stage) -> None:
    """Of a burst, the test device's and the newest are shown; the others are counted."""
    async with watching(stage) as watcher:
        burst = [
            structs.replace(stage.rows.add(0), open_id=f"{at:032x}", opened_at=NOW + at / 1000)
            for at in range(300)
        ]
        burst[0] = structs.replace(burst[0], test_device=NAME)
        stage.rows.opens = burst
        shown = ids(await taken(watcher, SHOWN_AT_ONCE))
        assert shown == [0, *range(300 - SHOWN_AT_ONCE + 1, 300)]
        assert watcher.skipped == 300 - SHOWN_AT_ONCE


async def test_a_slow_watcher_misses_opens_and_holds_up_nobody(stage: Stage) -> None:
    async with watching(stage) as slow, watching(stage) as quick:
        for number in range(300):
            stage.rows.add(number)
            assert ids(await taken(quick, 1)) == [number]
        waiting = ids(await slow.next(1))
        assert waiting == list(range(300 - len(waiting), 300))
        assert len(waiting) == 2 * SHOWN_AT_ONCE
        assert slow.skipped == 300 - len(waiting)
        assert quick.skipped == 0


async def test_a_watcher_that_takes_nothing_is_disconnected(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_feed, "_GONE_S", 0.05)
    async with watching(stage) as gone, watching(stage) as there:
        while not gone.has_ended:
            await there.next(0.01)
        assert not there.has_ended


async def test_watchers_are_disconnected_when_the_service_stops(stage: Stage) -> None:
    async with watching(stage) as watcher:
        ended = asyncio.Event()
        watcher.on_end(ended.set)
        stage.stopping = True
        await asyncio.wait_for(ended.wait(), 5)


async def test_too_many_watchers(stage: Stage) -> None:
    watchers = [await stage.feed.watch(ACME, EVERYTHING) for _ in range(WATCHERS_MAX)]
    with pytest.raises(TooManyWatchers, match=f"{WATCHERS_MAX} connections"):
        await stage.feed.watch(ACME, EVERYTHING)
    watchers[0].close()
    (await stage.feed.watch(ACME, EVERYTHING)).close()
    for watcher in watchers:
        watcher.close()


async def test_a_database_that_is_away(stage: Stage) -> None:
    """A new watcher is refused, one that watches waits until the database is back."""
    stage.rows.failing = True
    with pytest.raises(StoreFailed):
        await stage.feed.watch(ACME, EVERYTHING)
    stage.rows.failing = False
    async with watching(stage) as watcher:
        stage.rows.failing = True
        await stage.polled(3)
        stage.rows.failing = False
        stage.rows.add(1)
        assert ids(await taken(watcher, 1)) == [1]
