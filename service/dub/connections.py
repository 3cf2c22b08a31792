"""Connections to Dub over HTTP/1.1: each carries one request at a time, and is kept open for the next.

What can go wrong: an answer taken for another request's (a connection is used again only if it stands
exactly behind an answer's end, and anything that comes unasked ends it); an answer cut short taken for a
whole one, or one without end for a long one (lengths decide, heads and bodies are bounded); connections
that pile up, or that Dub closed long ago (who gives up closes its own, and idle ones end).

The parser is llhttp's, by way of httptools, and connecting is aiohappyeyeballs'. What is written here is
what a session of aiohttp's does between the two, without what one fixed API does not need (redirects,
cookies, proxies, decompression): most of what an open that must ask Dub cost was that.
"""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from typing import cast

import httptools
import httpx
from aiohappyeyeballs import AddrInfoType, start_connection
from msgspec import Struct

from service.resolve.errors import DubGarbled

ANSWER_MAX_BYTES = 256 * 1024

_HEAD_MAX_BYTES = 64 * 1024
_TAKEN_MAX_BYTES = 2 * ANSWER_MAX_BYTES + _HEAD_MAX_BYTES  # with what frames chunks, and trailers
_DNS_TTL_S = 60.0
_NEXT_FAMILY_S = 0.25  # RFC 8305: how long one address has before the next is tried beside it
_FINAL = 200  # what comes before is an interim answer


class Answer(Struct, frozen=True, gc=False):
    """A whole answer, and its Retry-After as it came (empty if there is none)."""

    status: int
    retry_after: str
    body: bytes


class Connection(asyncio.Protocol):
    """Sends one request after another, and gathers their answers."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Answer] | None = None
        self._on_head: Callable[[], None] = _nobody
        self._retry_after = ""
        self.reusable = False  # it stands exactly behind an answer's end
        self.idle_since = 0.0  # by the loop's clock, in seconds
        self._begin()

    async def ask(self, request: bytes, on_head: Callable[[], None]) -> Answer:
        """Send a whole request, and wait for the whole answer; ``on_head`` hears of its first byte.

        Raises ``OSError``, or ``DubGarbled`` for an answer over a bound. After any exception, a
        cancellation included, the connection is closed.
        """
        transport = self._transport
        if transport is None:
            raise ConnectionResetError("closed before it was used")
        self.reusable = False
        self._on_head = on_head
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            transport.write(request)
            return await self._waiter
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection at once: nothing more is sent or read, and no last word of TLS waited for."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = transport  # type: ignore[assignment]  # uvloop's is one in all but name

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits, unless the end of the connection is the end of its answer."""
        self._transport = None
        self.reusable = False
        if self._in_body and self._is_until_end and exc is None:
            self._answered(reusable=False)
        else:
            self._fail(exc if isinstance(exc, OSError) else ConnectionResetError("closed amid an answer"))

    def eof_received(self) -> None:
        """Let the connection end: the other side sends nothing more."""
        self.reusable = False

    def data_received(self, data: bytes) -> None:
        """Take in a piece of the answer."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            self.close()  # nobody asked
            return
        self._on_head()
        self._taken_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self._fail(_no_http(type(exc).__name__))
            self.close()
            return
        if self._size > ANSWER_MAX_BYTES or self._taken_bytes > _TAKEN_MAX_BYTES:
            self._fail(_too_long())
        elif not self._in_body and self._taken_bytes > _HEAD_MAX_BYTES:
            self._fail(DubGarbled(f"headers over {_HEAD_MAX_BYTES} bytes"))

    def on_message_begin(self) -> None:
        """Begin an answer; one behind another's end is nobody's."""
        if self._waiter is None or self._waiter.done():
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note what the caller or the answer's end depends on; a trailer changes neither."""
        if self._in_body:
            return
        match name.lower():
            case b"retry-after":
                if not self._retry_after:
                    self._retry_after = value.decode("latin-1")
            case b"content-length" | b"transfer-encoding":
                self._is_until_end = False

    def on_headers_complete(self) -> None:
        """Go on to the body."""
        self._in_body = self._parser.get_status_code() >= _FINAL

    def on_body(self, piece: bytes) -> None:
        """Gather the body, as far as it may go; an interim answer has none."""
        if not self._in_body:
            self._fail(_no_http("an interim answer with a body"))
        self._size += len(piece)
        if self._size <= ANSWER_MAX_BYTES:
            self._pieces.append(piece)

    def on_message_complete(self) -> None:
        """Hand the answer over; after an interim one, go on."""
        if self._in_body:
            self._answered(reusable=self._parser.should_keep_alive())
        else:
            self._retry_after = ""
            self._is_until_end = True

    def _answered(self, *, reusable: bool) -> None:
        if self._size > ANSWER_MAX_BYTES:
            self._fail(_too_long())
        elif self._waiter is not None and not self._waiter.done():
            body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._waiter.set_result(Answer(self._parser.get_status_code(), self._retry_after, body))
            self.reusable = reusable
        self._begin()

    def _fail(self, exc: Exception) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(exc)

    def _begin(self) -> None:
        self._taken_bytes = self._size = 0
        self._pieces: list[bytes] = []
        self._retry_after = ""
        self._in_body = False
        self._is_until_end = True  # until a length says otherwise


class ConnectionPool:
    """Connections to one origin, the one that was used last first. As many as there are calls at once.

    ``tls`` is ``None`` for an origin that speaks plainly; one idle for ``keepalive_s`` seconds is closed.
    """

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None, keepalive_s: float) -> None:
        self._host = host
        self._certified = host.rstrip(".") if tls else None  # a certificate names no dot at the end
        self._port = port
        self._tls = tls
        self._keepalive_s = keepalive_s
        self._idle: deque[Connection] = deque()
        self._reaper: asyncio.TimerHandle | None = None
        self._closed = False
        self._resolving: asyncio.Task[None] | None = None
        self._addresses: list[AddrInfoType] = []
        self._resolved_until = 0.0

    async def ask(self, request: bytes, on_head: Callable[[], None]) -> Answer:
        """Send a request on a connection that is free, or a new one; raises as ``Connection.ask``."""
        connection = self._taken() or await self._connect()
        answer = await connection.ask(request, on_head)
        if connection.reusable and not self._closed:
            self._keep(connection)
        else:
            connection.close()
        return answer

    def close(self) -> None:
        """Close what is idle now, and the others as soon as their answers are there."""
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
        if self._resolving is not None:
            self._resolving.cancel()
        while self._idle:
            self._idle.pop().close()

    def _taken(self) -> Connection | None:
        oldest = asyncio.get_running_loop().time() - self._keepalive_s
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and connection.idle_since > oldest:
                return connection
            connection.close()
        return None

    def _keep(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._reaper is None:
            self._reaper = loop.call_later(self._keepalive_s, self._reap)

    def _reap(self) -> None:
        """Close what has been idle for too long, and come again for the next."""
        loop = asyncio.get_running_loop()
        oldest = loop.time() - self._keepalive_s
        while self._idle and self._idle[0].idle_since <= oldest:
            self._idle.popleft().close()
        self._reaper = None
        if self._idle:
            self._reaper = loop.call_later(self._idle[0].idle_since - oldest, self._reap)

    async def _connect(self) -> Connection:
        addresses = await self._resolved()
        connection = Connection()
        try:
            sock = await _connected(addresses)
            try:
                await asyncio.get_running_loop().create_connection(
                    lambda: connection,
                    sock=sock,
                    ssl=self._tls,
                    server_hostname=self._certified,
                )
            except BaseException:
                connection.close()  # before its socket, whose number may soon be somebody else's
                sock.close()
                raise
        except OSError:
            self._resolved_until = 0.0  # the name may lead elsewhere by now
            raise
        return connection

    async def _resolved(self) -> list[AddrInfoType]:
        """Return the name's addresses, each time another one first. All who wait share one look."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._resolved_until:
            if self._resolving is None:
                self._resolving = asyncio.create_task(self._look_up())
                self._resolving.add_done_callback(_heard)
            resolving = self._resolving
            try:
                await asyncio.shield(resolving)  # which goes on if its first caller gives up
            except asyncio.CancelledError:
                if self._closed and resolving.cancelled():
                    raise ConnectionAbortedError("closed while its address was looked up") from None
                raise
        first, *others = self._addresses
        self._addresses = [*others, first]
        return [first, *others]

    async def _look_up(self) -> None:
        try:
            self._addresses = await self._resolve()
            self._resolved_until = asyncio.get_running_loop().time() + _DNS_TTL_S
        finally:
            self._resolving = None

    async def _resolve(self) -> list[AddrInfoType]:
        found = await asyncio.get_running_loop().getaddrinfo(
            self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
        return cast("list[AddrInfoType]", found)


async def _connected(addresses: list[AddrInfoType]) -> socket.socket:
    try:
        sock = await start_connection(addresses, happy_eyeballs_delay=_NEXT_FAMILY_S, interleave=1)
    except RuntimeError as exc:  # uvloop's, where others raise an OSError
        raise OSError(str(exc)) from exc
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return sock


class Target(Struct, frozen=True):
    """Where a URL leads, and how a request to it begins."""

    host: str
    port: int
    is_secure: bool
    start: bytes

    @classmethod
    def of(cls, url: str) -> "Target":
        """Read a URL; raises ``httpx.InvalidURL``."""
        parsed = httpx.URL(url)
        is_secure = parsed.scheme == "https"
        start = b"POST %b HTTP/1.1\r\nHost: %b\r\nAccept-Encoding: identity\r\n"
        start %= (parsed.raw_path, parsed.netloc)
        port = parsed.port or (443 if is_secure else 80)
        return cls(parsed.raw_host.decode("ascii"), port, is_secure, start)


def composed(target: Target, headers: Mapping[str, str], body: bytes) -> bytes:
    """Write a request out; raises ``ValueError`` for a header that is not printable ASCII."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if not "".join([*headers, *headers.values()]).isprintable():
        raise ValueError("a header with a control character")
    return b"%bContent-Length: %d\r\n%b\r\n%b" % (target.start, len(body), lines.encode("ascii"), body)


def _heard(resolving: asyncio.Task[None]) -> None:
    """Note that a failure was seen, should nobody be left to see it."""
    if not resolving.cancelled():
        resolving.exception()


def _no_http(why: str) -> OSError:
    return ConnectionAbortedError(f"no HTTP answer: {why}")


def _too_long() -> DubGarbled:
    return DubGarbled(f"an answer over {ANSWER_MAX_BYTES} bytes")


def _nobody() -> None:
    """Nobody listens."""
