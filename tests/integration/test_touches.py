"""A web page saw a visitor; the app that is then opened without a link gets that visit's link, once.

Dub's facts, by the sections of dub-api.md: "What the web side of a link does" (a link with conversion
tracking adds ``dub_id`` to its destination), "GET /events" (no address for people in the EU).
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import msgspec
import pytest

from service.attribution.touches import TouchAnswer
from service.domain.models import Answer
from tests.integration.world import (
    AS_SERVER,
    HOME,
    IPHONE_BROWSER,
    MATCHING,
    PIXEL_BROWSER,
    World,
    embedded_dub,
    started_over,
)
from tests.support import ANNA, ENV, FakeClock

BERTA = "install-berta"
AS_DUB = {"Authorization": f"Bearer {ENV['ACME_DUB_API_KEY']}"}
PROMO = "https://acme.link/fb-promo"
SIGNALS = MATCHING.replace("analytics_calls_per_s", 'touch_signals = "on"\nanalytics_calls_per_s')
CONSENTED = MATCHING.replace("analytics_calls_per_s", 'touch_signals = "consented"\nanalytics_calls_per_s')


def over(clock: FakeClock, config: str = MATCHING) -> AbstractAsyncContextManager[World]:
    return started_over(embedded_dub(clock), clock, config)


async def post(
    world: World, body: Any, ip: str = HOME, user_agent: str = IPHONE_BROWSER, **headers: str
) -> httpx.Response:
    return await world.service.post(
        "/v1/touches", json=body, headers={"X-Forwarded-For": ip, "User-Agent": user_agent, **headers}
    )


async def touch(world: World, ip: str = HOME, user_agent: str = IPHONE_BROWSER, **fields: Any) -> None:
    reply = await post(world, {"url": PROMO, **fields}, ip, user_agent)
    assert (reply.status_code, reply.json()) == (200, {"stored": True}), reply.text
    world.clock.advance(20)  # the app is installed


@pytest.fixture
async def world(clock: FakeClock) -> AsyncIterator[World]:
    async with over(clock) as world:
        yield world


async def test_a_first_open_gets_the_visits_link_in_its_first_answer(world: World) -> None:
    """Dub's events are not waited for, and the click that Dub records gets the credit."""
    await world.fail("/events")
    await touch(world)
    answer = await world.launch()
    assert answer.match.type == "touch"
    assert not answer.match.guaranteed
    assert not answer.pending
    assert answer.route.screen == "product"
    assert answer.link is not None
    assert answer.link.key == "fb-promo"
    assert answer.click_id is not None
    assert answer.match.candidates == 1
    assert isinstance(answer.match.confidence, float)
    lead = await world.lead(installId=ANNA)
    assert lead.json()["click"]["id"] == answer.click_id
    again = await world.launch()
    assert again.repeat
    assert again.click_id == answer.click_id


async def test_a_visit_that_names_its_click_gives_that_click(world: World) -> None:
    await touch(world, clickId="d0UtZqE0BZuBPrJS", url=f"{PROMO}?ref=ig")
    answer = await world.launch()
    assert (answer.match.type, answer.click_id) == ("touch", "d0UtZqE0BZuBPrJS")
    assert answer.route.url == "https://acme.com/product/123?ref=ig"


async def test_a_visit_and_dubs_click_are_one_candidate(world: World) -> None:
    """The click of the web, which led to the page, gets the credit; nobody else can have either."""
    await world.click()
    clicked = (await world.dub.get("/events", params={"event": "clicks"}, headers=AS_DUB)).json()[0]
    world.clock.advance(2)
    await touch(world)
    sync = await world.launch(install_id="install-other-network", ip="198.51.100.7")  # reads Dub's clicks
    assert sync.match.type == "none"
    answer = await world.launch()
    assert (answer.match.type, answer.match.candidates) == ("touch", 1)
    assert answer.click_id == clicked["click"]["id"]
    assert (await world.settled(await world.launch(BERTA))).click_id is None


async def test_a_visit_is_given_once_before_dub_shows_its_click(world: World) -> None:
    """The install that got the visit keeps it; its click, which Dub shows later, is used up."""
    await world.click()
    world.clock.advance(2)
    await world.fail("/events")
    await touch(world)
    assert (await world.launch()).match.type == "touch"
    await world.mend()
    assert (await world.settled(await world.launch(BERTA))).click_id is None


async def test_two_installs_race_for_one_visit(world: World) -> None:
    await touch(world)
    answers = await asyncio.gather(*(world.launch(f"install-{number:04}") for number in range(20)))
    assert [answer.match.type for answer in answers].count("touch") <= 1
    clicks = [answer.click_id for answer in answers if answer.click_id]
    assert len(clicks) == len(set(clicks)) == 1


async def test_people_in_the_eu_are_matched(world: World) -> None:
    """Dub shows no address for their clicks, so only the page's visit can be matched."""
    headers = {
        "Host": "acme.link",
        "X-Real-IP": HOME,
        "X-Vercel-IP-Country": "DE",
        "User-Agent": IPHONE_BROWSER,
    }
    await world.dub.get("/fb-promo", headers=headers)
    assert (await world.settled(await world.launch("install-without-visit"))).match.type == "none"
    await world.dub.get("/fb-promo", headers=headers)
    await touch(world, ip="198.51.100.9")
    assert (await world.launch(BERTA, ip="198.51.100.9")).match.type == "touch"


@pytest.mark.parametrize(
    ("ip", "user_agent"), [("198.51.100.7", IPHONE_BROWSER), (HOME, PIXEL_BROWSER)], ids=["network", "system"]
)
async def test_another_networks_or_systems_visit_is_not_matched(
    world: World, ip: str, user_agent: str
) -> None:
    await touch(world, ip=ip, user_agent=user_agent)
    assert (await world.settled(await world.launch())).match.type == "none"


async def test_a_visit_before_the_window_is_not_matched(world: World) -> None:
    await touch(world)
    world.clock.advance(3700)
    assert (await world.settled(await world.launch())).match.type == "none"


async def test_certain_evidence_wins_over_a_visit(world: World) -> None:
    await touch(world)
    answer = await world.launch(install_referrer="deepLink=https%3A%2F%2Facme.link%2Finvite")
    assert answer.match.type == "install_referrer"
    assert answer.link is not None
    assert answer.link.key == "invite"


async def test_dub_is_away_when_the_install_opens(world: World) -> None:
    """The route is that of the visit's link; the credit follows once Dub is back."""
    await touch(world)
    await world.fail("/track/open")
    answer = await world.launch()
    assert (answer.match.type, answer.route.screen) == ("touch", "product")
    assert answer.pending
    assert answer.click_id is None
    await world.mend()
    settled = await world.settled(answer)
    assert settled.match.type == "touch"
    assert settled.click_id is not None


async def test_the_page_is_loaded_again(world: World) -> None:
    for _ in range(3):
        assert (await post(world, {"url": PROMO})).json() == {"stored": True}
    world.clock.advance(20)
    assert (await world.launch()).match.candidates == 1


async def test_the_trace_says_that_a_page_decided(world: World) -> None:
    await touch(world)
    answer = await world.launch()
    trace = (await world.service.get(f"/v1/opens/{answer.open_id}/trace", headers=AS_SERVER)).json()
    assert [(item["type"], item["outcome"]) for item in trace["evidence"]] == [("touch", "matched")]
    dry = await world.dry_run(installId="install-dry")
    assert dry["answer"]["match"]["type"] == "none"  # it is claimed


async def test_a_dry_run_claims_nothing(world: World) -> None:
    await touch(world)
    assert (await world.dry_run())["answer"]["match"]["type"] == "touch"
    assert (await world.launch()).match.type == "touch"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 422, "url"),
        ({"url": ""}, 422, "url"),
        ({"url": "not a link"}, 422, "url"),
        ({"domain": "acme.link"}, 422, "url"),
        ({"domain": "acme.link", "key": "a\nb"}, 422, "key"),
        ({"url": "https://acme.link/unknown"}, 422, "does not know"),
        ({"url": "https://evil.example/fb-promo"}, 403, "domains"),
        ({"url": "https://globex.link/x"}, 403, "domains"),
        ([], 400, "object"),
    ],
)
async def test_a_mistake_is_named(world: World, body: Any, status: int, said: str) -> None:
    reply = await post(world, body)
    assert reply.status_code == status, reply.text
    assert said in reply.json()["error"]["message"]


async def test_fields_that_cannot_be_used_are_named(world: World) -> None:
    body = {
        "domain": "acme.link",
        "key": "fb-promo",
        "clickId": "<script>",
        "consent": "yes",
        "language": "x" * 70,
        "screen": "wide",
        "timezone": 7,
    }
    reply = await post(world, body)
    assert reply.json() == {"stored": True}
    ignored = set(reply.headers["Firstopen-Ignored"].split(", "))
    assert ignored == {"clickId", "consent", "language", "screen", "timezone"}


@pytest.mark.parametrize(
    ("ip", "user_agent", "reason"),
    [
        ("192.168.1.4", IPHONE_BROWSER, "private_address"),
        ("100.64.0.4", IPHONE_BROWSER, "shared_network"),
        (HOME, "curl/8.0", "unknown_system"),
    ],
)
async def test_what_could_not_be_matched_is_not_stored(
    world: World, ip: str, user_agent: str, reason: str
) -> None:
    reply = await post(world, {"url": PROMO}, ip, user_agent)
    assert (reply.status_code, reply.json()) == (200, {"stored": False, "reason": reason})


async def test_only_with_consent(clock: FakeClock) -> None:
    """An app that matches only with consent wants that of the page and that of the app."""
    config = MATCHING.replace("analytics_calls_per_s", 'ip_matching = "consented"\nanalytics_calls_per_s')
    async with over(clock, config=config) as world:
        assert (await post(world, {"url": PROMO})).json() == {"stored": False, "reason": "no_consent"}
        await touch(world, consent=True)
        assert (await world.launch()).match.type == "none"
        assert (await world.launch(BERTA, consent=True)).match.type == "touch"


async def test_apps_without_matching_keep_none(clock: FakeClock) -> None:
    config = MATCHING.replace("analytics_calls_per_s", 'ip_matching = "off"\nanalytics_calls_per_s')
    async with over(clock, config=config) as world:
        assert (await post(world, {"url": PROMO})).json() == {"stored": False, "reason": "off"}


async def test_a_network_keeps_few_visits(world: World) -> None:
    """Somebody who floods one network is told so; matching there reads the others all the same."""
    await world.click()
    for number in range(30):
        reply = await post(world, {"url": PROMO, "clickId": f"d0UtZqE0BZuBPr{number:02}"})
    assert reply.json() == {"stored": False, "reason": "too_many"}
    assert (await post(world, {"url": PROMO}, ip="198.51.100.7")).json() == {"stored": True}


async def test_naming_somebody_elses_click_does_not_move_it(world: World) -> None:
    """A clickId is in the URL of a page, so others may know it: the click stays on its own network."""
    await world.click()
    clicked = (await world.dub.get("/events", params={"event": "clicks"}, headers=AS_DUB)).json()[0]
    await world.launch("install-other-network", ip="198.51.100.7")  # reads Dub's clicks
    stolen = await post(world, {"url": PROMO, "clickId": clicked["click"]["id"]}, ip="198.51.100.66")
    assert stolen.json() == {"stored": False, "reason": "too_many"}
    world.clock.advance(20)
    assert (await world.settled(await world.launch("install-thief", ip="198.51.100.66"))).click_id is None
    assert (await world.launch()).click_id == clicked["click"]["id"]


async def test_an_erased_install_takes_its_visit_along(world: World) -> None:
    await touch(world)
    assert (await world.launch()).match.type == "touch"
    reply = await world.service.post("/v1/installs/forget", json={"installId": ANNA}, headers=AS_SERVER)
    assert reply.json()["touches"] == 1
    assert (await world.settled(await world.launch(BERTA))).match.type == "none"


ANNAS = {"language": "de-DE", "timezone": "Europe/Berlin", "screen": "390x844@3"}
BERTAS = {"language": "pt-BR", "timezone": "Europe/Berlin", "screen": "430x932@3"}


async def two_visits(world: World, **fields: Any) -> Answer:
    """Two people of one home visit two links' pages; the first opens the app."""
    await post(world, {"url": PROMO, **ANNAS, **fields})
    world.clock.advance(3)
    await post(world, {"url": "https://acme.link/invite", **BERTAS, **fields})
    world.clock.advance(20)
    return await world.launch(language="de_DE", screen="844x390@3.0", timezone="Europe/Berlin", **fields)


async def test_signals_tell_people_of_one_home_apart(clock: FakeClock) -> None:
    async with over(clock, config=SIGNALS) as world:
        answer = await two_visits(world)
        assert answer.match.type == "touch"
        assert answer.link is not None
        assert answer.link.key == "fb-promo"


@pytest.mark.parametrize("config", [MATCHING, CONSENTED], ids=["off", "without consent"])
async def test_signals_are_not_compared_unless_allowed(clock: FakeClock, config: str) -> None:
    """Without them, nothing tells the two apart, and the later visit is the likelier one."""
    async with over(clock, config=config) as world:
        answer = await two_visits(world)
        assert answer.link is not None
        assert answer.link.key == "invite"


async def test_signals_are_compared_with_consent(clock: FakeClock) -> None:
    async with over(clock, config=CONSENTED) as world:
        assert (await two_visits(world, consent=True)).match.type == "touch"


async def test_any_page_may_send_a_touch(world: World) -> None:
    """CORS: the preflight of a browser, and the answer that its script may read."""
    preflight = await world.service.options(
        "/v1/touches",
        headers={
            "Origin": "https://www.acme.com",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
            "Authorization": "",
        },
    )
    assert preflight.status_code == 204
    assert preflight.headers["Access-Control-Allow-Origin"] == "*"
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    reply = await post(world, {"url": PROMO}, Origin="https://www.acme.com")
    assert reply.headers["Access-Control-Allow-Origin"] == "*"


async def test_a_key_is_needed(world: World) -> None:
    for key, status in (("", 401), ("Bearer nonsense", 401), (AS_SERVER["Authorization"], 403)):
        assert (await post(world, {"url": PROMO}, Authorization=key)).status_code == status


async def test_the_script_is_small_and_cacheable(world: World) -> None:
    reply = await world.service.get("/v1/touch.js", headers={"Authorization": ""})
    assert reply.status_code == 200
    assert reply.headers["Content-Type"].startswith("text/javascript")
    assert "max-age" in reply.headers["Cache-Control"]
    assert len(reply.content) <= 2048
    assert b"v1/touches" in reply.content


def test_the_answer_names_nobody() -> None:
    """A visit gets no id that a page could keep."""
    assert json.loads(msgspec.json.encode(TouchAnswer(stored=True))) == {"stored": True}
