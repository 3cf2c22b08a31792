"""Opens as they come, and test devices, in a real browser over two replicas on one PostgreSQL."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from tests.pages.demo import log_in, watched
from tests.postgres import Postgres
from tests.replicas.processes import (
    CONFIG,
    HOME,
    LINKS,
    SAFARI,
    Replica,
    World,
    two_replicas,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")  # the browser's

SERVER_KEY = "server-key-of-acme"
DOMAIN = "acme.localhost"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[World]:
    folder = Path(tmp_path_factory.mktemp("live"))
    config = CONFIG.replace("acme.link", DOMAIN).replace(
        'leads = "client"', 'leads = "client"\nserver_keys_env = "ACME_SERVER_KEYS"'
    )
    config += '\n[[apps.acme.routes]]\npattern = "https://acme.com/product/:id"\nscreen = "product"\n'
    links = LINKS.replace("acme.link", DOMAIN)
    env = {"ACME_SERVER_KEYS": SERVER_KEY}
    with two_replicas(folder, postgres.database(), config=config, links=links, **env) as found:
        yield found


@asynccontextmanager
async def console(browser: Browser, on: Replica) -> AsyncIterator[Page]:
    """Log in to the console of a replica."""
    async with watched(browser, on) as page:
        await log_in(page, SERVER_KEY)
        await expect(page).to_have_url(f"{on.base}/console/opens")
        yield page


def launch(on: Replica, install: str, **fields: Any) -> dict[str, Any]:
    """Report a launch without a link, as a phone at home."""
    body = {"installId": install, "budgetMs": 10_000, "platform": "ios", **fields}
    reply = on.http.post("/v1/opens", json=body, headers={"X-Forwarded-For": HOME})
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = {**reply.json(), "ignored": reply.headers.get("Firstopen-Ignored")}
    return answer


async def test_an_open_of_another_replica_arrives_within_a_second(world: World, browser: Browser) -> None:
    async with console(browser, world.here) as page:
        await page.get_by_role("link", name="Live").click()
        await expect(page.locator("#state")).to_contain_text("Up to date")
        opened = world.there.open(deepLink=f"https://{DOMAIN}/fb-promo", installId="install-of-live-1")
        answered_at = time.monotonic()
        row = page.locator(f"#open-{opened['openId']}")
        await expect(row).to_contain_text("product", timeout=5000)
        assert time.monotonic() - answered_at < 1
        await expect(row).to_contain_text("a route matched")
        newer = world.there.open(deepLink=f"https://{DOMAIN}/invite", installId="install-of-live-2")
        await expect(page.locator("#others tr").first).to_have_id(f"open-{newer['openId']}")
        await page.get_by_label("Outcome").select_option("matched")
        await page.get_by_role("button", name="Filter").click()
        await expect(page.locator("#state")).to_contain_text("Up to date")
        world.there.open(deepLink=f"https://{DOMAIN}/invite", installId="install-of-live-3")
        last = world.there.open(deepLink=f"https://{DOMAIN}/fb-promo", installId="install-of-live-4")
        await expect(page.locator(f"#open-{last['openId']}")).to_be_visible()
        await expect(page.locator("#others")).not_to_contain_text("no route matched")


async def test_a_phone_is_tested_forgotten_and_tested_again(world: World, browser: Browser) -> None:
    """Click as a phone, first open, match, forget: the next launch is a first one, and has the same click."""
    async with console(browser, world.here) as page:
        await page.get_by_role("link", name="Test devices").click()
        await page.get_by_role("button", name="Start a session").click()
        name = await page.locator("h1 .name").inner_text()
        await page.get_by_label("Short link").fill(f"http://{DOMAIN}:{world.dub.port}/fb-promo")
        await page.get_by_role("button", name="Show its code").click()
        assert await page.locator("svg.qr").count() == 2
        link = await page.get_by_role("link", name=f"{DOMAIN}:{world.dub.port}").get_attribute("href")
        assert link is not None
        phone = await browser.new_context(user_agent=SAFARI, extra_http_headers={"X-Real-IP": HOME})
        await (await phone.new_page()).goto(link)
        await phone.close()

        first = launch(world.there, "install-of-a-phone", testDevice=name.upper())
        assert first["match"]["type"] == "ip"
        assert first["ignored"] is None
        row = page.locator("#tested tr")
        await expect(row).to_have_count(1)
        await expect(row).to_contain_text("IP address")
        await expect(row).to_contain_text(f"test {name}")
        assert launch(world.there, "install-of-a-phone", testDevice=name)["repeat"]
        await expect(row).to_contain_text("again at")
        assert launch(world.there, "install-of-another")["match"]["type"] == "none"

        await page.get_by_role("button", name="Forget and start over").click()
        await expect(page.get_by_role("status")).to_contain_text("The next launch is a first launch")
        await expect(row).to_have_count(0)
        again = launch(world.there, "install-of-a-phone", testDevice=name)
        while again["repeat"]:  # until this replica has read the erasure
            again = launch(world.there, "install-of-a-phone", testDevice=name)
        assert again["openId"] != first["openId"]
        assert again["clickId"] == first["clickId"]
        assert again["match"]["type"] == "ip"
        await expect(page.locator(f"#open-{again['openId']}")).to_be_visible()
        assert world.here.metric('firstopen_opens_total{app="acme",match="ip"') == 0
        assert world.there.metric('firstopen_opens_total{app="acme",match="ip"') == 0

        await page.get_by_role("button", name="Forget and end the session").click()
        await expect(page.get_by_text("None.")).to_be_visible()
