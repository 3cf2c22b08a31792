"""``firstopen serve``: from an environment to running servers, and the first words to a person."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from service import demo, settings
from service.api.ops import Readiness
from service.app import create_app
from service.server import listen, run
from service.settings import Settings
from service.telemetry import configure_logs


def serve(env: Mapping[str, str]) -> None:
    """Serve until told to stop; raises ``SettingsError`` or ``PortTaken`` before anything runs."""
    if env.get("FIRSTOPEN_CONFIG"):
        _serve_alone(settings.load(env))
    else:
        _serve_demo(env)


def _serve_alone(configured: Settings) -> None:
    log = configure_logs(configured.log_level)
    readiness = Readiness()
    app = create_app(configured, readiness=readiness)
    sock = listen(configured.host, configured.port)
    apps = ", ".join(configured.apps)
    _say(
        f"firstopen {version('firstopen')} for {apps}, against {configured.dub_base_url}",
        *_addresses(configured),
        "Try it, with one of your links:",
        _curl(configured),
    )
    run([(app, sock)], readiness=readiness, log=log, stop=configured.server)


def _serve_demo(env: Mapping[str, str]) -> None:
    from service.sandbox import create_sandbox
    from service.sandbox.demo import demo_links

    configured = demo.settings(env)
    sandbox_port = demo.sandbox_port(configured.port)
    log = configure_logs(configured.log_level)
    readiness = Readiness()
    app = create_app(configured, readiness=readiness)
    links = demo_links()
    sandbox = create_sandbox(links)
    sock, sandbox_sock = listen(demo.HOST, configured.port), listen(demo.HOST, sandbox_port)
    here = Path("firstopen.toml")
    unused = f" ({here} is here, but FIRSTOPEN_CONFIG does not name it)" if here.exists() else ""
    _say(
        f"firstopen {version('firstopen')}, the demo: FIRSTOPEN_CONFIG is not set{unused}",
        *_addresses(configured),
        f"  sandbox  http://{demo.HOST}:{sandbox_port}  a Dub small enough to embed; its links:",
        *(f"           http://{link.domain}:{sandbox_port}/{link.key} -> {link.url}" for link in links),
        "Try it (the same again is a repeat; another installId gets another clickId):",
        demo.curl(configured.port),
    )
    run([(app, sock), (sandbox, sandbox_sock)], readiness=readiness, log=log, stop=configured.server)


def _addresses(configured: Settings) -> tuple[str, ...]:
    base = f"http://{configured.host}:{configured.port}"
    return (f"  service  {base}  (docs: {base}/schema, health: {base}/health/ready)",)


def _curl(configured: Settings) -> str:
    app = next(iter(configured.apps.values()))
    body = f'{{"deepLink": "https://{app.domains[0]}/YOUR-LINK", "installId": "install-anna"}}'
    return demo.curl_command(configured.host, configured.port, app.publishable_keys[0], body)


def _say(*lines: str) -> None:
    print(*lines, "", sep="\n", flush=True)  # noqa: T201  a person reads this before the logs begin
