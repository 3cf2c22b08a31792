"""``firstopen outbox``: show what Dub or a backend has not accepted, and retry it."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import TypeVar

import rich_click as click
from rich.table import Table

from service.cli.output import console, fail, read_settings
from service.config.settings import Settings, SettingsError
from service.domain.errors import StoreFailed
from service.domain.outbox_entries import (
    DISCARD_REASON_MAX_CHARS,
    KINDS,
    State,
    Summary,
    discard_reason,
)
from service.storage.database import Database
from service.storage.encryption import Cipher, Undecryptable
from service.storage.engines.sqlite import FILE
from service.storage.errors import SchemaTooNew
from service.storage.outbox import SqlOutboxStore
from service.telemetry import configure_logs
from service.wiring.stores import engine

_STATES: tuple[State, ...] = ("queued", "delivered", "dead", "discarded")
_LISTED_MAX = 50
_UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))

T = TypeVar("T")

HELP = """\
Show opens, leads and sales that have not reached Dub yet, webhooks that have not reached your backend, and
dead letters, with the reasons.

\b
  firstopen outbox                  counts, the age of the oldest, dead letters
  firstopen outbox show ID          one entry; --reveal prints its content
  firstopen outbox retry ID         send a dead letter again; --all: every one
  firstopen outbox discard ID       give up a dead letter, with a --reason

It reads the database in FIRSTOPEN_DATABASE_URL, or else in FIRSTOPEN_DATA_DIR, also while firstopen serve
runs; retried entries are sent within a second.
"""


@click.group("outbox", help=HELP, invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """Print an overview if there is no subcommand."""
    if context.invoked_subcommand is None:
        _run(partial(_overview, _with_webhook()))


@command.command()
@click.argument("entry_id", metavar="ID")
@click.option("--reveal", is_flag=True, help="Print the entry's content, which is personal data.")
def show(entry_id: str, *, reveal: bool) -> None:
    """Show one entry; personal data only with --reveal."""
    with_webhook = _with_webhook()

    async def found(entries: SqlOutboxStore) -> None:
        entry = await entries.found(entry_id)
        if entry is None:
            fail(f"no entry {entry_id!r}")
        summary, payload = entry
        for name, value in _described(summary.explained(has_webhook=summary.app in with_webhook)):
            click.echo(f"{name:>10}  {value}")
        if reveal and payload is None:
            click.echo("   content  deleted")
        elif reveal and payload is not None:
            click.echo(json.dumps(json.loads(entries.reveal(payload)), indent=2, ensure_ascii=False))

    _run(found)


@command.command()
@click.argument("entry_id", metavar="[ID]", required=False)
@click.option("--all", "every", is_flag=True, help="Every dead letter.")
def retry(entry_id: str | None, *, every: bool) -> None:
    """Send a dead letter again, or all of them."""
    if (entry_id is None) is not every:
        fail("expected an ID, or --all")

    async def revive(entries: SqlOutboxStore) -> None:
        revived = await entries.retry_now(entry_id)
        if not revived and entry_id is not None:
            fail(f"no dead letter {entry_id!r}")
        click.echo(f"{revived} queued again")

    _run(revive)


@command.command()
@click.argument("entry_id", metavar="ID")
@click.option("--reason", required=True, help="Why; kept with the entry, so nothing personal.")
def discard(entry_id: str, reason: str) -> None:
    """Give up a dead letter: delete its content, and keep the reason."""
    why = discard_reason(reason)
    if why is None:
        fail(f"--reason: expected 1 to {DISCARD_REASON_MAX_CHARS} printable characters")

    async def give_up(entries: SqlOutboxStore) -> None:
        if not await entries.discard(entry_id, why):
            fail(f"no dead letter {entry_id!r}")
        click.echo("discarded")

    _run(give_up)


def _with_webhook() -> frozenset[str]:
    """Return the apps that have a webhook."""
    return frozenset(name for name, app in read_settings().apps.items() if app.webhook is not None)


async def _overview(with_webhook: Collection[str], entries: SqlOutboxStore) -> None:
    depths, oldest = await entries.depths(*_STATES), await entries.oldest()
    out = console()
    table = Table("", *_STATES)
    for kind in KINDS:
        table.add_row(f"{kind}s", *(str(depths.get((kind, state), 0)) for state in _STATES))
    total = (sum(depths.get((kind, state), 0) for kind in KINDS) for state in _STATES)
    table.add_row("all", *(str(count) for count in total))
    out.print(table)
    out.print(f"oldest queued: {_age(min(oldest.values())) + ' old' if oldest else 'none'}")
    titles: dict[State, str] = {"queued": "queued, oldest first", "dead": "dead letters"}
    for state, title in titles.items():
        listed = [
            each.explained(has_webhook=each.app in with_webhook)
            for each in await entries.listed(state, _LISTED_MAX)
        ]
        if listed:
            out.print(_table(state, title, listed))


def _table(state: State, title: str, listed: list[Summary]) -> Table:
    table = Table("id", "kind", "app", "age", "attempts", "reason", title=title, title_justify="left")
    for entry in listed:
        why = f"waits for {entry.waits_for}" if entry.depends_on_open and state == "queued" else entry.reason
        table.add_row(entry.id, entry.kind, entry.app, _age(entry.created), str(entry.attempts), why)
    return table


def _described(entry: Summary) -> list[tuple[str, str]]:
    return [
        ("id", entry.id),
        ("kind", entry.kind),
        ("app", entry.app),
        ("state", entry.state),
        ("age", _age(entry.created)),
        ("attempts", str(entry.attempts)),
        ("waits for", entry.waits_for),
        ("reason", entry.reason or "none"),
    ]


def _age(at: float) -> str:
    seconds = max(time.time() - at, 0)
    unit, length = next((each for each in _UNITS if seconds >= each[1]), _UNITS[-1])
    return f"{seconds / length:.0f} {unit}"


def _run(work: Callable[[SqlOutboxStore], Awaitable[T]]) -> T:
    """Run a command on the outbox; on failure, print one line and end the process."""
    configured = read_settings()
    where = "FIRSTOPEN_DATABASE_URL" if configured.database_url else str(configured.data_dir / FILE)
    try:
        return asyncio.run(_run_on_store(configured, work))
    except SettingsError as exc:
        fail(exc)
    except (StoreFailed, SchemaTooNew) as exc:
        fail(f"{where}: {exc}")
    except Undecryptable as exc:
        fail(f"FIRSTOPEN_SECRET: {exc}")


async def _run_on_store(configured: Settings, work: Callable[[SqlOutboxStore], Awaitable[T]]) -> T:
    if not configured.database_url and not (configured.data_dir / FILE).is_file():
        fail(f"FIRSTOPEN_DATA_DIR: there is no outbox in {configured.data_dir} (firstopen serve creates it)")
    database = Database(engine(configured, exclusive=False), configure_logs("critical"))
    await database.open()
    try:
        if database.failing:
            raise StoreFailed(database.failing)
        return await work(SqlOutboxStore(database, Cipher(configured.secrets), time.time))
    finally:
        await database.close()
