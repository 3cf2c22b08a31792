"""What a browser gets that follows a short link."""

from typing import Any

import pytest

from service.sandbox import SandboxLink, SandboxSettings
from tests.sandbox.support import (
    APP_STORE,
    IPHONE,
    LINKS,
    MAC,
    PIXEL,
    PLAY_STORE,
    FakeClock,
    Sandbox,
    build,
)

IPAD = IPHONE.replace("iPhone;", "iPad;")


async def test_desktop_goes_to_the_destination(sandbox: Sandbox) -> None:
    """A desktop browser is redirected, and the click is recorded with everything that `/events` shows."""
    response = await sandbox.click(
        ip="203.0.113.7",
        referer="https://www.news.com/story?id=1",
        x_vercel_ip_country="US",
        x_vercel_ip_city="New%20York",
        x_vercel_ip_country_region="NY",
        x_vercel_ip_continent="NA",
    )
    assert response.status_code == 302
    assert response.headers["location"] == "https://acme.com/product/123?ref=mail&size=42"
    (event,) = await sandbox.events()
    assert event["click"] == {
        "id": event["click"]["id"],
        "timestamp": "2026-08-01T12:00:00.000Z",
        "url": "https://acme.com/product/123?ref=mail&size=42",
        "country": "US",
        "city": "New York",
        "region": "US-NY",
        "continent": "NA",
        "device": "Desktop",
        "browser": "Chrome",
        "os": "Mac",
        "ua": MAC,
        "trigger": "link",
        "referer": "news.com",
        "refererUrl": "https://www.news.com/story?id=1",
        "qr": False,
        "ip": "203.0.113.7",
    }
    assert event["link"]["id"] == "link_promo"
    assert f"={event['click']['id']};" in response.headers["set-cookie"]


async def test_clicked_query_overrides_the_destinations(sandbox: Sandbox) -> None:
    """A parameter of the clicked link takes the place of the destination's, others stay, order is kept."""
    response = await sandbox.click("/fb-promo?ref=ig&utm_source=a+b")
    assert response.headers["location"] == "https://acme.com/product/123?ref=ig&size=42&utm_source=a+b"


async def test_dubs_parameters_are_not_handed_on(sandbox: Sandbox) -> None:
    """What a link says to Dub, a password among it, never reaches the destination.

    dub-api.md, "What the web side of a link does".
    """
    for_dub = "skip_deeplink_preview=1&qr=1&redir_url=x&dub-no-track=1&pw=x&dub-client-reference-id=y"
    response = await sandbox.click(f"/plain?{for_dub}&utm_source=ig")
    assert response.headers["location"] == "https://acme.com/plain?utm_source=ig"


@pytest.mark.parametrize(("ua", "store"), [(IPHONE, APP_STORE), (PIXEL, PLAY_STORE)])
async def test_a_domain_with_nothing_set_up(sandbox: Sandbox, ua: str, store: str) -> None:
    """A phone goes straight to the store, with no referrer and no page that fills the clipboard.

    dub-api.md, "What the web side of a link does".
    """
    for path in ("/fb-promo", "/fb-promo?skip_deeplink_preview=1"):
        response = await sandbox.click(path, ua=ua)
        assert (response.status_code, response.headers["location"]) == (302, store)


@pytest.mark.parametrize("ua", [IPHONE, IPAD])
async def test_ios_target_that_is_no_store(sandbox: Sandbox, ua: str) -> None:
    """An iOS target on the web is a plain redirect, and leaves nothing for a first open."""
    await sandbox.change_link(ios="https://acme.com/ios")
    response = await sandbox.click(ua=ua)
    assert (response.status_code, response.headers["location"]) == (302, "https://acme.com/ios")
    assert await sandbox.first_open() == {"clickId": None, "link": None}


async def test_same_click_inside_the_hour(sandbox: Sandbox, clock: FakeClock) -> None:
    """Following a link again within the hour is the same click, counted once; an hour later it is another."""
    first = await sandbox.click()
    again = await sandbox.click()
    assert again.headers["set-cookie"] == first.headers["set-cookie"]
    assert (await sandbox.link())["clicks"] == 1
    clock.advance(3_601)
    await sandbox.click()
    assert (await sandbox.link())["clicks"] == 2


async def test_key_case_does_not_matter_on_the_web(sandbox: Sandbox) -> None:
    """The web lower-cases keys: `/FB-Promo` is the same link, and the same click."""
    assert (await sandbox.click("/FB-Promo")).status_code == 302
    await sandbox.click("/fb-promo")
    assert (await sandbox.link())["clicks"] == 1


async def test_case_sensitive_domain(clock: FakeClock) -> None:
    """On a case-sensitive domain two cases are two links, on the web and in an app."""
    links = [SandboxLink(domain="a.link", key=key, url=f"https://acme.com/{key}") for key in ("Ab", "aB")]
    sandbox = build(
        clock, links=links, settings=SandboxSettings(case_sensitive_domains=frozenset({"a.link"}))
    )
    async with sandbox.http:
        assert (await sandbox.click("/aB", host="a.link")).headers["location"] == "https://acme.com/aB"
        assert (await sandbox.open("https://a.link/Ab"))["link"]["url"] == "https://acme.com/Ab"
        assert (await sandbox.click("/ab", host="a.link")).status_code == 404


@pytest.mark.parametrize(
    "ua",
    [
        "facebookexternalhit/1.1",
        "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
        "WhatsApp/2.23.20.0",
        "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
        "Twitterbot/1.0",
        IPHONE + " LinkedInBot/1.0",
    ],
)
async def test_bots_are_sent_on_and_not_counted(sandbox: Sandbox, ua: str) -> None:
    """A crawler follows the link like anybody, and leaves no click, no cookie and no first open behind."""
    response = await sandbox.click(ua=ua)
    assert response.status_code == 302
    assert "set-cookie" not in response.headers
    assert await sandbox.events() == []
    assert (await sandbox.link())["clicks"] == 0
    assert await sandbox.first_open() == {"clickId": None, "link": None}


@pytest.mark.parametrize("ua", ["curl/8.7.1", "python-httpx/0.28", "", "okhttp/4.12.0"])
async def test_tools_are_people(sandbox: Sandbox, ua: str) -> None:
    """A test that clicks with curl makes a click."""
    await sandbox.click(ua=ua)
    assert len(await sandbox.events()) == 1


async def test_head_is_not_a_click(sandbox: Sandbox) -> None:
    """`HEAD` is answered like a click, without a body, and not counted."""
    response = await sandbox.http.head("/fb-promo", headers={"host": "acme.link", "user-agent": MAC})
    assert (response.status_code, response.content) == (302, b"")
    assert await sandbox.events() == []


@pytest.mark.parametrize("way", [{"path": "/plain?dub-no-track="}, {"path": "/plain", "dub_no_track": "1"}])
async def test_no_track_on_the_web(sandbox: Sandbox, way: dict[str, str]) -> None:
    """`dub-no-track` sends the visitor on and records nothing."""
    assert (await sandbox.click(**way)).headers["location"] == "https://acme.com/plain"
    assert await sandbox.events() == []


async def test_qr_code(sandbox: Sandbox) -> None:
    """`?qr=1` makes the trigger `qr`."""
    await sandbox.click("/plain?qr=1")
    (event,) = await sandbox.events()
    assert (event["click"]["trigger"], event["click"]["qr"]) == ("qr", True)


async def test_root(sandbox: Sandbox) -> None:
    """`GET /` is the link `_root` of its domain, and the one redirect that is permanent."""
    response = await sandbox.click("/")
    assert (response.status_code, response.headers["location"]) == (301, "https://acme.com/")


async def test_a_disabled_link_leads_to_a_page(sandbox: Sandbox) -> None:
    """A disabled link's 307 goes to a page that says "not found", the root link's too.

    dub-api.md, "What the web side of a link does".
    """
    await sandbox.change_link("link_root", disabled=True)
    response = await sandbox.click("/")
    assert (response.status_code, response.headers["location"]) == (307, "/sandbox/not-found")
    assert (await sandbox.click(response.headers["location"])).status_code == 404


@pytest.mark.parametrize("path", ["/", "/plain", "/fb-promo", "/off"])
async def test_every_redirect_names_who_sends_it(sandbox: Sandbox, path: str) -> None:
    """`x-powered-by` is on each redirect. dub-api.md, "What the web side of a link does"."""
    await sandbox.post(
        "/links", {"domain": "acme.link", "key": "off", "url": "https://acme.com/", "disabled": True}
    )
    response = await sandbox.click(path)
    assert response.is_redirect
    assert response.headers["x-powered-by"].startswith("Dub")


@pytest.mark.parametrize(
    ("path", "name", "cookie_path"),
    [
        ("/fb-promo", "dub_id_acme.link_fb-promo", "/fb-promo"),
        ("/", "dub_id_acme.link__root", "/_root"),
        ("/a/b%C3%A9", "dub_id_acme.link_a%2Fb%C3%A9", "/a/b%C3%A9"),
    ],
)
async def test_click_cookie(sandbox: Sandbox, path: str, name: str, cookie_path: str) -> None:
    """The click cookie is named for the domain and the key, and goes back to that key only.

    dub-api.md, "What the web side of a link does".
    """
    await sandbox.post("/links", {"domain": "acme.link", "key": "a/bé", "url": "https://acme.com/"})
    cookie = (await sandbox.click(path)).headers["set-cookie"]
    (event,) = await sandbox.events()
    assert cookie == f"{name}={event['click']['id']}; Path={cookie_path}; Max-Age=3600"


@pytest.mark.parametrize("path", ["/nope", "/sandbox/calls", "/track/open"])
async def test_unknown_key_is_a_404_page(sandbox: Sandbox, path: str) -> None:
    """On a link's domain every GET is a click, so that an API path there is only an unknown key."""
    response = await sandbox.click(path)
    assert response.status_code == 404
    assert response.headers["content-type"].startswith("text/html")


async def test_a_link_may_be_called_events(sandbox: Sandbox) -> None:
    """A link whose key is an API path works on its domain, and the API goes on elsewhere."""
    await sandbox.post("/links", {"domain": "acme.link", "key": "events", "url": "https://acme.com/calendar"})
    clicked = await sandbox.click("/events")
    assert clicked.headers["location"] == "https://acme.com/calendar"
    assert "access-control-allow-origin" not in clicked.headers
    assert isinstance(await sandbox.events(), list)


async def test_posts_on_a_links_domain_reach_the_api(sandbox: Sandbox) -> None:
    """Only GET and HEAD are clicks: an SDK whose base URL is the short domain still gets its answer."""
    response = await sandbox.post("/track/open", {"deepLink": "https://acme.link/plain"}, host="acme.link")
    assert response.json()["link"]["id"] == "link_plain"


async def test_keys_with_slashes_and_letters_of_any_alphabet(sandbox: Sandbox) -> None:
    """A key may have slashes and non-ASCII letters, on the web and in a deep link."""
    await sandbox.post(
        "/links", {"domain": "acme.link", "key": "été/soldes", "url": "https://acme.com/é?q=ü"}
    )
    response = await sandbox.click("/%C3%A9t%C3%A9/soldes")
    assert response.headers["location"] == "https://acme.com/%C3%A9?q=%C3%BC"
    assert (await sandbox.open("https://acme.link/été/soldes"))["link"]["url"] == "https://acme.com/é?q=ü"


@pytest.mark.parametrize(
    ("closed", "path", "status", "location"),
    [
        ({"disabled": True}, "/plain", 307, "/sandbox/not-found"),
        ({"expiresAt": "2026-08-01T11:59:59Z"}, "/plain", 410, None),
        (
            {"expiresAt": "2026-08-01T11:59:59Z", "expiredUrl": "https://acme.com/late"},
            "/plain",
            302,
            "https://acme.com/late",
        ),
        ({"expiresAt": "2026-08-01T12:00:01Z"}, "/plain", 302, "https://acme.com/plain"),
        ({"password": "tiger"}, "/plain", 200, None),
        ({"password": "tiger"}, "/plain?pw=lion", 200, None),
        ({"password": "tiger"}, "/plain?pw=tiger", 302, "https://acme.com/plain"),
    ],
)
async def test_closed_links(
    sandbox: Sandbox, closed: dict[str, Any], path: str, status: int, location: str | None
) -> None:
    """Whoever does not get to the destination makes no click."""
    await sandbox.change_link("link_plain", **closed)
    response = await sandbox.click(path)
    assert (response.status_code, response.headers.get("location")) == (status, location)
    assert len(await sandbox.events()) == (1 if location == "https://acme.com/plain" else 0)


@pytest.mark.parametrize(
    ("fields", "added"),
    [
        ({"trackConversion": True}, "?dub_id={}"),
        ({"partnerId": "pn_1"}, "?dub_id={}&via=plain"),
        ({"partnerId": "pn_1", "trackConversion": True}, "?dub_id={}&via=plain"),
        ({}, ""),
    ],
)
async def test_the_click_in_the_destination(sandbox: Sandbox, fields: dict[str, Any], added: str) -> None:
    """A link with conversion tracking, or a partner's, hands its click to the destination.

    dub-api.md, "What the web side of a link does": `dub_id=<clickId>`, and `via=<key>` for partners.
    """
    await sandbox.change_link("link_plain", **fields)
    response = await sandbox.click("/plain")
    (event,) = await sandbox.events()
    assert response.headers["location"] == "https://acme.com/plain" + added.format(event["click"]["id"])
    assert event["click"]["url"] == "https://acme.com/plain"


async def test_no_click_in_the_destination_where_none_was_recorded(sandbox: Sandbox) -> None:
    """`dub-no-track` records no click, so that a partner's destination gets none either."""
    await sandbox.change_link("link_plain", partnerId="pn_1", trackConversion=True)
    response = await sandbox.click("/plain?dub-no-track=1")
    assert response.headers["location"] == "https://acme.com/plain"
    assert "set-cookie" not in response.headers


async def test_location_is_one_header(clock: FakeClock) -> None:
    """A target with a line break in it cannot add a header."""
    sandbox = build(
        clock, links=[SandboxLink(domain="a.link", key="x", url="https://a.com/\r\nset-cookie: a=1")]
    )
    async with sandbox.http:
        response = await sandbox.click("/x", host="a.link")
    assert "%0D%0A" in response.headers["location"]
    assert "a=1" not in response.headers["set-cookie"]


@pytest.mark.parametrize("host", ["acme.link:8001", "ACME.LINK", "www.acme.link"])
async def test_host_forms(sandbox: Sandbox, host: str) -> None:
    """Port, case and `www.` of the Host header do not matter."""
    assert (await sandbox.click("/plain", host=host)).status_code == 302


async def test_links_of_the_list_are_served(clock: FakeClock) -> None:
    """Every link that the sandbox was built with redirects."""
    sandbox = build(clock)
    async with sandbox.http:
        for link in LINKS:
            path = "/" if link.key == "_root" else f"/{link.key}"
            assert (await sandbox.click(path, host=link.domain)).headers["location"] == link.url
