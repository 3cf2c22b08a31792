"""The console in a real browser: with and without scripts, by keyboard, on a phone, light and dark.

Each page is watched: no request to another host, no script error, nothing that its Content-Security-Policy
blocks (see ``watched``).
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from tests.pages.demo import Demo, demo_running, log_in, watched

pytestmark = pytest.mark.asyncio(loop_scope="session")  # the browser's

PAGES = ("/", "/schema", "/console/opens", "/console/try", "/console/health")
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with demo_running(Path(tmp_path_factory.mktemp("demo"))) as demo:
        yield demo


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
async def test_log_in_and_read_why_an_open_landed_on_home(
    demo: Demo, browser: Browser, *, scripts: bool
) -> None:
    """From the login page to the explanation of an open, also without JavaScript."""
    async with watched(browser, demo, logged_in=False, java_script_enabled=scripts) as page:
        await log_in(page, "dub_pk_acme")
        await expect(page.get_by_role("alert")).to_have_text(
            "This is a publishable key. The console needs a server key."
        )
        await log_in(page)
        await expect(page).to_have_url(f"{demo.base}/console/opens")
        row = page.get_by_role("row", name="acme.localhost/press")
        await expect(row).to_contain_text("no route matched")
        await row.get_by_role("link").click()
        await expect(page.locator(".said")).to_contain_text(
            "Landed on home because no pattern covers https://acme.com/press/2026?ref=…&email=…:"
            " the nearest is https://acme.com/product/:id, which has /product where the URL has /press."
        )
        await expect(page.get_by_role("row", name="deep link resolved")).to_be_visible()
        await page.get_by_role("button", name="Log out").click()
        await page.goto("/console/opens")
        await expect(page).to_have_url(f"{demo.base}/console/login?next=/console/opens")


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
async def test_try_an_open_and_a_route(demo: Demo, browser: Browser, *, scripts: bool) -> None:
    async with watched(browser, demo, java_script_enabled=scripts) as page:
        await page.goto("/console")
        await page.get_by_role("link", name="Try").click()
        await page.get_by_label("Destination URL").fill("acme.com/category/shoes/")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("status")).to_contain_text(
            "https://acme.com/category/:name is the first pattern that covers"
        )
        taken = page.get_by_role("row", name="https://acme.com/category/:name")
        await expect(taken).to_contain_text("matches, but for the slash at the end")
        other = page.get_by_role("row", name="https://acme.com/product/:id")
        await expect(other).to_contain_text("no: it has /product where the URL has /category")
        await page.get_by_label("installId").fill("install-of-a-dry-run")
        await page.get_by_label("deepLink").fill(f"{demo.base.replace('127.0.0.1', 'acme.localhost')}/x")
        await page.get_by_role("button", name="Try it").click()
        answer = page.get_by_role("region", name="The answer")
        await expect(answer).to_contain_text("Landed on home")
        await expect(page.get_by_label("installId")).to_have_value("install-of-a-dry-run")


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
async def test_a_dead_letter_is_retried_or_discarded(demo: Demo, browser: Browser, *, scripts: bool) -> None:
    name = f"lead-{scripts}"
    await demo._bury(name)
    await demo._bury(f"{name}-two")
    async with watched(browser, demo, java_script_enabled=scripts) as page:
        await page.goto("/console")
        await page.get_by_role("link", name="Health").click()
        await page.get_by_role("button", name=f"Retry lead {name}", exact=True).click()
        await expect(page.get_by_role("status")).to_contain_text("queued again")
        await expect(page.get_by_role("button", name=f"Retry lead {name}", exact=True)).to_have_count(0)
        await page.get_by_label(f"Why lead {name}-two is discarded").fill("a click of a test")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("status")).to_contain_text("It is discarded")
        await expect(page.get_by_role("button", name=f"Retry lead {name}-two")).to_have_count(0)


async def test_every_page_is_usable_by_keyboard(demo: Demo, browser: Browser) -> None:
    """The first tab stop skips the navigation; every later one is visible and has an outline."""
    async with watched(browser, demo) as page:
        for path in PAGES:
            await page.goto(path)
            await page.keyboard.press("Tab")
            await expect(page.locator(":focus")).to_have_text("Skip to the content")
            for _ in range(6):
                await page.keyboard.press("Tab")
                focus = page.locator(":focus")
                if await focus.count():
                    await expect(focus).to_be_in_viewport()
                    assert await focus.evaluate("each => getComputedStyle(each).outlineStyle") == "solid"


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_page_fits_a_phone(demo: Demo, browser: Browser, scheme: str) -> None:
    """Nothing is wider than the screen (tables scroll in themselves), and text has contrast."""
    async with watched(browser, demo, viewport=PHONE, color_scheme=scheme) as page:
        await page.goto("/console/opens")
        opened = await page.locator("#opens a").first.get_attribute("href")
        for path in (*PAGES, opened or ""):
            await page.goto(path)
            await _check_readable(page, scheme)


async def _check_readable(page: Page, scheme: str) -> None:
    width = await page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["width"], page.url
    ground = await page.evaluate(_BRIGHTNESS, "backgroundColor")
    ink = await page.evaluate(_BRIGHTNESS, "color")
    assert (ground > ink + 150) if scheme == "light" else (ink > ground + 150), page.url


_BRIGHTNESS = """name => {
  const parts = getComputedStyle(document.body)[name].match(/\\d+/g).slice(0, 3).map(Number);
  return parts.reduce((sum, part) => sum + part, 0) / 3;
}"""


async def test_the_reference_needs_nothing_from_elsewhere(demo: Demo, browser: Browser) -> None:
    """/schema is complete without internet and without scripts."""
    async with watched(browser, demo, java_script_enabled=False) as page:
        await page.goto("/")
        await page.get_by_role("link", name="API reference").click()
        await expect(page.get_by_role("heading", name="POST /v1/opens", exact=True)).to_be_visible()
        field = page.locator("#reportOpen").get_by_role("row", name="deepLink")
        await expect(field.first).to_contain_text("At most 32000 characters")
        assert await page.locator("script").count() == 0


async def test_a_link_from_another_site_finds_the_session(demo: Demo, browser: Browser) -> None:
    """A strict cookie is not sent with such a link; a page of ours asks again, and then it is."""
    context = await browser.new_context()
    await context.add_cookies([demo.session])
    page = await context.new_page()
    elsewhere = demo.base.replace("127.0.0.1", "localhost")
    await page.route("**/elsewhere", lambda route: route.fulfill(body=_link(demo), content_type="text/html"))
    await page.goto(f"{elsewhere}/elsewhere")
    await page.get_by_role("link").click()
    await expect(page.get_by_role("heading", name="Health")).to_be_visible()
    await context.close()


def _link(demo: Demo) -> str:
    return f'<a href="{demo.base}/console/health">a link in a chat</a>'
