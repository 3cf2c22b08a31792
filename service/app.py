"""The only place where concrete parts meet."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import NamedTuple

import httpx
import structlog
from litestar import Litestar, Router
from prometheus_client import generate_latest

from service.api.auth import AppKeys, Callers
from service.api.dub import dub_routes
from service.api.http import JSONReply, request_class
from service.api.leads import leads_routes
from service.api.opens import opens_routes
from service.api.ops import Readiness, ops_routes
from service.api.problems import Problems
from service.api.schema import openapi
from service.api.traces import traces_routes
from service.dub.breaker import BreakerPolicy
from service.dub.client import ENDPOINTS, DubClient
from service.dub.guard import Guards
from service.dub.transport import open_transport
from service.outbox.outbox import DurableOutbox
from service.outbox.policy import OutboxPolicy
from service.resolve.click_feed import ClickFeed
from service.resolve.climb import Climber
from service.resolve.conversions import Conversions
from service.resolve.errors import StoreFailed
from service.resolve.events import CallBudget, EventFeed
from service.resolve.first_launch import AppMatching, FirstLaunches
from service.resolve.identity import Identity, RandomIds, TrustedProxies
from service.resolve.leads import Leads
from service.resolve.matcher import Matcher
from service.resolve.matching import Rules
from service.resolve.model import App
from service.resolve.networks import Networks
from service.resolve.openings import Lifetimes, Openings
from service.resolve.owed import Kind
from service.resolve.recent import RecentClicks
from service.resolve.replays import Replays
from service.resolve.resolver import Resolver
from service.resolve.second_looks import SecondLooks
from service.resolve.window import ClickWindow
from service.settings import AppSettings, Settings, compile_router
from service.store.claims import CLAIMS_SCHEMA, SqliteClaims
from service.store.database import Database
from service.store.entries import ENTRIES_SCHEMA, SqliteEntries
from service.store.housekeeping import Housekeeping
from service.store.journal import JOURNAL_SCHEMA, SqliteJournal
from service.store.memory import MemoryLimits, MemoryStore
from service.store.sealing import Seal
from service.telemetry import Event, Log, Metrics

_DAY_S = 86_400
_ENDPOINT_OF: dict[Kind, str] = {"open": "/track/open", "lead": "/track/lead", "sale": "/track/sale"}


def create_app(
    settings: Settings,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    readiness: Readiness | None = None,
) -> Litestar:
    """Wire the service. Tests set ``transport`` and time: ``clock`` is monotonic, ``wall`` Unix seconds."""
    log: Log = structlog.get_logger().bind()
    readiness = readiness or Readiness()
    transport = transport or open_transport(settings.dub.keepalive_s)
    apps = {name: _compile(name, settings) for name in settings.apps}
    parts = _Parts(settings, apps, transport, _Time(clock, wall, sleep), log)
    callers = Callers(
        [_keys(apps[name], name, settings) for name in settings.apps],
        TrustedProxies(settings.forwarded_allow_ips),
    )

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with parts.alive():
            _warn(settings, log)
            log.info(Event.STARTED, version=version("firstopen"), apps=len(apps), dub=settings.dub_base_url)
            yield
        log.info(Event.STOPPED)

    budget_ms = settings.budget_ms
    ours = Router(
        "/",
        route_handlers=[
            *opens_routes(callers, parts.resolver, budget_ms),
            *traces_routes(callers, parts.resolver, budget_ms),
            *leads_routes(callers, parts.leads, budget_ms),
            *dub_routes(callers, parts.resolver, parts.conversions, parts.feed, budget_ms),
            *ops_routes(readiness, parts.degraded, parts.scrape),
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
    ) -> None:
        self._settings = settings
        self._transport = transport
        clock, wall = self._clock, self._wall = timing.clock, timing.wall
        self._sleep = timing.sleep
        self._log = log
        self.metrics = Metrics()
        new_id = RandomIds()
        timeout_s = settings.dub.timeout_ms / 1000
        identity = Identity([secret.encode("utf-8", "surrogateescape") for secret in settings.secrets])
        recent = RecentClicks(clock)
        self.guards = _guards(settings, clock, self.metrics)
        self.database = Database(
            settings.data_dir,
            JOURNAL_SCHEMA + ENTRIES_SCHEMA + CLAIMS_SCHEMA,
            log,
            committed=self.metrics.store_commits.inc,
        )
        self._seal = Seal(settings.secrets)
        journal = SqliteJournal(self.database, self._seal, clock, wall)
        self.outbox = self._outbox(tuple(apps))
        dub = DubClient(transport, settings.dub_base_url, timeout_s, self.guards, wall)
        self.feed = EventFeed(dub, CallBudget(clock))
        self._claims = SqliteClaims(self.database, wall)
        self.first_launch = self._first_launches(apps, dub)
        self.resolver = self._resolver(dub, journal, identity, recent, new_id)
        self.conversions = Conversions(
            dub=dub,
            outbox=self.outbox,
            apps=apps,
            find_open=self.resolver.find,
            known_for_s=recent.known_for_s,
            lane=identity.customer,
            new_id=new_id,
            wall=wall,
            timeout_s=timeout_s,
        )
        self.leads = Leads(
            conversions=self.conversions,
            outbox=self.outbox,
            resolver=self.resolver,
            journal=journal,
            identity=identity,
        )
        self._replays = Replays(self.resolver, apps)
        self._housekeeping = Housekeeping(
            journal, self._claims, settings.installs.install_ttl_days * _DAY_S, wall
        )

    def _outbox(self, apps: tuple[str, ...]) -> DurableOutbox:
        outbox = DurableOutbox(
            SqliteEntries(self.database, self._seal),
            apps=apps,
            held=lambda kind, app: self.guards[_ENDPOINT_OF[kind]].retry_in_s(app),
            policy=_outbox_policy(self._settings),
            wall=self._wall,
            log=self._log,
            metrics=self.metrics,
        )
        self.guards.tell(outbox.dub_is_back)
        return outbox

    def _first_launches(self, apps: Mapping[str, App], dub: DubClient) -> FirstLaunches:
        matching = {
            name: self._matching(app, self._settings.apps[name])
            for name, app in apps.items()
            if app.ip_matching != "off"
        }
        return FirstLaunches(matching, dub, self._clock, self._wall)

    def _matching(self, app: App, settings: AppSettings) -> AppMatching:
        rules = Rules(
            window_s=settings.match_window_s, crowd_limit=settings.crowd_limit, ambiguous=settings.ambiguous
        )
        secret = self._settings.secrets[0].encode("utf-8", "surrogateescape")
        networks = Networks(secret, settings.shared_networks)
        window = ClickWindow(settings.match_window_s)
        feed = ClickFeed(
            app=app,
            events=self.feed,
            window=window,
            networks=networks,
            log=self._log,
            clock=self._clock,
            wall=self._wall,
            sleep=self._sleep,
        )
        return AppMatching(
            Matcher(networks=networks, window=window, claims=self._claims, rules=rules), feed, rules
        )

    def _resolver(
        self,
        dub: DubClient,
        journal: SqliteJournal,
        identity: Identity,
        recent: RecentClicks,
        new_id: RandomIds,
    ) -> Resolver:
        memory = MemoryStore(_memory_limits(self._settings), self._clock)
        openings = Openings(memory, _lifetimes(self._settings), self._clock)
        climber = Climber(
            dub=dub,
            first_launch=self.first_launch,
            memory=memory,
            journal=journal,
            identity=identity,
            recent=recent,
            openings=openings,
            clock=self._clock,
            breaker=lambda: self.guards["/track/open"].breaker.state,
        )
        self._second_looks = SecondLooks(self.first_launch, openings, self._clock, self._sleep)
        return Resolver(
            climber=climber,
            memory=memory,
            journal=journal,
            outbox=self.outbox,
            identity=identity,
            openings=openings,
            second_looks=self._second_looks,
            lifetimes=_lifetimes(self._settings),
            clock=self._clock,
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
            _opened(self.database.open, self.database.close),
            _closing(self._housekeeping.close),
            _closing(self.feed.close),
            _closing(self.first_launch.close),
            _opened(
                lambda: self.outbox.start({"open": self._replays.deliver, "lead": sell, "sale": sell}),
                self.outbox.close,
            ),
            _closing(self._second_looks.close),
            _closing(lambda: self.resolver.close(stop_s)),
        ):
            self._housekeeping.start()
            yield

    async def scrape(self) -> bytes:
        """Return the metrics as Prometheus reads them, with what is only counted when asked."""
        metrics, broken = self.metrics, self.guards.open_breakers()
        metrics.in_flight.set(self.resolver.in_flight)
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
        missing = [f"{variable} is not set" for variable in self._settings.keys_missing]
        breakers = [f"Dub's {endpoint}: circuit breaker open" for endpoint in self.guards.open_breakers()]
        disk = [f"disk: {self.database.failing}: no leads"] if self.database.failing else []
        return (*missing, *breakers, *disk, *self.first_launch.problems())


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


def _compile(name: str, settings: Settings) -> App:
    app = settings.apps[name]
    return App(
        name,
        app.domains,
        compile_router(name, app),
        trusts_forwarded_ip=app.trusts_forwarded_ip,
        clients_report_leads=app.leads == "client",
        dub_api_key=settings.dub_api_keys.get(name, ""),
        ip_matching=app.ip_matching,
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


def _lifetimes(settings: Settings) -> Lifetimes:
    cache = settings.cache
    return Lifetimes(
        answer_ttl_s=cache.answer_ttl_s,
        pending_ttl_s=cache.pending_ttl_s,
        call_s=settings.dub.timeout_ms / 1000,
    )


def _guards(settings: Settings, clock: Callable[[], float], metrics: Metrics) -> Guards:
    dub = settings.dub
    policy = BreakerPolicy(
        window_s=dub.breaker_window_s,
        failures_min=dub.breaker_failures,
        failure_ratio=dub.breaker_ratio,
        open_s=dub.breaker_open_s,
    )
    return Guards(
        ENDPOINTS,
        policy=policy,
        in_flight_max=dub.in_flight_max,
        slow_s=dub.slow_ms / 1000,
        clock=clock,
        metrics=metrics,
    )


def _outbox_policy(settings: Settings) -> OutboxPolicy:
    outbox = settings.outbox
    return OutboxPolicy(
        in_flight_max=outbox.in_flight_max,
        backoff_min_s=outbox.backoff_min_s,
        backoff_max_s=outbox.backoff_max_s,
        expiry_s=outbox.expiry_days * _DAY_S,
    )
