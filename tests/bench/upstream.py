"""A fake Dub: one well-formed answer with a clickId of its own per open, as fast as Python can.

``GET /calls`` tells how many opens it was told of; ``PUT /delay`` (a body in ms) makes it slower.
Run as ``python -m tests.bench.upstream PORT``.
"""

import asyncio
import sys
from typing import cast

import uvloop

_OPENED = (
    b'{"clickId":"%016d","link":{"id":"link_1","domain":"acme.link","key":"fb-promo",'
    b'"url":"https://acme.com/product/123"}}'
)
_REPLY = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


class State:
    """What all connections share."""

    def __init__(self) -> None:
        self.calls = 0
        self.delay_s = 0.0


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
            self._answer(head, rest[:size])

    def _answer(self, head: bytes, body: bytes) -> None:
        state = self._state
        if head.startswith(b"POST /track/open "):
            state.calls += 1
            reply = _reply(b"200 OK", _OPENED % state.calls)
            if state.delay_s:
                asyncio.get_running_loop().call_later(state.delay_s, self._transport.write, reply)
                return
        elif head.startswith(b"GET /calls "):
            reply = _reply(b"200 OK", b"%d" % state.calls)
        elif head.startswith(b"PUT /delay "):
            state.delay_s = float(body) / 1000
            reply = _reply(b"200 OK", body)
        else:
            reply = _reply(b"404 Not Found", b'{"error":{"code":"not_found","message":"","doc_url":""}}')
        self._transport.write(reply)


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
