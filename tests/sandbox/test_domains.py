"""Domains: what a workspace sets up for one in Dub's dashboard, and pages in place of destinations."""

import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from service.sandbox import SandboxDomain
from service.sandbox.demo import demo_domain, demo_links
from tests.sandbox.support import DOMAIN, IPHONE, MAC, PIXEL, FakeClock, Sandbox, build, error_of

AASA = "/.well-known/apple-app-site-association"
ASSET_LINKS = "/.well-known/assetlinks.json"
DEMO = "acme.localhost"


@pytest.fixture
def demo(clock: FakeClock) -> Sandbox:
    return build(clock, links=demo_links(), domains=[demo_domain()])


@pytest.mark.parametrize("path", [AASA, ASSET_LINKS])
async def test_well_known_files(sandbox: Sandbox, path: str) -> None:
    """A domain serves its files as they are set up, and none before that.

    dub-api.md, "Other routes that Dub's packages call".
    """
    assert (await sandbox.click(path)).status_code == 404
    aasa, links = {"applinks": {"details": [{"appIDs": ["T.com.acme"]}]}}, [{"relation": ["x"]}]
    await sandbox.set_up(appleAppSiteAssociation=aasa, assetLinks=links)
    response = await sandbox.click(path)
    assert response.headers["content-type"] == "application/json"
    assert response.json() == (aasa if path == AASA else links)
    assert await sandbox.events() == []


async def test_well_known_files_that_nobody_wrote(sandbox: Sandbox) -> None:
    """With `deepView` alone both files exist, and name no app."""
    await sandbox.set_up(deepView=True)
    assert (await sandbox.click(AASA)).json() == {"applinks": {"details": []}}
    assert (await sandbox.click(ASSET_LINKS)).json() == []


async def test_set_up_and_read_back(sandbox: Sandbox) -> None:
    """A domain is set up anew as a whole, counts at once, and is listed as it is."""
    await sandbox.set_up("WWW.Acme.link", deepView=True)
    assert (await sandbox.click(ua=IPHONE)).headers["location"].startswith("/sandbox/deeplink/")
    shown = (await sandbox.http.get("/sandbox/domains")).json()
    nothing = {"localDestinations": False, "appleAppSiteAssociation": None, "assetLinks": None}
    assert shown == [
        {"domain": DOMAIN, "deepView": True, **nothing},
        {"domain": "other.link", "deepView": False, **nothing},
    ]
    await sandbox.set_up()
    assert not (await sandbox.click(ua=IPHONE)).headers["location"].startswith("/sandbox/")


@pytest.mark.parametrize("body", [{"deepview": True}, {"deepView": 1}, {"assetLinks": {}}, []])
async def test_mistakes(sandbox: Sandbox, body: Any) -> None:
    """A wrong or unknown field is a 422 and changes nothing."""
    assert error_of(await sandbox.http.put(f"/sandbox/domains/{DOMAIN}", json=body))[0] == 422
    assert not (await sandbox.http.get("/sandbox/domains")).json()[0]["deepView"]


async def test_a_file_keeps_domains(tmp_path: Path, clock: FakeClock) -> None:
    """How a domain was set up is kept with the data; what the next run is given counts more."""
    data = tmp_path / "dub.sqlite"
    first = build(clock, data=data)
    async with first.http:
        await first.set_up(deepView=True)
        await first.set_up("empty.link", deepView=True)
    second = build(clock, data=data, domains=[SandboxDomain(domain="empty.link")])
    async with second.http:
        shown = {
            each["domain"]: each["deepView"] for each in (await second.http.get("/sandbox/domains")).json()
        }
    assert shown == {DOMAIN: True, "other.link": False, "empty.link": False}


async def test_a_demo_link_stays_on_this_machine(demo: Sandbox) -> None:
    """A browser is shown where Dub would redirect; events and opens have the real destination."""
    async with demo.http:
        response = await demo.click("/summer?ref=<ig>", host=f"{DEMO}:8001", ua=MAC)
        assert response.status_code == 302
        assert response.headers["location"].startswith(
            "/sandbox/destination?url=https://acme.com/category/shoes"
        )
        page = await demo.click(response.headers["location"], host=f"{DEMO}:8001", ua=MAC)
        destination = "https://acme.com/category/shoes?sort=new&size=42&ref=%3Cig%3E"
        assert shown_on(page.text, "destination") == destination
        (event,) = await demo.events()
        assert event["click"]["url"] == destination
        opened = await demo.open(f"http://{DEMO}:8001/fb-promo")
        assert opened["link"]["url"] == "https://acme.com/product/123"


@pytest.mark.parametrize("link", demo_links(), ids=lambda link: link.key)
@pytest.mark.parametrize("ua", [IPHONE, PIXEL, MAC])
@pytest.mark.parametrize("query", ["", "?skip_deeplink_preview=1"])
async def test_no_demo_link_leaves(demo: Sandbox, link: Any, ua: str, query: str) -> None:
    """Whoever follows a demo link, however, ends on a page of the sandbox."""
    async with demo.http:
        path = f"/{link.key}{query}"
        for _ in range(2):
            response = await demo.click(path, host=f"{DEMO}:8001", ua=ua)
            path = response.headers.get("location", path)
            assert path.startswith("/")
        assert response.status_code == 200


async def test_an_expired_demo_link_stays_too(demo: Sandbox) -> None:
    """Where an expired link leads instead is a destination like any other."""
    async with demo.http:
        link = await demo.link_info(domain=DEMO, key="press")
        late = {"expiresAt": "2026-01-01T00:00:00Z", "expiredUrl": "https://acme.com/late"}
        await demo.change_link(link["id"], **late)
        response = await demo.click("/press", host=DEMO)
    assert response.headers["location"] == "/sandbox/destination?url=https://acme.com/late"


async def test_the_stores_page_shows_the_install_referrer(demo: Sandbox) -> None:
    """In place of the Play Store one reads what an app would be handed there, ready to be reported."""
    async with demo.http:
        response = await demo.click("/fb-promo?skip_deeplink_preview=1", host=f"{DEMO}:8001", ua=PIXEL)
        page = await demo.click(response.headers["location"], host=f"{DEMO}:8001", ua=PIXEL)
    assert shown_on(page.text, "install-referrer") == (
        "deepLink=http%3A%2F%2Facme.localhost%3A8001%2Ffb-promo%3Fskip_deeplink_preview%3D1"
    )


@pytest.mark.parametrize(
    "url", ['"><script>alert(1)</script>', "javascript:alert(1)", "$url", "http://[", ""]
)
async def test_the_destination_page_is_only_text(sandbox: Sandbox, url: str) -> None:
    """Whatever a destination is, the page has no link to it and runs nothing of it."""
    page = await sandbox.http.get("/sandbox/destination", params={"url": url}, headers={"host": DOMAIN})
    assert page.status_code == 200
    assert shown_on(page.text, "destination") == url
    assert "<script" not in page.text
    assert "href" not in page.text


def shown_on(page: str, element: str) -> str:
    """Return an element's text, as a browser shows it."""
    found = re.search(rf'id="{element}">([^<]*)<', page)
    assert found is not None, page
    return unescape(found[1])
