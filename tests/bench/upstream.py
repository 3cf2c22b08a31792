"""A fake Dub: one well-formed answer with a clickId of its own per open, as fast as Python can.

``GET /counts`` tells what it was told of; ``PUT /delay`` (a body in ms) makes opens slower; ``PUT /stall``
(``on`` or ``off``) leaves opens, leads and sales unanswered until it is taken back, as the sandbox's does;
``PUT /clicks`` (a count) makes ``GET /events`` list so many, one for each address from 198.18.0.0 on.
Run as ``python -m tests.bench.upstream PORT``.
"""

import asyncio
import sys
import time
from datetime import UTC, datetime
from typing import cast
from urllib.parse import parse_qs, urlsplit

import uvloop
from msgspec import Struct, json

_OPENED = (
    b'{"clickId":"%016d","link":{"id":"link_1","domain":"acme.link","key":"fb-promo",'
    b'"url":"https://acme.com/product/123"}}'
)
_LED = (
    b'{"click":{"id":"abcdefghijklmnop"},"link":{"id":"link_1","domain":"acme.link","key":"fb-promo",'
    b'"shortLink":"https://acme.link/fb-promo","url":"https://acme.com/product/123"},'
    b'"customer":{"name":null,"email":null,"avatar":null,"externalId":"somebody"}}'
)
_SOLD = b'{"eventName":"Purchase","customer":{"id":"cus_1"},"sale":{"amount":1,"currency":"usd"}}'
_DEFERRED = b'"mode":"deferred"'
# What /events lists, as far as anybody looks at it.
_EVENT = (
    b'{"event":"click","timestamp":"%b","click":{"id":"click%011d","timestamp":"%b","ip":"198.%d.%d.%d",'
    b'"url":"https://acme.link/fb-promo?ref=ig","country":"DE","city":"Berlin","region":"BE","continent":"EU",'
    b'"device":"Mobile","browser":"Mobile Safari","os":"iOS","referer":"(direct)","qr":false,'
    b'"trigger":"link","ua":"Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 '
    b'(KHTML, like Gecko) Version/18.1 Mobile/15E148 Safari/604.1"},'
    b'"link":{"id":"link_1","domain":"acme.link","key":"fb-promo","shortLink":"https://acme.link/fb-promo","url":"https://acme.com/product/123"}}'
)
_NEWEST_S, _OLDEST_S = 300, 2700  # ago: what every sync reads again is newer, what is never matched older
_PAGE_EVENTS = 100  # of a page whose ``limit`` is not said
_REPLY = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


class Counts(Struct):
    """What was answered; ``calls`` are opens that came, ``checks`` leads that were only to be checked."""

    calls: int = 0
    opens: int = 0
    checks: int = 0
    leads: int = 0
    sales: int = 0


class State:
    """What all connections share."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.delay_s = 0.0
        self.stalled = False
        self.clicks = 0
        self.clicks_from_s = 0.0  # Unix time of the oldest
        self.waiting: list[tuple[Protocol, bytes, bytes]] = []


class Protocol(asyncio.Protocol):
    """Just enough HTTP/1.1: keep-alive, and bodies with a Content-Length."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._received = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        self._received += data
        while self._received:
            head, end, rest = self._received.partition(b"\r\n\r\n")
            size = _content_length(head)
            if not end or len(rest) < size:
                return
            self._received = rest[size:]
            if head.startswith(b"POST /track/"):
                self._told(head, rest[:size])
            else:
                self._transport.write(self._controlled(head, rest[:size]))

    def _told(self, head: bytes, body: bytes) -> None:
        state = self._state
        is_open = head.startswith(b"POST /track/open ")
        state.counts.calls += is_open
        if state.stalled:
            state.waiting.append((self, head, body))
        elif state.delay_s and is_open:
            asyncio.get_running_loop().call_later(state.delay_s, self.answer, head, body)
        else:
            self.answer(head, body)

    def answer(self, head: bytes, body: bytes) -> None:
        """Take note, and reply; to whoever has hung up, neither."""
        if self._transport.is_closing():
            return
        counts = self._state.counts
        if head.startswith(b"POST /track/open "):
            counts.opens += 1
            answer = _OPENED % counts.opens
        elif head.startswith(b"POST /track/lead "):
            if _DEFERRED in body:
                counts.checks += 1
            else:
                counts.leads += 1
            answer = _LED
        else:
            counts.sales += 1
            answer = _SOLD
        self._transport.write(_reply(b"200 OK", answer))

    def _controlled(self, head: bytes, body: bytes) -> bytes:
        state = self._state
        if head.startswith(b"GET /counts "):
            return _reply(b"200 OK", json.encode(state.counts))
        if head.startswith(b"GET /events?"):
            return _reply(b"200 OK", _events(state, head))
        if head.startswith(b"PUT /clicks "):
            state.clicks, state.clicks_from_s = int(body), time.time() - _OLDEST_S
            return _reply(b"200 OK", body)
        if head.startswith(b"PUT /delay "):
            state.delay_s = float(body) / 1000
            return _reply(b"200 OK", body)
        if head.startswith(b"PUT /stall "):
            state.stalled = body == b"on"
            if not state.stalled:
                waiting, state.waiting = state.waiting, []
                for connection, its_head, its_body in waiting:
                    connection.answer(its_head, its_body)
            return _reply(b"200 OK", body)
        return _reply(b"404 Not Found", b'{"error":{"code":"not_found","message":"","doc_url":""}}')


def _events(state: State, head: bytes) -> bytes:
    """List a page of the clicks, newest first."""
    query = parse_qs(urlsplit(head.split(b" ", 2)[1]).query)
    limit = int(query.get(b"limit", [b"%d" % _PAGE_EVENTS])[0])
    skipped = (int(query.get(b"page", [b"1"])[0]) - 1) * limit
    last = state.clicks - skipped
    return b"[%b]" % b",".join(
        _event(state, number) for number in range(last - 1, max(last - limit, 0) - 1, -1)
    )


def _event(state: State, number: int) -> bytes:
    at_s = state.clicks_from_s + (_OLDEST_S - _NEWEST_S) * number / state.clicks
    at = datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()
    return _EVENT % (at, number, at, 18 + (number >> 16), number >> 8 & 255, number & 255)


def _content_length(head: bytes) -> int:
    _, found, value = head.lower().partition(b"\r\ncontent-length:")
    return int(value.partition(b"\r\n")[0]) if found else 0


def _reply(status: bytes, body: bytes) -> bytes:
    return _REPLY % (status, len(body), body)


async def _serve(port: int) -> None:
    state = State()
    server = await asyncio.get_running_loop().create_server(
        lambda: Protocol(state), "127.0.0.1", port, backlog=2048
    )
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1])))
