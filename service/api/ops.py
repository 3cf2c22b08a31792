"""Health and metrics for operators and orchestrators, optionally on a port of their own."""

from collections.abc import Awaitable, Callable
from typing import Any

from litestar import get, route
from litestar.enums import ScopeType
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response
from litestar.types import ASGIApp, Receive, Scope, Send
from msgspec import UNSET, Struct, UnsetType

from service.api.http import JSONReply
from service.api.problems import documented, problem_reply
from service.domain.health import ConfigStatus

# First segments of paths; all others are for operators.
_FOR_APPS = frozenset({"v1", "track", "events", ".well-known"})
_FOR_BOTH = frozenset({"health"})
_NO_SUCH_PATH = "/404"


class Health(Struct, frozen=True):
    """The service's health. ``degraded`` lists what does not work; opens are still answered.

    ``config`` is which configuration is in force; absent if it is not read from a file.
    """

    status: str
    degraded: tuple[str, ...] = ()
    config: ConfigStatus | UnsetType = UNSET


class Readiness:
    """Holds whether this process accepts new opens. The server sets ``stopping`` when it must stop."""

    def __init__(self) -> None:
        self.stopping = False


def ops_routes(
    readiness: Readiness,
    degraded: Callable[[], tuple[str, ...]],
    scrape: Callable[[], Awaitable[bytes]],
    config: ConfigStatus | None = None,
) -> list[HTTPRouteHandler]:
    """Build the handlers for health and metrics; ``degraded`` returns what does not work at the moment."""

    @route(
        "/health/live",
        http_method=["GET", "HEAD"],
        operation_id=_operation_id,
        summary="Is the process alive?",
        tags=["Ops"],
    )
    async def live() -> Health:
        """Return 200 while the event loop is running."""
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
        """Return 200 and what is degraded while opens can be answered; 503 while stopping."""
        if readiness.stopping:
            return problem_reply(503, "the service is stopping: send no new requests")
        if config is None:
            return JSONReply(Health("ready", degraded()))
        return JSONReply(Health("ready", degraded(), config))

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
    """Serves the apps' paths only on the public port, all others only on ``port``, and health on both.

    A request on the wrong port is routed to a path that does not exist, so that it is answered and counted
    like any unknown path. Callers cannot detect that the path exists on the other port.
    """

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] == ScopeType.HTTP:
            segment = scope["path"].lstrip("/").partition("/")[0]  # the router ignores doubled slashes
            server = scope["server"]  # the socket's address, which headers cannot change
            on_ops_port = server is not None and server[1] == self._port
            if segment not in _FOR_BOTH and (segment in _FOR_APPS) == on_ops_port:
                scope["path"] = _NO_SUCH_PATH
                scope["raw_path"] = _NO_SUCH_PATH.encode()
        await self._app(scope, receive, send)


def _operation_id(handler: HTTPRouteHandler, method: Any, _path: Any) -> str:
    name = handler.handler_name
    return name if method == "GET" else f"{name}Head"
