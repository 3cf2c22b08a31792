"""httpx-aiohttp's transport, without what one fixed API does not need.

No proxies, per-request timeouts, decompression or cookies: ``make bench`` has a call at a fifth less CPU
time. Errors are aiohttp's own, which tell a refused connection from a timeout where httpx-aiohttp's
mapping does not; ``DubClient`` translates them.
"""

from collections.abc import AsyncIterator

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

_OWN_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
_DNS_TTL_S = 60


class LeanTransport(AiohttpTransport):
    """A keep-alive pool of connections to one host."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request whose body is in memory; raises ``aiohttp.ClientError`` or ``OSError``."""
        session = self.client
        if not isinstance(session, aiohttp.ClientSession):
            session = self.client = self.get_client()
        response = await session.request(
            request.method,
            str(request.url),
            data=request.content,
            headers=request.headers.multi_items(),
            allow_redirects=False,
        )
        return httpx.Response(response.status, headers=response.raw_headers, stream=_Body(response))


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._response.content.iter_any():
            yield chunk

    async def aclose(self) -> None:
        """Give the connection back to the pool, or drop it if the body was not read to its end."""
        self._response.release()


def open_transport(keepalive_s: float) -> LeanTransport:
    """Return a transport; its session opens with the first request and ends with ``aclose``.

    The guards bound calls in flight, and so connections.
    """
    tls = httpx.create_ssl_context()

    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=keepalive_s, ssl=tls, ttl_dns_cache=_DNS_TTL_S
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_OWN_HEADERS,
            timeout=aiohttp.ClientTimeout(),  # the client bounds a whole call
        )

    return LeanTransport(verify=tls, client=session)
