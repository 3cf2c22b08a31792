"""Where this process keeps what it must not forget: on its own disk, or in a Valkey that replicas share."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from service.compiled import DAY_S, claims_ttl_s, memory_limits
from service.resolve.click_feed import Together
from service.resolve.errors import StoreFailed
from service.resolve.events import Budget
from service.resolve.forgetting import Kept, Opens
from service.resolve.matcher import Claims, Crowd
from service.resolve.owed import Entries
from service.resolve.ports import Journal, Memory
from service.settings import Settings, SettingsError
from service.store.claims import CLAIMS_SCHEMA, SqliteClaims
from service.store.database import Database
from service.store.entries import ENTRIES_SCHEMA, SqliteEntries
from service.store.housekeeping import Housekeeping
from service.store.journal import JOURNAL_SCHEMA, SqliteJournal
from service.store.memory import MemoryStore
from service.store.records import Records
from service.store.sealing import Seal
from service.telemetry import Log, Metrics

_HEAR_EVERY_S = 0.5

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
    refuse_bad_valkey_url(settings.valkey_url)
    return _shared(settings, log, metrics, clock, wall)


def refuse_bad_valkey_url(url: str) -> None:
    """Raise ``SettingsError`` for a URL that names no server; nothing of it is shown: it holds a password."""
    from service.store.valkey import BadValkeyURL, connect

    try:
        connect(url)
    except BadValkeyURL as exc:
        raise SettingsError(f"FIRSTOPEN_VALKEY_URL: {exc}") from exc


class _Disk:
    """One SQLite file: all there is, or what stands in for Valkey."""

    def __init__(self, settings: Settings, log: Log, metrics: Metrics, clock: Clock, wall: Clock) -> None:
        schema = JOURNAL_SCHEMA + ENTRIES_SCHEMA + CLAIMS_SCHEMA
        seal = Seal(settings.secrets)
        self._database = Database(settings.data_dir, schema, log, committed=metrics.store_commits.inc)
        self.journal = SqliteJournal(self._database, seal, clock, wall)
        self.claims = SqliteClaims(self._database, wall)
        self.entries = SqliteEntries(self._database, seal)
        self._housekeeping = Housekeeping(
            self.journal,
            self.claims,
            opens_ttl_s=settings.installs.install_ttl_days * DAY_S,
            claims_ttl_s=claims_ttl_s(settings),
            wall=wall,
        )

    async def open(self) -> None:
        await self._database.open()
        self._housekeeping.start()

    async def close(self) -> None:
        await self._housekeeping.close()
        await self._database.close()

    def problems(self) -> list[str]:
        failing = self._database.failing
        return [f"disk: {failing}: no leads"] if failing else []


def _nobody(_app: str) -> None:
    """There are no other replicas to share anything with."""


def _on_disk(settings: Settings, log: Log, metrics: Metrics, clock: Clock, wall: Clock) -> Stores:
    disk = _Disk(settings, log, metrics, clock, wall)
    return Stores(
        memory=MemoryStore(memory_limits(settings), clock),
        journal=disk.journal,
        claims=disk.claims,
        entries=disk.entries,
        budget=None,
        clicks=_nobody,
        crowd=_nobody,
        open=disk.open,
        close=disk.close,
        problems=disk.problems,
    )


def _shared(settings: Settings, log: Log, metrics: Metrics, clock: Clock, wall: Clock) -> Stores:
    from service.store.local import LocalEntries, LocalJournal
    from service.store.shared import SharedClaims, SharedMemory, Times
    from service.store.shared_clicks import SharedBudget, SharedClicks, SharedCrowd
    from service.store.shared_entries import SharedEntries
    from service.store.shared_journal import SharedJournal
    from service.store.valkey import Behind, Valkey

    valkey = Valkey(settings.valkey_url, metrics.valkey_faults, log, clock)
    behind = Behind(valkey, "keep")
    seal = Seal(settings.secrets)
    records = Records(seal, clock, wall)
    disk = _Disk(settings, log, metrics, clock, wall) if settings.outbox.local else None
    memory = SharedMemory(
        memory_limits(settings),
        Times(clock, wall),
        valkey,
        behind,
        records=records,
        secret=settings.secrets[0],
        asked=metrics.cache,
    )
    ttl_s = settings.installs.install_ttl_days * DAY_S
    entries = SharedEntries(valkey, seal, clock)
    journal = SharedJournal(
        valkey,
        behind,
        records=records,
        pending=memory.pending,
        wall=wall,
        ttl_s=ttl_s,
        window_s=max(app.match_window_s for app in settings.apps.values()),
    )
    hearing: list[asyncio.Task[None]] = []

    async def hear() -> None:
        """Listen to what others forget; it also finds out, with no traffic, that the server is back."""
        while True:
            with contextlib.suppress(StoreFailed):
                await memory.hear()
            await asyncio.sleep(_HEAR_EVERY_S)

    async def open_() -> None:
        if disk is not None:
            await disk.open()
        behind.start()
        entries.start()
        await valkey.note_durability()
        hearing.append(asyncio.create_task(hear()))

    async def close() -> None:
        for task in hearing:
            task.cancel()
        await asyncio.gather(*hearing, return_exceptions=True)
        await entries.close()
        await behind.close()
        await valkey.close()
        if disk is not None:
            await disk.close()

    def problems() -> list[str]:
        if valkey.failing is None:
            return [] if disk is None else disk.problems()
        leads = "no leads" if disk is None or disk.problems() else "leads go to the local outbox"
        return [f"Valkey: {valkey.failing}: nothing is shared, no clicks by address, {leads}"]

    return Stores(
        memory=memory,
        journal=journal if disk is None else LocalJournal(journal, disk.journal),
        claims=SharedClaims(valkey, behind, claims_ttl_s(settings)),
        entries=entries
        if disk is None
        else LocalEntries(entries, disk.entries, lambda: bool(valkey.failing)),
        budget=SharedBudget(valkey, settings.secrets[0]),
        clicks=lambda app: SharedClicks(valkey, seal, app, settings.apps[app].match_window_s),
        crowd=lambda app: SharedCrowd(valkey, app, settings.apps[app].match_window_s),
        open=open_,
        close=close,
        problems=problems,
    )
