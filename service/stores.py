"""Where this process keeps what it must not forget: in SQLite on its own disk, or in PostgreSQL."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from service.compiled import DAY_S, claims_ttl_s, memory_limits
from service.resolve.click_feed import Together
from service.resolve.erasures import KeptErasures
from service.resolve.events import Budget
from service.resolve.forgetting import Kept, Opens
from service.resolve.matcher import Crowd
from service.resolve.owed import Entries
from service.resolve.ports import Claims, Journal, Memory
from service.settings import Settings, SettingsError
from service.storage.database import Database as SqlDatabase
from service.storage.encryption import Cipher
from service.storage.engines.port import Engine
from service.storage.engines.sqlite import SqliteEngine
from service.store.claims import CLAIMS_SCHEMA, SqliteClaims
from service.store.database import Database
from service.store.entries import ENTRIES_SCHEMA, SqliteEntries
from service.store.erasures import ERASURES_SCHEMA, SqliteErasures
from service.store.housekeeping import Housekeeping
from service.store.journal import JOURNAL_SCHEMA, SqliteJournal
from service.store.memory import MemoryStore
from service.store.sealing import Seal
from service.telemetry import Log, Metrics

Clock = Callable[[], float]


class KeptOpens(Journal, Opens, Protocol):
    """Opens, durable until an install is to be forgotten."""


class KeptClaims(Claims, Kept, Protocol):
    """Claims, durable until an install is to be forgotten."""


class KeptEntries(Entries, Kept, Protocol):
    """The outbox, durable until an install is to be forgotten."""


@dataclass(frozen=True, slots=True)
class Stores:
    """What is remembered. ``problems`` names what does not work at the moment."""

    memory: Memory
    journal: KeptOpens
    claims: KeptClaims
    entries: KeptEntries
    erasures: KeptErasures
    scrub: Callable[[], Awaitable[None]]  # removes deleted rows from the database's own files
    budget: Budget | None  # what replicas share of matching, if there are others
    clicks: Callable[[str], Together | None]
    crowd: Callable[[str], Crowd | None]
    open: Callable[[], Awaitable[None]]
    close: Callable[[], Awaitable[None]]
    problems: Callable[[], list[str]]
    database: SqlDatabase
    cipher: Cipher


def choose(settings: Settings, log: Log, metrics: Metrics, clock: Clock, wall: Clock) -> Stores:
    """Choose by the settings. ``clock`` is monotonic, ``wall`` Unix time, both in seconds.

    Raises ``SettingsError`` for a FIRSTOPEN_DATABASE_URL that cannot be read.
    """
    return _on_disk(settings, log, metrics, clock, wall)


class Disk:
    """One SQLite file."""

    def __init__(self, settings: Settings, log: Log, metrics: Metrics, clock: Clock, wall: Clock) -> None:
        schema = JOURNAL_SCHEMA + ENTRIES_SCHEMA + CLAIMS_SCHEMA + ERASURES_SCHEMA
        seal = Seal(settings.secrets)
        self._database = Database(settings.data_dir, schema, log, committed=metrics.store_commits.inc)
        self.sql = SqlDatabase(_engine(settings), log, committed=metrics.store_commits.inc)
        self.cipher = Cipher(settings.secrets)
        self.journal = SqliteJournal(self._database, seal, clock, wall)
        self.claims = SqliteClaims(self._database, wall)
        self.entries = SqliteEntries(self._database, seal, metrics.outbox_undecryptable.inc, log)
        self.erasures = SqliteErasures(self._database)
        self.scrub = self._database.scrub
        self._housekeeping = Housekeeping(
            self.journal,
            self.claims,
            opens_ttl_s=settings.installs.install_ttl_days * DAY_S,
            claims_ttl_s=claims_ttl_s(settings),
            wall=wall,
            log=log,
            failures=metrics.background_failures.labels("housekeeping").inc,
        )

    async def open(self) -> None:
        """Take the folder, and begin to write and to forget."""
        await self.sql.open()
        await self._database.open()
        self._housekeeping.start()

    async def close(self) -> None:
        """Write what waits, and let go of the folder."""
        await self._housekeeping.close()
        await self._database.close()
        await self.sql.close()

    def problems(self) -> list[str]:
        """Name what does not work."""
        failing = self.sql.failing or self._database.failing
        problem = self._housekeeping.problem
        return [*([f"database: {failing}: no leads"] if failing else []), *([problem] if problem else [])]


def _engine(settings: Settings) -> Engine:
    """Connect to nothing yet; raises ``SettingsError``."""
    if not settings.database_url:
        return SqliteEngine(settings.data_dir)
    from service.storage.engines.postgres import BadDatabaseURL, PostgresEngine

    try:
        return PostgresEngine(settings.database_url)
    except BadDatabaseURL as exc:
        raise SettingsError(f"FIRSTOPEN_DATABASE_URL: {exc}") from exc


def _nobody(_app: str) -> None:
    """There are no other replicas to share anything with."""


def _on_disk(settings: Settings, log: Log, metrics: Metrics, clock: Clock, wall: Clock) -> Stores:
    disk = Disk(settings, log, metrics, clock, wall)
    return Stores(
        memory=MemoryStore(memory_limits(settings), clock),
        journal=disk.journal,
        claims=disk.claims,
        entries=disk.entries,
        erasures=disk.erasures,
        scrub=disk.scrub,
        budget=None,
        clicks=_nobody,
        crowd=_nobody,
        open=disk.open,
        close=disk.close,
        problems=disk.problems,
        database=disk.sql,
        cipher=disk.cipher,
    )
