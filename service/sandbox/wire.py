"""The connection of a call, for faults below the level of HTTP.

ASGI cannot reset a connection, so this uses the transport to which uvicorn's `send` is bound. A test client
has no transport; a reset is then a `ConnectionResetError` that the caller gets.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import cast

from litestar.types import HTTPReceiveMessage, Message, Receive, Send

from service.sandbox.web import Reply, send_reply

TRICKLE_PIECES = 20
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, for 0 s, so that closing sends RST


class Wire:
    """The connection of one call."""

    def __init__(self, receive: Receive, send: Send, answer: Send) -> None:
        """`receive` and `send` are the server's; `answer` is the `send` for answers."""
        self._receive = receive
        self._answer = answer
        self._transport = _transport_of(send)

    @property
    def has_connection(self) -> bool:
        """Return True if there is a connection to reset: a test client has none."""
        return self._transport is not None

    async def send(self, reply: Reply) -> None:
        """Send an answer in one piece."""
        await send_reply(self._answer, reply)

    async def wait_until(self, cleared: asyncio.Event) -> bool:
        """Wait until `cleared` is set (return True) or the client disconnects (return False)."""
        waits = [asyncio.ensure_future(cleared.wait()), asyncio.ensure_future(self._client_left())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return cleared.is_set()

    async def drop(self) -> None:
        """Reset the connection without an answer."""
        if self._transport is None:
            raise ConnectionResetError("a fault of the sandbox reset this connection")
        # A duplicate of the descriptor, because event loops return sockets that cannot be configured.
        descriptor = os.dup(self._transport.get_extra_info("socket").fileno())
        with socket.socket(fileno=descriptor) as own:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()
        await self._client_left()

    async def send_half(self, reply: Reply) -> None:
        """Announce the whole body, send half of it, and close the connection."""
        await self._begin(reply)
        await self._piece(reply.body[: len(reply.body) // 2])
        if self._transport is None:
            raise ConnectionResetError("a fault of the sandbox cut this answer off")
        self._transport.close()
        await self._client_left()

    async def trickle(
        self, reply: Reply, sleep: Callable[[float], Awaitable[object]], pause_s: float
    ) -> None:
        """Send the body in at most twenty pieces, with a pause before each."""
        await self._begin(reply)
        size = -(-len(reply.body) // TRICKLE_PIECES) or 1
        for start in range(0, len(reply.body), size):
            await sleep(pause_s)
            await self._piece(reply.body[start : start + size])
        await self._answer({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self, reply: Reply) -> None:
        length = (b"content-length", str(len(reply.body)).encode())
        headers = (*reply.headers, length)
        await self._answer({"type": "http.response.start", "status": reply.status, "headers": headers})

    async def _piece(self, body: bytes) -> None:
        await self._answer({"type": "http.response.body", "body": body, "more_body": True})

    async def _client_left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


async def reply_of(run: Callable[[Send], Awaitable[None]]) -> Reply:
    """Run an ASGI application; return its answer instead of sending it."""
    status = 0
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: list[bytes] = []

    async def keep(message: Message) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status = message["status"]
            headers = tuple((name, value) for name, value in message["headers"] if name != b"content-length")
        elif message["type"] == "http.response.body":
            body.append(message["body"])

    await run(keep)
    return Reply(status, headers, b"".join(body))


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that returns a body which was already read, then the messages after it."""
    given = False

    async def again() -> HTTPReceiveMessage:
        nonlocal given
        if given:
            return cast("HTTPReceiveMessage", await receive())
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _transport_of(send: Send) -> asyncio.Transport | None:
    return getattr(getattr(send, "__self__", None), "transport", None)
