"""``firstopen serve``: run the service, and print where it listens."""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import rich_click as click
from litestar import Litestar

from service.api.ops import OpsPort, Readiness
from service.app import create_app
from service.cli.output import fail
from service.config import demo, settings
from service.config.env_file import is_readable_by_others
from service.config.files import ConfigFiles, Loaded
from service.config.settings import Settings, SettingsError
from service.server.run import PortTaken, Served, listen, run
from service.storage.errors import EngineUnavailable, StartRefused
from service.telemetry import Event, Log, Metrics, configure_logs
from service.wiring.stores import Prepared, engine, prepare

if TYPE_CHECKING:
    from service.sandbox.domains import SandboxDomain
    from service.sandbox.links import SandboxLink

_SANDBOX_FILE = "sandbox.sqlite"  # a file, so that clicks and leads survive a restart
_SANDBOX_STOP_S = 1  # a call that a fault stalls may never end


@click.command("serve")
@click.option("--host", help="Address to listen on.  [FIRSTOPEN_HOST; 127.0.0.1]")
@click.option("--port", type=click.IntRange(1, 65_535), help="Port to listen on.  [FIRSTOPEN_PORT; 8000]")
def command(host: str | None, port: int | None) -> None:
    """Answer app opens over HTTP.

    With FIRSTOPEN_CONFIG, serves the apps of that file and calls Dub (DUB_BASE_URL). Without it, serves a
    demo app on 127.0.0.1 only, with an embedded Dub on the next port.
    """
    try:
        given = {**os.environ, **({"FIRSTOPEN_HOST": host} if host else {})}
        if port:
            given["FIRSTOPEN_PORT"] = str(port)
        settings.environment()  # adds the variables of .env to os.environ, for libraries that read it
        serve(given)
    except (SettingsError, PortTaken, StartRefused) as exc:
        fail(exc)


def serve(env: Mapping[str, str]) -> None:
    """Serve until a signal stops it. ``env`` is without the variables of the ``.env``.

    Raises ``SettingsError``, ``PortTaken`` or ``StartRefused`` before any request is accepted.
    """
    if "FIRSTOPEN_CONFIG" in env:
        _serve_configured(ConfigFiles(env).read())
    else:
        _serve_demo(env)


def _serve_configured(loaded: Loaded) -> None:
    configured, env_path = loaded.settings, loaded.files.env_path
    log = configure_logs(configured.log_level)
    prepared = _prepare(configured, log)
    socks = _take_ports(configured)
    apps = ", ".join(configured.apps)
    _print(
        f"firstopen {version('firstopen')} for {apps}, against {configured.dub_base_url}",
        *_addresses(configured),
        "Try it, with one of your links:",
        _curl(configured),
    )
    if is_readable_by_others(env_path):
        log.warning(Event.ENV_FILE_READABLE, file=str(env_path))
    prepared.log(log)
    readiness, metrics = Readiness(), Metrics()
    app = create_app(configured, readiness=readiness, metrics=metrics, loaded=loaded)
    served, drain_s = [_served(app, socks, configured, metrics)], _drain_s(configured)
    run(served, readiness=readiness, log=log, drain_s=drain_s, reload=app.reload)


def _serve_demo(env: Mapping[str, str]) -> None:
    from service.sandbox.demo import demo_domain, demo_links

    configured = demo.settings(env)
    sandbox_port = demo.sandbox_port(configured.port)
    links = demo_links()
    here = Path("firstopen.toml")
    unused = f" ({here} exists here, but FIRSTOPEN_CONFIG is not set to it)" if here.exists() else ""

    def greeting() -> list[str]:
        return [
            f"firstopen {version('firstopen')}, the demo on {demo.HOST} only: no FIRSTOPEN_CONFIG{unused}",
            *_addresses(configured),
            f"  sandbox  http://{demo.HOST}:{sandbox_port}  an embedded Dub; its links:",
            *(f"           http://{link.domain}:{sandbox_port}/{link.key} -> {link.url}" for link in links),
            "Try it (sent again, it is a repeat; another installId gets another clickId):",
            demo.curl(configured.port),
        ]

    serve_beside_sandbox(configured, links, [demo_domain()], greeting, host=demo.HOST)


def serve_beside_sandbox(
    configured: Settings,
    links: list["SandboxLink"],
    domains: list["SandboxDomain"],
    greeting: Callable[[], list[str]],
    *,
    host: str,
) -> None:
    """Serve beside an embedded Dub on the next port; ``greeting`` is printed once both listen.

    Raises ``SettingsError``, ``PortTaken`` or ``StartRefused`` before any request is accepted.
    """
    from service.sandbox import create_sandbox

    log = configure_logs(configured.log_level)
    prepared = _prepare(configured, log)
    readiness, metrics = Readiness(), Metrics()
    app = create_app(configured, readiness=readiness, metrics=metrics)
    sandbox_dir = configured.data_dir.with_name(f"{configured.data_dir.name}-sandbox")
    sandbox_dir.mkdir(parents=True, exist_ok=True)
    sandbox = create_sandbox(links, domains=domains, data=sandbox_dir / _SANDBOX_FILE)
    socks, sandbox_sock = _take_ports(configured), listen(host, demo.sandbox_port(configured.port))
    _print(*greeting())
    prepared.log(log)
    served = [_served(app, socks, configured, metrics), Served(sandbox, [sandbox_sock], _SANDBOX_STOP_S)]
    run(served, readiness=readiness, log=log, drain_s=_drain_s(configured))


def _prepare(configured: Settings, log: Log) -> Prepared:
    """Migrate the database; return what was done, to be logged after the greeting is printed.

    The service also starts if the database cannot be reached: it answers opens, and keeps trying to connect.
    Raises ``SettingsError`` or ``StartRefused``.
    """
    if not configured.database_url:
        _refuse_unusable(configured.data_dir)
    with contextlib.suppress(EngineUnavailable):
        return asyncio.run(prepare(configured, log))
    return Prepared([], None)


def _refuse_unusable(folder: Path) -> None:
    """Raise ``SettingsError`` if the data directory cannot be written to.

    A full disk is accepted: space may be freed later, and opens are answered until then.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise SettingsError(f"FIRSTOPEN_DATA_DIR: cannot write to {folder}: {exc.strerror}") from exc


def _take_ports(configured: Settings) -> list[socket.socket]:
    """Return the listening sockets: one, or two with FIRSTOPEN_OPS_PORT. Raises ``PortTaken``."""
    ports = [port for port in (configured.port, configured.ops_port) if port is not None]
    return [listen(configured.host, port) for port in ports]


def _served(app: Litestar, socks: list[socket.socket], configured: Settings, metrics: Metrics) -> Served:
    split = app if configured.ops_port is None else OpsPort(app, configured.ops_port)
    return Served(split, socks, configured.server.stop_ms / 1000, metrics.requests_unread)


def _drain_s(configured: Settings) -> float:
    return configured.server.drain_ms / 1000


def _addresses(configured: Settings) -> tuple[str, ...]:
    host = f"http://{bracketed(configured.host)}"
    ops = f"{host}:{configured.ops_port or configured.port}"
    return (
        f"  service  {host}:{configured.port}  (docs: {ops}/schema, health: {ops}/health/ready)",
        f"  data     {engine(configured).place}",
    )


def _curl(configured: Settings) -> str:
    app = next(iter(configured.apps.values()))
    body = f'{{"deepLink": "https://{app.domains[0]}/YOUR-LINK", "installId": "install-anna"}}'
    return demo.curl_command(bracketed(configured.host), configured.port, app.publishable_keys[0], body)


def bracketed(host: str) -> str:
    """Return a host as it is written in URLs: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host


def _print(*lines: str) -> None:
    print(*lines, "", sep="\n", flush=True)  # noqa: T201  a person reads this before the logs begin
