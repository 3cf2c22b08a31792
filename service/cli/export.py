"""``firstopen export``: write opens from the database as NDJSON or CSV."""

import asyncio
import csv
import sys
import time
from collections.abc import Callable

import msgspec
import rich_click as click
from msgspec import structs

from service.cli.output import NOT_USABLE_YET, fail, pick_app, read_settings
from service.config.settings import Settings, SettingsError
from service.domain.open_listing import LIMIT_MAX, ListedOpen, OpenPage, Position, read_cursor, read_moment_ms
from service.storage.engines.sqlite import FILE
from service.storage.errors import EngineUnavailable, StartRefused
from service.storage.migrate import applied, pending
from service.storage.open_pages import OpenPages
from service.storage.statements import Row, Statement
from service.wiring.stores import engine

_QUIET_S = 2.0  # shorter exports print no progress
_REPORT_EVERY_S = 5.0
_FIELDS = structs.fields(ListedOpen)

_encode_lines = msgspec.json.Encoder().encode_lines

Write = Callable[[list[ListedOpen]], None]


HELP = """\
Write opens to stdout in the order of their arrival, with how each was decided. Contains no personal data.

\b
  firstopen export --since 2026-11-01 > opens.ndjson
  firstopen export --since 2026-11-01 --until 2026-12-01 --format csv

Times are RFC 3339, dates (midnight UTC) or Unix seconds. Reads the database directly, also while firstopen
serve runs; opens of the last 5 seconds are left out. Exit code 1: the database cannot be reached; the message
shows the --since with which to continue.
"""


@click.command("export", help=HELP)
@click.option("--since", metavar="TIME", help="First opens at this time.  [the oldest]")
@click.option("--until", metavar="TIME", help="Last opens before this time.  [5 seconds ago]")
@click.option("--format", "form", type=click.Choice(["ndjson", "csv"]), default="ndjson", show_default=True)
@click.option("--app", metavar="NAME", help="Only opens of this app.")
def command(since: str | None, until: str | None, form: str, app: str | None) -> None:
    """Run ``firstopen export``."""
    export_opens(since, until, form, app)


def export_opens(since: str | None, until: str | None, form: str, app: str | None) -> None:
    """Write the opens between two times to stdout, in the order of their arrival."""
    start_ms = 0 if since is None else _moment_ms("--since", since)
    before_ms = None if until is None else _moment_ms("--until", until)
    configured = read_settings()
    if app is not None:
        pick_app(configured, app)
    try:
        write = _write_csv() if form == "csv" else _write_lines
        asyncio.run(_export(configured, app, Position(start_ms), before_ms, write))
    except (SettingsError, StartRefused) as exc:
        fail(exc)


async def _export(
    configured: Settings, app: str | None, at: Position, before_ms: int | None, write: Write
) -> None:
    if not configured.database_url and not (configured.data_dir / FILE).is_file():
        fail(f"FIRSTOPEN_DATA_DIR: there is no database in {configured.data_dir}", NOT_USABLE_YET)
    database = engine(configured, exclusive=False)

    async def read(query: Statement) -> list[Row]:
        (rows,) = await database.fetch([query])
        return rows

    progress = _Progress()
    try:
        if pending(await applied(database)):
            fail("the database lacks migrations: firstopen db migrate applies them", NOT_USABLE_YET)
        pages = OpenPages(read, time.time)
        has_more = True
        while has_more:
            page = await pages.page(app, at, LIMIT_MAX, before_ms=before_ms)
            write(page.opens)
            progress.wrote(page)
            at = read_cursor(page.next) or at
            has_more = page.has_more
    except EngineUnavailable as exc:
        fail(f"the database cannot be reached: {exc}{progress.hint()}", NOT_USABLE_YET)
    finally:
        await database.close()
    progress.end()


def _write_lines(opens: list[ListedOpen]) -> None:
    sys.stdout.buffer.write(_encode_lines(opens))
    sys.stdout.flush()


def _write_csv() -> Write:
    """Write the header row, and return a function that writes opens as rows."""
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(field.encode_name for field in _FIELDS)

    def write(opens: list[ListedOpen]) -> None:
        rows.writerows([_cell(getattr(each, field.name)) for field in _FIELDS] for each in opens)
        sys.stdout.flush()

    return write


def _cell(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


class _Progress:
    """Print the progress of a long export on stderr."""

    def __init__(self) -> None:
        self._count = 0
        self._latest: str | None = None
        self._report_at = time.monotonic() + _QUIET_S

    def wrote(self, page: OpenPage) -> None:
        """Count a page, and print the progress at intervals."""
        self._count += len(page.opens)
        self._latest = page.opens[-1].opened_at if page.opens else self._latest
        if time.monotonic() >= self._report_at:
            self._report_at = time.monotonic() + _REPORT_EVERY_S
            click.echo(f"firstopen: {self._count:,} opens, up to {self._latest}", err=True)

    def end(self) -> None:
        """Print the number of exported opens."""
        click.echo(f"firstopen: {self._count:,} opens exported", err=True)

    def hint(self) -> str:
        """Return how to continue an export that failed; empty if nothing was written."""
        return "" if self._latest is None else f"; continue with --since {self._latest}"


def _moment_ms(option: str, text: str) -> int:
    at_ms = read_moment_ms(text)
    if at_ms is None:
        fail(f"{option}: expected RFC 3339, a date such as 2026-11-01, or Unix seconds")
    return at_ms
