"""What carries a call to Dub: a body goes out whole, an answer comes back whole, within a bound.

Over the network this is httpx-aiohttp's transport, asked for without httpx's requests and responses: one
fixed API needs no proxies, per-request timeouts, decompression or cookies, and ``make bench`` has a call at
two thirds of the CPU time. Errors are aiohttp's own, which tell a refused connection from a timeout where
httpx-aiohttp's mapping does not; ``DubClient`` translates them. Any other transport of httpx's (a test's)
is asked through httpx's own objects.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Protocol, cast

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from msgspec import Struct

from service.resolve.errors import DubGarbled

ANSWER_MAX_BYTES = 256 * 1024

_OWN_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
_DNS_TTL_S = 60


class Answer(Struct, frozen=True, gc=False):
    """A whole answer, and its Retry-After as it came (empty if there is none)."""

    status: int
    retry_after: str
    body: bytes


class Post(Protocol):
    """Posts a body, and reads the whole answer."""

    async def __call__(
        self, url: str, headers: Mapping[str, str], body: bytes, on_head: Callable[[], None]
    ) -> Answer:
        """Post; ``on_head`` is called once Dub has begun to answer.

        Raises ``DubGarbled`` for an answer over ``ANSWER_MAX_BYTES``, else what the transport raises.
        """
        ...


class LeanTransport(AiohttpTransport):
    """A keep-alive pool of connections to one host."""

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, on_head: Callable[[], None]
    ) -> Answer:
        """Fill ``Post``; raises ``aiohttp.ClientError`` or ``OSError``."""
        response = await self._session().request(
            "POST", url, data=body, headers=headers, allow_redirects=False
        )
        on_head()
        content = response.content
        try:
            if content.is_eof():  # nearly always: it came in one piece
                answer = _bounded(content.read_nowait())
            else:
                answer = await _gathered(content.iter_any())
        finally:
            response.release()
        return Answer(response.status, response.headers.get("Retry-After", ""), answer)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request whose body is in memory; raises ``aiohttp.ClientError`` or ``OSError``."""
        response = await self._session().request(
            request.method,
            str(request.url),
            data=request.content,
            headers=request.headers.multi_items(),
            allow_redirects=False,
        )
        return httpx.Response(response.status, headers=response.raw_headers, stream=_Body(response))

    def _session(self) -> aiohttp.ClientSession:
        session = self.client
        if not isinstance(session, aiohttp.ClientSession):
            session = self.client = self.get_client()
        return session


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


def posting_over(transport: httpx.AsyncBaseTransport) -> Post:
    """Return how to post over a transport."""
    if isinstance(transport, LeanTransport):
        return transport.post

    async def post(url: str, headers: Mapping[str, str], body: bytes, on_head: Callable[[], None]) -> Answer:
        request = httpx.Request("POST", url, headers=headers, stream=httpx.ByteStream(body))
        request.read()  # as content= would, without guessing headers
        response = await transport.handle_async_request(request)
        on_head()
        try:
            answer = await read_bounded(response)
        finally:
            await close(response)
        return Answer(response.status_code, response.headers.get("Retry-After", ""), answer)

    return post


async def read_bounded(response: httpx.Response) -> bytes:
    """Read a whole answer; raises ``DubGarbled`` for one over ``ANSWER_MAX_BYTES``."""
    return await _gathered(cast("httpx.AsyncByteStream", response.stream))


async def close(response: httpx.Response) -> None:
    """Give the connection back, or drop it if the answer was not read to its end."""
    await cast("httpx.AsyncByteStream", response.stream).aclose()


async def _gathered(pieces: AsyncIterator[bytes] | httpx.AsyncByteStream) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in pieces:
        size += len(chunk)
        if size > ANSWER_MAX_BYTES:
            raise _too_long()
        chunks.append(chunk)
    return b"".join(chunks)


def _bounded(answer: bytes) -> bytes:
    if len(answer) > ANSWER_MAX_BYTES:
        raise _too_long()
    return answer


def _too_long() -> DubGarbled:
    return DubGarbled(f"an answer over {ANSWER_MAX_BYTES} bytes")
