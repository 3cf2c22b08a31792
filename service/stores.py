"""Where this process keeps what it must not forget: on its own disk, or in a Valkey that replicas share."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from service.resolve.matcher import Claims
from service.resolve.owed import Entries
from service.resolve.ports import Journal, Memory
from service.settings import Settings, SettingsError
from service.store.claims import CLAIMS_SCHEMA, SqliteClaims
from service.store.database import Database
from service.store.entries import ENTRIES_SCHEMA, SqliteEntries
from service.store.housekeeping import Housekeeping
from service.store.journal import JOURNAL_SCHEMA, SqliteJournal
from service.store.memory import MemoryLimits, MemoryStore
from service.store.sealing import Seal
from service.telemetry import Log, Metrics

_DAY_S = 86_400

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Stores:
    """What is remembered. ``problems`` names what does not work at the moment."""

    memory: Memory
    journal: Journal
    claims: Claims
    entries: Entries
    open: Callable[[], Awaitable[None]]
    close: Callable[[], Awaitable[None]]
    problems: Callable[[], list[str]]


def choose(settings: Settings, log: Log, metrics: Metrics, clock: Clock, wall: Clock) -> Stores:
    """Choose by the settings. ``clock`` is monotonic, ``wall`` Unix time, both in seconds."""
    return (_shared if settings.valkey_url else _on_disk)(settings, log, metrics, clock, wall)


def refuse_bad_valkey_url(url: str) -> None:
    """Raise ``SettingsError`` for a URL that names no server; nothing of it is shown: it holds a password."""
    from service.store.valkey import BadValkeyURL, connect

    try:
        connect(url)
    except BadValkeyURL as exc:
        raise SettingsError(f"FIRSTOPEN_VALKEY_URL: {exc}") from exc


def _on_disk(settings: Settings, log: Log, metrics: Metrics, clock: Clock, wall: Clock) -> Stores:
    schema = JOURNAL_SCHEMA + ENTRIES_SCHEMA + CLAIMS_SCHEMA
    database = Database(settings.data_dir, schema, log, committed=metrics.store_commits.inc)
    journal = SqliteJournal(database, clock, wall)
    claims = SqliteClaims(database, wall)
    housekeeping = Housekeeping(journal, claims, settings.installs.install_ttl_days * _DAY_S, wall)

    async def open_() -> None:
        await database.open()
        housekeeping.start()

    async def close() -> None:
        await housekeeping.close()
        await database.close()

    return Stores(
        memory=MemoryStore(_memory_limits(settings), clock),
        journal=journal,
        claims=claims,
        entries=SqliteEntries(database, Seal(settings.secrets)),
        open=open_,
        close=close,
        problems=lambda: [f"disk: {database.failing}: no leads"] if database.failing else [],
    )


def _shared(settings: Settings, log: Log, metrics: Metrics, clock: Clock, wall: Clock) -> Stores:
    from service.store.shared import SharedClaims, SharedJournal, SharedMemory, Times
    from service.store.shared_entries import SharedEntries
    from service.store.valkey import Behind, Valkey

    valkey = Valkey(settings.valkey_url, metrics.valkey_faults, log, clock)
    behind = Behind(valkey, "keep")
    times = Times(clock, wall)
    ttl_s = settings.installs.install_ttl_days * _DAY_S
    longest_window_s = max(app.match_window_s for app in settings.apps.values())
    entries = SharedEntries(valkey, Seal(settings.secrets), clock)

    async def open_() -> None:
        behind.start()
        entries.start()
        await valkey.note_durability()

    async def close() -> None:
        await entries.close()
        await behind.close()
        await valkey.close()

    def problems() -> list[str]:
        if valkey.failing is None:
            return []
        return [f"Valkey: {valkey.failing}: nothing is shared, no clicks by address, no leads"]

    return Stores(
        memory=SharedMemory(_memory_limits(settings), times, valkey, behind, metrics.cache),
        journal=SharedJournal(valkey, behind, times, ttl_s),
        claims=SharedClaims(valkey, max(ttl_s, longest_window_s + _DAY_S)),
        entries=entries,
        open=open_,
        close=close,
        problems=problems,
    )


def _memory_limits(settings: Settings) -> MemoryLimits:
    cache = settings.cache
    return MemoryLimits(
        opens_max=cache.opens_max,
        open_ttl_s=cache.answer_ttl_s,
        links_max=cache.links_max,
        link_ttl_s=cache.link_stale_days * _DAY_S,
        unknown_links_max=cache.unknown_links_max,
        unknown_link_ttl_s=cache.unknown_link_ttl_s,
    )
