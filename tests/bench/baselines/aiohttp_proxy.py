"""A bare ASGI application over one ``aiohttp.ClientSession``: the strong baseline.

It posts each body on, under the caller's User-Agent, and sends the answer's bytes back undecoded. It
keeps no cookies; its pool of 100 connections is aiohttp's own default.
"""

import aiohttp
from yarl import URL

from tests.bench.baselines.echo import Echo, Scope


class AiohttpProxy(Echo):
    """The proxy."""

    def __init__(self, upstream: str) -> None:
        self._url = URL(upstream + "/track/open")
        self._session: aiohttp.ClientSession

    async def born(self) -> None:
        """Open the one session."""
        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())

    async def gone(self) -> None:
        """Close it."""
        await self._session.close()

    async def answer(self, scope: Scope, body: bytes) -> tuple[int, bytes]:
        """Ask upstream."""
        headers = {"Content-Type": "application/json"}
        for name, value in scope["headers"]:
            if name == b"user-agent":
                headers["User-Agent"] = value.decode("latin-1")
        async with self._session.post(self._url, data=body, headers=headers) as response:
            return response.status, await response.read()


def build(upstream: str) -> AiohttpProxy:
    """Build it."""
    return AiohttpProxy(upstream)
