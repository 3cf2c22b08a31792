"""``firstopen doctor``: check an installation, and say how to fix what is wrong."""

import asyncio
import sys

import msgspec
import rich_click as click
from rich.table import Table

from service.cli.output import NOT_USABLE_YET, console, fail
from service.config import demo, settings
from service.config.settings import Settings, SettingsError
from service.doctor import network
from service.doctor.checks import Check
from service.doctor.checks import fail as failed
from service.doctor.domains import domain_checks
from service.doctor.dub import dub_checks
from service.doctor.local import database_checks, service_checks, settings_checks
from service.doctor.public import public_checks

_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}

HELP = """\
Check this installation: configuration, secret, database, clock, Dub with each app's key, the files of each
domain for iOS and Android, and, through the public URL, the proxies in front.

\b
  firstopen doctor                                what can be checked from here
  firstopen doctor --url https://opens.acme.com   also the way from the internet
  firstopen doctor --json                         for a script

It reads FIRSTOPEN_CONFIG and the .env beside it, as firstopen serve does, and runs beside it. Nothing is
recorded, here or at Dub. It prints what is ok, what works but could be better (warn), and what does not work
(fail), each with a fix. Exit code 1 if anything fails.
"""


@click.command("doctor", help=HELP)
@click.option("--url", metavar="URL", help="The service's public URL, as apps use it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: a list of checks.")
def command(url: str | None, *, as_json: bool) -> None:
    """Run the checks, print them, and exit with 1 if one fails."""
    if url is not None and not url.startswith(("https://", "http://")):
        fail("--url: expected a URL such as https://opens.acme.com")
    checks = asyncio.run(_checks(url))
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(checks)).decode() + "\n")
    else:
        _print(checks)
    raise SystemExit(NOT_USABLE_YET if any(check.status == "fail" for check in checks) else 0)


async def _checks(url: str | None) -> list[Check]:
    try:
        env = settings.environment()
        configured: Settings = settings.load(env) if "FIRSTOPEN_CONFIG" in env else demo.settings(env)
    except SettingsError as exc:
        return [failed("configuration", str(exc), "docs/configuration.md lists every setting")]
    checks = settings_checks(configured, env)
    async with network.client() as http:
        checks += await database_checks(configured)
        checks += await service_checks(configured, http)
        checks += await dub_checks(configured, http)
        checks += await domain_checks(configured, http)
        if url is not None:
            checks += await public_checks(configured, http, url)
    return checks


def _print(checks: list[Check]) -> None:
    table = Table("", "check", "found", "fix")
    for check in checks:
        table.add_row(check.status, check.name, check.detail, check.fix, style=_STYLES[check.status])
    out = console()
    out.print(table)
    counts = {status: sum(check.status == status for check in checks) for status in _STYLES}
    out.print(", ".join(f"{count} {status}" for status, count in counts.items()))
