"""First launch with no link in hand, over HTTP: the service, with an embedded Dub underneath."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from service.app import create_app
from service.config.settings import parse
from service.domain.match_rules import Rejection
from service.sandbox import create_sandbox
from tests.integration.test_metrics import scraped
from tests.integration.world import (
    ANOTHER_IN_APP_BROWSER,
    AS_SERVER,
    HOME,
    IN_APP_BROWSER,
    LINKS,
    MATCHING,
    PIXEL_BROWSER,
    World,
    build,
)
from tests.support import ANNA, BEN, ENV, FakeClock, LogLines, running


@pytest.fixture
async def world(clock: FakeClock, logs: LogLines) -> AsyncIterator[World]:  # noqa: ARG001
    async for each in build(clock):
        yield each


async def test_a_first_launch_finds_its_click(world: World) -> None:
    """The link that was tapped before the store is where the app lands, with its odds stated."""
    await world.click(query="?ref=ig")
    world.clock.advance(42)
    answer = await world.launch()
    assert (answer.route.screen, answer.route.params) == ("product", {"id": "123"})
    assert answer.route.url == "https://acme.com/product/123?ref=ig"
    assert (answer.match.type, answer.match.guaranteed) == ("ip", False)
    assert (answer.match.candidates, answer.match.age_s) == (1, 42)
    assert isinstance(answer.match.confidence, float)
    assert 0.9 < answer.match.confidence < 1


async def test_a_click_is_given_once(world: World) -> None:
    """A second install from the same address gets none; the first asks again and gets its own."""
    await world.click()
    anna = await world.launch(ANNA)
    ben = await world.launch(BEN)
    assert anna.click_id
    assert (ben.match.type, ben.click_id) == ("none", None)
    again = await world.launch(ANNA)
    assert (again.click_id, again.open_id, again.repeat) == (anna.click_id, anna.open_id, True)


async def test_the_confidence_of_each_match_is_measured_once(world: World) -> None:
    """At once or late, and not again when the open is repeated; a refused claim names the app."""
    await world.click()
    at_once = await world.launch(ANNA)
    await world.launch(ANNA)
    await world.launch(BEN)
    late = await world.launch("install-carol", ip="198.51.100.7")
    assert late.pending
    assert isinstance(at_once.match.confidence, float)
    await world.click(ip="198.51.100.7")
    late = await world.settled(late)
    assert isinstance(late.match.confidence, float)
    found = await scraped(world.service)
    labels = 'app="acme",match="ip"'
    assert found[f"firstopen_match_confidence_count{{{labels}}}"] == 2
    assert found[f"firstopen_match_confidence_sum{{{labels}}}"] == pytest.approx(
        at_once.match.confidence + late.match.confidence, abs=0.01
    )
    assert found['firstopen_claims_refused_total{app="acme"}'] >= 1


async def test_two_hundred_at_once_share_nothing(clock: FakeClock, logs: LogLines) -> None:  # noqa: ARG001
    """However many installs race for one click, one gets it."""
    config = MATCHING.replace("analytics", "min_confidence = 0\nanalytics")
    async for world in build(clock, config):
        await world.click()
        clock.advance(5)
        launches = (world.launch(f"install-{number}", budget_ms=10_000) for number in range(200))
        answers = await asyncio.gather(*launches)
        assert sum(answer.click_id is not None for answer in answers) == 1


async def test_a_restart_forgets_no_claim(clock: FakeClock, logs: LogLines, data_dir: Path) -> None:  # noqa: ARG001
    """Claims are on disk before the answer leaves: another process gives the click to nobody else."""
    dub = create_sandbox(LINKS, api_keys=(ENV["ACME_DUB_API_KEY"],), clock=clock.unix_time)
    transport = httpx.ASGITransport(cast("Any", dub))
    clicks: list[str | None] = []
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for install in (ANNA, BEN, ANNA):
            app = create_app(
                parse(MATCHING, ENV), transport=transport, clock=clock, unix_time=clock.unix_time
            )
            async with running(app) as service:
                world = World(service, client, clock)
                if not clicks:
                    await world.click()
                clicks.append((await world.launch(install)).click_id)
    assert clicks[0]
    assert clicks == [clicks[0], None, clicks[0]]


async def test_another_system_is_no_candidate(world: World) -> None:
    """An Android's click is not an iPhone's; an unknown platform never matches."""
    await world.click(user_agent=PIXEL_BROWSER)
    assert (await world.launch(ANNA, platform="ios")).click_id is None
    unknown = await world.service.open(
        dub_domain="acme.link",
        install_id="install-unknown",
        headers={"X-Forwarded-For": HOME, "User-Agent": "Dart/3.4"},
    )
    assert unknown.click_id is None
    assert (await world.launch(BEN, platform="android")).click_id


SAMSUNG_BROWSER = (
    "Mozilla/5.0 (Linux; Android 13; SAMSUNG SM-S918B) AppleWebKit/537.36 (KHTML, like Gecko)"
    " SamsungBrowser/21.0 Chrome/110.0.5481.154 Mobile Safari/537.36"
)
HUAWEI_BROWSER = (
    "Mozilla/5.0 (Linux; Android 10; HarmonyOS; ELS-AN00; HMSCore 6.10.4.302) AppleWebKit/537.36"
    " (KHTML, like Gecko) Chrome/99.0.4844.88 HuaweiBrowser/13.0.6.302 Mobile Safari/537.36"
)
TABLET_IN_DESKTOP_MODE = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"
)


@pytest.mark.parametrize(
    ("browser", "app", "confidence"),
    [
        (SAMSUNG_BROWSER, "Dalvik/2.1.0 (Linux; U; Android 13; SM-S918B Build/TP1A.220624.014)", 0.998),
        (HUAWEI_BROWSER, "Dalvik/2.1.0 (Linux; U; Android 12; ELS-AN00 Build/HUAWEIELS-AN00)", 0.998),
        (TABLET_IN_DESKTOP_MODE, "okhttp/4.12.0", 0.997),
    ],
)
async def test_a_browser_and_an_app_of_one_android_device(
    world: World, browser: str, app: str, confidence: float
) -> None:
    """A click fits the install on the same device, whatever the browser adds to the model or freezes."""
    await world.click(user_agent=browser)
    answer = await world.service.open(
        dub_domain="acme.link", install_id=ANNA, headers={"X-Forwarded-For": HOME, "User-Agent": app}
    )
    assert answer.match.type == "ip"
    assert answer.match.confidence == confidence


@pytest.mark.parametrize("ip", ["10.0.0.5", "127.0.0.1", "100.64.3.4", "169.254.1.1", "fe80::1"])
async def test_an_address_that_is_nobodys_never_matches(world: World, ip: str) -> None:
    """Private, loopback, link-local and carrier-NAT addresses cost no analytics call either."""
    await world.click(ip=ip)
    answer = await world.launch(ip=ip)
    assert answer.match.type == "none"
    assert answer.match.reason in ("private_address", "shared_network")
    assert await world.calls("/events") == 0


async def test_several_links_are_not_guessed_at(world: World) -> None:
    """Two phones, two links, and nothing to tell which of them has opened the app: none, with the reason."""
    await world.click("fb-promo", user_agent=IN_APP_BROWSER)
    await world.click("invite", user_agent=ANOTHER_IN_APP_BROWSER)
    answer = await world.launch()
    assert (answer.match.type, answer.match.reason) == ("none", "several_links")


async def test_a_phones_second_click_is_not_a_room_mates(world: World) -> None:
    """Who clicked in an in-app browser and again in Safari has used both clicks up; the trace says so."""
    await world.click(user_agent=IN_APP_BROWSER)
    world.clock.advance(90)
    await world.click()
    world.clock.advance(30)
    anna = await world.launch(ANNA)
    assert (anna.match.type, anna.match.candidates) == ("ip", 2)
    ben = await world.launch(BEN)
    assert (ben.match.type, ben.match.reason) == ("none", "no_candidate")
    trace = await world.service.get(f"/v1/opens/{ben.open_id}/trace", headers=AS_SERVER)
    rejected = {each["rejected"] for each in trace.json()["candidates"]}
    assert rejected == {Rejection.CLAIMED, Rejection.USED_UP}


async def test_two_people_who_open_at_once_may_have_each_others_click(world: World) -> None:
    """The first is given the newer click. The other one may be either's, so the second is given none."""
    await world.click(user_agent=IN_APP_BROWSER)
    world.clock.advance(600)
    await world.click()
    anna = await world.launch(ANNA)
    ben = await world.launch(BEN)
    assert anna.click_id
    assert (ben.match.type, ben.match.reason) == ("none", "unlikely")


async def test_latest_decides_between_links_only(clock: FakeClock, logs: LogLines) -> None:  # noqa: ARG001
    """It takes the latest of several links' clicks; a crowd is refused as ever."""
    config = MATCHING.replace("analytics", 'ambiguous = "latest"\nanalytics', 1)
    async for world in build(clock, config):
        await world.click("fb-promo", user_agent=IN_APP_BROWSER)
        clock.advance(1)
        await world.click("invite", user_agent=ANOTHER_IN_APP_BROWSER)
        latest = await world.launch(ANNA)
        assert latest.link is not None
        assert latest.link.key == "invite"
        assert (latest.match.confidence or 1) < 0.6
        clock.advance(3700)
        await make_crowd(world)
        crowded = await world.launch("install-new")
        assert (crowded.match.type, crowded.match.reason) == ("none", "crowd")


async def make_crowd(world: World) -> None:
    """Let a dozen installs open at home, and somebody click there, ten minutes ago."""
    for number in range(12):
        await world.launch(f"install-{number}")
    await world.click()
    world.clock.advance(600)


async def test_a_crowd_is_refused(world: World) -> None:
    """Many installs opened from one address: a click of ten minutes ago may be anybody's."""
    await make_crowd(world)
    answer = await world.launch(ANNA)
    assert (answer.match.type, answer.match.reason) == ("none", "crowd")


async def test_a_click_that_dub_shows_late_is_found(clock: FakeClock, logs: LogLines) -> None:
    """The launch is answered at once; seconds later the same openId has its click, and a lead finds it."""
    async for world in build(clock, events_delay_s=5):
        await world.click()
        first = await world.launch()
        assert first.click_id is None
        found = await world.settle(first, 12)
        assert found.click_id
        assert (found.match.type, found.route.screen) == ("ip", "product")
        assert logs.events("open.found_late")


async def test_a_slow_events_answer_is_pending_not_final(world: World) -> None:
    """What did not arrive within the budget is no "none": it is found a little later."""
    await world.click()
    fault = {"route": "/events", "delayMs": 3000, "times": 1}
    await world.dub.post("/sandbox/faults", json=fault)
    launch = asyncio.create_task(world.launch(budget_ms=100))
    first = await launch
    assert (first.pending, first.click_id) == (True, None)
    assert (await world.settle(first, 15)).click_id


@pytest.mark.parametrize(
    ("account", "named"),
    [
        ({"plan": "pro"}, "Dub's plan of this workspace does not include /events"),
        ({"usage_exceeded": True}, "this month's clicks are over the limit of Dub's plan"),
    ],
)
async def test_an_account_without_events_says_so_once(
    clock: FakeClock, logs: LogLines, account: dict[str, Any], named: str
) -> None:
    """None, with the reason; one log event; readiness names which; nothing fails.

    Dub answers 403 for either (dub-api.md, GET /events).
    """
    async for world in build(clock, **account):
        for number in range(5):
            answer = await world.launch(f"install-{number}", ip=f"203.0.113.{number + 1}")
            assert (answer.match.type, answer.match.reason) == ("none", "no_events")
            assert not answer.pending
        assert len(logs.events("clicks.unavailable")) == 1
        degraded = (await world.service.get("/health/ready")).json()["degraded"]
        assert any("apps.acme" in each and named in each for each in degraded)


async def test_a_housemate_does_not_get_a_retired_click(world: World) -> None:
    """Who came by a deep link uses up the web click that led to it."""
    await world.click()
    opened = await world.service.open(
        "https://acme.link/fb-promo", install_id=ANNA, platform="ios", headers={"X-Forwarded-For": HOME}
    )
    assert opened.click_id
    world.clock.advance(1)
    housemate = await world.launch(BEN)
    assert (housemate.match.type, housemate.click_id) == ("none", None)


async def test_without_an_install_id_a_match_is_repeated_for_a_minute(world: World) -> None:
    """An address and User-Agent are not a person for long."""
    await world.click()
    first = await world.launch(None)
    assert first.click_id
    assert (await world.launch(None)).repeat
    world.clock.advance(61)
    later = await world.launch(None)
    assert later.open_id != first.open_id


@pytest.mark.parametrize(("consent", "found"), [(None, False), (False, False), (True, True)])
async def test_consent_is_asked_for_where_the_app_says_so(
    clock: FakeClock,
    logs: LogLines,  # noqa: ARG001
    consent: bool | None,  # noqa: FBT001
    found: bool,  # noqa: FBT001
) -> None:
    """With ip_matching = "consented", an address is looked at only after a yes."""
    config = MATCHING.replace("analytics", 'ip_matching = "consented"\nanalytics')
    async for world in build(clock, config):
        await world.click()
        assert bool((await world.launch(consent=consent)).click_id) is found
        assert bool(await world.calls("/events")) is found


async def test_a_dry_run_leaves_dub_as_it_was(world: World) -> None:
    """The same click is free before and after; the sandbox holds the same events."""
    await world.click()
    body = {"dubDomain": "acme.link", "ip": HOME, "platform": "ios", "installId": "install-dry"}
    for _ in range(3):
        world.clock.advance(0.01)
        dry = (await world.service.post("/v1/opens/dry-run", json=body, headers=AS_SERVER)).json()
        assert dry["answer"]["match"]["type"] == "ip"
    assert (await world.launch()).click_id == dry["answer"]["clickId"]


async def test_a_trace_names_every_click_that_was_looked_at(world: World) -> None:
    """Rejected clicks carry their reason."""
    await world.click()
    await world.launch(ANNA)
    ben = await world.launch(BEN)
    trace = (await world.service.get(f"/v1/opens/{ben.open_id}/trace", headers=AS_SERVER)).json()
    (candidate,) = trace["candidates"]
    assert candidate["link"] == "acme.link/fb-promo"
    assert "claimed" in candidate["rejected"]
    assert trace["evidence"][-1]["type"] == "ip"


async def test_an_unknown_deep_link_on_dubs_wire_may_still_match(world: World) -> None:
    """Dub's iOS SDK sends clipboard text as a deep link: the address is looked at, else Dub's own 404."""
    headers = {"X-Forwarded-For": HOME, "User-Agent": "Acme/12 CFNetwork/1568 Darwin/24.0.0"}
    body = {"deepLink": "https://acme.link/some private text"}
    unknown = await world.service.post("/track/open", json=body, headers=headers)
    assert unknown.status_code == 404
    await world.click()
    world.clock.advance(61)
    found = await world.service.post("/track/open", json=body, headers=headers)
    assert found.status_code == 200
    assert found.json()["link"]["key"] == "fb-promo"


async def test_an_install_is_forgotten_everywhere(world: World) -> None:
    """Its answers, its claim and what is owed for it go; its click is free again, and its openId unknown."""
    await world.click()
    anna = await world.launch(ANNA)
    assert anna.click_id
    reply = await world.service.post("/v1/installs/forget", json={"installId": ANNA}, headers=AS_SERVER)
    assert reply.json() == {"answers": 1, "claims": 1, "outbox": 0, "touches": 0}
    assert (await world.service.get(f"/v1/opens/{anna.open_id}")).status_code == 404
    assert (await world.launch(BEN)).click_id == anna.click_id
    assert (await world.service.post("/v1/installs/forget", json={"installId": ANNA})).status_code == 403
