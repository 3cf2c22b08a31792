"""``firstopen db``: which database this is, and whether this version of firstopen can use it."""

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
_COUNTED_MAX = 100_000  # counting more takes long, and says no more

T = TypeVar("T")

HELP = """\
Look after the database: the one that FIRSTOPEN_DATABASE_URL names, else the SQLite file in
FIRSTOPEN_DATA_DIR.

\b
  firstopen db status              its place, schema, secrets and rows
  firstopen db migrate             apply the migrations that it lacks
  firstopen db forget-secret NAME  give up what only a lost secret can read

All of these work while firstopen serve runs.
"""

STATUS_HELP = """\
Say which database this is, and whether firstopen serve can use it.

Exit code 0: it can. 1: not yet (unreachable, not created, or migrations are missing, which serve applies
when it starts). 2: it would refuse to start (a newer version has migrated the database, or FIRSTOPEN_SECRET
does not list a secret which data may still need).
"""

MIGRATE_HELP = """\
Apply the migrations that this version has and the database lacks.

firstopen serve does the same when it starts. Run this before a rollout if serve must not create tables, or
if a migration should be over before the first new process starts. The version before goes on working on the
new schema; one of its processes that starts after the migration is refused.

Exit code 0: the schema is that of this version. 1: the database cannot be reached. 2: the database refuses,
or a newer version has migrated it.
"""

FORGET_HELP = """\
Give up what only a lost secret can read. FINGERPRINT is the secret's name in firstopen db status.

firstopen serve starts again without that secret in FIRSTOPEN_SECRET. Leads and opens that are encrypted under
it can never be sent or read, and installs from that time are taken for new ones. Where you still have the
secret, list it instead: FIRSTOPEN_SECRET=current,older.
"""


@click.group("db", help=HELP)
def command() -> None:
    """Group the commands."""


@command.command("status", help=STATUS_HELP)
def status() -> None:
    """Print what is known, and exit with the worst of it."""
    raise SystemExit(_run(_status))


@command.command("migrate", help=MIGRATE_HELP)
def migrate_() -> None:
    """Apply what is missing."""

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
    """Forget a fingerprint."""

    async def drop(configured: Settings, database: Engine) -> None:
        _refuse_missing(configured)
        if name not in {each.fingerprint for each in await known_secrets(database)}:
            fail(f"no secret {name!r}: firstopen db status lists them")
        await forget_secret(database, name)
        click.echo(f"forgotten: {name}")

    _run(drop)


async def _status(configured: Settings, database: Engine) -> int:
    _say("database", database.place)
    try:
        _refuse_missing(configured)
        known = await applied(database)
        missing = pending(known)
    except EngineUnavailable as exc:
        _say("state", f"cannot be reached: {exc}")
        return NOT_USABLE_YET
    except SchemaTooNew as exc:
        _say("state", "reachable")
        _say_schema(known)
        _say("problem", str(exc))
        return REFUSED
    _say("state", "reachable")
    _say_schema(known)
    if missing:
        _say("missing", *(f"{each.number} {each.name}" for each in missing))
        return NOT_USABLE_YET
    secrets = await known_secrets(database)
    _say("secrets", *([_described(each, configured) for each in secrets] or ["none yet"]))
    _say("rows", *[await _counted(database, table) for table in _TABLES])
    if _secret_is_given(configured) and await secret_check(configured).missing(database):
        _say("problem", "FIRSTOPEN_SECRET does not list every secret which data may still need")
        return REFUSED
    return 0


def _say_schema(known: Sequence[Applied]) -> None:
    newest = max((each.number for each in known), default=0)
    _say("schema", f"{newest} (this version of firstopen: {LATEST})")
    _say("applied", *(f"{each.number} {each.name}, {_at(each.applied_at)}" for each in known))


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
    """Raise ``EngineUnavailable`` for a SQLite file from before the migrations: only serve takes it over."""
    if not configured.database_url and is_old_file(configured.data_dir):
        raise EngineUnavailable("the file is an earlier version's (firstopen serve takes it over)")


def _refuse_missing(configured: Settings) -> None:
    """Raise ``EngineUnavailable`` where there is no SQLite file: looking must not create one."""
    _refuse_old_file(configured)
    if not configured.database_url and not (configured.data_dir / FILE).is_file():
        raise EngineUnavailable("there is no file yet (firstopen serve and firstopen db migrate create it)")


def _at(unix_ms: int) -> str:
    return f"{datetime.fromtimestamp(unix_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _say(name: str, *values: str) -> None:
    for index, value in enumerate(values):
        click.echo(f"{name if index == 0 else '':>10}  {value}")


def _run(work: Callable[[Settings, Engine], Awaitable[T]]) -> T:
    """Run a command on the database; ends the process with one line if that cannot be done."""

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
