"""The page between a short link and the store, on domains that are set up for deep links.

Every test is about dub-api.md, "What the web side of a link does": on such a domain a phone of either system
is redirected to a page of Dub's, whose button copies the full short link and goes to it again with
`skip_deeplink_preview=1`; that leads to the store, and to the Play Store with a referrer.
"""

import re
from collections.abc import AsyncIterator
from html import unescape
from urllib.parse import parse_qs, quote, unquote, urlsplit

import httpx
import pytest

from service.sandbox import SandboxDomain, SandboxLink
from tests.sandbox.support import (
    APP_STORE,
    DOMAIN,
    IPHONE,
    LINKS,
    MAC,
    PIXEL,
    PLAY_STORE,
    FakeClock,
    Sandbox,
    build,
)

PHONES = pytest.mark.parametrize("ua", [IPHONE, IPHONE.replace("iPhone;", "iPad;"), PIXEL])


@pytest.fixture
async def sandbox(clock: FakeClock) -> AsyncIterator[Sandbox]:
    built = build(clock, domains=[SandboxDomain(domain=DOMAIN, deep_view=True)])
    async with built.http:
        yield built


def attribute(page: httpx.Response, element: str, name: str) -> str:
    """Return an attribute of an element of a page, as a browser would read it."""
    found = re.search(rf'id="{element}"[^>]* {name}="([^"]*)"', page.text)
    assert found is not None, page.text
    return unescape(found[1])


async def page_of(sandbox: Sandbox, path: str, ua: str) -> httpx.Response:
    """Follow a link to the page, which must be there."""
    redirect = await sandbox.click(path, ua=ua)
    page = await sandbox.click(redirect.headers["location"], ua=ua)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    return page


def read_back(location: str) -> str:
    """Return what the Install Referrer API hands an app that was installed from this page of the store."""
    (referrer,) = parse_qs(urlsplit(location).query)["referrer"]
    return referrer


@PHONES
async def test_a_phone_is_redirected_to_the_page(sandbox: Sandbox, ua: str) -> None:
    """A phone of either system gets the page, its query with it; the click is counted there and then."""
    response = await sandbox.click("/fb-promo?ref=ig", ua=ua)
    assert (response.status_code, response.headers["location"]) == (
        302,
        "/sandbox/deeplink/fb-promo?ref=ig",
    )
    (event,) = await sandbox.events()
    assert f"={event['click']['id']};" in response.headers["set-cookie"]


@PHONES
async def test_the_button_copies_the_link_and_goes_on(sandbox: Sandbox, ua: str) -> None:
    """It copies the short link in full, and goes to the same link with `skip_deeplink_preview=1`."""
    page = await page_of(sandbox, "/fb-promo?ref=ig&pw=x", ua)
    assert attribute(page, "short-link", "value") == "https://acme.link/fb-promo?ref=ig&pw=x"
    onward = attribute(page, "get-app", "data-next")
    assert onward == "https://acme.link/fb-promo?ref=ig&pw=x&skip_deeplink_preview=1"


async def test_the_button_on_android_sends_an_intent(sandbox: Sandbox) -> None:
    """On Android the button opens an `intent://` URL; without an app for it, the browser goes on itself."""
    page = await page_of(sandbox, "/fb-promo?ref=ig", PIXEL)
    intent = attribute(page, "get-app", "data-intent")
    link, _, options = intent.partition("#Intent;")
    assert link == "intent://acme.link/fb-promo?ref=ig&skip_deeplink_preview=1"
    fields = dict(option.split("=", 1) for option in options.removesuffix(";end").split(";"))
    assert unquote(fields.pop("S.browser_fallback_url")) == attribute(page, "get-app", "data-next")
    assert fields == {"scheme": "https", "package": "com.acme"}
    assert "1500" in page.text
    on_ios = await page_of(sandbox, "/fb-promo", IPHONE)
    assert attribute(on_ios, "get-app", "data-intent") == ""


@pytest.mark.parametrize(("ua", "store"), [(IPHONE, APP_STORE), (PIXEL, PLAY_STORE)])
async def test_the_way_on_leads_to_the_store(sandbox: Sandbox, ua: str, store: str) -> None:
    """The second request of the same person is the same click, and ends at the store."""
    await sandbox.click("/fb-promo", ua=ua)
    response = await sandbox.click("/fb-promo?skip_deeplink_preview=1", ua=ua)
    assert response.status_code == 302
    assert response.headers["location"].startswith(store)
    assert len(await sandbox.events()) == 1


async def test_the_install_referrer(sandbox: Sandbox) -> None:
    """Play gets `deepLink%3D<url-encoded short link>`; the link in it has `skip_deeplink_preview=1`."""
    response = await sandbox.click("/fb-promo?skip_deeplink_preview=1", ua=PIXEL)
    location = response.headers["location"]
    assert (
        "referrer=deepLink%3Dhttps%253A%252F%252Facme.link%252Ffb-promo%253Fskip_deeplink_preview" in location
    )
    assert read_back(location) == "deepLink=https%3A%2F%2Facme.link%2Ffb-promo%3Fskip_deeplink_preview%3D1"


async def test_a_referrer_that_was_there_comes_first(sandbox: Sandbox) -> None:
    """`utm_source=x` of the store's URL stays before the deep link, as dub-api.md shows it."""
    await sandbox.change_link(android=f"{PLAY_STORE}&referrer=utm_source%3Dx")
    response = await sandbox.click("/fb-promo?skip_deeplink_preview=1", ua=PIXEL)
    assert read_back(response.headers["location"]) == (
        "utm_source=x&deepLink=https%3A%2F%2Facme.link%2Ffb-promo%3Fskip_deeplink_preview%3D1"
    )


async def test_the_referrer_has_the_clicked_query(sandbox: Sandbox) -> None:
    """The short link in the referrer is the one that was clicked; the preview parameter is there once."""
    await sandbox.click("/fb-promo?skip_deeplink_preview=1&ref=ig", ua=PIXEL)
    response = await sandbox.click("/fb-promo?skip_deeplink_preview=1&ref=ig", ua=PIXEL)
    link = unquote(read_back(response.headers["location"]).removeprefix("deepLink="))
    assert link == "https://acme.link/fb-promo?ref=ig&skip_deeplink_preview=1"


@pytest.mark.parametrize(
    ("path", "ua", "location"),
    [
        ("/fb-promo", MAC, "https://acme.com/product/123?ref=mail&size=42"),
        ("/plain", IPHONE, "https://acme.com/plain"),
        ("/fb-promo", IPHONE + " LinkedInBot/1.0", APP_STORE),
    ],
    ids=["desktop", "no store", "bot"],
)
async def test_who_gets_no_page(sandbox: Sandbox, path: str, ua: str, location: str) -> None:
    """Only phones on their way to a store get the page."""
    assert (await sandbox.click(path, ua=ua)).headers["location"] == location


async def test_the_page_cannot_be_broken_out_of(sandbox: Sandbox) -> None:
    """Whatever a query holds stays inside the page's attributes."""
    page = await page_of(sandbox, '/fb-promo?x="><script>alert(1)</script>&$link', PIXEL)
    assert "<script>alert" not in page.text
    assert "alert" in attribute(page, "short-link", "value")


@pytest.mark.parametrize("key", ["_root", "été/soldes", "a;b#c"])
async def test_keys_of_every_kind(sandbox: Sandbox, key: str) -> None:
    """The root link, slashes, other alphabets and delimiters survive the way over the page."""
    if key != "_root":
        await sandbox.post("/links", {"domain": DOMAIN, "key": key, "url": "https://acme.com/"})
    link = await sandbox.link_info(domain=DOMAIN, key=key)
    await sandbox.change_link(link["id"], ios=APP_STORE)
    path = "/" if key == "_root" else f"/{quote(key)}"
    onward = attribute(await page_of(sandbox, path, IPHONE), "get-app", "data-next")
    response = await sandbox.click(onward.removeprefix("https://acme.link"), ua=IPHONE)
    assert response.headers["location"] == APP_STORE


async def test_a_page_of_no_link(sandbox: Sandbox) -> None:
    """The page of a link that does not exist is a 404."""
    assert (await sandbox.click("/sandbox/deeplink/nope", ua=IPHONE)).status_code == 404


async def test_a_link_on_this_machine_keeps_its_port(clock: FakeClock) -> None:
    """A `.localhost` link is copied, and handed through the store, as a browser here reaches it."""
    links = [SandboxLink(domain="my.localhost", key="k", url="https://acme.com/", android=PLAY_STORE)]
    sandbox = build(clock, links=links, domains=[SandboxDomain(domain="my.localhost", deep_view=True)])
    async with sandbox.http:
        page = await sandbox.click("/sandbox/deeplink/k", host="my.localhost:8001", ua=PIXEL)
        assert attribute(page, "short-link", "value") == "http://my.localhost:8001/k"
        response = await sandbox.click("/k?skip_deeplink_preview=1", host="my.localhost:8001", ua=PIXEL)
    assert unquote(read_back(response.headers["location"])) == (
        "deepLink=http://my.localhost:8001/k?skip_deeplink_preview=1"
    )


async def test_the_domains_other_links_are_as_before(sandbox: Sandbox) -> None:
    """Every link of the list still redirects a desktop browser to its destination."""
    for link in LINKS:
        path = "/" if link.key == "_root" else f"/{link.key}"
        assert (await sandbox.click(path, host=link.domain)).headers["location"] == link.url
