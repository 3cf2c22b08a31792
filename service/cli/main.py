"""The ``firstopen`` command and the list of its subcommands, one module each."""

import gc
import sys
from importlib import import_module
from typing import Any

import rich_click as click

# Each command is the module of its name in this package, which defines its click command as ``command``.
_COMMANDS = (
    *("calibration", "db", "dev", "doctor", "export", "init", "open"),
    *("outbox", "reload", "routes", "sandbox", "serve", "tail", "webhook"),
)


class LazyGroup(click.RichGroup):
    """Import a command's module when it is used, so that commands start without the others' imports."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click passes it
        """Return the names of the commands."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return a command by its name."""
        if cmd_name not in _COMMANDS:
            return None
        gc.disable()  # imports leave no garbage, but collecting takes a tenth of the start
        try:
            if cmd_name == "serve":
                _import_bare("structlog", "httpx")
            command: click.Command = import_module(f"service.cli.{cmd_name}").command
        finally:
            gc.enable()
        return command


def _import_bare(*names: str) -> None:
    """Import libraries without what they import, where it is installed, to colour their own output.

    That would take a tenth of a start, and of the memory of a process.
    """
    hidden: dict[str, Any] = dict.fromkeys({"rich", "pygments"} - sys.modules.keys())
    sys.modules.update(hidden)  # with None, an import raises ImportError
    try:
        for name in names:
            import_module(name)
    finally:
        for name in hidden:
            del sys.modules[name]


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="firstopen")
def main() -> None:
    """Tell an app that was opened which screen to show, and which click led there.

    Without FIRSTOPEN_CONFIG, all commands use a demo app and an embedded Dub:
    run `firstopen serve`, then paste the curl command that it prints.
    """
