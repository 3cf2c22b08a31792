"""Send server-sent events to a watcher of live opens until it leaves, or must.

What can go wrong: the client is gone without a word (a heartbeat is sent, and the server notices the closed
connection); the client stops reading (what it is sent waits, and after a minute it is disconnected); the
service stops, or its poller fails (the watcher is ended, which interrupts whatever its connection waits for);
a key is revoked while a client is connected (a connection ends after an hour, and the client comes back).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from litestar import Litestar, Request, Response
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from service.aio.tasks import cancel_all
from service.attribution.live_feed import Watcher
from service.domain.errors import StoreFailed
from service.telemetry.background import Background

HEARTBEAT_S = 15.0
RETRY_MS = 1000  # how long clients wait before they connect again

_LASTS_S = 3600.0
_LAST_WORD_S = 0.5
_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # nginx sends each event at once
}


class EventStream(Response[Any]):
    """A response that sends ``messages`` while ``watcher`` is connected, and closes it at the end."""

    def __init__(
        self,
        watcher: Watcher,
        messages: AsyncIterator[bytes],
        background: Background,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Set the few values needed here, as ``JSONReply`` does."""
        self.content = None
        self.status_code = 200
        self.headers = {**(headers or {}), **_HEADERS}
        self._watcher = watcher
        self._messages = messages
        self._background = background

    def to_asgi_response(
        self,
        app: Litestar | None,  # noqa: ARG002  Litestar's signature
        request: Request[Any, Any, Any],  # noqa: ARG002  Litestar's signature
        **_: Any,
    ) -> ASGIResponse:
        """Return the ASGI application that sends the events."""
        headers = [(name.lower().encode(), value.encode()) for name, value in self.headers.items()]
        return _Streamed(self._watcher, self._messages, self._background, headers)


class _Streamed(ASGIResponse):
    def __init__(
        self,
        watcher: Watcher,
        messages: AsyncIterator[bytes],
        background: Background,
        headers: list[tuple[bytes, bytes]],
    ) -> None:
        self.status_code = 200
        self._watcher = watcher
        self._messages = messages
        self._background = background
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  ASGI's signature
        """Send events until the client is gone, or the watcher is ended."""
        loop = asyncio.get_running_loop()
        gone = self._background.spawn(_end_when_gone(receive, self._watcher), "live_client")
        try:
            async with asyncio.timeout(_LASTS_S) as deadline:
                self._watcher.on_end(lambda: deadline.reschedule(loop.time()))
                await send({"type": "http.response.start", "status": 200, "headers": self._headers})
                await _say(send, b"retry: %d\n\n" % RETRY_MS)
                async for message in self._messages:
                    await _say(send, message)
        except TimeoutError:
            pass
        except StoreFailed:
            pass  # the client connects again
        finally:
            self._watcher.close()
            await cancel_all([gone])
        with contextlib.suppress(TimeoutError):  # a client that has stopped reading gets no last word
            async with asyncio.timeout(_LAST_WORD_S):
                await send({"type": "http.response.body", "body": b"", "more_body": False})


def event(name: str, data: str, event_id: str = "") -> bytes:
    """Return a server-sent event."""
    lines = [f"id: {event_id}"] if event_id else []
    lines += [f"event: {name}", *(f"data: {line}" for line in data.splitlines())]
    return ("\n".join(lines) + "\n\n").encode("utf-8", "replace")


async def _say(send: Send, message: bytes) -> None:
    await send({"type": "http.response.body", "body": message, "more_body": True})


async def _end_when_gone(receive: Receive, watcher: Watcher) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    watcher.end()
