"""The demo as a real process, with opens and dead letters, for the tests and screenshots of pages."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
from playwright.async_api import Browser, Page, expect

from service.config.demo import PUBLISHABLE_KEY, SERVER_KEY
from service.domain.calibration import ShadowMatch
from service.domain.outbox_entries import Entry
from service.storage.calibration import CalibrationStore
from service.storage.database import Database
from service.storage.encryption import Cipher
from service.storage.engines.sqlite import SqliteEngine
from service.storage.outbox import SqlOutboxStore
from service.telemetry import configure_logs
from tests.pages.support import token_in
from tests.process import free_ports, started
from tests.replicas.processes import Replica

SECRET = "the demo's secret known to everybody"
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15"
# A short link, and which install opens it: they land on a screen, on no screen, on one for newer builds.
OPENS = (("fb-promo", "2.4"), ("summer", "2.4"), ("press", "2.4"), ("join-anna", "2.1"), (None, "2.4"))
SHADOW_MATCHES = [
    *[ShadowMatch("agreed", 99, agrees=True)] * 412,
    *[ShadowMatch("agreed", 96, agrees=True)] * 214,
    *[ShadowMatch("other_click", 96)] * 6,
    *[ShadowMatch("agreed", 92, agrees=True)] * 98,
    *[ShadowMatch("other_click", 92)] * 8,
    *[ShadowMatch("refused", 74, agrees=True)] * 41,
    *[ShadowMatch("refused", 74)] * 17,
    *[ShadowMatch("refused", 43, agrees=True)] * 22,
    *[ShadowMatch("refused", 43)] * 31,
    *[ShadowMatch("none")] * 187,
]


class Demo:
    """The demo at ``base``, for a browser and for an app that reports opens."""

    def __init__(self, port: int, folder: Path) -> None:
        self.base = f"http://127.0.0.1:{port}"
        self._dub = f"http://acme.localhost:{port + 1}"
        self._folder = folder

    def open(self, link: str | None, install_id: str, **fields: Any) -> dict[str, Any]:
        """Report an open through a demo link, and return the answer."""
        deep_link = None if link is None else f"{self._dub}/{link}?ref=ig&email=anna@example.com"
        answer = httpx.post(
            f"{self.base}/v1/opens",
            json={"deepLink": deep_link, "installId": install_id, **fields},
            headers={"Authorization": f"Bearer {PUBLISHABLE_KEY}", "User-Agent": IPHONE},
            timeout=20,
        )
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    @cached_property
    def session(self) -> Any:
        """Log in once, because attempts are limited, and return the cookie for browsers."""
        with httpx.Client(base_url=self.base, timeout=20) as http:
            token = token_in(http.get("/console/login"))
            answer = http.post("/console/login", data={"token": token, "key": SERVER_KEY})
            assert answer.status_code == 303, answer.text
            value = http.cookies["firstopen_console"]
        return {
            "name": "firstopen_console",
            "value": value,
            "url": f"{self.base}/console/",
            "httpOnly": True,
            "sameSite": "Strict",
        }

    def bury(self, name: str) -> None:
        """Put a dead letter into the outbox, beside the running service."""
        asyncio.run(self._bury(name))

    def compare(self) -> None:
        """Count shadow matches, as of an app whose installs are matched for some weeks."""
        asyncio.run(self._compare())

    async def _compare(self) -> None:
        async with self._database() as database:
            CalibrationStore(database, time.time).add("acme", SHADOW_MATCHES)

    async def _bury(self, name: str) -> None:
        now = time.time()
        entry = Entry(
            id=name,
            app="acme",
            kind="lead",
            ordering_key=name,
            created=now - 3600,
            next_try=now,
            payload=json.dumps({"kind": "lead", "body": {"customerExternalId": name}}).encode(),
        )
        async with self._database() as database:
            entries = SqlOutboxStore(database, Cipher([SECRET]), time.time)
            await entries.add(entry, leased=False)
            entries.finish(entry, "dead", "DubRefused: 404 not_found: Click not found")

    @asynccontextmanager
    async def _database(self) -> AsyncIterator[Database]:
        """Open the database beside the running service."""
        database = Database(SqliteEngine(self._folder, exclusive=False), configure_logs("critical"))
        await database.open()
        try:
            yield database
        finally:
            await database.close()


@contextmanager
def demo_running(folder: Path) -> Iterator[Demo]:
    """Run the demo on free ports, with some opens, dead letters and shadow matches."""
    port = free_ports(2)
    env = {"FIRSTOPEN_PORT": str(port), "FIRSTOPEN_DATA_DIR": str(folder / "data")}
    with started("serve", env=env, cwd=folder) as process:
        process.ready(port)
        demo = Demo(port, folder / "data")
        for number, (link, version) in enumerate(OPENS):
            demo.open(link, f"install-{number:04}", appVersion=version, platform="ios")
        for name in ("lead-of-a-test", "lead-of-anna"):
            demo.bury(name)
        demo.compare()
        yield demo


@asynccontextmanager
async def watched(
    browser: Browser, site: Demo | Replica, *, logged_in: bool = True, **options: Any
) -> AsyncIterator[Page]:
    """Open a page of a new browser session, and fail for what no page may do.

    That is a request to another host, a script error, or anything that the Content-Security-Policy blocks.
    """
    base = site.base
    context = await browser.new_context(base_url=base, **options)
    if logged_in and isinstance(site, Demo):
        await context.add_cookies([site.session])
    page = await context.new_page()
    wrong: list[str] = []
    page.on("request", lambda request: None if request.url.startswith(base) else wrong.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if _is_wrong(said.type, said.text) else None)
    try:
        yield page
    finally:
        await context.close()
    assert wrong == []


async def log_in(page: Page, key: str = SERVER_KEY) -> None:
    """Log in with the keyboard, as a person does: the field has the focus."""
    await page.goto("/console")
    await expect(page.get_by_label("Server key")).to_be_focused()
    await page.keyboard.type(key)
    async with page.expect_navigation():
        await page.keyboard.press("Enter")


def _is_wrong(kind: str, text: str) -> bool:
    """Return True for a message of the browser that is not a status which a test asks for."""
    return kind in ("error", "warning") and "Failed to load resource" not in text
