"""uvicorn's HTTP/1.1 protocol, with limits against hostile clients.

Request heads, trailers and chunk framing are bounded in size, and a request must arrive within
``ARRIVAL_MAX_S``. Trailers are not treated as headers. ``Upgrade`` headers are ignored, as HTTP allows
(Java's client sends one with every request); httptools alone would drop the body and parse it as the next
request. A request that cannot be parsed gets a 400 in the shape of every other error.

What can go wrong: a client that sends only line ends, or nothing, keeps its connection open for ever (a
connection without a complete request is closed after the keep-alive time, whatever it sends); clients use up
all file descriptors (the number of connections is limited: a new one closes the one that has been idle for
longest, and is refused if none is idle); many slow bodies fill the memory (all incomplete bodies share one
limit).
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

import httptools
from msgspec import json
from uvicorn import Config
from uvicorn._types import ASGI3Application, ASGISendEvent, HTTPResponseStartEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.api.problems import problem

_OF_THE_CONNECTION = frozenset({b"connection", b"transfer-encoding"})
_CONTROLS = bytes([*range(0x09), *range(0x0A, 0x20), 0x7F])  # a tab may be part of a header

HEAD_MAX_BYTES = 64 * 1024  # of a head, or of framing and trailers; may be exceeded by one socket read
ARRIVAL_MAX_S = 10  # for a whole request with its body: as long as the longest budget
ARRIVING_MAX_BYTES = 64 * 1024 * 1024  # of all incomplete bodies together: a thousand of the largest


class SharedState(ServerState):
    """State shared by all connections of a server.

    ``unread`` is called for each 400 that is sent for a request that never reached the app.
    """

    def __init__(self, connections_max: int = 10_000, unread: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.unread = unread
        self.connections_max = connections_max
        self.arriving_bytes = 0  # of all incomplete bodies


class Protocol(HttpToolsProtocol):
    """One HTTP/1.1 connection with a client."""

    _idle_since: float | None = None  # loop time; None while a request is being received or answered
    _arriving_bytes = 0  # of this request's body, while it is incomplete
    _arriving = False  # a request has begun and is incomplete
    _new = False  # a request has begun in the read that is being parsed
    _head_complete = False
    _overhead_bytes = 0  # of this request, without its body
    _body_bytes_read = 0  # of the body, in this read
    _began = 0.0
    _without_upgrade: "_BodyParser | None" = None

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._shared = server_state if isinstance(server_state, SharedState) else SharedState()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the idle time; over the limit, close the longest idle connection, or else this one."""
        super().connection_made(transport)  # type: ignore[arg-type]  # uvicorn narrows it to Transport
        self._idle_since = self.loop.time()
        if len(self.connections) > self._shared.connections_max:
            longest = _longest_idle(self.connections)
            (longest or self).transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove this connection's body from the shared count."""
        self._count_arrived()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Start the idle time before the next request.

        uvicorn starts a timer for each connection here. Instead, ``give_up_waiting`` closes idle connections.
        """
        self._idle_since = self.loop.time()
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
        else:
            self.server_state.total_requests += 1
            self.flow.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Parse bytes from the client."""
        self._body_bytes_read = 0
        try:
            if self._without_upgrade is None:
                self.parser.feed_data(data)
            else:
                self._without_upgrade.feed(data)
        except httptools.HttpParserUpgrade as exc:
            if not self._ignore_upgrade(data[exc.args[0] :]):
                return
        except httptools.HttpParserError:
            self.send_400_response("HTTP: the request line or a header cannot be read")
            return
        if self._arriving and not self._new:
            self._overhead_bytes += len(data) - self._body_bytes_read
            if self._overhead_bytes > HEAD_MAX_BYTES:
                self.send_400_response(f"headers: must be at most {HEAD_MAX_BYTES} bytes")
        self._new = False

    def on_message_begin(self) -> None:
        """Start the size and time limits of a request."""
        self._idle_since = None
        self._arriving = self._new = True
        self._head_complete = False
        self._overhead_bytes = 0
        self._began = self.loop.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Pass the request to the app, with the time at which its head was complete."""
        self._head_complete = True
        self.scope["arrived"] = time.monotonic()  # type: ignore[typeddict-unknown-key]  # budgets start here
        super().on_headers_complete()
        self.headers = []  # trailers are added to this new list; the request keeps the old one

    def on_body(self, body: bytes) -> None:
        """Pass on a piece of the body; the app limits the body's size."""
        self._body_bytes_read += len(body)
        self._arriving_bytes += len(body)
        self._shared.arriving_bytes += len(body)
        if self._shared.arriving_bytes > ARRIVING_MAX_BYTES:
            self.send_400_response("body: too many bodies are arriving at the same time")
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the limits of a request that is complete."""
        self._arriving = False
        self._count_arrived()
        super().on_message_complete()

    def give_up_waiting(self, now: float) -> None:
        """Close a connection that is idle for too long, and end a late request; ``now`` is loop time."""
        if self._idle_since is not None and now - self._idle_since >= self.timeout_keep_alive:
            self.transport.close()
            return
        if not self._arriving or now - self._began < ARRIVAL_MAX_S or self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle if self._head_complete else None
        if cycle is not None and cycle.response_started:
            self.transport.close()
        else:
            self.send_400_response(f"body: did not arrive within {ARRIVAL_MAX_S} s")
        if cycle is not None:
            cycle.disconnected = True
            cycle.message_event.set()

    def send_400_response(self, msg: str) -> None:
        """Send a 400 and close the connection.

        ``unread`` is called unless the app has the request: the app counts its own requests.
        """
        cycle: RequestResponseCycle | None = self.cycle if self._head_complete else None
        if cycle is None or cycle.response_complete:
            self._shared.unread()
        body = json.encode(problem(400, msg))
        head = (
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        )
        self.transport.write(head + body)
        self.transport.close()

    @property
    def is_idle(self) -> bool:
        """Return True if the connection is open and no request is being received or answered."""
        return self._idle_since is not None and not self.transport.is_closing()

    @property
    def idle_since(self) -> float:
        """Return the loop time since which the connection is idle; 0 if it is not."""
        return self._idle_since or 0.0

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        send = _Response(cycle).send
        super()._start_asgi_task(cycle, lambda scope, receive, _: app(scope, receive, send))

    def _should_upgrade(self) -> bool:
        return False

    def _count_arrived(self) -> None:
        self._shared.arriving_bytes -= self._arriving_bytes
        self._arriving_bytes = 0

    def _ignore_upgrade(self, rest: bytes) -> bool:
        """Parse the body of a request with an ``Upgrade`` header; return False if a 400 was sent."""
        try:
            self._parse_body_after_upgrade(rest)
        except httptools.HttpParserError:
            self.send_400_response("HTTP: a body's framing cannot be read")
            return False
        return True

    def _parse_body_after_upgrade(self, rest: bytes) -> None:
        """Parse the request's body, and close the connection after the answer.

        httptools parses nothing after an ``Upgrade``, so a parser of its own reads the body. Raises
        ``httptools.HttpParserError``.
        """
        self.cycle.keep_alive = False
        framing = [
            (name, value)
            for name, value in self.scope["headers"]
            if name in (b"content-length", b"transfer-encoding")
        ]
        if framing:
            self.cycle.more_body = True
            self.cycle.message_event.clear()
            self._arriving = True
        self._without_upgrade = _BodyParser(self, framing)
        self._without_upgrade.feed(rest)


class _Response:
    """Sends a request's response: a simple one in one write, any other through uvicorn.

    uvicorn checks each header separately for control characters. Here they are counted once for the whole
    head.
    """

    __slots__ = ("_cycle", "_start")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._start: HTTPResponseStartEvent | None = None

    async def send(self, message: ASGISendEvent) -> None:
        """Handle an ASGI message; the start of a response is sent together with its body."""
        cycle = self._cycle
        if message["type"] == "http.response.start" and self._start is None and not cycle.response_started:
            self._start = message
            return
        start, self._start = self._start, None
        if start is not None:
            whole = _whole_response(cycle, start, message)
            if whole is not None:
                cycle.response_started = cycle.response_complete = True
                cycle.waiting_for_100_continue = False
                cycle.transport.write(whole)
                cycle.message_event.set()
                cycle.on_response()
                return
            await cycle.send(start)
        await cycle.send(message)


def _whole_response(
    cycle: RequestResponseCycle, start: HTTPResponseStartEvent, message: ASGISendEvent
) -> bytes | None:
    """Return the bytes of a simple response, or None for any other.

    A simple response has one body of a known length, on a connection that accepts writes and stays open.
    """
    if (
        message["type"] != "http.response.body"
        or message.get("more_body", False)
        or cycle.disconnected
        or cycle.flow.write_paused
        or not cycle.keep_alive
        or cycle.scope["method"] == "HEAD"
    ):
        return None
    body = message.get("body", b"")
    parts = [STATUS_LINE[start["status"]]]
    length = None
    headers = [*cycle.default_headers, *start.get("headers", ())]
    for name, value in headers:
        if name == b"content-length":
            length = value
        elif name in _OF_THE_CONNECTION:
            return None
        parts += (name, b": ", value, b"\r\n")
    parts.append(b"\r\n")
    head = b"".join(parts)
    controls = len(head) - len(head.translate(None, _CONTROLS))
    if length != b"%d" % len(body) or controls != 2 * (len(headers) + 2):
        return None
    return head + body


def _longest_idle(connections: Iterable[object]) -> Protocol | None:
    """Return the connection that has been idle for longest, or None if none is idle."""
    idle = [each for each in connections if isinstance(each, Protocol) and each.is_idle]
    return min(idle, key=lambda each: each.idle_since, default=None)


class _BodyParser:
    """Parses one body by its framing headers, for a protocol; bytes after the body are dropped."""

    def __init__(self, protocol: Protocol, framing: list[tuple[bytes, bytes]]) -> None:
        self.on_body = protocol.on_body
        self._complete = not framing
        self._protocol = protocol
        self._parser = httptools.HttpRequestParser(self)
        if framing:
            head = b"".join(b"%s: %s\r\n" % header for header in framing)
            self._parser.feed_data(b"POST / HTTP/1.1\r\n%s\r\n" % head)

    def feed(self, data: bytes) -> None:
        """Parse bytes that follow the head; raises ``httptools.HttpParserError``."""
        if not self._complete:
            self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Tell the protocol that the body is complete, and stop parsing."""
        self._complete = True
        self._protocol.on_message_complete()
