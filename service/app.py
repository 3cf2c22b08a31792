"""The only place where concrete parts meet."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import httpx
import structlog
from litestar import Litestar, Response, Router
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme, Tag

from service.api.auth import Callers
from service.api.http import JSONReply, request_class
from service.api.opens import opens_routes
from service.api.ops import Readiness, ops_routes
from service.api.problems import Problems, problem_reply
from service.dub.client import DubClient
from service.dub.transport import open_transport
from service.resolve.identity import Identity, RandomIds, TrustedProxies
from service.resolve.model import App
from service.resolve.resolver import Lifetimes, Resolver
from service.settings import AppSettings, Settings, compile_router
from service.store.memory import MemoryLimits, MemoryStore
from service.telemetry import Event, Log

_NOT_FOUND = 404


def create_app(
    settings: Settings,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    clock: Callable[[], float] = time.monotonic,
    readiness: Readiness | None = None,
) -> Litestar:
    """Wire the service. ``transport`` and ``clock`` (monotonic, seconds) are for tests to replace."""
    log: Log = structlog.get_logger().bind()
    readiness = readiness or Readiness()
    transport = transport or open_transport(settings.dub.connections_max, settings.dub.keepalive_s)
    apps = {name: _compile(name, app) for name, app in settings.apps.items()}
    resolver = Resolver(
        dub=DubClient(transport, settings.dub_base_url, settings.dub.timeout_ms / 1000),
        memory=MemoryStore(_memory_limits(settings), clock),
        identity=Identity(settings.secrets[0].encode("utf-8", "surrogateescape")),
        lifetimes=Lifetimes(
            answer_ttl_s=settings.cache.answer_ttl_s,
            pending_ttl_s=settings.cache.pending_ttl_s,
        ),
        clock=clock,
        new_id=RandomIds(),
        log=log,
    )
    callers = Callers(
        {apps[name]: app.publishable_keys for name, app in settings.apps.items()},
        TrustedProxies(settings.forwarded_allow_ips),
    )

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        """Birth order; a stop goes back up."""
        async with (
            _closing(transport.aclose),
            _closing(lambda: resolver.close(settings.server.stop_ms / 1000)),
        ):
            _warn(settings, log)
            log.info(Event.STARTED, version=version("firstopen"), apps=len(apps), dub=settings.dub_base_url)
            yield
        log.info(Event.STOPPED)

    ours = Router(
        "/",
        route_handlers=[
            *opens_routes(callers, resolver, settings.budget_ms),
            *ops_routes(readiness, lambda: _degraded(settings)),
        ],
        request_class=request_class(clock),
        response_class=JSONReply,
    )
    return Litestar(
        [ours],
        lifespan=[lifespan],
        exception_handlers={Exception: Problems(log)},
        openapi_config=_openapi(),
        logging_config=None,
    )


@asynccontextmanager
async def _closing(close: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await close()


def _compile(name: str, app: AppSettings) -> App:
    return App(name, app.domains, compile_router(name, app), trusts_forwarded_ip=app.trusts_forwarded_ip)


def _memory_limits(settings: Settings) -> MemoryLimits:
    cache = settings.cache
    return MemoryLimits(
        opens_max=cache.opens_max,
        open_ttl_s=cache.answer_ttl_s,
        links_max=cache.links_max,
        link_ttl_s=cache.link_stale_days * 86_400,
        unknown_links_max=cache.unknown_links_max,
        unknown_link_ttl_s=cache.unknown_link_ttl_s,
    )


def _warn(settings: Settings, log: Log) -> None:
    if settings.secret_is_weak and not settings.demo:
        log.warning(Event.SECRET_WEAK)
    for variable in settings.keys_missing:
        log.warning(Event.KEYS_MISSING, variable=variable)


def _degraded(settings: Settings) -> tuple[str, ...]:
    return tuple(f"{variable} is not set" for variable in settings.keys_missing)


async def _nothing_here(response: Response[Any]) -> Response[Any]:
    """Give the schema's own 404 page the house's error shape."""
    return (
        problem_reply(404, "there is nothing at this path")
        if response.status_code == _NOT_FOUND
        else response
    )


def _openapi() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="firstopen",
        version=version("firstopen"),
        summary="An app was just opened: where should this person land, and which click brought them?",
        openapi_router=Router("/schema", route_handlers=[], after_request=_nothing_here),
        use_handler_docstrings=True,
        tags=[Tag("Opens", "What an app asks at its first screen."), Tag("Ops", "What an operator asks.")],
        components=Components(
            security_schemes={
                "publishableKey": SecurityScheme(
                    type="http", scheme="bearer", description="One of the app's publishable keys (dub_pk_…)."
                )
            }
        ),
    )
