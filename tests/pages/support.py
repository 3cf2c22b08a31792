"""A browser without a screen: forms and cookies of the console, over HTTP."""

import re
from collections.abc import Mapping
from html import unescape

import httpx

from tests.support import SERVER_KEY, Service

SAME_ORIGIN = {"Origin": "http://firstopen", "Sec-Fetch-Site": "same-origin"}
GLOBEX_SERVER_KEY = "server-key-of-globex"

_TOKEN = re.compile(r'name="token" value="([^"]+)"')
_TAG = re.compile(r"<[^>]+>")


def token_in(page: httpx.Response) -> str:
    """Return the token of a page's forms."""
    found = _TOKEN.search(page.text)
    assert found, page.text
    return found[1]


def text_of(page: httpx.Response) -> str:
    """Return a page's text, without tags, in one line."""
    return " ".join(unescape(_TAG.sub(" ", page.text)).split())


async def submit(
    browser: Service,
    path: str,
    token: str,
    fields: Mapping[str, str] | None = None,
    headers: Mapping[str, str] = SAME_ORIGIN,
) -> httpx.Response:
    """Send a form as a browser would."""
    return await browser.post(path, data={"token": token, **(fields or {})}, headers=headers)


async def log_in(browser: Service, key: str = SERVER_KEY, to: str = "") -> httpx.Response:
    """Open the login page, and send its form."""
    page = await browser.get("/console/login")
    assert page.status_code == 200, page.text
    return await submit(browser, "/console/login", token_in(page), {"key": key, "next": to})
