"""From Dub's events, written and paged as the real Dub does, to a first launch's answer: over HTTP.

What ``FakeEvents`` does, and why, is in its docstring; all of it is from dub-api.md, "GET /events".
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.config.settings import parse
from service.domain.models import Answer
from tests.fake_events import HOME, FakeEvents
from tests.integration.world import AS_SERVER, MATCHING
from tests.support import ANNA, BEN, ENV, FakeClock, LogLines, Service, running, until


class Waits:
    """Sleeps by a clock that stands still, counted."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.count = 0

    async def sleep(self, seconds: float) -> None:
        self.count += 1
        await self._clock.sleep(seconds)


@dataclass
class World:
    """A service over scripted events, and phones that open the app."""

    service: Service
    dub: FakeEvents
    clock: FakeClock
    waits: Waits  # for later looks

    async def launch(self, install_id: str = ANNA, ip: str = HOME) -> Answer:
        self.clock.advance(0.01)
        return await self.service.open(
            dub_domain="acme.link", install_id=install_id, platform="ios", headers={"X-Forwarded-For": ip}
        )

    async def pass_to(self, seconds: float, waits: int) -> None:
        """Let time pass, and a look happen: the next one is waited for then."""
        assert self.waits.count == waits - 1
        self.clock.advance(seconds)
        await until(lambda: self.waits.count == waits)

    async def last_look(self, seconds: float, answer: Answer) -> dict[str, Any]:
        """Let time pass, and the last look for an open happen; return what the trace says of it."""
        self.clock.advance(seconds)
        while True:
            reply = await self.service.get(f"/v1/opens/{answer.open_id}/trace", headers=AS_SERVER)
            last: dict[str, Any] = reply.json()["evidence"][-1]
            if "looked again" in last["detail"]:
                return last
            await asyncio.sleep(0.002)

    async def degraded(self) -> list[str]:
        named = (await self.service.get("/health/ready")).json()["degraded"]
        return [each for each in named if not each.startswith("apps.globex")]  # which has no key for Dub

    async def unreadable(self) -> float:
        """Return the metric of events without a readable time."""
        lines = (await self.service.get("/metrics")).text.splitlines()
        name = 'firstopen_events_unreadable_total{fault="timestamp"} '
        return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


@pytest.fixture
async def world(clock: FakeClock, logs: LogLines) -> AsyncIterator[World]:  # noqa: ARG001
    dub, waits = FakeEvents(clock), Waits(clock)
    app = create_app(
        parse(MATCHING, ENV),
        transport=httpx.MockTransport(dub.handle),
        clock=clock,
        unix_time=lambda: dub.now,
        sleep=waits.sleep,
    )
    async with running(app) as service:
        yield World(service, dub, clock, waits)


async def test_times_as_dub_writes_them_lead_to_a_match(world: World) -> None:
    """A JavaScript date text on the event, ISO 8601 on its click: the open has its click and its route."""
    world.dub.click("d0UtZqE0BZuBPrJS", 42)
    answer = await world.launch()
    assert (answer.match.type, answer.click_id) == ("ip", "d0UtZqE0BZuBPrJS")
    assert (answer.route.screen, answer.route.params) == ("product", {"id": "123"})
    assert not answer.pending
    assert await world.degraded() == []


async def test_times_that_cannot_be_read_are_pending_and_named(world: World, logs: LogLines) -> None:
    """A change of Dub's wire shows within one sync and ends no open; what was read before is matched."""
    world.dub.click("carl's", 10, ip="203.0.113.8")
    world.dub.click("anna's", 10)
    assert (await world.launch("install-carl", ip="203.0.113.8")).click_id == "carl's"
    world.dub.writes_times = False
    world.dub.click("ben's", 5, ip="203.0.113.9")
    first = await world.launch(BEN, ip="203.0.113.9")
    assert (first.pending, first.match.type, first.match.reason) == (True, "none", "no_events")
    named = "apps.acme: 3 of the last sync's events could not be read: no readable timestamp"
    assert await world.degraded() == [named]
    assert await world.unreadable() == 3
    assert (await world.launch(ANNA)).click_id == "anna's"
    assert await world.unreadable() == 6

    await world.pass_to(2, waits=2)
    await world.pass_to(8, waits=3)
    assert (await world.last_look(20, first))["outcome"] == "pending"
    assert (await world.service.recall(first.open_id)).pending
    (line,) = logs.events("clicks.unreadable")
    assert (line["app"], line["fault"], line["events"], line["level"]) == ("acme", "timestamp", 3, "warning")

    world.dub.writes_times = True
    world.clock.advance(1)  # for as long is a pending answer repeated
    again = await world.launch(BEN, ip="203.0.113.9")
    assert (again.open_id, again.click_id, again.pending) == (first.open_id, "ben's", False)
    assert await world.degraded() == []


async def test_a_busy_day_costs_an_open_nothing(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """With 12,000 clicks earlier the same day, an open has its click in the first answer, by one call."""
    for number in range(12_000):
        world.dub.click(f"earlier {number}", 60 + 3.5 * number, ip=f"198.18.{number // 250}.{number % 250}")
    world.dub.click("d0UtZqE0BZuBPrJS", 5)
    began = time.perf_counter()
    answer = await world.launch()
    took_ms = (time.perf_counter() - began) * 1000
    assert answer.click_id == "d0UtZqE0BZuBPrJS"
    assert len(world.dub.queries) <= 2
    with capsys.disabled():
        calls = len(world.dub.queries)
        sys.stdout.write(f"\n12,000 clicks earlier that day: {calls} calls to /events, {took_ms:.0f} ms\n")
    world.clock.advance(60)
    world.dub.click("p5UtZqE0BZuBPrJS", 5, ip="203.0.113.8")
    world.dub.queries.clear()
    assert (await world.launch(BEN, ip="203.0.113.8")).click_id == "p5UtZqE0BZuBPrJS"
    assert len(world.dub.queries) == 1


async def test_later_looks_take_the_syncs_of_other_opens(world: World) -> None:
    """Two first launches without a match cost five calls, not four each: a look takes a sync made lately."""
    anna = await world.launch(ANNA)
    world.clock.advance(1.5)
    ben = await world.launch(BEN)
    assert len(world.dub.queries) == 2
    await world.pass_to(0.5, waits=3)  # Anna's, 2 s after her open: Ben's sync will do
    assert len(world.dub.queries) == 2
    await world.pass_to(1.6, waits=4)  # Ben's: nobody has asked Dub lately
    await world.pass_to(6.5, waits=5)
    assert len(world.dub.queries) == 4
    await world.pass_to(1.6, waits=6)
    await world.last_look(18.5, anna)
    assert len(world.dub.queries) == 5
    await world.last_look(1.6, ben)
    assert len(world.dub.queries) == 5
    assert not (await world.service.recall(ben.open_id)).pending
