"""Migrate a database's schema to this version of firstopen.

What can go wrong: two replicas migrate at the same time (each migration first locks a row, and fails if it
has been applied); a process dies during a migration (each is one transaction); an older firstopen starts on a
newer schema (refused, with a message that says what to do).
"""

from collections.abc import Sequence

from msgspec import Struct

from service.storage.engines.port import Engine
from service.storage.errors import MigrationFailed, SchemaTooNew, StatementRejected
from service.storage.migrations import MIGRATIONS, Migration
from service.storage.statements import Statement
from service.telemetry import Event, Log

LATEST = MIGRATIONS[-1].number

_TRIES = 20  # creating the first table can fail if two replicas do it at the same time
_CREATE = (
    """CREATE TABLE IF NOT EXISTS schema_migrations (
        number BIGINT PRIMARY KEY, name TEXT NOT NULL, applied_at BIGINT NOT NULL)""",
    """INSERT INTO schema_migrations (number, name, applied_at) VALUES (0, 'lock', {now_ms})
        ON CONFLICT (number) DO NOTHING""",
)
LOCK = Statement(
    "UPDATE schema_migrations SET applied_at = {now_ms} WHERE number = 0"
)  # locks until the commit
_APPLIED = Statement(
    "SELECT number, name, applied_at FROM schema_migrations WHERE number > 0 ORDER BY number"
)


class Applied(Struct, frozen=True):
    """A migration that was applied; ``applied_at`` is in Unix milliseconds."""

    number: int
    name: str
    applied_at: int


async def migrate(engine: Engine) -> list[Migration]:
    """Apply missing migrations; return those that were applied by this call.

    If none is missing, nothing is written, so the database user needs no right to create tables. Raises
    ``EngineUnavailable``, ``MigrationFailed``, or ``SchemaTooNew`` if a newer firstopen has migrated the
    database.
    """
    try:
        missing = pending(await applied(engine))
        if missing:
            await _create(engine)
        done = [migration for migration in missing if await _apply(engine, migration)]
        if missing:
            pending(await applied(engine))  # a newer replica may have migrated at the same time
    except StatementRejected as exc:
        raise MigrationFailed(
            f"the database refuses the migration ({exc}): give its user the right to create tables, or run"
            " firstopen db migrate as a user that has it"
        ) from exc
    return done


def pending(known: Sequence[Applied]) -> list[Migration]:
    """Return the migrations that a database lacks; raises ``SchemaTooNew``."""
    newest = max((each.number for each in known), default=0)
    if newest > LATEST:
        raise SchemaTooNew(
            f"the database has schema {newest}, but this firstopen supports up to {LATEST}: run the newer "
            "version, or restore a backup from before the update"
        )
    numbers = {each.number for each in known}
    return [migration for migration in MIGRATIONS if migration.number not in numbers]


def log_migrations(log: Log, migrations: Sequence[Migration]) -> None:
    """Log applied migrations."""
    for migration in migrations:
        log.info(Event.SCHEMA_MIGRATED, number=migration.number, name=migration.name)


async def applied(engine: Engine) -> list[Applied]:
    """Return the applied migrations, oldest first; empty if the database was never migrated."""
    try:
        (rows,) = await engine.fetch([_APPLIED])
    except StatementRejected:
        return []
    return [Applied(*row) for row in rows]


async def _create(engine: Engine) -> None:
    for tries_left in reversed(range(_TRIES)):
        try:
            await engine.commit_alone([Statement(sql) for sql in _CREATE])
        except StatementRejected:
            if not tries_left:
                raise
        else:
            return


async def _apply(engine: Engine, migration: Migration) -> bool:
    """Apply a migration; return False if another replica has applied it first."""
    record = Statement(
        "INSERT INTO schema_migrations (number, name, applied_at) VALUES (?, ?, {now_ms})",
        (migration.number, migration.name),
    )
    try:
        await engine.commit_alone([LOCK, record, *map(Statement, migration.statements)])
    except StatementRejected:
        if any(each.number == migration.number for each in await applied(engine)):
            return False
        raise
    return True
