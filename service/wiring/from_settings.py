"""Convert settings to what the components take: policies, limits, and values in their units."""

from collections.abc import Callable

from service.api.auth import AppKeys
from service.attribution.answers import Lifetimes
from service.config.settings import Settings, compile_gates, compile_router, compile_templates
from service.domain.models import App
from service.domain.rates import Rate, rates
from service.domain.well_known import WellKnownFiles, apple_app_site_association, asset_links
from service.dub.breaker import BreakerPolicy
from service.dub.client import ENDPOINTS
from service.dub.guard import Guards, replays_max
from service.outbox.policy import OutboxPolicy
from service.ratelimit.limiter import Limits
from service.storage.cache import MemoryLimits
from service.storage.network_activity import CLICK_SLACK_S
from service.storage.outbox import DEAD_KEPT_S
from service.telemetry import Metrics

DAY_S = 86_400


def compile_app(name: str, settings: Settings) -> App:
    """Build an app's routes and policies."""
    app = settings.apps[name]
    return App(
        name,
        app.domains,
        compile_router(name, app),
        trusts_forwarded_ip=app.trusts_forwarded_ip,
        clients_report_leads=app.leads == "client",
        dub_api_key=settings.dub_api_keys.get(name, ""),
        ip_matching=app.ip_matching,
        touch_signals=app.touch_signals,
        window_s=app.match_window_s,
        first_launch_max_age_s=max(app.first_launch_max_age_h * 3600, app.match_window_s),
        analytics_calls_per_s=app.analytics_calls_per_s,
        webhook_events=frozenset(app.webhook.events) if app.webhook else frozenset(),
        schemes=app.schemes,
        link_templates=compile_templates(name, app),
        gates=compile_gates(name, app),
        matching=app.gate.matching,
    )


def well_known_files(settings: Settings) -> dict[str, WellKnownFiles]:
    """Return the files for iOS and Android of each domain whose app has settings for them."""
    files: dict[str, WellKnownFiles] = {}
    for app in settings.apps.values():
        ios, android = app.ios, app.android
        if ios is None and android is None:
            continue
        of_app = WellKnownFiles(
            None if ios is None else apple_app_site_association(ios.app_ids, ios.paths),
            None if android is None else asset_links(android.package, android.sha256_cert_fingerprints),
        )
        files |= dict.fromkeys(app.domains, of_app)
    return files


def app_keys(app: App, name: str, settings: Settings) -> AppKeys:
    """Return an app's publishable and server keys, as bytes."""
    publishable = (key.encode() for key in settings.apps[name].publishable_keys)
    server = (key.encode() for key in settings.server_keys.get(name, ()))
    return AppKeys(app, tuple(publishable), tuple(server))


def memory_limits(settings: Settings) -> MemoryLimits:
    """Return the size and lifetimes of the in-process cache."""
    cache = settings.cache
    return MemoryLimits(
        bytes_max=cache.memory_mb * 1024 * 1024,
        open_ttl_s=cache.answer_ttl_s,
        link_ttl_s=cache.link_stale_days * 86_400,
        unknown_link_ttl_s=cache.unknown_link_ttl_s,
    )


def lifetimes(settings: Settings) -> Lifetimes:
    """Return for how long answers are repeated."""
    cache = settings.cache
    return Lifetimes(
        answer_ttl_s=cache.answer_ttl_s,
        call_s=settings.dub.timeout_ms / 1000,
    )


def guards(settings: Settings, clock: Callable[[], float], metrics: Metrics) -> Guards:
    """Build the circuit breaker and bulkhead of each Dub endpoint."""
    dub = settings.dub
    policy = BreakerPolicy(
        failures_min=dub.breaker_failures,
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


def outbox_policy(settings: Settings) -> OutboxPolicy:
    """Return the outbox's concurrency, backoff and expiry."""
    outbox = settings.outbox
    return OutboxPolicy(
        in_flight_max=outbox.in_flight_max,
        replays_max=min(outbox.in_flight_max, replays_max(settings.dub.in_flight_max)),
        expiry_s=outbox.expiry_days * DAY_S,
    )


def limits(settings: Settings, unix_time: Callable[[], float], metrics: Metrics) -> Limits:
    """Build the rate limits."""
    per_address, per_key = limit_rates(settings)
    return Limits(
        per_address=per_address,
        per_key=per_key,
        secret=settings.secrets[0].encode("utf-8", "surrogateescape"),
        unix_time=unix_time,
        refused=metrics.rate_limited,
    )


def limit_rates(settings: Settings) -> tuple[tuple[Rate, ...], dict[str, tuple[Rate, ...]]]:
    """Return the rates for each address, and by app for each key."""
    wanted = settings.limits
    per_key = {name: app.rate_limit or wanted.per_key for name, app in settings.apps.items()}
    per_address = rates(wanted.per_address) if wanted.per_address else ()
    return per_address, {name: rates(text) for name, text in per_key.items() if text}


def clicks_ttl_s(settings: Settings) -> float:
    """Return for how many seconds clicks are stored: as long as any app may match them."""
    return max(app.match_window_s for app in settings.apps.values()) + CLICK_SLACK_S


def opens_ttl_s(settings: Settings) -> float:
    """Return for how many seconds opens are stored."""
    return settings.installs.install_ttl_days * DAY_S


def claims_ttl_s(settings: Settings) -> float:
    """Return for how many seconds a claim is stored: one day longer than its click may be matched."""
    window_s = max(app.match_window_s for app in settings.apps.values())
    return max(settings.installs.install_ttl_days * DAY_S, window_s + DAY_S)


def secret_kept_s(settings: Settings) -> float:
    """Return for how many seconds data that needs a replaced secret may be stored.

    The longest of the lifetimes of opens, claims and dead letters, and one day more.
    """
    dead_letters_s = settings.outbox.expiry_days * DAY_S + DEAD_KEPT_S
    return max(settings.installs.install_ttl_days * DAY_S, claims_ttl_s(settings), dead_letters_s) + DAY_S
