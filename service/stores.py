"""Where this process keeps what it must not forget: on its own disk, or in a Valkey that replicas share."""

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


def choose(settings: Settings, log: Log, metrics: Metrics, clock: Clock, wall: Clock) -> Stores:
    """Choose by the settings. ``clock`` is monotonic, ``wall`` Unix time, both in seconds.

    Raises ``SettingsError`` for a Valkey URL that names no server.
    """
    if not settings.valkey_url:
        return _on_disk(settings, log, metrics, clock, wall)
    from service.shared_stores import shared

    refuse_bad_valkey_url(settings.valkey_url)
    return shared(settings, log, metrics, clock, wall)


def refuse_bad_valkey_url(url: str) -> None:
    """Raise ``SettingsError`` for a URL that names no server; nothing of it is shown: it holds a password."""
    from service.store.valkey_url import BadValkeyURL, connect

    try:
        connect(url)
    except BadValkeyURL as exc:
        raise SettingsError(f"FIRSTOPEN_VALKEY_URL: {exc}") from exc


class Disk:
    """One SQLite file: all there is, or what stands in for Valkey."""

    def __init__(self, settings: Settings, log: Log, metrics: Metrics, clock: Clock, wall: Clock) -> None:
        schema = JOURNAL_SCHEMA + ENTRIES_SCHEMA + CLAIMS_SCHEMA + ERASURES_SCHEMA
        seal = Seal(settings.secrets)
        self._database = Database(settings.data_dir, schema, log, committed=metrics.store_commits.inc)
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
        await self._database.open()
        self._housekeeping.start()

    async def close(self) -> None:
        """Write what waits, and let go of the folder."""
        await self._housekeeping.close()
        await self._database.close()

    def problems(self) -> list[str]:
        """Name what does not work."""
        failing, problem = self._database.failing, self._housekeeping.problem
        return [*([f"disk: {failing}: no leads"] if failing else []), *([problem] if problem else [])]


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
    )
