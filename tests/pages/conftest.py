"""One browser for all tests of pages in a process; each opens pages in a session (context) of its own."""

from collections.abc import AsyncIterator

import pytest_asyncio
from playwright.async_api import Browser

from tests.browser import chromium


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Start it once, in the event loop of the tests that use it: mark them ``loop_scope="session"``."""
    async with chromium() as browser:
        yield browser
