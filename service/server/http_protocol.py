"""uvicorn's HTTP/1.1 protocol, with limits for an open network.

A head, its trailers and chunk framing are bounded, and a request must arrive in time. Trailers are not
headers. An ``Upgrade`` that is not ours to take is ignored, as HTTP says (Java's client sends one with
every request), where httptools would drop the body and read it as the next request. What cannot be read
gets a 400 in the same shape as every error.

What can go wrong: a client that sends only line ends, or nothing, keeps its connection for ever (without a
complete request a connection ends after the keep-alive time, whatever it sends); clients take all file
descriptors (connections have a cap: the one that has been idle for longest makes way, and if none is idle,
the new one is refused); many slow bodies fill memory (bodies that are still arriving share a cap).
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

HEAD_MAX_BYTES = 64 * 1024  # of a head, or of framing and trailers; one read of slack
ARRIVAL_MAX_S = 10  # for a whole request, body included: as long as the longest budget
ARRIVING_MAX_BYTES = 64 * 1024 * 1024  # of all bodies that are not complete: a thousand of the largest


class SharedState(ServerState):
    """What all connections of a server share. ``unread`` hears of each 400 that the app does not see."""

    def __init__(self, connections_max: int = 10_000, unread: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.unread = unread
        self.connections_max = connections_max
        self.arriving_bytes = 0  # of bodies that are not complete


class Protocol(HttpToolsProtocol):
    """One connection."""

    _idle_since: float | None = None  # while no request has begun, by the loop's clock
    _arriving_bytes = 0  # of this request's body
    _arriving = False  # a request has begun and is not complete
    _new = False  # ... in the read that is being parsed
    _head_complete = False
    _overhead_bytes = 0  # what has been read of this request, but for its body
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
        """Begin to count the time until a request, and make room if there are too many connections."""
        super().connection_made(transport)  # type: ignore[arg-type]  # uvicorn narrows it to Transport
        self._idle_since = self.loop.time()
        if len(self.connections) > self._shared.connections_max:
            longest = _longest_idle(self.connections)
            (longest or self).transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count this connection's body no more."""
        self._count_arrived()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Begin to count the time until the next request.

        uvicorn has a timer for every such time. Here ``give_up_waiting`` ends connections that stay idle.
        """
        self._idle_since = self.loop.time()
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
        else:
            self.server_state.total_requests += 1
            self.flow.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        self._body_bytes_read = 0
        try:
            if self._without_upgrade is None:
                self.parser.feed_data(data)
            else:
                self._without_upgrade.feed(data)
        except httptools.HttpParserUpgrade as exc:
            if not self._goes_on_without_upgrade(data[exc.args[0] :]):
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
        """Start to count, and to look at the clock."""
        self._idle_since = None
        self._arriving = self._new = True
        self._head_complete = False
        self._overhead_bytes = 0
        self._began = self.loop.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Hand the request to the app."""
        self._head_complete = True
        self.scope["arrived"] = time.monotonic()  # type: ignore[typeddict-unknown-key]  # budgets count from here
        super().on_headers_complete()
        self.headers = []  # trailers end here; the request has the list that was

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body, which the app bounds."""
        self._body_bytes_read += len(body)
        self._arriving_bytes += len(body)
        self._shared.arriving_bytes += len(body)
        if self._shared.arriving_bytes > ARRIVING_MAX_BYTES:
            self.send_400_response("body: too many bodies are arriving at the same time")
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop counting."""
        self._arriving = False
        self._count_arrived()
        super().on_message_complete()

    def give_up_waiting(self, now: float) -> None:
        """End a connection without a request, or a late request; ``now`` is the loop's clock."""
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
        """Answer what cannot be read as HTTP, and close. A request that the app has is counted there."""
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
        """Whether no request has begun since the last one was answered."""
        return self._idle_since is not None and not self.transport.is_closing()

    @property
    def idle_since(self) -> float:
        """Return since when it is idle, by the loop's clock."""
        return self._idle_since or 0.0

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        send = _Response(cycle).send
        super()._start_asgi_task(cycle, lambda scope, receive, _: app(scope, receive, send))

    def _should_upgrade(self) -> bool:
        return False

    def _count_arrived(self) -> None:
        self._shared.arriving_bytes -= self._arriving_bytes
        self._arriving_bytes = 0

    def _goes_on_without_upgrade(self, rest: bytes) -> bool:
        """Read the request's body after all; return False if it was answered with a 400 instead."""
        try:
            self._go_on_without_upgrade(rest)
        except httptools.HttpParserError:
            self.send_400_response("HTTP: a body's framing cannot be read")
            return False
        return True

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """Read the request's body after all, and close the connection once it is answered.

        Raises ``httptools.HttpParserError``.
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
    """Sends a request's response: the usual one as one write, any other as uvicorn does.

    uvicorn searches each header for characters that would end it. Here the head's are counted at once.
    """

    __slots__ = ("_cycle", "_start")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._start: HTTPResponseStartEvent | None = None

    async def send(self, message: ASGISendEvent) -> None:
        """Take an ASGI message; the start of a response waits for its body."""
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
    """Return the bytes of a response; ``None`` if it is not a usual one.

    That has one body of a known length, on a connection that takes it and stays open.
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
    """Return the connection that has waited longest for a request, if any does."""
    idle = [each for each in connections if isinstance(each, Protocol) and each.is_idle]
    return min(idle, key=lambda each: each.idle_since, default=None)


class _BodyParser:
    """Parses one body by its framing headers for a protocol; what follows it is dropped."""

    def __init__(self, protocol: Protocol, framing: list[tuple[bytes, bytes]]) -> None:
        self.on_body = protocol.on_body
        self._complete = not framing
        self._protocol = protocol
        self._parser = httptools.HttpRequestParser(self)
        if framing:
            head = b"".join(b"%s: %s\r\n" % header for header in framing)
            self._parser.feed_data(b"POST / HTTP/1.1\r\n%s\r\n" % head)

    def feed(self, data: bytes) -> None:
        """Take bytes that follow the head; raises ``httptools.HttpParserError``."""
        if not self._complete:
            self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Hand the end of the body on, once."""
        self._complete = True
        self._protocol.on_message_complete()
