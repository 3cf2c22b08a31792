"""The only place where concrete parts meet."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version

import httpx
import structlog
from litestar import Litestar, Router

from service.api.auth import AppKeys, Callers
from service.api.dub import dub_routes
from service.api.http import JSONReply, request_class
from service.api.opens import opens_routes
from service.api.ops import Readiness, ops_routes
from service.api.problems import Problems
from service.api.schema import openapi
from service.dub.client import DubClient
from service.dub.transport import open_transport
from service.resolve.conversions import Conversions
from service.resolve.events import CallBudget, EventFeed
from service.resolve.identity import Identity, RandomIds, TrustedProxies
from service.resolve.model import App
from service.resolve.resolver import Lifetimes, Resolver
from service.settings import Settings, compile_router
from service.store.memory import MemoryLimits, MemoryStore
from service.telemetry import Event, Log


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
    apps = {name: _compile(name, settings) for name in settings.apps}
    dub = DubClient(transport, settings.dub_base_url, settings.dub.timeout_ms / 1000)
    feed = EventFeed(dub, CallBudget(clock))
    resolver = _resolver(settings, dub, clock, log)
    callers = Callers(
        [_keys(apps[name], name, settings) for name in settings.apps],
        TrustedProxies(settings.forwarded_allow_ips),
    )
    stop_s = settings.server.stop_ms / 1000

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        """Birth order; a stop goes back up."""
        async with (
            _closing(transport.aclose),
            _closing(feed.close),
            _closing(lambda: resolver.close(stop_s)),
        ):
            _warn(settings, log)
            log.info(Event.STARTED, version=version("firstopen"), apps=len(apps), dub=settings.dub_base_url)
            yield
        log.info(Event.STOPPED)

    ours = Router(
        "/",
        route_handlers=[
            *opens_routes(callers, resolver, settings.budget_ms),
            *dub_routes(callers, resolver, Conversions(dub), feed, settings.budget_ms),
            *ops_routes(readiness, lambda: _degraded(settings)),
        ],
        request_class=request_class(clock),
        response_class=JSONReply,
    )
    return Litestar(
        [ours],
        lifespan=[lifespan],
        exception_handlers={Exception: Problems(log)},
        openapi_config=openapi(version("firstopen")),
        logging_config=None,
    )


@asynccontextmanager
async def _closing(close: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await close()


def _resolver(settings: Settings, dub: DubClient, clock: Callable[[], float], log: Log) -> Resolver:
    cache = settings.cache
    return Resolver(
        dub=dub,
        memory=MemoryStore(_memory_limits(settings), clock),
        identity=Identity(settings.secrets[0].encode("utf-8", "surrogateescape")),
        lifetimes=Lifetimes(answer_ttl_s=cache.answer_ttl_s, pending_ttl_s=cache.pending_ttl_s),
        clock=clock,
        new_id=RandomIds(),
        log=log,
    )


def _compile(name: str, settings: Settings) -> App:
    app = settings.apps[name]
    return App(
        name,
        app.domains,
        compile_router(name, app),
        trusts_forwarded_ip=app.trusts_forwarded_ip,
        clients_report_leads=app.leads == "client",
        dub_api_key=settings.dub_api_keys.get(name, ""),
        analytics_calls_per_s=app.analytics_calls_per_s,
    )


def _keys(app: App, name: str, settings: Settings) -> AppKeys:
    publishable = (key.encode() for key in settings.apps[name].publishable_keys)
    server = (key.encode() for key in settings.server_keys.get(name, ()))
    return AppKeys(app, tuple(publishable), tuple(server))


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
