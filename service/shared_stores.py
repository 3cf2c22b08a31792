"""Where replicas keep what they share: in Valkey, and while it is away each on a disk of its own."""

from service.compiled import DAY_S, claims_ttl_s, memory_limits
from service.settings import Settings
from service.store.erasures import ErasuresInProcess
from service.store.local import LocalEntries, LocalJournal
from service.store.records import Records
from service.store.sealing import Seal
from service.store.shared import Hearing, SharedClaims, SharedMemory, Times
from service.store.shared_clicks import SharedBudget, SharedClicks, SharedCrowd
from service.store.shared_entries import SharedEntries
from service.store.shared_journal import SharedJournal
from service.store.valkey import Behind, Valkey
from service.stores import Clock, Disk, Stores
from service.telemetry import Log, Metrics


def shared(settings: Settings, log: Log, metrics: Metrics, clock: Clock, wall: Clock) -> Stores:
    """Build what is remembered. ``clock`` is monotonic, ``wall`` Unix time, both in seconds."""
    valkey = Valkey(settings.valkey_url, metrics.valkey_faults, log, clock)
    behind = Behind(valkey, "keep")
    seal = Seal(settings.secrets)
    records = Records(seal, clock, wall)
    disk = Disk(settings, log, metrics, clock, wall) if settings.outbox.local else None
    memory = SharedMemory(
        memory_limits(settings),
        Times(clock, wall),
        valkey,
        behind,
        records=records,
        secret=settings.secrets[0],
        asked=metrics.cache,
    )
    journal = SharedJournal(
        valkey,
        behind,
        records=records,
        pending=memory.pending,
        wall=wall,
        ttl_s=settings.installs.install_ttl_days * DAY_S,
        window_s=max(app.match_window_s for app in settings.apps.values()),
    )
    entries = SharedEntries(valkey, seal, clock)
    running = _Running(valkey, behind, entries, Hearing(memory), disk)
    return Stores(
        memory=memory,
        journal=journal if disk is None else LocalJournal(journal, disk.journal),
        claims=SharedClaims(valkey, behind, claims_ttl_s(settings)),
        erasures=ErasuresInProcess(),
        scrub=_nothing,
        entries=entries if disk is None else LocalEntries(entries, disk.entries, valkey.is_away),
        budget=SharedBudget(valkey, settings.secrets[0]),
        clicks=lambda app: SharedClicks(valkey, seal, app, settings.apps[app].match_window_s),
        crowd=lambda app: SharedCrowd(valkey, app, settings.apps[app].match_window_s),
        open=running.open,
        close=running.close,
        problems=running.problems,
    )


class _Running:
    """The parts that run, in the order of their birth."""

    def __init__(
        self, valkey: Valkey, behind: Behind, entries: SharedEntries, hearing: Hearing, disk: Disk | None
    ) -> None:
        self._valkey = valkey
        self._behind = behind
        self._entries = entries
        self._hearing = hearing
        self._disk = disk

    async def open(self) -> None:
        if self._disk is not None:
            await self._disk.open()
        self._behind.start()
        self._entries.start()
        await self._valkey.note_durability()
        self._hearing.start()

    async def close(self) -> None:
        await self._hearing.close()
        await self._entries.close()
        await self._behind.close()
        await self._valkey.close()
        if self._disk is not None:
            await self._disk.close()

    def problems(self) -> list[str]:
        disk = [] if self._disk is None else self._disk.problems()
        if not self._valkey.is_away():
            return disk
        leads = "leads go to the local outbox" if self._disk is not None and not disk else "no leads"
        return [f"Valkey: {self._valkey.failing}: nothing is shared, no clicks by address, {leads}"]


async def _nothing() -> None:
    """Valkey keeps no files of ours."""
