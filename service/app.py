"""Mounts the routes on what ``wiring.parts`` builds."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import httpx
import structlog
from litestar import Litestar, Router
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin

from service.api.auth import Callers
from service.api.direct import Direct
from service.api.dub_compat.routes import dub_routes
from service.api.http import JSONReply, request_class
from service.api.installs import installs_routes
from service.api.leads import leads_routes
from service.api.links import links_routes
from service.api.listing import listing_routes
from service.api.live import live_routes
from service.api.opens import answering_opens, direct_opens, opens_routes
from service.api.ops import Readiness, ops_routes
from service.api.outgoing import Outgoing
from service.api.pages.assets import asset_routes
from service.api.pages.front import front_routes
from service.api.pages.rendering import Pages
from service.api.problems import Problems, count_failed
from service.api.schema import openapi
from service.api.touches import touches_routes
from service.api.traces import traces_routes
from service.api.well_known import well_known_routes
from service.config.files import Loaded
from service.config.settings import Settings
from service.domain.current import Current
from service.domain.device_identity import TrustedProxies
from service.telemetry import Event, Log, Metrics
from service.wiring.calls_out import dub_transport, request_tracing
from service.wiring.config_watch import ConfigWatch
from service.wiring.in_force import InForce, compile_settings
from service.wiring.lifecycle import closing
from service.wiring.live import live_feed
from service.wiring.parts import Clocks, Parts


class Service(Litestar):
    """The ASGI app. ``direct`` answers opens without Litestar; if it is None, Litestar answers all.

    ``reload`` reads the configuration again; None: it is not read from files.
    """

    __slots__ = ("direct", "reload")

    direct: Direct | None
    reload: Callable[[], None] | None

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        """Add Litestar's plugin for msgspec only: it would import pydantic where that is installed."""
        return [*plugins, MsgspecDIPlugin()]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one ASGI connection."""
        if self.direct is None or not await self.direct.answers(scope, receive, send):
            await super().__call__(scope, receive, send)


def create_app(
    settings: Settings,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    clock: Callable[[], float] = time.monotonic,
    unix_time: Callable[[], float] = time.time,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    readiness: Readiness | None = None,
    metrics: Metrics | None = None,
    loaded: Loaded | None = None,
) -> Service:
    """Wire the service. Tests set ``transport`` and time.

    ``clock`` is monotonic seconds, ``unix_time`` wall clock seconds. ``loaded``: the files that ``settings``
    come from, to read them again when they change; None: they are not watched.
    """
    log: Log = structlog.get_logger().bind()
    readiness = readiness or Readiness()
    transport = transport or dub_transport(settings.dub_base_url)
    tracing = request_tracing() if settings.tracing else None
    if tracing is not None:
        transport = tracing.transport(transport)
    in_force = InForce(compile_settings(settings))
    timing = Clocks(clock, unix_time, sleep)
    parts = Parts(in_force, transport, timing, log, metrics or Metrics())
    live = live_feed(parts, readiness, unix_time)
    proxies = TrustedProxies(settings.forwarded_allow_ips)
    callers = Callers(in_force.now.keys, proxies, parts.rate_limiter)
    in_force.follow(lambda compiled: callers.replace(compiled.keys, parts.rate_limiter))
    well_known = Current(in_force.now.well_known)
    in_force.follow(lambda compiled: well_known.replace(compiled.well_known))
    in_force.follow(lambda compiled: _warn_of_deprecated(compiled.settings, log))
    watch = (
        None
        if loaded is None
        else ConfigWatch(
            loaded,
            in_force,
            background=parts.background,
            unix_time=unix_time,
            log=log,
            metrics=parts.metrics,
        )
    )
    problems = Problems(log)
    pages = Pages(console=settings.console.enabled)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        watched = contextlib.nullcontext() if watch is None else watch.running()
        tracing_ends = closing(tracing.close if tracing else _nothing)
        async with tracing_ends, parts.alive(), closing(live.close), watched:
            if "*" in settings.forwarded_allow_ips:
                log.warning(Event.FORWARDED_BY_ANYBODY)
            _warn_of_deprecated(settings, log)
            log.info(
                Event.STARTED,
                version=version("firstopen"),
                apps=len(settings.apps),
                dub=settings.dub_base_url,
            )
            yield
        log.info(Event.STOPPED)

    budget_ms = settings.budget_ms
    requests = request_class(clock)
    outgoing = Outgoing(parts.metrics, clock)
    answer_open = answering_opens(parts.resolver, parts.device_sessions, budget_ms, parts.metrics)
    ours = Router(
        "/",
        route_handlers=[
            *opens_routes(callers, parts.resolver, answer_open),
            *listing_routes(callers, parts.stores.pages),
            *touches_routes(callers, parts.touches, parts.resolver.parse_link),
            *live_routes(callers, live, parts.background),
            *traces_routes(callers, parts.resolver, parts.device_sessions, budget_ms),
            *links_routes(callers, parts.links, parts.identity, budget_ms),
            *leads_routes(callers, parts.leads, budget_ms),
            *dub_routes(callers, parts.resolver, parts.conversions, parts.event_feed, budget_ms),
            *installs_routes(callers, parts.install_erasure),
            *well_known_routes(well_known),
            *ops_routes(readiness, parts.degraded, parts.scrape, in_force.status),
        ],
        request_class=requests,
        response_class=JSONReply,
    )
    routers = [
        ours,
        Router("/", route_handlers=[*asset_routes(), *front_routes(pages)], include_in_schema=False),
    ]
    if settings.console.enabled:
        from service.wiring.console import console  # noqa: PLC0415  a process without it imports none of it

        routers.append(console(in_force, proxies, pages, parts, timing, problems, live))
    service = Service(
        routers,
        middleware=[tracing.middleware] if tracing else (),
        before_send=[outgoing],
        after_exception=[count_failed],
        lifespan=[lifespan],
        exception_handlers={Exception: problems},
        openapi_config=openapi(version("firstopen"), pages),
        logging_config=None,
    )
    # A traced request needs the middleware of Litestar's route.
    service.direct = direct_opens(answer_open, callers, clock, outgoing) if tracing is None else None
    service.reload = watch.ask if watch else None
    return service


async def _nothing() -> None:
    """Close nothing."""


def _warn_of_deprecated(settings: Settings, log: Log) -> None:
    for setting, successor in settings.deprecated:
        log.warning(Event.CONFIG_DEPRECATED, setting=setting, instead=successor)
