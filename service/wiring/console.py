"""Build the console, unless the settings turn it off. Imported only if they do not."""

import re
from typing import Any

import msgspec
from litestar import Router
from msgspec import Struct

from service.api.console.devices import devices_pages
from service.api.console.health import BreakerHealth, Health, Setting, SyncHealth, health_pages
from service.api.console.live import live_pages
from service.api.console.opens import opens_pages
from service.api.console.routes import console_router
from service.api.console.sessions import Sessions
from service.api.console.shell import Shell
from service.api.console.trying import try_pages
from service.api.pages.rendering import Pages
from service.api.problems import Problems
from service.attribution.live_feed import LiveFeed
from service.attribution.recent_opens import RecentOpens
from service.config.settings import Settings
from service.domain.device_identity import TrustedProxies
from service.domain.models import App
from service.domain.rates import Rate
from service.ratelimit.limiter import Limits
from service.wiring.in_force import InForce
from service.wiring.parts import Clocks, Parts
from service.wiring.stores import engine

_ATTEMPTS = Rate(10, 60)  # to log in, from one address: a person who mistypes, but no search for keys
_NOT_SHOWN = frozenset({"routes", "route_tests"})  # the page "Try" shows the routes
_OF_PROCESS = ("host", "port", "ops_port", "budget_ms", "forwarded_allow_ips", "log_level", "dub_base_url")


def console(
    in_force: InForce,
    proxies: TrustedProxies,
    pages: Pages,
    parts: Parts,
    timing: Clocks,
    problems: Problems,
    live: LiveFeed,
) -> Router:
    """Build the console's routes on the service's parts."""
    settings = in_force.now.settings
    attempts = Limits(
        per_address=(_ATTEMPTS,),
        per_key={},
        secret=settings.secrets[0].encode("utf-8", "surrogateescape"),
        unix_time=timing.unix_time,
        refused=parts.metrics.rate_limited,
    )
    sessions = Sessions(in_force.now.keys, settings.secrets, timing.unix_time)
    in_force.follow(lambda compiled: sessions.replace(compiled.keys))
    shell = Shell(pages, sessions, attempts, proxies, timing.unix_time)
    stores = parts.stores

    place = engine(settings, exclusive=False).place

    def health(app: App) -> Health:
        problems = [] if in_force.status is None else in_force.status.problems()
        return _health(in_force.now.settings, parts, app, place, problems)

    return console_router(
        shell,
        problems,
        [
            *opens_pages(shell, RecentOpens(stores.opens), parts.resolver, stores.outbox),
            *live_pages(shell, live, parts.device_sessions, parts.background, timing.unix_time),
            *devices_pages(shell, live, parts.device_sessions, parts.resolver.parse_link),
            *try_pages(shell, parts.resolver, settings.budget_ms, timing.clock),
            *health_pages(shell, stores.outbox, stores.calibration, health),
        ],
    )


def settings_shown(settings: Settings, app: str) -> dict[str, list[Setting]]:
    """Return the settings of an app and of the process, by table, without secrets and without other apps.

    The tables of the file have no secrets: they name variables. Of the environment, only what is listed here
    is shown.
    """
    tables = {f"[apps.{app}]": _table(settings.apps[app])}
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        if isinstance(value, Struct):
            tables[f"[{name}]"] = _table(value)
    process = [Setting(name, _shown(getattr(settings, name)), is_set=False) for name in _OF_PROCESS]
    secrets = {
        "FIRSTOPEN_SECRET": len(settings.secrets),
        "server keys of this app": len(settings.server_keys.get(app, ())),
        "Dub API key of this app": int(bool(settings.dub_api_keys.get(app))),
    }
    hidden = [Setting(name, f"{count} set, hidden", is_set=False) for name, count in secrets.items()]
    return {**tables, "environment": [*process, *hidden]}


def _health(settings: Settings, parts: Parts, app: App, database: str, of_file: list[str]) -> Health:
    states, in_flight = parts.guards.states(), parts.guards.in_flight()
    sync = parts.ip_matching.sync_of(app.name)
    others = [f"apps.{name}" for name in settings.apps if name != app.name]
    problems = [
        each for each in (*parts.degraded(), *of_file) if not any(_names(each, other) for other in others)
    ]
    return Health(
        problems=problems,
        breakers=[BreakerHealth(each, state, in_flight[each]) for each, state in states.items()],
        database=database,
        database_problem=parts.stores.database.failing,
        rates=parts.rates.learned(app.name),
        sync=None if sync is None else SyncHealth(*sync),
        opens=parts.metrics.opens.totals("match", app=app.name),
        settings=settings_shown(settings, app.name),
    )


def _names(problem: str, app: str) -> bool:
    """Return True if a problem is of this app: it is nobody else's business."""
    return re.search(rf"{re.escape(app)}(?![\w-])", problem) is not None


def _table(table: Struct) -> list[Setting]:
    return [
        Setting(field.name, _shown(value), is_set=field.required or value != field.default)
        for field in msgspec.structs.fields(table)
        if field.name not in _NOT_SHOWN
        for value in (getattr(table, field.name),)
    ]


def _shown(value: Any) -> str:
    """Return a setting's value for people to read."""
    if value is None or value == ():
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Struct):
        return ", ".join(f"{each.name} = {each.value}" for each in _table(value))
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
