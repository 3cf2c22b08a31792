"""A bare ASGI application that sends each body back: what uvicorn alone can do."""

from collections.abc import Awaitable, Callable
from typing import Any

Scope = dict[str, Any]  # as the ASGI specification has it
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Echo:
    """The application; what is built on it answers in another way."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await self.born()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self.gone()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            status, body = await self.answer(scope, await _body(receive))
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body, "more_body": False})

    async def born(self) -> None:
        """Prepare, inside the event loop."""

    async def gone(self) -> None:
        """Close what was prepared."""

    async def answer(self, _: Scope, body: bytes) -> tuple[int, bytes]:
        """Return a status and a body."""
        return 200, body


def build(_upstream: str) -> Echo:
    """Build it."""
    return Echo()


async def _body(receive: Receive) -> bytes:
    message = await receive()
    body: bytes = message["body"]
    while message["more_body"]:
        message = await receive()
        body += message["body"]
    return body
