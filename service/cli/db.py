"""``firstopen db``: show, migrate and repair the database."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import rich_click as click

from service.cli.output import NOT_USABLE_YET, REFUSED, fail, read_settings
from service.config.settings import Settings, SettingsError
from service.storage.engines.port import Engine
from service.storage.engines.sqlite import FILE
from service.storage.errors import EngineUnavailable, SchemaTooNew, StartRefused
from service.storage.fingerprints import KnownSecret, fingerprint, forget_secret, known_secrets
from service.storage.import_v3 import is_old_file
from service.storage.migrate import LATEST, Applied, applied, migrate, pending
from service.storage.statements import Statement
from service.wiring.stores import engine, secret_check

_TABLES = ("opens", "claims", "clicks", "outbox", "erasures")
_COUNTED_MAX = 100_000  # counting every row of a large table takes too long

T = TypeVar("T")

HELP = """\
Show, migrate and repair the database: the one in FIRSTOPEN_DATABASE_URL, or else the SQLite file in
FIRSTOPEN_DATA_DIR.

\b
  firstopen db status              show its location, schema, secrets and rows
  firstopen db migrate             apply missing migrations
  firstopen db forget-secret NAME  give up data that only a lost secret can decrypt

All of these work while firstopen serve runs.
"""

STATUS_HELP = """\
Show the database, and whether firstopen serve can use it.

Exit code 0: it can. 1: not yet (the database cannot be reached, does not exist, or lacks migrations, which
serve applies when it starts). 2: serve would refuse to start (a newer version has migrated the database, or
FIRSTOPEN_SECRET does not list a secret that stored data may still need).
"""

MIGRATE_HELP = """\
Apply the migrations of this version that the database lacks.

firstopen serve does the same when it starts. Run this before a rollout if serve must not create tables, or
if the migration should be complete before the first new process starts. Running processes of the previous
version keep working on the new schema, but a process of that version cannot start on it.

Exit code 0: the database has the schema of this version. 1: the database cannot be reached. 2: the database
refuses the migration, or a newer version has migrated it.
"""

FORGET_HELP = """\
Give up data that only a lost secret can decrypt. FINGERPRINT is the secret's name in firstopen db status.

After that, firstopen serve starts without the secret in FIRSTOPEN_SECRET. Leads and opens that are encrypted
with it can never be sent or read, and installs from that time count as new. If you still have the secret,
list it instead: FIRSTOPEN_SECRET=current,older.
"""


@click.group("db", help=HELP)
def command() -> None:
    """Group the subcommands of ``firstopen db``."""


@command.command("status", help=STATUS_HELP)
def status() -> None:
    """Print the database's state, and exit with the matching code."""
    raise SystemExit(_run(_status))


@command.command("migrate", help=MIGRATE_HELP)
def migrate_() -> None:
    """Apply missing migrations."""

    async def apply(configured: Settings, database: Engine) -> None:
        _refuse_old_file(configured)
        await database.connect()
        for migration in await migrate(database):
            click.echo(f"applied {migration.number} {migration.name}")
        click.echo(f"schema {LATEST}: up to date")

    _run(apply)


@command.command("forget-secret", help=FORGET_HELP)
@click.argument("name", metavar="FINGERPRINT")
def forget(name: str) -> None:
    """Delete a secret's fingerprint from the database."""

    async def drop(configured: Settings, database: Engine) -> None:
        _refuse_missing(configured)
        if name not in {each.fingerprint for each in await known_secrets(database)}:
            fail(f"unknown secret {name!r}: firstopen db status lists the known ones")
        await forget_secret(database, name)
        click.echo(f"forgotten: {name}")

    _run(drop)


async def _status(configured: Settings, database: Engine) -> int:
    _print("database", database.place)
    try:
        _refuse_missing(configured)
        known = await applied(database)
        missing = pending(known)
    except EngineUnavailable as exc:
        _print("state", f"cannot be reached: {exc}")
        return NOT_USABLE_YET
    except SchemaTooNew as exc:
        _print("state", "reachable")
        _print_schema(known)
        _print("problem", str(exc))
        return REFUSED
    _print("state", "reachable")
    _print_schema(known)
    if missing:
        _print("missing", *(f"{each.number} {each.name}" for each in missing))
        return NOT_USABLE_YET
    secrets = await known_secrets(database)
    _print("secrets", *([_described(each, configured) for each in secrets] or ["none yet"]))
    _print("rows", *[await _counted(database, table) for table in _TABLES])
    if _secret_is_given(configured) and await secret_check(configured).missing(database):
        _print("problem", "FIRSTOPEN_SECRET does not list every secret that stored data may still need")
        return REFUSED
    return 0


def _print_schema(known: Sequence[Applied]) -> None:
    newest = max((each.number for each in known), default=0)
    _print("schema", f"{newest} (this version of firstopen: {LATEST})")
    _print("applied", *(f"{each.number} {each.name}, {_at(each.applied_at)}" for each in known))


def _described(secret: KnownSecret, configured: Settings) -> str:
    if not _secret_is_given(configured):
        listed = "FIRSTOPEN_SECRET is not set here"
    elif secret.fingerprint in map(fingerprint, configured.secrets):
        listed = "listed in FIRSTOPEN_SECRET"
    else:
        listed = "not listed in FIRSTOPEN_SECRET"
    until = "" if secret.replaced_at is None else f", replaced {_at(secret.replaced_at)}"
    return f"{secret.fingerprint}, current since {_at(secret.first_used_at)}{until}: {listed}"


async def _counted(database: Engine, table: str) -> str:
    sql = f"SELECT count(*) FROM (SELECT 1 FROM {table} LIMIT ?) AS counted"  # noqa: S608  of ``_TABLES``
    ((count,),) = (await database.fetch([Statement(sql, (_COUNTED_MAX,))]))[0]
    return f"{table} {count:,}{' or more' if count == _COUNTED_MAX else ''}"


def _secret_is_given(configured: Settings) -> bool:
    return configured.demo or bool(os.environ.get("FIRSTOPEN_SECRET"))


def _refuse_old_file(configured: Settings) -> None:
    """Raise ``EngineUnavailable`` for a SQLite file of an earlier version, which only serve imports."""
    if not configured.database_url and is_old_file(configured.data_dir):
        raise EngineUnavailable("the file was written by an earlier version (firstopen serve imports it)")


def _refuse_missing(configured: Settings) -> None:
    """Raise ``EngineUnavailable`` if the SQLite file does not exist, because connecting would create it."""
    _refuse_old_file(configured)
    if not configured.database_url and not (configured.data_dir / FILE).is_file():
        raise EngineUnavailable("there is no file yet (firstopen serve and firstopen db migrate create it)")


def _at(unix_ms: int) -> str:
    return f"{datetime.fromtimestamp(unix_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _print(name: str, *values: str) -> None:
    for index, value in enumerate(values):
        click.echo(f"{name if index == 0 else '':>10}  {value}")


def _run(work: Callable[[Settings, Engine], Awaitable[T]]) -> T:
    """Run a command on the database; on failure, print one line and end the process."""

    async def run() -> T:
        configured = read_settings()
        database = engine(configured, exclusive=False)
        try:
            return await work(configured, database)
        finally:
            await database.close()

    try:
        return asyncio.run(run())
    except (SettingsError, StartRefused) as exc:
        fail(exc)
    except EngineUnavailable as exc:
        fail(f"the database cannot be reached: {exc}", NOT_USABLE_YET)
