"""`/track/click` and `/track/visit`, which Dub's browser script calls, and allowed hostnames.

Every test is about dub-api.md, "Other routes that Dub's packages call", unless it says otherwise.
"""

from typing import Any

import pytest

from service.sandbox import SandboxLink
from service.sandbox.links import SandboxDiscount
from tests.sandbox.support import DOMAIN, FakeClock, Sandbox, build, error_of

CLICK = {"domain": DOMAIN, "key": "plain"}
VISIT = {"domain": DOMAIN, "url": "https://acme.com/plain"}
REPORTS = pytest.mark.parametrize(("path", "body"), [("/track/click", CLICK), ("/track/visit", VISIT)])
CLIENT_ROUTES = ("/track/lead/client", "/track/sale/client")


async def test_a_click_that_a_page_noticed(sandbox: Sandbox) -> None:
    """Its trigger is `link`; page and referrer are the page's; a device counts once an hour; no key."""
    body = {
        "domain": "WWW.Acme.link",
        "key": "plain",
        "url": "https://acme.com/p?via=plain",
        "referrer": "https://www.news.com/1",
    }
    first = await sandbox.post("/track/click", body, key=None)
    again = await sandbox.post("/track/click", body, key=None)
    assert first.status_code == 200
    (event,) = await sandbox.events()
    click = event["click"]
    assert first.json() == again.json() == {"clickId": click["id"]}
    assert (click["trigger"], event["link"]["id"]) == ("link", "link_plain")
    assert (click["url"], click["referer"], click["refererUrl"]) == (
        "https://acme.com/p?via=plain",
        "news.com",
        "https://www.news.com/1",
    )


@pytest.mark.parametrize(
    ("url", "link"),
    [
        ("https://acme.com/plain?x=1", "link_plain"),
        ("https://acme.com/", "link_root"),
        ("https://acme.com", "link_root"),
    ],
)
async def test_a_page_that_was_seen(sandbox: Sandbox, url: str, link: str) -> None:
    """Its trigger is `pageview`, and its path the key of its link."""
    body = {"domain": f"www.{DOMAIN}", "url": url, "referrer": ""}
    response = await sandbox.post("/track/visit", body, key=None)
    (event,) = await sandbox.events()
    assert response.json() == {"clickId": event["click"]["id"]}
    assert (event["click"]["trigger"], event["click"]["url"]) == ("pageview", url)
    assert event["link"]["id"] == link


async def test_the_referrer_header(sandbox: Sandbox) -> None:
    """Without a referrer in the body, the header counts."""
    await sandbox.post("/track/click", CLICK, referer="https://www.news.com/2")
    (event,) = await sandbox.events()
    assert (event["click"]["referer"], event["click"]["url"]) == ("news.com", "https://acme.com/plain")


@pytest.mark.parametrize(
    ("fields", "offer"),
    [
        ({}, {}),
        ({"partner_id": "pn_1"}, {"partner": {"id": "pn_1", "name": "pn_1", "image": None}}),
        (
            {"discount": SandboxDiscount(id="disc_1", amount=20, max_duration=12)},
            {"discount": {"id": "disc_1", "amount": 20, "type": "percentage", "maxDuration": 12}},
        ),
    ],
)
async def test_partner_and_discount(clock: FakeClock, fields: dict[str, Any], offer: dict[str, Any]) -> None:
    """The answer has the link's partner and discount where there are any."""
    link = SandboxLink(domain=DOMAIN, key="plain", url="https://acme.com/", **fields)
    sandbox = build(clock, links=[link])
    async with sandbox.http:
        answer = (await sandbox.post("/track/click", CLICK)).json()
        (event,) = await sandbox.events()
    assert answer == {"clickId": event["click"]["id"]} | offer
    assert "discount" not in event["link"]


@REPORTS
async def test_no_track(sandbox: Sandbox, path: str, body: dict[str, str]) -> None:
    """Untracked, a report records nothing."""
    response = await sandbox.post(path, body, dub_no_track="1")
    assert response.json() == {"clickId": None}
    assert await sandbox.events() == []


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/track/click", CLICK | {"key": "nope"}, 404),
        ("/track/click", CLICK | {"domain": "nope.link"}, 404),
        ("/track/visit", VISIT | {"url": "https://acme.com/nope"}, 404),
        ("/track/visit", VISIT | {"url": "https://[nope"}, 422),
        ("/track/visit", CLICK, 422),
        ("/track/click", VISIT, 422),
        ("/track/click", b"{", 400),
    ],
)
async def test_what_is_refused(sandbox: Sandbox, path: str, body: Any, status: int) -> None:
    """An unknown link is a 404, a missing field a 422."""
    assert error_of(await sandbox.post(path, body, key=None))[0] == status


@REPORTS
@pytest.mark.parametrize(
    ("source", "allowed"),
    [
        ({"referer": "https://acme.com/p"}, True),
        ({"referer": "https://www.acme.com/p"}, True),
        ({"origin": "https://acme.com"}, True),
        ({"origin": "https://shop.globex.com"}, True),
        ({"referer": "https://acme.com.evil.com/"}, False),
        ({"referer": "https://sub.acme.com/"}, False),
        ({"origin": "https://globex.com"}, False),
        ({"origin": "null"}, False),
        ({}, False),
    ],
)
async def test_allowed_hostnames(
    sandbox: Sandbox, path: str, body: dict[str, str], source: dict[str, str], *, allowed: bool
) -> None:
    """With hostnames listed, a page of another host (or no page at all) is a 403, and records nothing."""
    await sandbox.settings(allowedHostnames=["www.acme.com", "*.globex.com"])
    response = await sandbox.post(path, body, key=None, **source)
    assert response.status_code == (200 if allowed else 403)
    assert len(await sandbox.events()) == allowed
    if not allowed:
        assert error_of(response)[1] == "forbidden"
        assert response.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("path", CLIENT_ROUTES)
async def test_apps_have_no_hostname(sandbox: Sandbox, path: str) -> None:
    """Where hostnames are listed, the client routes refuse an app, which sends neither header; servers work.

    dub-api.md, "POST /track/lead (and /track/lead/client)".
    """
    click_id = (await sandbox.open())["clickId"]
    body = {"clickId": click_id, "eventName": "Sign up", "customerExternalId": "user_1", "amount": 500}
    await sandbox.settings(allowedHostnames=["acme.com"])
    assert error_of(await sandbox.post(path, body))[:2] == (403, "forbidden")
    assert (await sandbox.post(path, body, origin="https://acme.com")).status_code == 200
    assert (await sandbox.post(path.removesuffix("/client"), body)).status_code == 200
    await sandbox.settings(allowedHostnames=[])
    assert (await sandbox.post(path, body)).status_code == 200
