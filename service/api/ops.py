"""What an operator and an orchestrator ask: is it alive, is it ready, what is degraded."""

from collections.abc import Awaitable, Callable
from typing import Any

from litestar import get, route
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response
from msgspec import Struct

from service.api.http import JSONReply
from service.api.problems import documented, problem_reply


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
        """Count what happens; `service/telemetry.py` says what each name means."""
        return Response(await scrape(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return [live, ready, metrics]


def _operation_id(handler: HTTPRouteHandler, method: Any, _path: Any) -> str:
    name = handler.handler_name
    return name if method == "GET" else f"{name}Head"
