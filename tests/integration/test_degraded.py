"""Dub away, slow or garbled: an answer all the same, never a 5xx."""

import httpx
import pytest

from tests.support import ANNA, BEN, FB_PROMO, FakeClock, FakeDub, LogLines, Service


async def test_a_known_link_routes_an_open_while_dub_is_away(
    service: Service, dub: FakeDub, clock: FakeClock
) -> None:
    """A remembered link gives the right screen, days later too; else the URL itself is routed."""

    async def away(_: httpx.Request) -> httpx.Response:
        return httpx.Response(503, text="<html>")

    await service.open(FB_PROMO, install_id=ANNA)
    dub.script = away
    clock.advance(3 * 86_400)
    stale = await service.open(f"{FB_PROMO}?ref=ig", install_id=BEN)
    assert (stale.source, stale.pending, stale.click_id) == ("stale", True, None)
    assert stale.route.url == "https://acme.com/product/123?ref=ig"
    assert (stale.route.screen, stale.match.type) == ("product", "deep_link")
    parsed = await service.open("https://acme.link/never-seen?a=1", install_id=BEN)
    assert (parsed.source, parsed.pending, parsed.route.reason) == ("parsed", True, "unlisted")
    assert parsed.route.url == "https://acme.link/never-seen?a=1"


async def test_a_degraded_answer_is_asked_for_anew_after_a_second(
    service: Service, dub: FakeDub, clock: FakeClock, logs: LogLines
) -> None:
    """A pending answer is repeated for a second at most; then Dub is asked again, under the same device."""

    async def away(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    dub.script = away
    first = await service.open(FB_PROMO, install_id=ANNA)
    assert (await service.open(FB_PROMO, install_id=ANNA)).open_id == first.open_id
    assert dub.calls("/track/open") == 2  # the one safe retry inside the budget, and nothing more
    assert logs.events("open.degraded")[0]["error"] == "DubUnreachable"
    dub.script = None
    clock.advance(1.1)
    answer = await service.open(FB_PROMO, install_id=ANNA)
    assert answer.click_id
    assert not answer.pending


async def test_an_open_that_is_owed_keeps_its_id(service: Service, dub: FakeDub, clock: FakeClock) -> None:
    """Reported again after an outage, a pending open is settled under the id that the app already has."""

    async def away(_: httpx.Request) -> httpx.Response:
        return httpx.Response(503)

    dub.script = away
    first = await service.open(FB_PROMO, install_id=ANNA)
    dub.script = None
    clock.advance(10)
    again = await service.open(FB_PROMO, install_id=ANNA)
    assert (again.open_id, again.repeat, again.pending) == (first.open_id, True, False)
    assert (await service.recall(first.open_id)).click_id == again.click_id


REPLIES = {
    "html": httpx.Response(200, text="<html>"),
    "cut off": httpx.Response(200, text='{"clickId": "x", "li'),
    "wrong type": httpx.Response(200, json={"clickId": 3, "link": None}),
    "no link": httpx.Response(200, json={"clickId": "x"}),
    "too big": httpx.Response(200, text=" " * 2_000_000),
    "nested": httpx.Response(200, text="[" * 10_000),
    "somebody's 404": httpx.Response(404, text="<html>"),
    "another 404": httpx.Response(404, json={"error": {"code": "unauthorized", "message": "x"}}),
    "redirect": httpx.Response(302, headers={"Location": "https://elsewhere.example"}),
    "refused": httpx.Response(422, json={"error": {"code": "unprocessable_entity", "message": "x"}}),
    "throttled": httpx.Response(429, json={"error": {"code": "rate_limit_exceeded", "message": "x"}}),
    "broken": httpx.Response(500, json={"error": {"code": "internal_server_error", "message": "x"}}),
}


@pytest.mark.parametrize("name", REPLIES)
async def test_all_but_a_well_formed_answer_degrades(service: Service, dub: FakeDub, name: str) -> None:
    """Whatever Dub's side says that is not its 200 or its 404, the app gets a usable route."""

    async def reply(_: httpx.Request) -> httpx.Response:
        return REPLIES[name]

    dub.script = reply
    answer = await service.open("https://acme.link/some", install_id=ANNA)
    assert (answer.pending, answer.source, answer.click_id) == (True, "parsed", None)
    assert (answer.route.reason, answer.route.url) == ("unlisted", "https://acme.link/some")


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (httpx.ConnectError("refused"), "DubUnreachable"),
        (httpx.ReadError("reset"), "DubUnreachable"),
        (httpx.RemoteProtocolError("half"), "DubUnreachable"),
        (ConnectionResetError(), "DubUnreachable"),
        (httpx.ReadTimeout("slow"), "DubTimedOut"),
    ],
)
async def test_a_connection_that_fails_degrades(
    service: Service, dub: FakeDub, logs: LogLines, error: Exception, name: str
) -> None:
    """However the connection fails, the app gets a route, and the log says how it failed."""

    async def fail(_: httpx.Request) -> httpx.Response:
        raise error

    dub.script = fail
    answer = await service.open("https://acme.link/some", install_id=ANNA)
    assert (answer.pending, answer.route.screen) == (True, "home")
    assert [line["error"] for line in logs.events("open.degraded")] == [name]


async def test_a_transport_that_breaks_in_a_new_way_is_still_an_answer(
    service: Service, dub: FakeDub, logs: LogLines
) -> None:
    """A mistake of ours on the way to Dub degrades the open; its message is not logged."""

    async def explode(_: httpx.Request) -> httpx.Response:
        raise RuntimeError("somebody's secret")

    dub.script = explode
    answer = await service.open(FB_PROMO, install_id=ANNA)
    assert (answer.pending, answer.source, answer.route.screen) == (True, "parsed", "promo")
    assert [line["error"] for line in logs.events("open.failed")] == ["RuntimeError"]
    assert "secret" not in logs.text
