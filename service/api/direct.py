"""Call a handler directly, without Litestar's processing of arguments and results.

For each request Litestar collects a handler's arguments, validates them against a model of its signature and
converts the result into a response. That takes longer than a cached answer. So a handler of a JSON body that
is called very often has this middleware, which does the same in fewer steps.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from litestar import Response
from litestar.types import ASGIApp, Receive, Scope, Send
from msgspec import Struct

from service.api.http import LeanRequest


def direct(
    handler: Callable[[LeanRequest, Any], Awaitable[Response[Any]]],
    *,
    request_class: type[LeanRequest],
    before_request: Callable[[LeanRequest], Awaitable[None]],
    decode: Callable[[bytes], Struct],
) -> Callable[..., ASGIApp]:
    """Return a middleware that answers requests with this handler, ``before_request`` hook and decoder.

    Exceptions go to the app's exception handlers.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        request = request_class(scope, receive, send)
        await before_request(request)
        reply = await handler(request, decode(await request.body()))
        await reply.to_asgi_response(None, request)(scope, receive, send)

    def middleware(app: ASGIApp, **_: Any) -> ASGIApp:  # noqa: ARG001  the inner app is never called
        return answer

    return middleware
