"""Send calls to Dub over aiohttp, behind httpx's transport interface.

aiohttp provides keep-alive, proxies, TLS, happy eyeballs, and name resolution in a thread. Tests replace the
httpx interface with a scripted Dub, and tracing wraps it in a span. A POST to the API uses neither httpx's
request and response objects nor aiohttp's: it writes its head and body to a connection of aiohttp's pool in
one piece, and reads from aiohttp's parser. That takes 40 % of the CPU time of ``ClientSession.post``
(measured: 65 µs instead of 165), which is a tenth of a whole open. Between POSTs, connections and their
parsers stay here instead of in aiohttp's pool, which saves 4 % more of an open. Errors are aiohttp's own,
which distinguish a refused connection from a timeout; ``DubClient`` translates them.

What can go wrong:
- An answer never ends: the body's size is limited here, the head's by aiohttp (128 headers, 8190 bytes each),
  and the time of a call by ``DubClient``.
- Calls ignore the proxy or the certificate authority of the environment: ``HTTPS_PROXY``, ``HTTP_PROXY``,
  ``NO_PROXY``, ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` are read once, at the start, and an invalid value stops
  the start.
- A log shows the password in a proxy's URL: no message contains the URL.
- An aiohttp that parses or pools differently (``pyproject.toml`` bounds its version, the tests of this
  module's behaviour run over real sockets): through a proxy, and for reads, its public session is used.
"""

import asyncio
import os
import ssl
import time
import urllib.request
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import cached_property, lru_cache
from ipaddress import ip_address
from typing import cast
from urllib.parse import urlsplit

import aiohttp
import httpx
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError
from msgspec import Struct
from yarl import URL

from service.domain.errors import InvalidDubResponse

ANSWER_MAX_BYTES = 256 * 1024

_NOT_ADDED = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")  # headers that aiohttp would add
_SET_BY_AIOHTTP = frozenset({"host", "content-length", "accept-encoding"})
_NO_TIMEOUT = aiohttp.ClientTimeout()  # DubClient bounds a whole call
_FINAL = 200  # smaller statuses, except 101, precede the final answer
_SWITCHING_PROTOCOLS = 101
_KEEPALIVE_S = 30  # below the idle limit of common load balancers


class Answer(Struct, frozen=True, gc=False):
    """A complete answer, with its raw Retry-After header (empty if there is none)."""

    status: int
    retry_after: str
    body: bytes


# Takes URL, headers, body, and a function to call when Dub has begun to answer. Raises ``InvalidDubResponse``
# for an answer over ``ANSWER_MAX_BYTES``, and the errors of the transport.
Post = Callable[[str, Mapping[str, str], bytes, Callable[[], None]], Awaitable[Answer]]


class _Route(aiohttp.ClientRequest):
    """Tells the connection pool where to connect. It is never sent."""

    @cached_property
    def connection_key(self) -> ConnectionKey:
        """Return the key of the pool's connections, computed once."""
        return super().connection_key


class _Target(Struct, frozen=True, eq=False):
    """What all POSTs to one URL share."""

    route: _Route
    head: str


class _Channel(Struct, eq=False):
    """A connection of aiohttp's, with the parts that a POST uses."""

    connection: Connection
    protocol: ResponseHandler
    transport: asyncio.Transport
    idle_since: float = 0.0  # monotonic seconds


class AiohttpTransport(httpx.AsyncBaseTransport):
    """A pool of keep-alive connections to ``base_url``, opened with the first request.

    The guards limit the calls in flight, and so the number of connections. Raises ``ValueError`` or
    ``OSError`` if the environment's proxy or certificates are invalid.
    """

    def __init__(self, base_url: str) -> None:
        self._proxy = proxy_for(base_url)
        self._tls = trusted()
        self._opened: aiohttp.ClientSession | None = None
        self._targets: dict[str, _Target] = {}
        self._idle: deque[_Channel] = deque()  # the most recently used last
        self._cleaning: asyncio.TimerHandle | None = None

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, on_head: Callable[[], None]
    ) -> Answer:
        """Implement ``Post``; raises ``aiohttp.ClientError``, ``OSError``, or ``ValueError`` for a header."""
        if self._proxy is not None:
            return await self._post_through_proxy(url, headers, body, on_head)
        target = self._targets.get(url) or self._target(url)
        request = _request(target.head, headers, body)
        channel = self._idle_channel() or await self._connect(target)
        protocol = channel.protocol
        try:
            channel.transport.write(request)
            message, payload = await protocol.read()
            while message.code < _FINAL and message.code != _SWITCHING_PROTOCOLS:
                message, payload = await protocol.read()
            on_head()
            # Nearly every answer has arrived as a whole: reading it in a loop would take 2 % of an open.
            whole = payload.is_eof() and payload.total_bytes <= ANSWER_MAX_BYTES
            answer = payload.read_nowait() if whole else await _bounded(payload.iter_any())
        except HttpProcessingError as exc:
            channel.connection.close()
            raise InvalidDubResponse(type(exc).__name__) from exc
        except BaseException:
            channel.connection.close()  # an answer, or a part of it, may still arrive on it
            raise
        self._release(channel)
        return Answer(message.code, message.headers.get("Retry-After", ""), answer)

    async def _post_through_proxy(
        self, url: str, headers: Mapping[str, str], body: bytes, on_head: Callable[[], None]
    ) -> Answer:
        async with await self._send("POST", url, headers, body) as response:
            on_head()
            answer = await _bounded(response.content.iter_any())
            return Answer(response.status, response.headers.get("Retry-After", ""), answer)

    async def _connect(self, target: _Target) -> _Channel:
        """Open a connection that can be used for many POSTs, one after another."""
        connector = self._session().connector
        if connector is None:
            raise ConnectionError("the transport is closed")
        try:
            connection = await connector.connect(target.route, [], _NO_TIMEOUT)
        except RuntimeError as exc:  # uvloop raises it for a failed connection
            raise ConnectionError(str(exc)) from exc
        protocol = cast("ResponseHandler", connection.protocol)
        protocol.set_response_params(read_until_eof=True, auto_decompress=False)
        return _Channel(connection, protocol, cast("asyncio.Transport", connection.transport))

    def _idle_channel(self) -> _Channel | None:
        """Take the open connection that was used last; return None if there is none."""
        oldest = time.monotonic() - _KEEPALIVE_S
        while self._idle:
            channel = self._idle.pop()
            is_open = channel.idle_since > oldest and not channel.transport.is_closing()
            if is_open and not channel.protocol.should_close:  # else something arrived that no call asked for
                return channel
            channel.connection.close()
        return None

    def _release(self, channel: _Channel) -> None:
        """Keep a connection for the next POST, unless it cannot be used again."""
        if channel.protocol.should_close:
            channel.connection.close()
            return
        channel.idle_since = time.monotonic()
        self._idle.append(channel)
        if self._cleaning is None:
            self._cleaning = asyncio.get_running_loop().call_later(_KEEPALIVE_S, self._clean)

    def _clean(self) -> None:
        """Close the connections that have been idle for too long, and look at the others later."""
        oldest = time.monotonic() - _KEEPALIVE_S
        while self._idle and self._idle[0].idle_since <= oldest:
            self._idle.popleft().connection.close()
        loop = asyncio.get_running_loop()
        self._cleaning = loop.call_later(_KEEPALIVE_S, self._clean) if self._idle else None

    def _target(self, url: str) -> _Target:
        """Build and cache what the POSTs to a URL share; there is one URL per endpoint."""
        parsed = URL(url)
        route = _Route("POST", parsed, loop=asyncio.get_running_loop())
        head = f"POST {parsed.raw_path_qs} HTTP/1.1\r\nHost: {parsed.host_port_subcomponent}\r\n"
        target = self._targets[url] = _Target(route, f"{head}Accept-Encoding: identity\r\n")
        return target

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request whose body is in memory; the answer is read as it arrives."""
        headers = {name: value for name, value in request.headers.items() if name not in _SET_BY_AIOHTTP}
        response = await self._send(request.method, str(request.url), headers, request.content or None)
        return httpx.Response(response.status, headers=response.raw_headers, stream=_Body(response))

    async def aclose(self) -> None:
        """Close every connection."""
        if self._cleaning is not None:
            self._cleaning.cancel()
        while self._idle:
            self._idle.pop().connection.close()
        if self._opened is not None:
            await self._opened.close()

    async def _send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> aiohttp.ClientResponse:
        try:
            return await self._session().request(
                method, url, data=body, headers=headers, allow_redirects=False
            )
        except RuntimeError as exc:  # uvloop raises it for a failed connection, aiohttp for a closed session
            raise ConnectionError(str(exc)) from exc

    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            self._opened = self._new_session()
        return self._opened

    def _new_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S, ssl=self._tls),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity"},  # so that the size limit applies to the content
            proxy=self._proxy,
            skip_auto_headers=_NOT_ADDED,
            timeout=_NO_TIMEOUT,
        )


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._response.content.iter_any():
            yield chunk

    async def aclose(self) -> None:
        """Return the connection to the pool, or close it if the body was not read completely."""
        self._response.release()


def _request(head: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """Return a complete request as bytes; raises ``ValueError`` for a header with a line break."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
        raise ValueError("a header has a line break in it")
    return f"{head}{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


def proxy_for(url: str) -> str | None:
    """Return the environment's proxy for a URL; None if there is none, and for loopback addresses.

    Raises ``ValueError``, which names the variable, for a proxy that is not an HTTP proxy.
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
    except ValueError:  # an invalid port, or an unclosed bracket
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def trusted() -> ssl.SSLContext:
    """Return a TLS context that trusts the authorities of SSL_CERT_FILE or SSL_CERT_DIR, else certifi's.

    All callers share it, because reading certificates takes a twentieth of a start. Raises ``OSError``.
    """
    return _trusted(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@lru_cache(1)
def _trusted(*_: str | None) -> ssl.SSLContext:
    try:
        return httpx.create_ssl_context()
    except OSError as exc:
        raise OSError(f"SSL_CERT_FILE: cannot read certificates from it: {exc.strerror or exc}") from exc


def posting_over(transport: httpx.AsyncBaseTransport) -> Post:
    """Return a function that posts over a transport."""
    if isinstance(transport, AiohttpTransport):
        return transport.post

    async def post(url: str, headers: Mapping[str, str], body: bytes, on_head: Callable[[], None]) -> Answer:
        request = httpx.Request("POST", url, headers=headers, stream=httpx.ByteStream(body))
        request.read()  # as with content=, but without adding headers
        response = await transport.handle_async_request(request)
        on_head()
        try:
            answer = await read_bounded(response)
        finally:
            await close(response)
        return Answer(response.status_code, response.headers.get("Retry-After", ""), answer)

    return post


async def read_bounded(response: httpx.Response) -> bytes:
    """Return a whole answer; raises ``InvalidDubResponse`` above ``ANSWER_MAX_BYTES``."""
    return await _bounded(cast("httpx.AsyncByteStream", response.stream))


async def close(response: httpx.Response) -> None:
    """Return the connection to the pool, or close it if the answer was not read completely."""
    await cast("httpx.AsyncByteStream", response.stream).aclose()


async def _bounded(pieces: AsyncIterator[bytes] | httpx.AsyncByteStream) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in pieces:
        size += len(chunk)
        if size > ANSWER_MAX_BYTES:
            raise InvalidDubResponse(f"an answer over {ANSWER_MAX_BYTES} bytes")
        chunks.append(chunk)
    return b"".join(chunks)
