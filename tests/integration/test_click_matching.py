"""From a click in the embedded Dub, over the real client, to an install that is given it."""

from collections.abc import AsyncIterator
from hashlib import blake2b
from pathlib import Path

import httpx
import pytest

from service.domain.device_traits import traits_of_open
from service.domain.match_rules import FirstOpen, Rules
from service.domain.models import App
from service.domain.networks import Networks
from service.domain.routing import Router
from service.dub.breaker import BreakerPolicy
from service.dub.click_events import DubClicks
from service.dub.client import ENDPOINTS, DubClient
from service.dub.event_feed import CallBudget, EventFeed
from service.dub.guard import Guards
from service.matching.click_sync import OVERLAP_S, ClickSync
from service.matching.matcher import Matcher
from service.storage.claims import ClaimStore
from service.storage.database import Database
from service.telemetry import Metrics, configure_logs
from tests.databases import Kept, sqlite
from tests.sandbox.support import IPHONE, MAC, NOON, OKHTTP, PIXEL, FakeClock, Sandbox, build
from tests.support import background

HOME, OFFICE = "203.0.113.7", "203.0.113.200"
CFNETWORK = "Acme/12 CFNetwork/1490 Darwin/23.5.0"


class World:
    """A sandbox, and an app's matching over it; all of them on one clock."""

    def __init__(self, database: Database) -> None:
        self.clock = FakeClock()
        self.sandbox: Sandbox = build(self.clock)
        transport = httpx.ASGITransport(self.sandbox.app)  # type: ignore[arg-type]  # two ASGI vocabularies
        policy = BreakerPolicy(failures_min=10, open_s=5)
        guards = Guards(
            ENDPOINTS,
            policy=policy,
            in_flight_max=100,
            slow_s=5,
            clock=self._monotonic,
            metrics=Metrics(),
        )
        dub = DubClient(transport, "http://127.0.0.1:8001", 5, guards, unix_time=self.clock)
        self.networks = Networks(b"a secret for tests")
        self.kept = Kept(database)
        self.feed = ClickSync(
            app=App("acme", ("acme.link",), Router((), default_screen="home"), dub_api_key="dub_test"),
            source=DubClicks(EventFeed(dub, CallBudget(self._monotonic), background())),
            clicks=self.kept.store,
            window_s=3600,
            networks=self.networks,
            log=configure_logs("critical"),
            unreadable=Metrics().events_unreadable,
            clock=self._monotonic,
            unix_time=self.clock,
            background=background(),
            sleep=self._sleep,
        )
        self.matcher = Matcher(
            activity=self.kept.activity,
            claims=ClaimStore(database, self.clock),
            rules=Rules(),
        )

    async def first_open(self, install: str, *, ip: str = HOME, ua: str = CFNETWORK) -> str | None:
        """Sync for an open, and match it; return the link's key."""
        outcome = await self.feed.sync(self._monotonic(), 5)
        assert outcome.is_final, outcome
        device = blake2b(install.encode(), digest_size=8).hexdigest()
        opened = FirstOpen(device, int(self.clock() * 1000), traits_of_open(None, ua))
        decision = await self.matcher.match(self.network(ip), opened)
        return decision.click.link.key if decision.click else None

    def network(self, ip: str) -> int:
        key = self.networks.of(ip).key
        assert key is not None
        return key

    def _monotonic(self) -> float:
        return self.clock() - NOON

    async def _sleep(self, seconds: float) -> None:
        self.clock.advance(seconds)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with sqlite(tmp_path) as database:
        world = World(database)
        async with world.sandbox.http:
            yield world


async def test_the_install_that_follows_a_click_gets_it(world: World) -> None:
    """From the same address, on the same system, once: with the link and what its query carried."""
    await world.sandbox.click("/fb-promo?ref=ig", ip=HOME, ua=IPHONE)
    world.clock.advance(42)
    assert await world.first_open("ben", ip=OFFICE) is None
    assert await world.first_open("carl", ua=OKHTTP) is None
    assert await world.first_open("anna") == "fb-promo"
    assert await world.first_open("dora") is None
    assert await world.first_open("anna") == "fb-promo"
    (event,) = await world.sandbox.events()
    (held,) = await world.kept.clicks(world.network(HOME))
    assert (held.id, held.query) == (event["click"]["id"], "ref=ig")
    assert held.link.url == event["link"]["url"]


async def test_systems_tell_a_household_apart(world: World) -> None:
    """Two phones and a Mac behind one address, three links: each phone gets its own."""
    await world.sandbox.click("/plain", ip=HOME, ua=IPHONE)
    await world.sandbox.click("/fb-promo", ip=HOME, ua=PIXEL)
    await world.sandbox.click("/", ip=HOME, ua=MAC)
    assert await world.first_open("anna") == "plain"
    assert await world.first_open("ben", ua=OKHTTP) == "fb-promo"


async def test_deep_link_opens_are_no_clicks(world: World) -> None:
    """What Dub records when an app is opened by a link matches nobody's first open."""
    await world.sandbox.open("https://acme.link/plain", ip=HOME, ua=CFNETWORK)
    assert await world.first_open("anna") is None
    assert len(await world.kept.click_ids()) == 1


async def test_a_click_that_dub_shows_late_is_found(world: World) -> None:
    """Synced past its time before it showed up, it is found by the next sync."""
    await world.sandbox.settings(eventsDelayS=30)
    await world.sandbox.click("/plain", ip=HOME, ua=IPHONE)
    world.clock.advance(10)
    assert await world.first_open("anna") is None
    world.clock.advance(21)
    assert await world.first_open("anna") == "plain"
    assert OVERLAP_S > 30


async def test_deleted_links_leave_gaps(world: World) -> None:
    """Their events are dropped after paging; what is behind them is found."""
    await world.sandbox.click("/plain", ip=OFFICE, ua=IPHONE)
    await world.sandbox.click("/fb-promo", ip=HOME, ua=IPHONE)
    await world.sandbox.delete_link("link_plain")
    assert await world.first_open("anna") == "fb-promo"
    assert len(await world.kept.click_ids()) == 1


@pytest.mark.parametrize(
    ("plan", "fault", "problem"),
    [
        ("pro", None, "plan"),
        (None, {"status": 429, "route": "/events"}, "throttled"),
        (None, {"status": 500, "route": "/events"}, "down"),
    ],
)
async def test_a_dub_that_does_not_answer(
    world: World, plan: str | None, fault: dict[str, object] | None, problem: str
) -> None:
    """A plan without events, a throttled key or a Dub that is down: an outcome that names it, no error."""
    if plan is not None:
        await world.sandbox.settings(plan=plan)
    if fault is not None:
        await world.sandbox.fault(**fault)
    outcome = await world.feed.sync(world._monotonic(), 5)
    assert (outcome.status, outcome.problem) == ("unavailable", problem)


async def test_people_in_the_eu_are_not_held(world: World) -> None:
    """Dub shows no address of theirs, so there is nothing to match."""
    await world.sandbox.click(
        "/plain", ip=HOME, ua=IPHONE, x_vercel_ip_country="DE", x_vercel_ip_continent="EU"
    )
    assert await world.first_open("anna") is None
    assert len(await world.kept.click_ids()) == 0
