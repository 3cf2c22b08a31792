"""Shared by the commands: reading settings, printing failures and tables."""

from typing import TYPE_CHECKING, NoReturn

import rich_click as click

from service.config import demo, settings
from service.config.settings import Settings, SettingsError

if TYPE_CHECKING:
    from rich.console import Console

NOT_USABLE_YET, REFUSED = 1, 2  # exit codes

_PIPED_COLUMNS = 160


def fail(message: object, code: int = REFUSED) -> NoReturn:
    """Print one line on stderr and end the process with an exit code."""
    click.echo(f"firstopen: {message}", err=True)
    raise SystemExit(code)


def read_settings() -> Settings:
    """Return the settings of FIRSTOPEN_CONFIG, or the demo's; invalid settings end the process."""
    try:
        return settings.of_commands(demo.settings)
    except SettingsError as exc:
        fail(exc)


def pick_app(configured: Settings, name: str) -> str:
    """Return the name of a configured app; an unknown name ends the process."""
    if name not in configured.apps:
        fail(f"--app: unknown app {name!r}; configured: {', '.join(configured.apps)}")
    return name


def base_url(configured: Settings) -> str:
    """Return the URL under which this machine reaches the service."""
    host = configured.host if configured.host not in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104  compared, not bound
    return f"http://{f'[{host}]' if ':' in host else host}:{configured.port}"


def console() -> "Console":
    """Return a console for tables; wide enough for whole lines if the output is piped."""
    from rich.console import Console

    terminal = Console(highlight=False, markup=False)
    return terminal if terminal.is_terminal else Console(highlight=False, markup=False, width=_PIPED_COLUMNS)


def server_key(configured: Settings, app: str, purpose: str) -> str:
    """Return a server key of an app; if there is none, end the process and say what needs it."""
    keys = configured.server_keys.get(app)
    if not keys:
        fail(f"apps.{app}.server_keys_env: {purpose} needs a server key, and none is set")
    return keys[0]
