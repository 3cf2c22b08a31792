"""uvicorn's HTTP/1.1 protocol, with what stands between it and an open network.

A head, its trailers and chunk framing are bounded, and a request must arrive in time. Trailers are not
headers. An ``Upgrade`` that is not ours to take is ignored, as HTTP says (Java's client sends one with
every request), where httptools would drop the body and read it as the next request. What cannot be read
gets a 400 in the house's error shape.
"""

import asyncio
import time

import httptools
from msgspec import json
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.api.problems import problem

HEAD_MAX_BYTES = 64 * 1024  # of a head, or of framing and trailers; one read of slack
ARRIVAL_MAX_S = 10  # for a whole request, body included: as long as the longest budget


class Protocol(HttpToolsProtocol):
    """One connection."""

    _arriving = False  # a request has begun and is not complete
    _new = False  # ... in the read that is being parsed
    _head_complete = False
    _overhead_bytes = 0  # what has been read of this request, but for its body
    _body_bytes_read = 0  # of the body, in this read
    _began = 0.0
    _without_upgrade: "_BodyParser | None" = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close a connection that stays silent, as after a response."""
        super().connection_made(transport)  # type: ignore[arg-type]  # uvicorn narrows it to Transport
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        self._unset_keepalive_if_required()
        self._body_bytes_read = 0
        try:
            if self._without_upgrade is None:
                self.parser.feed_data(data)
            else:
                self._without_upgrade.feed(data)
        except httptools.HttpParserUpgrade as exc:
            self._go_on_without_upgrade(data[exc.args[0] :])
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
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop counting."""
        self._arriving = False
        super().on_message_complete()

    def give_up_waiting(self, now: float) -> None:
        """End a request that is late in arriving; ``now`` is the loop's clock."""
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
        """Answer what cannot be read as HTTP, and close."""
        body = json.encode(problem(400, msg))
        head = (
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        )
        self.transport.write(head + body)
        self.transport.close()

    def _should_upgrade(self) -> bool:
        return False

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """Read the request's body after all, and close the connection once it is answered."""
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
