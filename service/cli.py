"""The command line."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import rich_click as click

from service.sandbox.command import sandbox_command

if TYPE_CHECKING:
    from service.settings import Settings

_STARTER = Path("firstopen.toml")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="firstopen")
def main() -> None:
    """Answer where an opened app should land, and which click brought it there.

    With no FIRSTOPEN_CONFIG, everything works on a demo app against an embedded Dub:
    try `firstopen serve`, then paste the curl that it prints.
    """


main.add_command(sandbox_command)


@main.command(
    "outbox",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
    short_help="What has not reached Dub yet, what never will, and why.",
)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def outbox(args: tuple[str, ...]) -> None:
    """Hand over to the outbox's own commands."""
    from service.outbox_cli import outbox_command

    outbox_command.main(list(args), prog_name="firstopen outbox")


@main.command(
    "db",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
    short_help="Which database this is, its schema and its secrets; migrate it.",
)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def db(args: tuple[str, ...]) -> None:
    """Hand over to the database's own commands."""
    from service.db_cli import db_command

    db_command.main(list(args), prog_name="firstopen db")


@main.command()
@click.option("--host", help="Address to listen on.  [FIRSTOPEN_HOST; 127.0.0.1]")
@click.option("--port", type=click.IntRange(1, 65_535), help="Port to listen on.  [FIRSTOPEN_PORT; 8000]")
def serve(host: str | None, port: int | None) -> None:
    """Answer app opens over HTTP.

    With FIRSTOPEN_CONFIG, the apps of that file, against Dub itself (DUB_BASE_URL). Without it, the
    demo app beside an embedded Dub on the next port, on 127.0.0.1 only.
    """
    from service.boot import serve as boot
    from service.server import PortTaken
    from service.settings import SettingsError, environment
    from service.storage.errors import StartRefused

    try:
        env = environment()
        if host:
            env["FIRSTOPEN_HOST"] = host
        if port:
            env["FIRSTOPEN_PORT"] = str(port)
        boot(env)
    except (SettingsError, PortTaken, StartRefused) as exc:
        _stop(str(exc))


@main.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), default=_STARTER)
def init(path: Path) -> None:
    """Write a commented starter file (firstopen.toml, or PATH), and beside it a .env with a new secret.

    Existing files are left as they are.
    """
    from service.env_file import ENV_FILE, BadEnvFile, read_env_file, write_env_file
    from service.starter import STARTER, next_steps

    env_path = path.parent / ENV_FILE
    try:
        existing = read_env_file(env_path)
        with path.open("x", encoding="utf-8") as file:
            file.write(STARTER)
        is_new = write_env_file(env_path)
    except BadEnvFile as exc:
        _stop(str(exc))
    except FileExistsError:
        _stop(f"{path} exists already; it is left as it is")
    except OSError as exc:
        _stop(f"cannot write {exc.filename}: {exc.strerror or exc}")
    has_secret = is_new or bool(existing.get("FIRSTOPEN_SECRET"))
    click.echo(next_steps(path, env_path, is_new=is_new, has_secret=has_secret))


ROUTES_HELP = """\
Print each app's patterns and screens, or which one a destination URL would take, and why.

Warns of routes that no URL can reach, and runs the file's route tests. Exits with 1 if one fails, or if URL
does not land on the screen that --expect names.

\b
  firstopen routes
  firstopen routes 'https://acme.com/product/123?x=1'
  firstopen routes https://acme.com/invite/anna --app-version 2.1 --expect update
"""


@main.command(help=ROUTES_HELP)
@click.argument("url", required=False)
@click.option(
    "--app-version", metavar="VERSION", help="The build that opens it, such as 2.1; left out: the newest."
)
@click.option("--app", "app_name", metavar="NAME", help="Only this app.")
@click.option("--expect", metavar="SCREEN", help="The screen on which URL must land.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: a list with one object for each app.")
def routes(
    url: str | None, app_version: str | None, app_name: str | None, expect: str | None, *, as_json: bool
) -> None:
    """Print, check or explain routes."""
    from service import explain

    settings = _settings()
    if app_name is not None and app_name not in settings.apps:
        _stop(f"--app: no app {app_name!r}; there are: {', '.join(settings.apps)}")
    apps = {name: app for name, app in settings.apps.items() if app_name in (None, name)}
    if expect is not None and (url is None or len(apps) > 1):
        _stop("--expect: needs a URL, and --app where there are several apps")
    if url is None:
        checked = explain.check_apps(apps)
        explain.print_apps(checked, as_json=as_json)
        sys.exit(not all(each.passes for each in checked))
    explained = explain.explain(apps, url, app_version)
    explain.print_explained(explained, as_json=as_json)
    if expect is not None and explained[0].route.screen != expect:
        click.echo(f"firstopen: expected {expect}, but it lands on {explained[0].route.screen}", err=True)
        sys.exit(1)


OPEN_HELP = """\
Ask the running service how an open would be answered, and why. Nothing is recorded or claimed.

\b
  firstopen open https://acme.link/fb-promo
  firstopen open --ip 203.0.113.7 --platform ios
  firstopen open --install-referrer 'deepLink=https%3A%2F%2Facme.link%2Ffb-promo'
"""


@main.command("open", help=OPEN_HELP)
@click.argument("url", required=False)
@click.option("--install-referrer", metavar="TEXT", help="What the Play Install Referrer said.")
@click.option("--clipboard", metavar="TEXT", help="What the clipboard held.")
@click.option("--domain", metavar="DOMAIN", help="One of the app's domains.  [its first]")
@click.option("--install-id", metavar="ID", help="The install that opens; left out: nobody known.")
@click.option("--ip", metavar="ADDRESS", help="The device's address.")
@click.option("--user-agent", metavar="TEXT", help="The device's User-Agent.")
@click.option("--platform", type=click.Choice(["ios", "android"]), help="Else read from the User-Agent.")
@click.option("--app-version", metavar="VERSION", help="The build that opens, such as 2.1.")
@click.option("--app", "app_name", metavar="NAME", help="Which app.  [the first]")
def open_(url: str | None, install_referrer: str | None, app_name: str | None, **fields: str | None) -> None:
    """Explain an open."""
    from service.open_cli import explain_open

    names = {
        "domain": "dubDomain",
        "install_id": "installId",
        "user_agent": "userAgent",
        "app_version": "appVersion",
    }
    body = {names.get(name, name): value for name, value in fields.items()}
    explain_open({"deepLink": url, "installReferrer": install_referrer, **body}, app_name)


EXPORT_HELP = """\
Write opens to stdout, in the order in which they came: how each was decided, nothing personal.

\b
  firstopen export --since 2026-11-01 > opens.ndjson
  firstopen export --since 2026-11-01 --until 2026-12-01 --format csv

Times are RFC 3339, dates (their first moment in UTC) or Unix seconds. Reads the database directly, also while
firstopen serve runs; opens of the last 5 seconds are left out. Exit code 1: the database cannot be reached;
the message says from where to go on.
"""


@main.command("export", help=EXPORT_HELP)
@click.option("--since", metavar="TIME", help="Opens from this time on.  [the oldest]")
@click.option("--until", metavar="TIME", help="Opens from before this time.  [5 seconds ago]")
@click.option("--format", "form", type=click.Choice(["ndjson", "csv"]), default="ndjson", show_default=True)
@click.option("--app", metavar="NAME", help="Only this app's.")
def export(since: str | None, until: str | None, form: str, app: str | None) -> None:
    """Export opens."""
    from service.export_cli import export_opens

    export_opens(since, until, form, app)


def _settings() -> "Settings":
    from service import demo, settings

    try:
        return settings.of_commands(demo.settings)
    except settings.SettingsError as exc:
        _stop(str(exc))


def _stop(message: str) -> NoReturn:
    click.echo(f"firstopen: {message}", err=True)
    raise SystemExit(2)
