"""Builds the parts of the service, in the order of their dependencies."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

import httpx
from msgspec import structs
from prometheus_client import generate_latest

from service.attribution.answers import AnswerBuilder
from service.attribution.conversion_delivery import ConversionDelivery
from service.attribution.delayed_matching import DelayedMatching
from service.attribution.device_sessions import DeviceSessions
from service.attribution.erasure import InstallErasure
from service.attribution.evidence_resolver import EvidenceResolver
from service.attribution.lead_credit import LeadCredit
from service.attribution.leads import Leads
from service.attribution.open_contexts import OpenContextFactory
from service.attribution.open_replay import OpenReplay
from service.attribution.precedence import EvidencePrecedence
from service.attribution.rate_learning import RateLearning
from service.attribution.recent_clicks import RecentClicks
from service.attribution.resolver import Resolver
from service.attribution.shadow_matching import ShadowMatching
from service.attribution.short_links import ShortLinks
from service.attribution.touches import Touches
from service.attribution.webhook_events import WebhookEvents
from service.config.settings import AppSettings
from service.domain.current import Current
from service.domain.device_identity import Identity, NewIds
from service.domain.errors import StoreFailed
from service.domain.match_rules import Rules
from service.domain.models import App
from service.domain.networks import Networks
from service.domain.outbox_entries import KINDS, Kind
from service.dub.click_events import DubClicks
from service.dub.client import DubClient
from service.dub.event_feed import CallBudget, EventFeed
from service.matching.click_sync import ClickSync
from service.matching.ip_matching import AppMatching, IpMatching
from service.matching.matcher import Matcher
from service.outbox.worker import OutboxWorker
from service.ratelimit.limiter import Limits
from service.storage.call_budgets import SharedCallBudget
from service.storage.clicks import ClickStore
from service.storage.network_activity import NetworkActivity
from service.telemetry import Log, Metrics
from service.telemetry.background import Background
from service.webhooks.delivery import WebhookDelivery
from service.wiring.calls_out import webhook_sender
from service.wiring.from_settings import guards, lifetimes, limit_rates, limits, outbox_policy
from service.wiring.in_force import Compiled, InForce
from service.wiring.lifecycle import closing, opened
from service.wiring.stores import Stores

_ENDPOINT_OF: dict[Kind, str] = {"open": "/track/open", "lead": "/track/lead", "sale": "/track/sale"}


class Clocks(NamedTuple):
    """Sources of time, in seconds: ``clock`` is monotonic, ``unix_time`` Unix time, ``sleep`` waits."""

    clock: Callable[[], float]
    unix_time: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]


class Parts:
    """All components of the service, built in the order of their dependencies."""

    def __init__(
        self,
        in_force: InForce,
        transport: httpx.AsyncBaseTransport,
        timing: Clocks,
        log: Log,
        metrics: Metrics,
    ) -> None:
        self._in_force = in_force
        settings = self._settings = in_force.now.settings
        apps = self._apps = Current(in_force.now.apps)
        self._endpoints = Current(settings.webhooks)
        self._transport = transport
        clock, unix_time = self._clock, self._unix_time = timing.clock, timing.unix_time
        self._sleep = timing.sleep
        self._log = log
        self.metrics = metrics
        self.background = Background(log, self.metrics.background_failures)
        self._matching_parts: dict[str, tuple[tuple[object, ...], AppMatching]] = {}
        new_id = NewIds(timing.unix_time)
        timeout_s = settings.dub.timeout_ms / 1000
        identity = self.identity = Identity(
            [secret.encode("utf-8", "surrogateescape") for secret in settings.secrets]
        )
        recent = RecentClicks(clock)
        self.guards = guards(settings, clock, self.metrics)
        self.stores = Stores(in_force, log, self.metrics, self.background, clock, unix_time)
        self._limits = limits(settings, unix_time, self.metrics)
        self.outbox = self._outbox(apps)
        self._webhook_events = WebhookEvents(
            outbox=self.outbox,
            open_store=self.stores.opens,
            erasures=self.stores.erasures,
            apps=apps,
            unix_time=unix_time,
            log=log,
        )
        self._webhook_sender = webhook_sender(unix_time)
        self.webhooks = WebhookDelivery(
            endpoints=self._endpoints,
            sender=self._webhook_sender,
            body_of=self._webhook_events.body_of,
            is_back=self.outbox.endpoint_is_back,
            clock=clock,
            log=log,
            metrics=self.metrics,
        )
        dub = DubClient(transport, settings.dub_base_url, timeout_s, self.guards, unix_time)
        database = self.stores.database
        shared_calls = SharedCallBudget(database, settings.secrets[0]) if database.is_shared else None
        self.links = ShortLinks(
            dub=dub,
            kept=self.stores.links,
            erasures=self.stores.erasures,
            background=self.background,
            unix_time=unix_time,
            call_s=timeout_s,
        )
        self.event_feed = EventFeed(dub, CallBudget(clock), self.background, shared_calls)
        self.rates = RateLearning(self.stores.rates, self.metrics, clock, self.background)
        matching = self._matching_of(in_force.now)
        self.ip_matching = IpMatching(matching, dub, dub, self.stores.touches, clock)
        self.touches = Touches(
            store=self.stores.touches,
            dub=dub,
            cache=self.stores.cache,
            network_of=self.ip_matching.network_of,
            secret=settings.secrets[0].encode("utf-8", "surrogateescape"),
            clock=clock,
            unix_time=unix_time,
        )
        self.resolver = self._resolver(dub, identity, recent, new_id)
        credit = LeadCredit(self.stores.opens, identity)
        self.conversions = self._conversions(dub, apps, identity, credit, recent, new_id)
        self.leads = Leads(
            conversions=self.conversions,
            outbox=self.outbox,
            resolver=self.resolver,
            credit=credit,
            identity=identity,
            clock=clock,
        )
        self.install_erasure = InstallErasure(
            identity=identity,
            delayed_matching=self._delayed_matching,
            shadow_matching=self._shadow_matching,
            opens=self.stores.opens,
            claims=self.stores.claims,
            touches=self.stores.touches,
            entries=self.stores.outbox,
            links=self.stores.links,
            erasures=self.stores.erasures,
            webhook_events=self._webhook_events,
            unix_time=unix_time,
            scrub=self.stores.database.erased,
        )
        self.device_sessions = DeviceSessions(
            self.stores.device_sessions,
            self.install_erasure.forget_devices,
            self.background,
            clock,
            unix_time,
        )
        self.stores.erasures.sweep_with(self.install_erasure.sweep)
        guard = self.guards["/track/open"]
        self._open_replay = OpenReplay(
            self.resolver, apps, lambda: self._clock() - guard.answered_at, self._unix_time
        )
        in_force.follow(self._replace)

    def _replace(self, compiled: Compiled) -> None:
        """Put other apps in force. Nothing here awaits, so that no request sees a part of it."""
        self._apps.replace(compiled.apps)
        self._endpoints.replace(compiled.settings.webhooks)
        self._limits.replace(*limit_rates(compiled.settings))
        self.ip_matching.replace(self._matching_of(compiled))
        self.outbox.add_apps()

    @property
    def rate_limiter(self) -> Limits | None:
        """Return the rate limits, or None if there is none: then requests are not counted."""
        return self._limits if self._limits.are_set else None

    def _conversions(
        self,
        dub: DubClient,
        apps: Mapping[str, App],
        identity: Identity,
        credit: LeadCredit,
        recent: RecentClicks,
        new_id: Callable[[], str],
    ) -> ConversionDelivery:
        return ConversionDelivery(
            dub=dub,
            outbox=self.outbox,
            apps=apps,
            find_open=self.resolver.find_credited,
            credit=credit,
            webhook_events=self._webhook_events,
            known_for_s=recent.known_for_s,
            ordering_key=identity.customer,
            new_id=new_id,
            unix_time=self._unix_time,
            timeout_s=self._settings.dub.timeout_ms / 1000,
        )

    def _outbox(self, apps: Collection[str]) -> OutboxWorker:
        outbox = OutboxWorker(
            self.stores.outbox,
            apps=apps,
            retry_in_s=self._retry_in_s,
            webhooks_at_once=self._webhooks_at_once,
            policy=outbox_policy(self._settings),
            unix_time=self._unix_time,
            log=self._log,
            metrics=self.metrics,
        )
        self.guards.on_recovery(outbox.dub_is_back)
        return outbox

    def _webhooks_at_once(self, app: str) -> int | None:
        return self.webhooks.take_max(app)  # built after the outbox, which it tells when an endpoint is back

    def _retry_in_s(self, kind: Kind, app: str) -> float:
        """Return for how many seconds the outbox must not send entries of this kind for this app."""
        if kind == "webhook":
            return self.webhooks.retry_in_s(app)
        guard = self.guards[_ENDPOINT_OF[kind]]
        return guard.replay_in_s(app) if kind == "open" else guard.retry_in_s(app)

    def _matching_of(self, compiled: Compiled) -> dict[str, AppMatching]:
        """Return what matches each app's opens. It is built anew only for apps whose rules have changed."""
        before, self._matching_parts = self._matching_parts, {}
        for name, app in compiled.apps.items():
            settings = compiled.settings.apps[name]
            rules = (
                *(app.domains, app.dub_api_key, app.analytics_calls_per_s),
                *(
                    settings.match_window_s,
                    settings.min_confidence,
                    settings.ambiguous,
                    settings.shared_networks,
                ),
            )
            known = before.get(name)
            if app.ip_matching != "off":
                parts = known[1] if known and known[0] == rules else self._matching(app, settings)
                self._matching_parts[name] = (rules, parts)
        return {
            name: structs.replace(parts, is_on=compiled.apps[name].matching)
            for name, (_, parts) in self._matching_parts.items()
        }

    def _matching(self, app: App, settings: AppSettings) -> AppMatching:
        rules = Rules(
            window_s=settings.match_window_s,
            ambiguous=settings.ambiguous,
            min_confidence=settings.min_confidence,
        )
        secret = self._settings.secrets[0].encode("utf-8", "surrogateescape")
        networks = Networks(secret, settings.shared_networks, private=self._settings.private_networks)
        scope = f"{networks.fingerprint} {rules.window_s} {','.join(app.domains)}"
        clicks = ClickStore(self.stores.database, self.stores.cipher, app.name, scope)
        click_sync = ClickSync(
            app=app,
            source=DubClicks(self.event_feed),
            clicks=clicks,
            window_s=rules.window_s,
            networks=networks,
            log=self._log,
            unreadable=self.metrics.events_unreadable,
            clock=self._clock,
            unix_time=self._unix_time,
            background=self.background,
            sleep=self._sleep,
        )
        activity = NetworkActivity(self.stores.database, clicks, app.name, rules)
        refused = self.metrics.claims_refused.labels(app.name).inc
        matcher = Matcher(
            activity=activity,
            claims=self.stores.claims,
            rules=rules,
            rates=lambda: self.rates.rates(app.name),
            refused=refused,
        )
        return AppMatching(networks, activity, matcher, click_sync, rules)

    def _resolver(
        self,
        dub: DubClient,
        identity: Identity,
        recent: RecentClicks,
        new_id: NewIds,
    ) -> Resolver:
        cache = self.stores.cache
        answers = AnswerBuilder(cache, lifetimes(self._settings), self._clock)
        self._precedence = EvidencePrecedence(
            cache=cache,
            open_store=self.stores.opens,
            claims=self.stores.claims,
            identity=identity,
            erasures=self.stores.erasures,
            webhook_events=self._webhook_events,
            background=self.background,
            log=self._log,
        )
        self._shadow_matching = ShadowMatching(
            self.ip_matching,
            self.stores.calibration,
            self.rates,
            self.metrics,
            self._clock,
            self.background,
            self._sleep,
        )
        breaker = self.guards["/track/open"].breaker
        evidence_resolver = EvidenceResolver(
            dub=dub,
            ip_matching=self.ip_matching,
            shadow_matching=self._shadow_matching,
            rates=self.rates,
            cache=cache,
            open_store=self.stores.opens,
            claims=self.stores.claims,
            precedence=self._precedence,
            identity=identity,
            recent=recent,
            answers=answers,
            clock=self._clock,
            breaker=lambda: breaker.state,
        )
        self._delayed_matching = DelayedMatching(
            self.ip_matching,
            answers,
            self._precedence.certain,
            self._clock,
            self.background,
            self._sleep,
        )
        return Resolver(
            evidence_resolver=evidence_resolver,
            cache=cache,
            open_store=self.stores.opens,
            outbox=self.outbox,
            contexts=OpenContextFactory(identity, self.stores.erasures, self._clock, self._unix_time),
            answers=answers,
            delayed_matching=self._delayed_matching,
            precedence=self._precedence,
            webhook_events=self._webhook_events,
            clock=self._clock,
            unix_time=self._unix_time,
            new_id=new_id,
            log=self._log,
            metrics=self.metrics,
        )

    @asynccontextmanager
    async def alive(self) -> AsyncIterator[None]:
        """Start the components in the order of their dependencies; on exit, stop them in reverse order."""
        stop_s = self._settings.server.stop_ms / 1000
        deliver_conversion = self.conversions.deliver
        async with (
            closing(self._transport.aclose),
            closing(self._webhook_sender.close),
            opened(self.stores.open, self.stores.close),
            closing(self.event_feed.close),
            closing(self.ip_matching.close),
            closing(self._precedence.close),
            opened(
                lambda: self.outbox.start(
                    {
                        "open": self._open_replay.deliver,
                        "lead": deliver_conversion,
                        "sale": deliver_conversion,
                        "webhook": self.webhooks.deliver,
                    },
                    self.conversions.report_death,
                ),
                self.outbox.close,
            ),
            opened(self.rates.start, self.rates.close),
            closing(self._delayed_matching.close),
            closing(self._shadow_matching.close),
            closing(self.device_sessions.close),
            closing(lambda: self.resolver.close(stop_s)),
            closing(lambda: self.links.close(stop_s)),
        ):
            yield

    async def scrape(self) -> bytes:
        """Return the metrics in Prometheus format; gauges are updated first."""
        self.rates.refresh()
        metrics, broken = self.metrics, self.guards.open_breakers()
        metrics.in_flight.set(self.resolver.in_flight)
        metrics.database_failing.set(self.stores.database.failing is not None)
        for endpoint, calls in self.guards.in_flight().items():
            metrics.dub_in_flight.labels(endpoint).set(calls)
            metrics.breaker_open.labels(endpoint).set(endpoint in broken)
        with contextlib.suppress(StoreFailed):
            depths, ages_s = await self.outbox.depths()
            for kind in KINDS:
                metrics.outbox_entries.labels(kind).set(depths.get((kind, "queued"), 0))
                metrics.outbox_dead_entries.labels(kind).set(depths.get((kind, "dead"), 0))
                metrics.outbox_oldest_seconds.labels(kind).set(ages_s.get(kind, 0))
        return generate_latest(metrics.registry)

    def degraded(self) -> tuple[str, ...]:
        """Return what does not work at the moment, one message for each problem."""
        missing = [
            f"apps.{name}: no dub_api_key_env: no leads, sales or events"
            for name, app in self._apps.items()
            if not app.dub_api_key
        ]
        breakers = [f"Dub's {endpoint}: circuit breaker open" for endpoint in self.guards.open_breakers()]
        status = self._in_force.status
        return (
            *(status.problems() if status else ()),
            *missing,
            *breakers,
            *self.stores.problems(),
            *self.ip_matching.problems(),
            *self.webhooks.problems(),
        )
