"""Read settings from ``firstopen.toml`` and the environment into frozen Structs, and check them.

An invalid or unknown setting stops the start with an error that names the setting and what was expected.
Secrets are in environment variables, which the environment or a ``.env`` file beside ``firstopen.toml``
sets; ``firstopen.toml`` contains only the names of those variables.
"""

import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import ada_url
import msgspec
from msgspec import Meta, Struct

from service.config.env_file import ENV_FILE, BadEnvFile, read_env_file
from service.domain.deep_links import canonical_domain
from service.domain.gate import BadGate, GateRule, Gates
from service.domain.match_rules import MIN_CONFIDENCE
from service.domain.models import BUDGET_MAX_MS, BUDGET_MIN_MS
from service.domain.rates import rates
from service.domain.routing import NEVER_SCHEMES, BadRule, Router, RouteRule, RouteTest
from service.domain.short_links import BadTemplate, LinkTemplate, LinkTemplateRule
from service.domain.type_descriptions import closest, explain
from service.domain.webhooks import EVENT_TYPES, Endpoint, EventType, InvalidEndpoint, parse_endpoint

_SECRET_MIN_CHARS = 32
_OURS = "FIRSTOPEN_"
_VARIABLES = frozenset(
    {
        *("BUDGET_MS", "CONFIG", "DATA_DIR", "FORWARDED_ALLOW_IPS", "HOST"),
        *("LOG_LEVEL", "PORT", "OPS_PORT", "SECRET", "DATABASE_URL"),
    }
)
# Variables that Kubernetes and Docker set for a service whose name begins with firstopen.
_SERVICE_LINK = re.compile(r"FIRSTOPEN_(?:\w+_)?(?:SERVICE_(?:HOST|PORT(?:_\w+)?)|PORT_\d+_\w+)")
_KEY = re.compile(r"[\x21-\x7e]{1,512}")
_KEY_EXPECTED = "1 to 512 printable ASCII characters without spaces"
_APP_ID = re.compile(r"[A-Z0-9]{10}\.[A-Za-z0-9.-]{1,200}")
_LINK_PATH = re.compile(r"(?:NOT )?[/*]\S{0,500}")
_PACKAGE = re.compile(r"[A-Za-z]\w*(?:\.[A-Za-z]\w*)+", re.ASCII)
_FINGERPRINT = re.compile(r"(?:[0-9A-F]{2}:){31}[0-9A-F]{2}")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
# Settings of apps that 0.2.0 had, and what took their place. The next release refuses them as unknown.
_REPLACED = {"crowd_limit": "min_confidence"}
_OTLP_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PORT_MAX = 65_535
_LEVELS = ("debug", "info", "warning", "error", "critical")

T = TypeVar("T")


class SettingsError(Exception):
    """A setting is invalid; the message names it and what was expected. Stops the start."""


class IosSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[apps.*.ios]``: which iOS apps open the links of the domains, as ``firstopen doctor`` checks it."""

    app_ids: Annotated[tuple[str, ...], Meta(min_length=1)]
    paths: Annotated[tuple[str, ...], Meta(min_length=1)] = ("*",)


class AndroidSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[apps.*.android]``: which Android app opens the links of the domains."""

    package: str
    sha256_cert_fingerprints: Annotated[tuple[str, ...], Meta(min_length=1)]


class WebhookSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[apps.*.webhook]``: which events are sent to the app's backend. URL and secrets are variables."""

    url_env: Annotated[str, Meta(min_length=1)]
    secret_env: Annotated[str, Meta(min_length=1)]
    events: Annotated[tuple[EventType, ...], Meta(min_length=1)] = EVENT_TYPES
    allow_private_targets: bool = False


class AppSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ``[apps.*]`` table."""

    publishable_keys: Annotated[tuple[str, ...], Meta(min_length=1)]
    domains: Annotated[tuple[str, ...], Meta(min_length=1)]
    default_screen: Annotated[str, Meta(min_length=1)]
    update_screen: Annotated[str, Meta(min_length=1)] = "update"
    server_keys_env: str | None = None
    dub_api_key_env: str | None = None
    schemes: tuple[str, ...] = ()
    leads: Literal["client", "server"] = "server"  # publishable keys can be extracted from the app
    ip_matching: Literal["on", "off", "consented"] = "on"
    touch_signals: Literal["off", "on", "consented"] = "off"
    trusts_forwarded_ip: bool = False
    match_window_s: Annotated[int, Meta(ge=60, le=259_200)] = 3600  # maximum age of a click; one hour at Dub
    first_launch_max_age_h: Annotated[int, Meta(ge=1, le=2160)] = 72  # of the install; at least the window
    min_confidence: Annotated[float, Meta(ge=0, le=1)] = MIN_CONFIDENCE  # of a match by IP address or touch
    ambiguous: Literal["refuse", "latest"] = "refuse"
    shared_networks: tuple[str, ...] = ()  # such as those of relays: never matched
    rate_limit: str | None = None  # of each key of this app; replaces limits.per_key
    analytics_calls_per_s: Annotated[int, Meta(ge=1, le=100)] = 2  # depends on Dub's plan: Pro 2, Business 4
    routes: tuple[RouteRule, ...] = ()
    route_tests: tuple[RouteTest, ...] = ()
    gate: GateRule = GateRule()
    link_templates: tuple[LinkTemplateRule, ...] = ()
    ios: IosSettings | None = None
    android: AndroidSettings | None = None
    webhook: WebhookSettings | None = None


class CacheSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[cache]``: what one process remembers. Ages are in seconds or days."""

    answer_ttl_s: Annotated[float, Meta(ge=1, le=86_400)] = 3600  # Dub repeats a clickId for one hour
    memory_mb: Annotated[int, Meta(ge=16, le=65_536)] = 160  # about 1 KB per open; a pod needs 256 MB more
    link_stale_days: Annotated[float, Meta(ge=0, le=90)] = 7  # routes opens while Dub cannot be reached
    unknown_link_ttl_s: Annotated[float, Meta(ge=0, le=3600)] = 60  # new links work after a minute at most


class DubSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[dub]``: how Dub is called."""

    in_flight_max: Annotated[int, Meta(ge=1, le=10_000)] = 100  # concurrent calls per endpoint
    timeout_ms: Annotated[int, Meta(ge=100, le=60_000)] = BUDGET_MAX_MS  # a late answer still counts
    slow_ms: Annotated[int, Meta(ge=50, le=60_000)] = 1000  # below the usual budget: a slow call is no use
    breaker_failures: Annotated[int, Meta(ge=1, le=10_000)] = 10  # fewer in a window may be chance
    breaker_open_s: Annotated[float, Meta(ge=0.1, le=600)] = 5  # then one probe


class OutboxSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[outbox]``: how opens, leads and sales are sent that Dub has not accepted yet."""

    in_flight_max: Annotated[int, Meta(ge=1, le=1000)] = 16  # leaves capacity for new opens
    expiry_days: Annotated[float, Meta(gt=0, le=6)] = 6  # Dub deduplicates leads for 7 days


class InstallSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[installs]``: how long opens are kept on disk."""

    install_ttl_days: Annotated[float, Meta(ge=1, le=3650)] = 90


class LimitSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[limits]``: how many requests are accepted; unlimited if not set."""

    per_key: str | None = None
    per_address: str | None = None


class ServerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[server]``: how long a stop takes."""

    drain_ms: Annotated[int, Meta(ge=0, le=60_000)] = 1000  # not ready, still answering, after SIGTERM
    stop_ms: Annotated[int, Meta(ge=0, le=60_000)] = 12_000  # a little more than the longest budget


class ConsoleSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[console]``: the operator's web page, at ``/console``."""

    enabled: bool = True


class File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole ``firstopen.toml``; apps are decoded one by one, so that errors can name the app."""

    apps: dict[str, Any]
    cache: CacheSettings = CacheSettings()
    dub: DubSettings = DubSettings()
    outbox: OutboxSettings = OutboxSettings()
    installs: InstallSettings = InstallSettings()
    limits: LimitSettings = LimitSettings()
    server: ServerSettings = ServerSettings()
    console: ConsoleSettings = ConsoleSettings()


class Settings(Struct, frozen=True, kw_only=True):
    """All settings of the process, from the file and the environment."""

    apps: dict[str, AppSettings]
    cache: CacheSettings
    dub: DubSettings
    outbox: OutboxSettings
    installs: InstallSettings
    limits: LimitSettings
    server: ServerSettings
    console: ConsoleSettings
    secrets: tuple[str, ...]  # the first is the current one
    server_keys: dict[str, tuple[str, ...]]  # by app
    dub_api_keys: dict[str, str]  # by app
    webhooks: dict[str, Endpoint]  # by app
    host: str
    port: int
    ops_port: int | None  # for metrics, schema and console; None: they are on ``port``
    budget_ms: int
    forwarded_allow_ips: tuple[str, ...]
    log_level: str
    dub_base_url: str
    data_dir: Path
    database_url: str  # PostgreSQL's; empty: SQLite in ``data_dir``
    tracing: bool
    deprecated: tuple[tuple[str, str], ...] = ()  # set, without effect; each with what took its place
    demo: bool = False
    private_networks: bool = False  # match private addresses: only ``firstopen dev`` does

    def __repr__(self) -> str:
        """Return a text without secrets."""
        return f"Settings(apps={list(self.apps)})"


def load(env: Mapping[str, str], *, keys_required: bool = True) -> Settings:
    """Read the file that ``FIRSTOPEN_CONFIG`` names, and the environment; raises ``SettingsError``."""
    return parse_file(read_file(env), env, keys_required=keys_required)


def read_file(env: Mapping[str, str]) -> bytes:
    """Return the content of the file that ``FIRSTOPEN_CONFIG`` names; raises ``SettingsError``."""
    path = env["FIRSTOPEN_CONFIG"]
    if not path:
        raise SettingsError("FIRSTOPEN_CONFIG: expected a path, got nothing (unset it to run the demo)")
    try:
        return Path(path).read_bytes()
    except OSError as exc:
        raise SettingsError(f"FIRSTOPEN_CONFIG: cannot read {path}: {exc}") from exc


def parse_file(content: bytes, env: Mapping[str, str], *, keys_required: bool = True) -> Settings:
    """Build settings from the content of FIRSTOPEN_CONFIG's file; raises ``SettingsError``."""
    path = env["FIRSTOPEN_CONFIG"]
    try:
        text = content.decode()
    except UnicodeDecodeError as exc:
        raise SettingsError(f"FIRSTOPEN_CONFIG: cannot read {path}: {exc}") from exc
    return parse(text, env, name=path, keys_required=keys_required)


def environment() -> dict[str, str]:
    """Return the environment, plus the variables of the ``.env`` file beside FIRSTOPEN_CONFIG's file.

    Variables that are already set are not changed. The variables are also added to ``os.environ``, where
    OpenTelemetry and OpenSSL read their own. Raises ``SettingsError``.
    """
    if os.environ.get("FIRSTOPEN_CONFIG"):
        try:
            variables = read_env_file(Path(os.environ["FIRSTOPEN_CONFIG"]).parent / ENV_FILE)
        except BadEnvFile as exc:
            raise SettingsError(str(exc)) from exc
        for name, value in variables.items():
            os.environ.setdefault(name, value)
    return {**os.environ}


def of_commands(demo: Callable[[Mapping[str, str]], "Settings"]) -> Settings:
    """Return the settings that ``serve`` would use, for a command that needs neither secret nor keys.

    ``demo`` builds the settings if FIRSTOPEN_CONFIG is not set. Raises ``SettingsError``.
    """
    env = environment()
    if "FIRSTOPEN_CONFIG" not in env:
        return demo(env)
    unused = {"FIRSTOPEN_SECRET": "unused: this command hashes and decrypts nothing"}
    return load({**unused, **env}, keys_required=False)


def parse(
    text: str,
    env: Mapping[str, str],
    *,
    name: str = "firstopen.toml",
    demo: bool = False,
    keys_required: bool = True,
) -> Settings:
    """Build settings from the text of a ``firstopen.toml`` and an environment; raises ``SettingsError``."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise SettingsError(f"{name}: not TOML: {exc}") from exc
    file = _convert(raw, File, "")
    if not file.apps:
        raise SettingsError("apps: expected at least one [apps.<name>] table")
    deprecated = tuple(_take_replaced(file.apps))
    apps = {app: _app(table, app) for app, table in file.apps.items()}
    _refuse_shared(apps)
    _check_limits(file.limits)
    _refuse_unknown(apps, env)
    port = _number(env, "FIRSTOPEN_PORT", 8000, 1, _PORT_MAX)
    server_keys, dub_api_keys = _keys(apps, env, required=keys_required)
    _refuse_shared_keys(apps, server_keys)
    webhooks = _webhooks(apps, env, required=keys_required)
    return Settings(
        apps=apps,
        cache=file.cache,
        dub=file.dub,
        outbox=file.outbox,
        installs=file.installs,
        limits=file.limits,
        server=file.server,
        console=file.console,
        secrets=_secrets(env),
        server_keys=server_keys,
        dub_api_keys=dub_api_keys,
        webhooks=webhooks,
        host=env.get("FIRSTOPEN_HOST") or "127.0.0.1",
        port=port,
        ops_port=_ops_port(env, port),
        budget_ms=_number(env, "FIRSTOPEN_BUDGET_MS", 1500, BUDGET_MIN_MS, BUDGET_MAX_MS),
        forwarded_allow_ips=_networks(env),
        log_level=_choice(env, "FIRSTOPEN_LOG_LEVEL", "info", _LEVELS),
        dub_base_url=_base_url(env),
        data_dir=Path(env.get("FIRSTOPEN_DATA_DIR") or "var"),
        database_url=env.get("FIRSTOPEN_DATABASE_URL", ""),
        tracing=_wants_traces(env),
        deprecated=deprecated,
        demo=demo,
    )


def compile_router(name: str, app: AppSettings) -> Router:
    """Compile an app's routes; raises ``SettingsError``, which names the app and the route."""
    try:
        return Router(
            app.routes,
            default_screen=app.default_screen,
            update_screen=app.update_screen,
            schemes=app.schemes,
        )
    except BadRule as exc:
        path = f"apps.{name}.routes[{exc.index}].{exc.field}"
        raise SettingsError(f"{path}: {app.routes[exc.index].pattern!r} {exc}") from exc


def compile_gates(name: str, app: AppSettings) -> Gates | None:
    """Compile an app's gates, None if no build is held; raises ``SettingsError``."""
    try:
        gates = Gates(app.gate, app.update_screen)
    except BadGate as exc:
        raise SettingsError(f"apps.{name}.gate.{exc.field}: {exc}") from exc
    return None if gates.is_open else gates


def compile_templates(name: str, app: AppSettings) -> dict[str, LinkTemplate]:
    """Compile an app's link templates, by name; raises ``SettingsError``."""
    templates: dict[str, LinkTemplate] = {}
    for index, rule in enumerate(app.link_templates):
        path = f"apps.{name}.link_templates[{index}]"
        domain = app.domains[0] if rule.domain is None else canonical_domain(rule.domain)
        if domain not in app.domains:
            raise SettingsError(f"{path}.domain: expected one of the app's domains")
        if rule.name in templates:
            raise SettingsError(f"{path}.name: {rule.name!r} is already used")
        try:
            templates[rule.name] = LinkTemplate(rule, domain, app.schemes)
        except BadTemplate as exc:
            raise SettingsError(f"{path}.{exc.field}: {exc}") from exc
    return templates


def _take_replaced(apps: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Remove the settings that an earlier version had; yield the name of each, and what took its place."""
    for name, table in apps.items():
        for setting, successor in _REPLACED.items():
            if isinstance(table, dict) and table.pop(setting, None) is not None:
                yield f"apps.{name}.{setting}", successor


def _app(table: object, name: str) -> AppSettings:
    app = _convert(table, AppSettings, f"apps.{name}")
    path = f"apps.{name}"
    domains = tuple(canonical_domain(domain) for domain in app.domains)
    for index, domain in enumerate(domains):
        if not domain:
            raise SettingsError(f"{path}.domains[{index}]: expected a domain such as acme.link")
    for index, key in enumerate(app.publishable_keys):
        if not _KEY.fullmatch(key):
            raise SettingsError(
                f"{path}.publishable_keys[{index}]: expected {_KEY_EXPECTED}, such as dub_pk_acme"
            )
    for index, scheme in enumerate(app.schemes):
        if not _SCHEME.fullmatch(scheme) or scheme in NEVER_SCHEMES:
            raise SettingsError(f"{path}.schemes[{index}]: expected a scheme of the app's own, such as acme")
    for index, network in enumerate(app.shared_networks):
        if not _is_network(network):
            raise SettingsError(f"{path}.shared_networks[{index}]: expected a network such as 203.0.113.0/24")
    _check_rates(f"{path}.rate_limit", app.rate_limit)
    _check_well_known(path, app)
    app = msgspec.structs.replace(app, domains=domains)
    compile_router(name, app)
    compile_gates(name, app)
    compile_templates(name, app)
    return app


def _check_well_known(path: str, app: AppSettings) -> None:
    if app.ios is not None:
        _check_each(
            f"{path}.ios.app_ids", app.ios.app_ids, _APP_ID, "team id and bundle id: ABCDE12345.com.acme.app"
        )
        _check_each(f"{path}.ios.paths", app.ios.paths, _LINK_PATH, "a path: /product/*, or NOT /help/*")
    if app.android is not None:
        _check_each(
            f"{path}.android.package", app.android.package, _PACKAGE, "a package such as com.acme.app"
        )
        _check_each(
            f"{path}.android.sha256_cert_fingerprints",
            app.android.sha256_cert_fingerprints,
            _FINGERPRINT,
            "32 bytes in upper-case hexadecimal digits with colons: 14:6D:E9:…",
        )


def _check_each(path: str, values: str | tuple[str, ...], form: re.Pattern[str], expected: str) -> None:
    """Raise ``SettingsError`` for a value that has another form."""
    if isinstance(values, str):
        if not form.fullmatch(values):
            raise SettingsError(f"{path}: expected {expected}")
        return
    for index, value in enumerate(values):
        _check_each(f"{path}[{index}]", value, form, expected)


def _check_limits(limits: LimitSettings) -> None:
    _check_rates("limits.per_key", limits.per_key)
    _check_rates("limits.per_address", limits.per_address)


def _check_rates(path: str, text: str | None) -> None:
    if text is not None:
        try:
            rates(text)
        except ValueError as exc:
            raise SettingsError(f"{path}: {exc}, got {text!r}") from exc


def _refuse_shared(apps: Mapping[str, AppSettings]) -> None:
    _refuse_twice("domains", {name: app.domains for name, app in apps.items()}, shown=True)


def _refuse_shared_keys(apps: Mapping[str, AppSettings], server_keys: Mapping[str, tuple[str, ...]]) -> None:
    keys = {name: (*app.publishable_keys, *server_keys.get(name, ())) for name, app in apps.items()}
    _refuse_twice("publishable_keys or server keys", keys, shown=False)


def _refuse_twice(what: str, claims: Mapping[str, tuple[str, ...]], *, shown: bool) -> None:
    """Raise ``SettingsError`` for a value that is set twice, in one app or two; ``shown`` if not secret."""
    owners: dict[str, str] = {}
    for name, values in claims.items():
        for value in values:
            if value in owners:
                shown_as = repr(value) if shown else "one of them"
                raise SettingsError(f"apps.{name}.{what}: {shown_as} is already used by apps.{owners[value]}")
            owners[value] = name


def _refuse_unknown(apps: Mapping[str, AppSettings], env: Mapping[str, str]) -> None:
    """Raise ``SettingsError`` for an unknown FIRSTOPEN_ variable, which is probably a typo."""
    named = {name for app in apps.values() for name in (app.server_keys_env, app.dub_api_key_env)}
    hooks = [app.webhook for app in apps.values() if app.webhook is not None]
    named |= {name for hook in hooks for name in (hook.url_env, hook.secret_env)}
    for name, value in env.items():
        if not name.startswith(_OURS) or name in named or name.removeprefix(_OURS) in _VARIABLES:
            continue
        if not _SERVICE_LINK.fullmatch(name) and not (name.endswith("_PORT") and "://" in value):
            close = closest(name.removeprefix(_OURS), _VARIABLES)
            hint = f", did you mean {_OURS}{close}?" if close else ""
            raise SettingsError(f"{name}: unknown variable{hint}")


def _keys(
    apps: Mapping[str, AppSettings], env: Mapping[str, str], *, required: bool
) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    server_keys: dict[str, tuple[str, ...]] = {}
    dub_api_keys: dict[str, str] = {}
    for name, app in apps.items():
        path = f"apps.{name}"
        if app.server_keys_env:
            keys = _keys_in(app.server_keys_env, env, f"{path}.server_keys_env", required=required)
            server_keys[name] = keys
        if app.dub_api_key_env:
            keys = _keys_in(app.dub_api_key_env, env, f"{path}.dub_api_key_env", required=required)
            if len(keys) > 1:
                raise SettingsError(f"{app.dub_api_key_env}: expected one key")
            dub_api_keys[name] = "".join(keys)
    return server_keys, dub_api_keys


def _webhooks(
    apps: Mapping[str, AppSettings], env: Mapping[str, str], *, required: bool
) -> dict[str, Endpoint]:
    """Return the webhook endpoints by app, without those whose variables are not set and not required."""
    endpoints: dict[str, Endpoint] = {}
    for name, app in apps.items():
        hook, path = app.webhook, f"apps.{name}.webhook"
        if hook is None:
            continue
        missing = {
            f"{path}.{setting}": variable
            for setting, variable in (("url_env", hook.url_env), ("secret_env", hook.secret_env))
            if not env.get(variable, "").strip()
        }
        for setting, variable in missing.items():
            if required:
                raise SettingsError(f"{setting}: the environment variable {variable} is not set")
        if missing:
            continue
        try:
            endpoints[name] = parse_endpoint(
                env[hook.url_env], env[hook.secret_env], allow_private=hook.allow_private_targets
            )
        except InvalidEndpoint as exc:
            variable = hook.url_env if exc.of_url else hook.secret_env
            raise SettingsError(f"{variable} ({path}): {exc}") from exc
    return endpoints


def _keys_in(variable: str, env: Mapping[str, str], path: str, *, required: bool) -> tuple[str, ...]:
    keys = _listed(env.get(variable, ""))
    if required and not keys:
        raise SettingsError(f"{path}: the environment variable {variable} is not set")
    if not all(_KEY.fullmatch(key) for key in keys):
        raise SettingsError(f"{variable}: expected {_KEY_EXPECTED}")
    return keys


def _secrets(env: Mapping[str, str]) -> tuple[str, ...]:
    secrets = _listed(env.get("FIRSTOPEN_SECRET", ""))
    shortest = min(map(len, secrets), default=0)
    if shortest < _SECRET_MIN_CHARS:
        found = f"one of {shortest}" if shortest else "nothing"
        raise SettingsError(
            f"FIRSTOPEN_SECRET: expected a secret of {_SECRET_MIN_CHARS} characters or more (commas separate"
            f" several), got {found}; use the same one on every replica, set in the environment or in the"
            f" {ENV_FILE} beside firstopen.toml (generate one: openssl rand -hex 32)"
        )
    return secrets


def _is_network(text: str) -> bool:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _networks(env: Mapping[str, str]) -> tuple[str, ...]:
    entries = _listed(env.get("FIRSTOPEN_FORWARDED_ALLOW_IPS", "")) or ("127.0.0.0/8", "::1")
    for entry in entries:
        if entry != "*" and not _is_network(entry):
            raise SettingsError(
                f"FIRSTOPEN_FORWARDED_ALLOW_IPS: expected addresses, networks or *, got {entry!r}"
            )
    return entries


def _base_url(env: Mapping[str, str]) -> str:
    text = env.get("DUB_BASE_URL") or "https://api.dub.co"
    try:
        url = ada_url.URL(text)
    except ValueError:
        url = None
    scheme = str(url.protocol) if url else ""
    if url is None or scheme not in ("http:", "https:") or url.username or url.password or url.search:
        raise SettingsError("DUB_BASE_URL: expected an http or https URL without user info or a query")
    return str(url.href).partition("#")[0].rstrip("/")


def _wants_traces(env: Mapping[str, str]) -> bool:
    """Return True if OpenTelemetry's own variables turn traces on."""
    if env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = env.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    return exporter != "none" and bool(exporter or any(env.get(name) for name in _OTLP_ENDPOINTS))


def _ops_port(env: Mapping[str, str], port: int) -> int | None:
    if not env.get("FIRSTOPEN_OPS_PORT"):
        return None
    ops_port = _number(env, "FIRSTOPEN_OPS_PORT", port, 1, _PORT_MAX)
    if ops_port == port:
        raise SettingsError("FIRSTOPEN_OPS_PORT: expected a port other than FIRSTOPEN_PORT")
    return ops_port


def _number(env: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = env.get(name) or str(default)
    if not text.strip().isdecimal() or not low <= int(text) <= high:
        raise SettingsError(f"{name}: expected an integer from {low} to {high}, got {text!r}")
    return int(text)


def _choice(env: Mapping[str, str], name: str, default: str, choices: tuple[str, ...]) -> str:
    choice = (env.get(name) or default).lower()
    if choice not in choices:
        raise SettingsError(f"{name}: expected one of {', '.join(choices)}, got {choice!r}")
    return choice


def _listed(text: str) -> tuple[str, ...]:
    return tuple(entry.strip() for entry in text.split(",") if entry.strip())


def _convert(raw: object, into: type[T], path: str) -> T:
    """Convert a decoded table to a Struct; raises ``SettingsError`` with the setting's path."""
    try:
        return msgspec.convert(raw, into)
    except msgspec.ValidationError as exc:
        found = explain(exc, into, structure="a table")
        setting = f"{path}.{found.path}".strip(".")
        raise SettingsError(f"{setting or 'the file'}: {found.problem}") from exc
