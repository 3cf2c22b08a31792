"""Carry calls to Dub over aiohttp, behind httpx's transport interface.

aiohttp brings keep-alive, proxies, TLS, happy eyeballs, and name resolution in a thread. The interface of
httpx is the seam where tests put a scripted Dub, and tracing a span. A POST to the API calls aiohttp's
session directly: building httpx's request and response objects would double its cost. Errors are aiohttp's
own, which tell a refused connection from a timeout; ``DubClient`` translates them.

What can go wrong:
- An answer without an end: a body is bounded here, a head by aiohttp (128 headers, 8190 bytes each), the
  time of a call by ``DubClient``.
- A proxy or a certificate authority that the environment names and calls do not use: ``HTTPS_PROXY``,
  ``HTTP_PROXY``, ``NO_PROXY``, ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` are read once, at the start, and a
  value that cannot be used stops it.
- A password in a proxy's URL: no message repeats the URL.
"""

import ssl
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from ipaddress import ip_address
from typing import cast
from urllib.parse import urlsplit

import aiohttp
import httpx
from msgspec import Struct

from service.domain.errors import DubGarbled

ANSWER_MAX_BYTES = 256 * 1024

_NOT_ADDED = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")  # headers that aiohttp would add
_SET_BY_AIOHTTP = frozenset({"host", "content-length", "accept-encoding"})
_KEEPALIVE_S = 30  # below the idle limit of common load balancers


class Answer(Struct, frozen=True, gc=False):
    """A whole answer, and its Retry-After as it came (empty if there is none)."""

    status: int
    retry_after: str
    body: bytes


# Post a body; the callable is called once Dub has begun to answer. Raises ``DubGarbled`` for an answer over
# ``ANSWER_MAX_BYTES``, else what the transport raises.
Post = Callable[[str, Mapping[str, str], bytes, Callable[[], None]], Awaitable[Answer]]


class AiohttpTransport(httpx.AsyncBaseTransport):
    """A pool of kept-alive connections for calls to ``base_url``; it opens with the first request.

    The guards bound how many calls are in flight, and so how many connections there are. Raises
    ``ValueError`` or ``OSError`` if the environment names a proxy or certificates that cannot be used.
    """

    def __init__(self, base_url: str) -> None:
        self._proxy = proxy_for(base_url)
        self._tls = _trusted()
        self._opened: aiohttp.ClientSession | None = None

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, on_head: Callable[[], None]
    ) -> Answer:
        """Fill ``Post``; raises ``aiohttp.ClientError`` or ``OSError``."""
        async with await self._send("POST", url, headers, body) as response:
            on_head()
            answer = await _bounded(response.content.iter_any())
            return Answer(response.status, response.headers.get("Retry-After", ""), answer)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request whose body is in memory; the answer is read as it arrives."""
        headers = {name: value for name, value in request.headers.items() if name not in _SET_BY_AIOHTTP}
        response = await self._send(request.method, str(request.url), headers, request.content or None)
        return httpx.Response(response.status, headers=response.raw_headers, stream=_Body(response))

    async def aclose(self) -> None:
        """Close every connection."""
        if self._opened is not None:
            await self._opened.close()

    async def _send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> aiohttp.ClientResponse:
        session = self._opened = self._opened or self._session()
        try:
            return await session.request(method, url, data=body, headers=headers, allow_redirects=False)
        except RuntimeError as exc:  # uvloop's for a failed connection, aiohttp's for a closed session
            raise ConnectionError(str(exc)) from exc

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S, ssl=self._tls),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity"},  # so that the bound on a body holds for what it says
            proxy=self._proxy,
            skip_auto_headers=_NOT_ADDED,
            timeout=aiohttp.ClientTimeout(),  # DubClient bounds a whole call
        )


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._response.content.iter_any():
            yield chunk

    async def aclose(self) -> None:
        """Give the connection back to the pool, or drop it if the body was not read to its end."""
        self._response.release()


def proxy_for(url: str) -> str | None:
    """Return the proxy that the environment names for a URL; ``None`` for none, and for loopback addresses.

    Raises ``ValueError``, which names the variable, for a proxy that is not an HTTP one.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if _is_loopback(host) or urllib.request.proxy_bypass(f"{host}:{parts.port}" if parts.port else host):
        return None
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy is None:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if not _is_http_url(proxy):
        raise ValueError(f"{parts.scheme.upper()}_PROXY: expected the http or https URL of a proxy")
    return proxy


def _is_http_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, or a bracket that is not closed
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _trusted() -> ssl.SSLContext:
    """Trust the authorities in ``SSL_CERT_FILE`` or ``SSL_CERT_DIR``, else certifi's; raises ``OSError``."""
    try:
        return httpx.create_ssl_context()
    except OSError as exc:
        raise OSError(f"SSL_CERT_FILE: cannot read certificates from it: {exc.strerror or exc}") from exc


def posting_over(transport: httpx.AsyncBaseTransport) -> Post:
    """Return how to post over a transport."""
    if isinstance(transport, AiohttpTransport):
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
    return await _bounded(cast("httpx.AsyncByteStream", response.stream))


async def close(response: httpx.Response) -> None:
    """Give the connection back, or drop it if the answer was not read to its end."""
    await cast("httpx.AsyncByteStream", response.stream).aclose()


async def _bounded(pieces: AsyncIterator[bytes] | httpx.AsyncByteStream) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in pieces:
        size += len(chunk)
        if size > ANSWER_MAX_BYTES:
            raise DubGarbled(f"an answer over {ANSWER_MAX_BYTES} bytes")
        chunks.append(chunk)
    return b"".join(chunks)
