"""The route comes from the URL that was opened, the credit from the strongest evidence for the install.

An app is opened for the first time through one of its own URLs: by a push, a website, a QR code. How it was
installed is another matter.
"""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.integration.world import AS_SERVER, HOME, REFERRER, World, build, embedded_dub, started_over
from tests.support import ANNA, BEN, FB_PROMO, FakeClock, FakeDub, LogLines, Service

APP_URL = "acme://product/7"
DAY_S = 86_400


@pytest.fixture
async def world(clock: FakeClock, logs: LogLines) -> AsyncIterator[World]:  # noqa: ARG001
    async for each in build(clock):
        yield each


async def credited(world: World, **subject: str) -> str | None:
    """Report a sign-up, and return the click that Dub credits."""
    reply = (await world.lead(**subject)).json()
    return reply["click"]["id"] if reply["status"] == "delivered" else None


@pytest.mark.parametrize(
    ("deep_link", "screen", "url"),
    [
        (APP_URL, "product", APP_URL),
        ("https://acme.com/product/7?ref=push#top", "product", "https://acme.com/product/7?ref=push#top"),
        ("https://acme.com/press", "home", "https://acme.com/press"),
        ("fb123://", "home", None),
        ("exp://127.0.0.1:8081/--/product/7", "home", None),
    ],
)
async def test_an_opened_url_keeps_the_credit_of_the_referrer(
    world: World, deep_link: str, screen: str, url: str | None
) -> None:
    """It lands where it says, and the install's click is the referrer's; so is its sign-up's."""
    answer = await world.service.open(deep_link, install_referrer=REFERRER, install_id=ANNA)
    assert (answer.route.screen, answer.route.url) == (screen, url)
    assert (answer.match.type, answer.match.guaranteed) == ("install_referrer", True)
    assert answer.link is not None
    assert (answer.link.key, answer.link.url) == ("fb-promo", "https://acme.com/product/123")
    assert answer.click_id
    assert (answer.source, answer.pending) == ("dub", False)
    recalled = await world.service.recall(answer.open_id)
    assert (recalled.click_id, recalled.route) == (answer.click_id, answer.route)
    assert await credited(world, installId=ANNA) == answer.click_id


async def test_an_opened_url_keeps_the_credit_of_the_clipboard(service: Service) -> None:
    answer = await service.open(APP_URL, clipboard=f"{FB_PROMO}?ref=ig", install_id=ANNA)
    assert (answer.match.type, answer.route.url) == ("clipboard", APP_URL)
    assert answer.click_id


async def test_an_opened_url_keeps_the_credit_of_the_address(world: World) -> None:
    """A web click from the same network, found as if nothing had been opened."""
    await world.click(query="?ref=ig")
    answer = await world.launch(deep_link=APP_URL)
    assert (answer.match.type, answer.match.guaranteed) == ("ip", False)
    assert answer.match.confidence
    assert (answer.route.screen, answer.route.params, answer.route.url) == ("product", {"id": "7"}, APP_URL)
    assert answer.link is not None
    assert answer.link.key == "fb-promo"
    assert await credited(world, installId=ANNA) == answer.click_id
    assert (await world.launch(BEN)).click_id is None


async def test_an_unsafe_destination_is_blanked_beside_a_safe_url(service: Service, dub: FakeDub) -> None:
    """The link that is credited is not where the app lands; what it may not hand out is still blanked."""
    dub.links["acme.link/fb-promo"] = "javascript:alert(1)"
    answer = await service.open(APP_URL, install_referrer=REFERRER, install_id=ANNA)
    assert (answer.route.url, answer.click_id is not None) == (APP_URL, True)
    assert answer.link is not None
    assert answer.link.url is None


async def test_evidence_that_is_none_leaves_the_route(service: Service, dub: FakeDub) -> None:
    """An unknown referrer, somebody's clipboard: the URL is routed, without a click."""
    answer = await service.open(
        APP_URL,
        install_referrer="deepLink=https%3A%2F%2Facme.link%2Fgone",
        clipboard="Dear Anna",
        install_id=ANNA,
    )
    assert (answer.route.url, answer.match.type, answer.click_id) == (APP_URL, "none", None)
    assert (answer.source, answer.pending) == ("parsed", False)
    assert dub.calls("/track/open") == 1


async def test_a_second_report_of_a_cold_start_has_the_same_click(world: World) -> None:
    """A URL that arrives a moment after the launch lands where it says, and came by the launch's click."""
    first = await world.launch(install_referrer=REFERRER)
    assert first.route.params == {"id": "123"}
    world.clock.advance(0.3)
    second = await world.launch(deep_link=APP_URL, install_referrer=REFERRER)
    assert (second.click_id, second.match, second.link) == (first.click_id, first.match, first.link)
    assert (second.route.url, second.repeat) == (APP_URL, False)
    assert second.open_id != first.open_id
    assert await world.calls("/track/open") == 1
    again = await world.launch(deep_link=APP_URL, install_referrer=REFERRER)
    assert (again.open_id, again.click_id, again.repeat) == (second.open_id, first.click_id, True)


async def test_the_same_click_in_the_other_order(world: World) -> None:
    """A launch that is reported without its URL afterwards is the same open: it stays where it landed."""
    await world.click()
    first = await world.launch(deep_link=APP_URL)
    second = await world.launch()
    assert (second.open_id, second.click_id, second.repeat) == (first.open_id, first.click_id, True)
    assert second.route.url == APP_URL


@pytest.mark.parametrize("restarted", [False, True])
async def test_evidence_of_a_first_launch_counts_once(
    clock: FakeClock,
    logs: LogLines,  # noqa: ARG001
    restarted: bool,  # noqa: FBT001
) -> None:
    """A push a day later lands where it says; neither the old referrer nor a neighbour's click brought it."""
    dub = embedded_dub(clock)
    async with started_over(dub, clock) as world:
        first = await world.launch(deep_link=APP_URL, install_referrer=REFERRER)
        assert first.click_id
        if not restarted:
            await opened_by_a_push(world)
    if restarted:
        async with started_over(dub, clock) as world:
            await opened_by_a_push(world)
            assert await credited(world, installId=ANNA) == first.click_id


async def opened_by_a_push(world: World) -> None:
    world.clock.advance(DAY_S)
    await world.click("invite")
    for number in range(3):
        push = await world.launch(deep_link=f"acme://product/{number}", install_referrer=REFERRER)
        assert (push.route.params, push.click_id, push.match.type) == ({"id": str(number)}, None, "none")
        assert not push.pending
    assert await world.calls("/track/open") == 1
    assert (await world.launch(BEN)).click_id


async def test_a_launch_that_found_nothing_counts_as_well(world: World) -> None:
    """An organic install opens a URL of the app an hour later: a click of a housemate's is not its own."""
    assert (await world.launch()).match.type == "none"
    world.clock.advance(3700)
    await world.click()
    opened = await world.launch(deep_link=APP_URL)
    assert (opened.match.type, opened.route.url) == ("none", APP_URL)
    trace = (await world.service.get(f"/v1/opens/{opened.open_id}/trace", headers=AS_SERVER)).json()
    (said,) = [item for item in trace["evidence"] if item["type"] == "ip"]
    assert "not its first launch" in said["detail"]
    assert (await world.launch(BEN)).click_id


async def test_a_stronger_referrer_is_still_asked_about(world: World) -> None:
    """Google Play may be slow to tell: a referrer that comes later goes before the address."""
    assert (await world.launch(deep_link=APP_URL)).click_id is None
    second = await world.launch(deep_link=APP_URL, install_referrer=REFERRER)
    assert (second.match.type, second.route.url, second.repeat) == ("install_referrer", APP_URL, False)
    assert second.click_id
    assert await credited(world, installId=ANNA) == second.click_id


async def test_without_an_install_id_no_neighbours_click_is_taken(world: World) -> None:
    """Nobody can tell whether an app that is opened through a URL is opened for the first time."""
    await world.click()
    answer = await world.launch(None, deep_link=APP_URL)
    assert (answer.click_id, answer.route.url) == (None, APP_URL)
    assert await world.calls("/events") == 0


async def test_an_opened_url_is_routed_while_dub_is_away(
    service: Service, dub: FakeDub, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The referrer's click comes later, under the same openId; the route is the URL's from the beginning."""
    monkeypatch.setattr("service.outbox.drain.POLL_S", 0.01)

    async def away(_: httpx.Request) -> httpx.Response:
        return httpx.Response(503)

    dub.script = away
    first = await service.open(APP_URL, install_referrer=REFERRER, install_id=ANNA)
    assert (first.pending, first.route.url, first.click_id) == (True, APP_URL, None)
    dub.script = None
    world = World(service, httpx.AsyncClient(), clock)
    found = await world.settled(first)
    assert (found.match.type, found.route.url) == ("install_referrer", APP_URL)
    assert found.click_id


async def test_a_budget_that_is_over_still_lands_on_the_url(world: World) -> None:
    """The look for a click goes on without the caller."""
    await world.click()
    await world.dub.post("/sandbox/faults", json={"route": "/events", "delayMs": 500, "times": 1})
    first = await world.launch(deep_link=APP_URL, budget_ms=100)
    assert (first.pending, first.route.url, first.click_id) == (True, APP_URL, None)
    found = await world.settled(first)
    assert (found.match.type, found.route.url) == ("ip", APP_URL)


async def test_a_dry_run_separates_route_and_credit(world: World) -> None:
    await world.click()
    dry: dict[str, Any] = (await world.dry_run(deepLink=APP_URL, dubDomain="acme.link", ip=HOME))["answer"]
    assert (dry["route"]["url"], dry["match"]["type"]) == (APP_URL, "ip")
