"""The command line: which commands there are. Each is a module of its own, imported when it is used."""

from importlib import import_module

import rich_click as click

# name: its module in this package; each module calls its click command ``command``
_COMMANDS = {
    "db": "db",
    "export": "export",
    "init": "init",
    "open": "open",
    "outbox": "outbox",
    "routes": "routes",
    "sandbox": "sandbox",
    "serve": "serve",
}


class LazyGroup(click.RichGroup):
    """Imports a command when it is used: ``firstopen serve`` loads no other command's parts."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click hands it over
        """Return the names of the commands."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return a command by its name."""
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        command: click.Command = import_module(f"service.cli.{module}").command
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="firstopen")
def main() -> None:
    """Answer where an opened app should land, and which click brought it there.

    With no FIRSTOPEN_CONFIG, everything works on a demo app against an embedded Dub:
    try `firstopen serve`, then paste the curl that it prints.
    """
