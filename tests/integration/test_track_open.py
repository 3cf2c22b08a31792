"""`/track/open` on Dub's own wire, through the resolver."""

import httpx
import pytest

from tests.support import ANNA, FB_PROMO, KEY, FakeClock, FakeDub, Service

ANY_PAGE = {"access-control-allow-origin": "*", "access-control-allow-methods": "POST, OPTIONS"}


async def test_an_open_answers_exactly_dubs_body(service: Service) -> None:
    """An SDK of Dub's reads clickId and link, and nothing of ours."""
    reply = await service.post("/track/open", json={"deepLink": f"{FB_PROMO}?utm_source=x"})
    assert reply.status_code == 200
    body = reply.json()
    assert list(body) == ["clickId", "link"]
    assert len(body["clickId"]) == 16
    assert body["link"] == {
        "id": "link_fb-promo",
        "domain": "acme.link",
        "key": "fb-promo",
        "url": "https://acme.com/product/123",
    }


async def test_an_sdk_that_asks_twice_gets_its_click_again(service: Service, dub: FakeDub) -> None:
    """The answer cache stands before Dub here too."""
    first = await service.post("/track/open", json={"deepLink": FB_PROMO})
    again = await service.post("/track/open", json={"deepLink": FB_PROMO})
    assert first.json() == again.json()
    assert dub.calls("/track/open") == 1


async def test_two_user_agents_are_two_devices(service: Service) -> None:
    """Without an installId we are as exact as Dub: address and User-Agent."""
    one = await service.post("/track/open", json={"deepLink": FB_PROMO})
    two = await service.post("/track/open", json={"deepLink": FB_PROMO}, headers={"User-Agent": "okhttp/5"})
    assert one.json()["clickId"] != two.json()["clickId"]


async def test_an_unknown_link_is_dubs_404_at_once(service: Service, dub: FakeDub) -> None:
    """Dub's message names the deep link; the second time it is answered from what Dub said."""
    for _ in range(2):
        reply = await service.post("/track/open", json={"deepLink": "https://acme.link/nobody"})
        assert reply.status_code == 404
        error = reply.json()["error"]
        assert error["code"] == "not_found"
        assert error["message"] == "Deep link not found: https://acme.link/nobody"
        assert error["doc_url"].endswith("#not-found")
    assert dub.calls("/track/open") == 1


async def test_a_deep_link_of_another_domain_is_a_404_without_a_call(service: Service, dub: FakeDub) -> None:
    """Another workspace's links are nothing that this app may ask for."""
    reply = await service.post("/track/open", json={"deepLink": "https://globex.link/x"})
    assert reply.status_code == 404
    assert dub.requests == []


async def test_an_open_with_only_a_domain_has_no_click(service: Service) -> None:
    """Nothing to go by is both null, as at Dub; another app's domain is refused."""
    reply = await service.post("/track/open", json={"dubDomain": "acme.link"})
    assert reply.json() == {"clickId": None, "link": None}
    foreign = await service.post("/track/open", json={"dubDomain": "*"})
    assert foreign.status_code == 403


@pytest.mark.parametrize("body", [{}, {"deepLink": None}, {"deepLink": "", "dubDomain": ""}])
async def test_nothing_to_go_by_is_422(service: Service, body: dict[str, str]) -> None:
    """One of the two is needed."""
    reply = await service.post("/track/open", json=body)
    assert reply.status_code == 422
    assert "deepLink" in reply.json()["error"]["message"]


@pytest.mark.parametrize("where", ["header", "header-empty", "query"])
async def test_no_track_is_passed_on_and_remembered_by_nobody(
    service: Service, dub: FakeDub, where: str
) -> None:
    """`dub-no-track` gives a null click with the link, and the next real open is no repeat."""
    headers = {"dub-no-track": "1" if where == "header" else ""} if where != "query" else {}
    query = "?dub-no-track" if where == "query" else ""
    reply = await service.post(f"/track/open{query}", json={"deepLink": FB_PROMO}, headers=headers)
    assert reply.json()["clickId"] is None
    assert reply.json()["link"]["key"] == "fb-promo"
    assert dub.requests[0].headers["dub-no-track"]
    assert not (await service.open(FB_PROMO, install_id=ANNA)).repeat
    assert (await service.post("/track/open", json={"deepLink": FB_PROMO})).json()["clickId"]


async def test_a_pending_open_says_how_to_ask_again(service: Service, dub: FakeDub, clock: FakeClock) -> None:
    """While Dub is away: null click, 200, and the id under which the click will be found."""

    async def down(_: httpx.Request) -> httpx.Response:
        return httpx.Response(503)

    dub.script = down
    reply = await service.post("/track/open", json={"deepLink": FB_PROMO})
    assert reply.status_code == 200
    assert reply.json()["clickId"] is None
    assert (await service.recall(reply.headers["firstopen-open-id"])).pending
    clock.advance(2)
    dub.script = None
    again = await service.post("/track/open", json={"deepLink": FB_PROMO})
    assert again.json()["clickId"]
    assert "firstopen-open-id" not in again.headers


async def test_any_web_page_may_ask(service: Service) -> None:
    """CORS headers stand on answers and on errors of every kind, and OPTIONS is 204."""
    paths = [
        "/track/open",
        "/track/lead",
        "/track/lead/client",
        "/track/sale",
        "/track/sale/client",
        "/events",
    ]
    for path in paths:
        preflight = await service.options(path)
        assert preflight.status_code == 204
        assert preflight.content == b""
        wrong = await service.request("PUT", path)
        assert wrong.status_code == 405
        unauthorized = await service.request(
            "GET" if path == "/events" else "POST", path, headers={"Authorization": ""}
        )
        for reply in (preflight, wrong, unauthorized):
            assert reply.headers["access-control-allow-headers"] == "Content-Type, Authorization"
            methods = "GET, OPTIONS" if path == "/events" else "POST, OPTIONS"
            assert reply.headers["access-control-allow-methods"] == methods
            assert reply.headers["access-control-allow-origin"] == "*"


async def test_nothing_of_the_callers_but_its_user_agent_reaches_dub(service: Service, dub: FakeDub) -> None:
    """The caller's key, cookies and address stay here."""
    headers = {"Cookie": "a=b", "X-Forwarded-For": "203.0.113.9", "X-Real-IP": "203.0.113.9"}
    await service.post("/track/open", json={"deepLink": FB_PROMO}, headers=headers)
    (sent,) = dub.requests
    assert KEY not in str(sent.headers)
    assert not {"authorization", "cookie", "x-forwarded-for", "x-real-ip"} & set(sent.headers)
