"""Answer ``POST`` requests to one path without Litestar's processing of requests, arguments and results.

For each request Litestar looks for the route, wraps the connection for its exception handlers and hooks,
collects a handler's arguments and converts the result into a response. That took 40 of the 110 µs of a
repeated open. So requests to the most used path go to ``Direct`` first, which takes fewer steps.

What can go wrong: a request is answered in another way than Litestar would (``Direct`` sends only good
answers; a request that it cannot authenticate, or that fails, goes to Litestar's route and error handlers).
"""

import re
from collections.abc import Awaitable, Callable
from typing import Any, cast

from litestar.types import Receive, Scope, Send
from msgspec import Struct

from service.api.auth import AnyRequest, Callers
from service.api.http import CALLER, JSONReply, RequestHead, read_body
from service.api.outgoing import Outgoing, cors_headers
from service.domain.models import Caller

_FAILED = "firstopen.failed"  # key in a request's scope: the exception that Litestar must answer
_PLAIN_HOST = re.compile(rb"[A-Za-z0-9.-]{1,253}(?::\d{1,5})?")  # Litestar checks all others


class Direct:
    """Answers requests with this handler and decoder, for callers with a publishable key."""

    def __init__(
        self,
        path: str,
        handler: Callable[[Caller, Any], Awaitable[JSONReply]],
        *,
        callers: Callers,
        decode: Callable[[bytes], Struct],
        clock: Callable[[], float],
        outgoing: Outgoing,
    ) -> None:
        self._path = path
        self._handler = handler
        self._callers = callers
        self._decode = decode
        self._clock = clock
        self._outgoing = outgoing
        self._headers = cors_headers(path, is_preflight=False)
        self._observe = outgoing.timer(path, "POST")

    async def answers(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answer a request; return False, without sending anything, if Litestar must answer it."""
        context: Any = scope
        if context.get("path") != self._path or context["method"] != "POST":
            return False
        caller = None
        try:
            head = RequestHead(scope, self._clock)
            if _PLAIN_HOST.fullmatch(head.host) is None:
                return False
            caller = self._callers.publishable_caller(head)
            reply = await self._handler(caller, self._decode(await read_body(head, receive)))
            body, headers = reply.encoded()
        except Exception as exc:  # noqa: BLE001  Litestar's error handlers answer it
            if caller is not None:  # else nothing is read or counted yet, and Litestar's route fails alike
                context[_FAILED], context[CALLER] = exc, caller
            return False
        self._observe(self._clock() - head.arrived)
        headers += self._outgoing.counted(self._path, "200", caller, self._headers)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})
        return True


def unless_failed(
    before_request: Callable[[AnyRequest], Awaitable[None]],
) -> Callable[[AnyRequest], Awaitable[None]]:
    """Return the ``before_request`` hook of Litestar's route for the path: it raises what failed here."""

    async def hook(request: AnyRequest) -> None:
        failed = cast("dict[str, Any]", request.scope).get(_FAILED)
        if failed is not None:
            raise failed
        await before_request(request)

    return hook
