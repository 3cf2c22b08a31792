"""``firstopen calibration``: show how often matching by IP address is right, from an app's own opens."""

import asyncio
import time

import msgspec
import rich_click as click
from msgspec import structs
from rich.table import Table

from service.cli.output import console, fail, pick_app, read_settings
from service.config.settings import Settings, SettingsError
from service.domain.calibration import SHADOW_KEPT_DAYS, Calibration
from service.domain.errors import StoreFailed
from service.domain.learned_rates import TITLES, learned_rates
from service.storage.calibration import CalibrationStore
from service.storage.database import Database
from service.storage.engines.sqlite import FILE
from service.storage.errors import SchemaTooNew
from service.storage.learned_rates import RateStore
from service.telemetry import configure_logs
from service.wiring.stores import engine

HELP = f"""\
Show how often matching is right: measured on your own opens, not simulated.

When an install referrer, the clipboard or a deep link settles an install's first open, firstopen knows its
link for certain. Within a minute it matches the same open without that evidence, claims nothing, and
counts what came out:

\b
  agreed   matched to a click on the certain link
  other    matched to a click on another link: such a match would have been wrong
  refused  a click was there, and matching was not sure enough; or many share the address
  none     no click from this network could be the one

\b
Precision  of the matches, the share that agreed. It is what you can expect of match.confidence.
Recall     of the opens, the share that agreed; with a candidate: of those that had a click to find.
Curve      of the clicks with a stated confidence, the share that was right. A model that is
           calibrated has the same number in both columns. Refused clicks are in it, too.
Learned    what matching assumes of your installs, from 90 days. A rate moves from its default as first
           opens are observed, and never leaves its bounds, so that invented opens move it little.

The intervals in brackets hold the true share with 95 % probability: with 50 matches they are still wide.
Evidence names a link, not a click, so an app that has one or two links cannot learn much from agreement.
Counted are installs that report installedAt and an installId, for {SHADOW_KEPT_DAYS} days, over all replicas;
opens of test devices are not. It reads the database in FIRSTOPEN_DATABASE_URL, or else in
FIRSTOPEN_DATA_DIR, also while firstopen serve runs.
"""


@click.command("calibration", help=HELP)
@click.option("--app", "app_name", metavar="NAME", help="One app.  [every app]")
@click.option(
    "--days",
    type=click.IntRange(1, SHADOW_KEPT_DAYS),
    default=SHADOW_KEPT_DAYS,
    show_default=True,
    help="Count the last days, today included.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: a list with one object for each app.")
def command(app_name: str | None, days: int, *, as_json: bool) -> None:
    """Print the calibration of each app."""
    configured = read_settings()
    apps = list(configured.apps) if app_name is None else [pick_app(configured, app_name)]
    where = "FIRSTOPEN_DATABASE_URL" if configured.database_url else str(configured.data_dir / FILE)
    try:
        found = asyncio.run(_read(configured, apps, days))
    except SettingsError as exc:
        fail(exc)
    except (StoreFailed, SchemaTooNew) as exc:
        fail(f"{where}: {exc}")
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2))
        return
    for each in found:
        _print(each)


async def _read(configured: Settings, apps: list[str], days: int) -> list[Calibration]:
    if not configured.database_url and not (configured.data_dir / FILE).is_file():
        fail(
            f"FIRSTOPEN_DATA_DIR: there is no database in {configured.data_dir} (firstopen serve creates it)"
        )
    database = Database(engine(configured, exclusive=False), configure_logs("critical"))
    await database.open()
    try:
        if database.failing:
            raise StoreFailed(database.failing)
        store = CalibrationStore(database, time.time)
        counted = await RateStore(database, time.time).read()
        return [
            structs.replace(await store.read(app, days), rates=learned_rates(counted.get(app, {})))
            for app in apps
        ]
    finally:
        await database.close()


def _print(found: Calibration) -> None:
    out = console()
    out.print(f"{found.app}: {found.opens} first opens with certain evidence in {found.days} days")
    if not found.opens:
        out.print("  none yet: see firstopen calibration --help for which opens count")
    else:
        _print_matches(found)
    if any(rate.observations for rate in found.rates):
        _print_rates(found)


def _print_rates(found: Calibration) -> None:
    rates = Table("learned rate (90 days)", "value", "default", "bounds", "first opens")
    for rate in found.rates:
        bounds = f"{rate.least:g} to {rate.most:g}"
        rates.add_row(
            TITLES[rate.name], f"{rate.value:.3g}", f"{rate.default:g}", bounds, str(rate.observations)
        )
    console().print(rates)


def _print_matches(found: Calibration) -> None:
    out = console()
    out.print(
        f"  matched {found.matched} (agreed {found.agreed}, other {found.other_click}),"
        f" refused {found.refused}, none {found.none}"
    )
    out.print(f"  precision  {found.precision or '-'}")
    out.print(f"  recall     {found.recall or '-'}")
    out.print(f"             {found.recall_with_candidate or '-'} with a candidate")
    table = Table("confidence", "clicks", "stated", "right")
    for point in found.curve:
        table.add_row(point.bounds, str(point.opens), f"{point.stated:.3f}", str(point.right))
    out.print(table)
