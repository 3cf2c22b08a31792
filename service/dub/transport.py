"""What carries a call to Dub: a body goes out whole, an answer comes back whole, within a bound.

Calls of the API go over ``connections``; pages of events, which are read as they arrive, over
httpx-aiohttp's transport. Errors are aiohttp's own there, which tell a refused connection from a timeout
where httpx-aiohttp's mapping does not; ``DubClient`` translates them. Any other transport of httpx's (a
test's, a tracer's) is asked through httpx's own objects.
"""

import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Protocol, cast

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from service.dub.connections import ANSWER_MAX_BYTES, Answer, ConnectionPool, Target, composed
from service.resolve.errors import DubGarbled

_OWN_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
_WRITTEN_HERE = frozenset({"host", "content-length", "accept-encoding"})
_DNS_TTL_S = 60


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
    """Keep-alive pools of connections, ``keepalive_s`` seconds each; in practice to one host."""

    def __init__(
        self, client: Callable[[], aiohttp.ClientSession], tls: ssl.SSLContext, keepalive_s: float
    ) -> None:
        super().__init__(verify=tls, client=client)
        self._tls = tls
        self._keepalive_s = keepalive_s
        self._targets: dict[str, tuple[Target, ConnectionPool]] = {}
        self._pools: dict[tuple[str, int, bool], ConnectionPool] = {}

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, on_head: Callable[[], None]
    ) -> Answer:
        """Fill ``Post``; raises ``OSError``, or ``ValueError`` for what cannot be sent."""
        known = self._targets.get(url)
        if known is None:
            known = self._targets[url] = self._target(url)
        target, pool = known
        return await pool.ask(composed(target, headers, body), on_head)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request whose body is in memory; raises as ``post``, or ``aiohttp.ClientError``."""
        if request.method == "POST":
            headers = {name: value for name, value in request.headers.items() if name not in _WRITTEN_HERE}
            on_head = request.extensions.get("on_head", _nobody)
            answer = await self.post(str(request.url), headers, request.content, on_head)
            retry = {"Retry-After": answer.retry_after} if answer.retry_after else None
            return httpx.Response(answer.status, headers=retry, content=answer.body)
        response = await self._session().request(
            request.method,
            str(request.url),
            data=request.content,
            headers=request.headers.multi_items(),
            allow_redirects=False,
        )
        return httpx.Response(response.status, headers=response.raw_headers, stream=_Body(response))

    async def aclose(self) -> None:
        """Close what is idle."""
        for pool in self._pools.values():
            pool.close()
        await super().aclose()

    def _target(self, url: str) -> tuple[Target, ConnectionPool]:
        target = Target.of(url)
        origin = (target.host, target.port, target.is_secure)
        pool = self._pools.get(origin)
        if pool is None:
            tls = self._tls if target.is_secure else None
            pool = self._pools[origin] = ConnectionPool(target.host, target.port, tls, self._keepalive_s)
        return target, pool

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

    return LeanTransport(session, tls, keepalive_s)


def posting_over(transport: httpx.AsyncBaseTransport) -> Post:
    """Return how to post over a transport."""
    if isinstance(transport, LeanTransport):
        return transport.post

    async def post(url: str, headers: Mapping[str, str], body: bytes, on_head: Callable[[], None]) -> Answer:
        told = {"on_head": on_head}  # for a LeanTransport underneath
        request = httpx.Request("POST", url, headers=headers, stream=httpx.ByteStream(body), extensions=told)
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


def _too_long() -> DubGarbled:
    return DubGarbled(f"an answer over {ANSWER_MAX_BYTES} bytes")


def _nobody() -> None:
    """Nobody listens."""
