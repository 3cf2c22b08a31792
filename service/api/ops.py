"""Health and metrics for operators and orchestrators, and the port that keeps them apart from the apps."""

from collections.abc import Awaitable, Callable
from typing import Any

from litestar import get, route
from litestar.enums import ScopeType
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response
from litestar.types import ASGIApp, Receive, Scope, Send
from msgspec import Struct

from service.api.http import JSONReply
from service.api.problems import documented, problem_reply

_FOR_APPS = frozenset({"v1", "track", "events"})  # first segments of paths; all others are for operators
_FOR_BOTH = frozenset({"health"})
_NO_SUCH_PATH = "/404"


class Health(Struct, frozen=True):
    """``degraded`` names what does not work; opens are answered all the same."""

    status: str
    degraded: tuple[str, ...] = ()


class Readiness:
    """Whether new opens may be sent here. The server turns it off when it is told to stop."""

    def __init__(self) -> None:
        self.stopping = False


def ops_routes(
    readiness: Readiness,
    degraded: Callable[[], tuple[str, ...]],
    scrape: Callable[[], Awaitable[bytes]],
) -> list[HTTPRouteHandler]:
    """Build the health handlers; ``degraded`` names, at any moment, what does not work."""

    @route(
        "/health/live",
        http_method=["GET", "HEAD"],
        operation_id=_operation_id,
        summary="Is the process alive?",
        tags=["Ops"],
    )
    async def live() -> Health:
        """Answer as long as the event loop turns."""
        return Health("alive")

    @route(
        "/health/ready",
        http_method=["GET", "HEAD"],
        operation_id=_operation_id,
        summary="Can opens be sent here?",
        responses=documented(503),
        tags=["Ops"],
    )
    async def ready() -> Response[Health]:
        """Answer 200 as long as opens can be answered, naming what is degraded; 503 while stopping."""
        if readiness.stopping:
            return problem_reply(503, "stopping: no new requests, please")
        return JSONReply(Health("ready", degraded()))

    @get(
        "/metrics",
        media_type="text/plain; version=0.0.4; charset=utf-8",
        response_class=Response,
        operation_id="metrics",
        summary="Metrics, for Prometheus",
        tags=["Ops"],
    )
    async def metrics() -> Response[bytes]:
        """Return the metrics in Prometheus format; docs/metrics.md explains each."""
        return Response(await scrape(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return [live, ready, metrics]


class OpsPort:
    """Serve the apps' paths on the public port only, everything else on ``port`` only, health on both.

    A request on the wrong port is routed to a path that does not exist, so the app answers and counts
    it like any other unknown path: whatever the method, a caller cannot tell that the path exists
    elsewhere.
    """

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] == ScopeType.HTTP:
            segment = scope["path"].lstrip("/").partition("/")[0]  # the router ignores doubled slashes
            server = scope["server"]  # the socket's own address: no header has a say in it
            on_ops_port = server is not None and server[1] == self._port
            if segment not in _FOR_BOTH and (segment in _FOR_APPS) == on_ops_port:
                scope["path"] = _NO_SUCH_PATH
                scope["raw_path"] = _NO_SUCH_PATH.encode()
        await self._app(scope, receive, send)


def _operation_id(handler: HTTPRouteHandler, method: Any, _path: Any) -> str:
    name = handler.handler_name
    return name if method == "GET" else f"{name}Head"
