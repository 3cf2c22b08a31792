"""Write docs/images: a screenshot of each page, light and dark. ``python -m tests.pages.screenshots``."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from playwright.async_api import Page

from tests.browser import chromium
from tests.docs.pages import ROOT
from tests.pages.demo import Demo, demo_running, watched

FOLDER = ROOT / "docs" / "images"
SIZE = {"width": 1000, "height": 560}
BYTES_MAX = 100_000


async def _open(page: Page) -> None:
    await page.goto("/console/opens?outcome=unlisted")
    await page.locator("#opens a").first.click()


async def _try(page: Page) -> None:
    await page.goto("/console/try")
    await page.get_by_label("Destination URL").fill("https://acme.com/c/shoes/")
    await page.keyboard.press("Enter")
    await page.get_by_role("status").wait_for()


async def _live(page: Page) -> None:
    await page.goto("/console/live")
    await page.get_by_text("Up to date").wait_for()


async def _device(page: Page) -> None:
    await page.goto("/console/devices")
    await page.get_by_role("button", name="Start a session").click()
    await page.get_by_label("Short link").fill("http://acme.localhost:8001/fb-promo")
    await page.get_by_role("button", name="Show its code").click()
    await page.get_by_text("Up to date").wait_for()


def _at(path: str) -> Callable[[Page], Awaitable[object]]:
    return lambda page: page.goto(path)


PICTURES: dict[str, Callable[[Page], Awaitable[object]]] = {
    "front": _at("/"),
    "schema": _at("/schema#reportOpen"),
    "console-login": _at("/console/login"),
    "console-opens": _at("/console/opens"),
    "console-open": _open,
    "console-try": _try,
    "console-live": _live,
    "console-device": _device,
    "console-matching": _at("/console/health#matching"),
    "console-health": _at("/console/health#dead"),
}


async def take(demo: Demo, folder: Path) -> None:
    """Write a picture of each page, light and dark."""
    async with chromium() as browser:
        for scheme in ("light", "dark"):
            for name, show in PICTURES.items():
                signed_in = name != "console-login"
                async with watched(
                    browser, demo, logged_in=signed_in, viewport=SIZE, color_scheme=scheme
                ) as page:
                    await show(page)
                    await page.evaluate("document.activeElement?.blur()")
                    await page.screenshot(path=folder / f"{name}-{scheme}.png")


def main() -> None:
    """Take the pictures of a demo that runs for them only."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, demo_running(Path(folder)) as demo:
        asyncio.run(take(demo, FOLDER))


if __name__ == "__main__":
    main()
