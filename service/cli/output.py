"""What the commands print alike: failures, tables, and the settings that they read."""

from typing import NoReturn

import rich_click as click
from rich.console import Console

from service.config import demo, settings
from service.config.settings import Settings, SettingsError

NOT_USABLE_YET, REFUSED = 1, 2  # exit codes

_PIPED_COLUMNS = 160


def fail(message: object, code: int = REFUSED) -> NoReturn:
    """Print one line on stderr and end the command with an exit code."""
    click.echo(f"firstopen: {message}", err=True)
    raise SystemExit(code)


def read_settings() -> Settings:
    """Return the settings of FIRSTOPEN_CONFIG, else the demo's; settings that are wrong end the command."""
    try:
        return settings.of_commands(demo.settings)
    except SettingsError as exc:
        fail(exc)


def pick_app(configured: Settings, name: str) -> str:
    """Return an app's name; a name that is not configured ends the command."""
    if name not in configured.apps:
        fail(f"--app: no app {name!r}; there are: {', '.join(configured.apps)}")
    return name


def console() -> Console:
    """Return a console for tables: wide enough for whole lines where its output is piped."""
    terminal = Console(highlight=False, markup=False)
    return terminal if terminal.is_terminal else Console(highlight=False, markup=False, width=_PIPED_COLUMNS)
