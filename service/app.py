"""The only place where concrete parts meet."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

import httpx
import structlog
from litestar import Litestar, Router
from prometheus_client import generate_latest

from service.api.auth import Callers
from service.api.dub_compat.routes import dub_routes
from service.api.http import JSONReply, request_class
from service.api.installs import installs_routes
from service.api.leads import leads_routes
from service.api.listing import listing_routes
from service.api.opens import opens_routes
from service.api.ops import Readiness, ops_routes
from service.api.outgoing import Outgoing
from service.api.problems import Problems, count_failed
from service.api.schema import openapi
from service.api.traces import traces_routes
from service.attribution.answers import Openings
from service.attribution.conversion_delivery import Conversions
from service.attribution.delayed_matching import SecondLooks
from service.attribution.erasure import Forgetting
from service.attribution.evidence_resolver import Climber
from service.attribution.lead_credit import Credit
from service.attribution.leads import Leads
from service.attribution.open_contexts import Cases
from service.attribution.open_replay import Replays
from service.attribution.precedence import Precedence
from service.attribution.recent_clicks import RecentClicks
from service.attribution.resolver import Resolver
from service.config.settings import AppSettings, Settings, SettingsError
from service.domain.device_identity import Identity, RandomIds, TrustedProxies
from service.domain.errors import StoreFailed
from service.domain.match_rules import Rules
from service.domain.models import App
from service.domain.networks import Networks
from service.domain.outbox_entries import Kind
from service.dub.click_events import DubClicks
from service.dub.client import DubClient
from service.dub.event_feed import CallBudget, EventFeed
from service.dub.transport import AiohttpTransport
from service.matching.click_sync import ClickFeed
from service.matching.ip_matching import AppMatching, FirstLaunches
from service.matching.matcher import Matcher
from service.outbox.worker import OutboxWorker
from service.storage.call_budgets import SharedCallBudget
from service.storage.clicks import ClickStore
from service.storage.network_activity import NetworkActivity
from service.telemetry import Event, Log, Metrics
from service.telemetry.background import Background
from service.wiring.compiled import (
    app_keys,
    compile_app,
    guards,
    lifetimes,
    limits,
    outbox_policy,
)
from service.wiring.stores import Stores

if TYPE_CHECKING:
    from service.telemetry.tracing import Tracing

_ENDPOINT_OF: dict[Kind, str] = {"open": "/track/open", "lead": "/track/lead", "sale": "/track/sale"}


def create_app(
    settings: Settings,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    readiness: Readiness | None = None,
    metrics: Metrics | None = None,
) -> Litestar:
    """Wire the service. Tests set ``transport`` and time: ``clock`` is monotonic, ``wall`` Unix seconds."""
    log: Log = structlog.get_logger().bind()
    readiness = readiness or Readiness()
    transport = transport or _transport(settings.dub_base_url)
    tracing = _tracing() if settings.tracing else None
    if tracing is not None:
        transport = tracing.transport(transport)
    apps = {name: compile_app(name, settings) for name in settings.apps}
    parts = _Parts(settings, apps, transport, _Time(clock, wall, sleep), log, metrics or Metrics())
    callers = Callers(
        [app_keys(apps[name], name, settings) for name in settings.apps],
        TrustedProxies(settings.forwarded_allow_ips),
        parts.limits if parts.limits.are_set else None,
    )

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with _closing(tracing.close if tracing else _nothing), parts.alive():
            _warn(settings, log)
            log.info(Event.STARTED, version=version("firstopen"), apps=len(apps), dub=settings.dub_base_url)
            yield
        log.info(Event.STOPPED)

    budget_ms = settings.budget_ms
    ours = Router(
        "/",
        route_handlers=[
            *opens_routes(callers, parts.resolver, budget_ms, parts.metrics),
            *listing_routes(callers, parts.stores.pages),
            *traces_routes(callers, parts.resolver, budget_ms),
            *leads_routes(callers, parts.leads, budget_ms),
            *dub_routes(callers, parts.resolver, parts.conversions, parts.feed, budget_ms),
            *installs_routes(callers, parts.forgetting),
            *ops_routes(readiness, parts.degraded, parts.scrape),
        ],
        request_class=request_class(clock),
        response_class=JSONReply,
    )
    return Litestar(
        [ours],
        middleware=[tracing.middleware] if tracing else (),
        before_send=[Outgoing(parts.metrics)],
        after_exception=[count_failed],
        lifespan=[lifespan],
        exception_handlers={Exception: Problems(log)},
        openapi_config=openapi(version("firstopen")),
        logging_config=None,
    )


class _Time(NamedTuple):
    """Seconds: monotonic, Unix, and waiting for some to pass."""

    clock: Callable[[], float]
    wall: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]


class _Parts:
    """The concrete parts, in the order in which they need each other."""

    def __init__(
        self,
        settings: Settings,
        apps: Mapping[str, App],
        transport: httpx.AsyncBaseTransport,
        timing: _Time,
        log: Log,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._transport = transport
        clock, wall = self._clock, self._wall = timing.clock, timing.wall
        self._sleep = timing.sleep
        self._log = log
        self.metrics = metrics
        self._background = Background(log, self.metrics.background_failures)
        new_id = RandomIds()
        timeout_s = settings.dub.timeout_ms / 1000
        identity = Identity([secret.encode("utf-8", "surrogateescape") for secret in settings.secrets])
        recent = RecentClicks(clock)
        self.guards = guards(settings, clock, self.metrics)
        self.stores = Stores(settings, log, self.metrics, self._background, clock, wall)
        self.limits = limits(settings, wall, self.metrics)
        self.outbox = self._outbox(tuple(apps))
        dub = DubClient(transport, settings.dub_base_url, timeout_s, self.guards, wall)
        database = self.stores.database
        shared_calls = SharedCallBudget(database, settings.secrets[0]) if database.is_shared else None
        self.feed = EventFeed(dub, CallBudget(clock), self._background, shared_calls)
        self.first_launch = self._first_launches(apps, dub)
        self.resolver = self._resolver(dub, identity, recent, new_id)
        credit = Credit(self.stores.opens, identity)
        self.conversions = self._conversions(dub, apps, identity, credit, recent, new_id)
        self.leads = Leads(
            conversions=self.conversions,
            outbox=self.outbox,
            resolver=self.resolver,
            credit=credit,
            identity=identity,
            clock=clock,
        )
        self.forgetting = Forgetting(
            identity=identity,
            looks=self._second_looks,
            opens=self.stores.opens,
            claims=self.stores.claims,
            entries=self.stores.outbox,
            erasures=self.stores.erasures,
            wall=wall,
            scrub=self.stores.database.erased,
        )
        self.stores.erasures.sweep_with(self.forgetting.sweep)
        guard = self.guards["/track/open"]
        self._replays = Replays(self.resolver, apps, lambda: self._clock() - guard.answered_at, self._wall)

    def _conversions(
        self,
        dub: DubClient,
        apps: Mapping[str, App],
        identity: Identity,
        credit: Credit,
        recent: RecentClicks,
        new_id: Callable[[], str],
    ) -> Conversions:
        return Conversions(
            dub=dub,
            outbox=self.outbox,
            apps=apps,
            find_open=self.resolver.find_credited,
            credit=credit,
            known_for_s=recent.known_for_s,
            lane=identity.customer,
            new_id=new_id,
            wall=self._wall,
            timeout_s=self._settings.dub.timeout_ms / 1000,
        )

    def _outbox(self, apps: tuple[str, ...]) -> OutboxWorker:
        outbox = OutboxWorker(
            self.stores.outbox,
            apps=apps,
            held=self._held,
            policy=outbox_policy(self._settings),
            unix_time=self._wall,
            log=self._log,
            metrics=self.metrics,
        )
        self.guards.tell(outbox.dub_is_back)
        return outbox

    def _held(self, kind: Kind, app: str) -> float:
        """Return for how many seconds the outbox sends nothing of this kind for this app."""
        guard = self.guards[_ENDPOINT_OF[kind]]
        return guard.replay_in_s(app) if kind == "open" else guard.retry_in_s(app)

    def _first_launches(self, apps: Mapping[str, App], dub: DubClient) -> FirstLaunches:
        matching = {
            name: self._matching(app, self._settings.apps[name])
            for name, app in apps.items()
            if app.ip_matching != "off"
        }
        return FirstLaunches(matching, dub)

    def _matching(self, app: App, settings: AppSettings) -> AppMatching:
        rules = Rules(
            window_s=settings.match_window_s, crowd_limit=settings.crowd_limit, ambiguous=settings.ambiguous
        )
        secret = self._settings.secrets[0].encode("utf-8", "surrogateescape")
        networks = Networks(secret, settings.shared_networks)
        scope = f"{networks.fingerprint} {rules.window_s} {','.join(app.domains)}"
        clicks = ClickStore(self.stores.database, self.stores.cipher, app.name, scope)
        feed = ClickFeed(
            app=app,
            source=DubClicks(self.feed),
            clicks=clicks,
            window_s=rules.window_s,
            networks=networks,
            log=self._log,
            unreadable=self.metrics.events_unreadable,
            clock=self._clock,
            wall=self._wall,
            background=self._background,
            sleep=self._sleep,
        )
        activity = NetworkActivity(self.stores.database, clicks, app.name, rules)
        refused = self.metrics.claims_refused.inc
        matcher = Matcher(activity=activity, claims=self.stores.claims, rules=rules, refused=refused)
        return AppMatching(networks, activity, matcher, feed, rules)

    def _resolver(
        self,
        dub: DubClient,
        identity: Identity,
        recent: RecentClicks,
        new_id: RandomIds,
    ) -> Resolver:
        memory = self.stores.memory
        openings = Openings(memory, lifetimes(self._settings), self._clock)
        self._precedence = Precedence(
            memory=memory,
            journal=self.stores.opens,
            claims=self.stores.claims,
            identity=identity,
            erasures=self.stores.erasures,
            background=self._background,
            log=self._log,
        )
        climber = Climber(
            dub=dub,
            first_launch=self.first_launch,
            memory=memory,
            journal=self.stores.opens,
            claims=self.stores.claims,
            precedence=self._precedence,
            identity=identity,
            recent=recent,
            openings=openings,
            clock=self._clock,
            breaker=lambda: self.guards["/track/open"].breaker.state,
        )
        self._second_looks = SecondLooks(
            self.first_launch,
            openings,
            self._precedence.certain,
            self._clock,
            self._background,
            self._sleep,
        )
        return Resolver(
            climber=climber,
            memory=memory,
            journal=self.stores.opens,
            outbox=self.outbox,
            cases=Cases(identity, self.stores.erasures, self._clock, self._wall),
            openings=openings,
            second_looks=self._second_looks,
            precedence=self._precedence,
            clock=self._clock,
            wall=self._wall,
            new_id=new_id,
            log=self._log,
            metrics=self.metrics,
        )

    @asynccontextmanager
    async def alive(self) -> AsyncIterator[None]:
        """Birth order; a stop goes back up."""
        stop_s = self._settings.server.stop_ms / 1000
        sell = self.conversions.deliver
        async with (
            _closing(self._transport.aclose),
            _opened(self.stores.open, self.stores.close),
            _closing(self.feed.close),
            _closing(self.first_launch.close),
            _closing(self._precedence.close),
            _opened(
                lambda: self.outbox.start({"open": self._replays.deliver, "lead": sell, "sale": sell}),
                self.outbox.close,
            ),
            _closing(self._second_looks.close),
            _closing(lambda: self.resolver.close(stop_s)),
        ):
            yield

    async def scrape(self) -> bytes:
        """Return the metrics as Prometheus reads them, with what is only counted when asked."""
        metrics, broken = self.metrics, self.guards.open_breakers()
        metrics.in_flight.set(self.resolver.in_flight)
        metrics.database_failing.set(self.stores.database.failing is not None)
        for endpoint, calls in self.guards.in_flight().items():
            metrics.dub_in_flight.labels(endpoint).set(calls)
            metrics.breaker_open.labels(endpoint).set(endpoint in broken)
        with contextlib.suppress(StoreFailed):
            depths, oldest_s = await self.outbox.depths()
            for kind in _ENDPOINT_OF:
                metrics.outbox_entries.labels(kind).set(depths.get((kind, "queued"), 0))
                metrics.outbox_dead_entries.labels(kind).set(depths.get((kind, "dead"), 0))
            metrics.outbox_oldest_seconds.set(oldest_s)
        return generate_latest(metrics.registry)

    def degraded(self) -> tuple[str, ...]:
        """Name what does not work right now."""
        missing = [
            f"apps.{name}: no dub_api_key_env: no leads, sales or events"
            for name in self._settings.apps
            if not self._settings.dub_api_keys.get(name)
        ]
        breakers = [f"Dub's {endpoint}: circuit breaker open" for endpoint in self.guards.open_breakers()]
        return (*missing, *breakers, *self.stores.problems(), *self.first_launch.problems())


@asynccontextmanager
async def _closing(close: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await close()


@asynccontextmanager
async def _opened(
    open_: Callable[[], Awaitable[None]], close: Callable[[], Awaitable[None]]
) -> AsyncIterator[None]:
    await open_()
    async with _closing(close):
        yield


async def _nothing() -> None:
    """Close nothing."""


def _transport(base_url: str) -> AiohttpTransport:
    """Build what carries calls to Dub; raises ``SettingsError`` if its proxy or certificates are wrong."""
    try:
        return AiohttpTransport(base_url)
    except (ValueError, OSError) as exc:
        raise SettingsError(str(exc)) from exc


def _tracing() -> "Tracing":
    """Build what makes traces; raises ``SettingsError`` where the extra or a variable is wrong."""
    try:
        from service.telemetry.tracing import tracing_of_environment  # noqa: PLC0415  an extra, and not always there
    except ImportError as exc:
        raise SettingsError(
            "OTEL_*: traces take what is not installed: pip install 'firstopen[otel]', or unset them"
        ) from exc
    try:
        return tracing_of_environment()
    except ValueError as exc:
        raise SettingsError(str(exc)) from exc


def _warn(settings: Settings, log: Log) -> None:
    if "*" in settings.forwarded_allow_ips:
        log.warning(Event.FORWARDED_BY_ANYBODY)
