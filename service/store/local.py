"""A disk of this process's own, for as long as Valkey is away: leads are accepted there, and move over after.

What can go wrong: an entry in both places (it has one id, and Valkey keeps one entry of an id); one that is
being sent from here while it moves (what is lent to the outbox stays here until that is over); one whose
refusal Valkey has yet to hear of (a move comes after it, and outlasts it).
"""

from collections.abc import Callable, Collection, Sequence

from service.resolve.errors import StoreFailed
from service.resolve.model import Open
from service.resolve.owed import Entry, Kind, Repeat, State, Status
from service.store.entries import SqliteEntries
from service.store.journal import SqliteJournal
from service.store.shared_entries import SharedEntries
from service.store.shared_journal import SharedJournal

_KINDS: tuple[Kind, ...] = ("open", "lead", "sale")
_PAGE = 128
_FOR_EVER = 1e12  # Unix seconds


class LocalEntries:
    """Fills ``resolve.owed.Entries``: in Valkey, or here while it is ``away``."""

    is_shared = True

    def __init__(self, shared: SharedEntries, here: SqliteEntries, away: Callable[[], bool]) -> None:
        self._shared = shared
        self._here = here
        self._away = away
        self._holds = True  # whether there may be anything here; after a restart there may
        self._came = 0  # so many were put here, or are about to be
        self._lent: dict[str, Entry] = {}  # to the outbox, which sends them

    async def add(self, entry: Entry) -> bool | Repeat:
        """Keep an entry; return whether an earlier one of its lane is still queued, or what it repeats."""
        if not self._away():
            try:
                return await self._shared.add(entry)
            except StoreFailed:
                pass
        self._came += 1
        earlier = await self._here.add(entry)
        self._holds = True
        self._came += 1
        if not isinstance(earlier, Repeat):
            self._lent[entry.id] = entry
        return earlier

    def owe(self, entry: Entry) -> None:
        """Keep an open soon, unless it is here already."""
        if self._away():
            self._holds = True
            self._came += 1
            self._here.owe(entry)
        else:
            self._shared.owe(entry)

    def drop(self, entry_id: str) -> None:
        """Forget, soon, an open: Dub has it."""
        self._shared.drop(entry_id)
        if self._holds:
            self._here.drop(entry_id)

    async def due(
        self, kinds: Collection[Kind], now: float, limit: int, held: Collection[tuple[str, Kind]]
    ) -> Sequence[Entry]:
        """Return queued entries that may be tried; while Valkey is away, of those here."""
        try:
            entries = await self._shared.due(kinds, now, limit, held)
        except StoreFailed:
            if not self._holds:
                raise
            here = await self._here.due(kinds, now, limit, held)
            self._lent |= {entry.id: entry for entry in here}
            return here
        if not self._holds:
            return entries
        await self._move()
        here = await self._here.due(kinds, now, limit, held)
        return [*entries, *(entry for entry in here if entry.id in self._lent)]

    async def hasten(self, now: float) -> None:
        """Make every queued entry due that waits for nothing but Dub."""
        if self._holds:
            await self._here.hasten(now)
        await self._shared.hasten(now)

    async def release(self, name: str, now: float) -> None:
        """Make due what waited for this open or install."""
        await self._shared.release(name, now)
        if self._holds:
            await self._here.release(name, now)

    async def awaited(self) -> set[str]:
        """Return what entries here wait for."""
        return await self._here.awaited()

    async def waiting(self, app: str) -> int:
        """Count an app's entries that wait for an install; while Valkey is away, of those here."""
        try:
            return await self._shared.waiting(app)
        except StoreFailed:
            return await self._here.waiting(app)

    async def waits_in(self, lane: str) -> bool:
        """Return True if an entry here of this lane waits for an open or install."""
        return await self._here.waits_in(lane)

    def put_off(self, entry_id: str, next_try: float, reason: str) -> None:
        """Note, soon, a failed attempt; it may move now."""
        if self._lent.pop(entry_id, None) is None:
            self._shared.put_off(entry_id, next_try, reason)
        else:
            self._here.put_off(entry_id, next_try, reason)

    def set_down(self, entry_id: str) -> None:
        """Leave what was not sent after all to whoever looks next; it may move now."""
        if self._lent.pop(entry_id, None) is None:
            self._shared.set_down(entry_id)

    def finish(self, entry: Entry, state: State, reason: str, now: float) -> None:
        """Note, soon, that an entry is delivered or dead; of one that was here, Valkey hears of it, too."""
        if self._lent.pop(entry.id, None) is None:
            self._shared.finish(entry, state, reason, now)
        else:
            self._here.finish(entry, state, reason, now)
            self._shared.settled(entry, state, reason, now)

    async def remove(self, entry_id: str) -> None:
        """Forget an entry."""
        if self._lent.pop(entry_id, None) is None:
            await self._shared.remove(entry_id)
        else:
            await self._here.remove(entry_id)

    async def expire(self, before: float, now: float) -> int:
        """Bury what was queued before, forget what was delivered before; return how many died."""
        here = await self._here.expire(before, now)  # what was delivered from here is still known here
        return here + await self._shared.expire(before, now)

    async def status(self, entry_id: str) -> Status | None:
        """Say where an entry stands."""
        here = await self._here.status(entry_id) if self._holds else None
        if here is not None:
            return here
        return await self._shared.status(entry_id)

    async def depths(self, *states: State) -> dict[tuple[Kind, State], int]:
        """Count the entries in these states, by kind and state."""
        try:
            depths = await self._shared.depths(*states)
        except StoreFailed:
            return await self._here.depths(*states)
        here = await self._here.depths("queued") if self._holds and "queued" in states else {}
        return depths | {each: count + depths.get(each, 0) for each, count in here.items()}

    async def oldest(self) -> float | None:
        """Return when the oldest queued entry was made."""
        here = await self._here.oldest() if self._holds else None
        try:
            there = await self._shared.oldest()
        except StoreFailed:
            return here
        return min((each for each in (here, there) if each is not None), default=None)

    async def forget(self, whose: Sequence[str]) -> int:
        """Forget what is kept under these names, here and there; return how many."""
        return await self._here.forget(whose) + await self._shared.forget(whose)

    async def _move(self) -> None:
        """Hand over to Valkey what is here and not being sent; raises ``StoreFailed``."""
        while True:
            came = self._came
            found = await self._here.due(_KINDS, _FOR_EVER, _PAGE + len(self._lent), ())
            moving = [entry for entry in found if entry.id not in self._lent]
            for entry in moving:
                await self._shared.move(entry)
                await self._here.remove(entry.id)
            if not moving:
                break
        self._holds = bool(found) or came != self._came  # what came meanwhile may not have been seen


class LocalJournal:
    """Fills ``resolve.ports.Journal``: opens are in Valkey, and what this process answered is here, too."""

    def __init__(self, shared: SharedJournal, here: SqliteJournal) -> None:
        self._shared = shared
        self._here = here

    def keep(self, device: str, opened: Open, network: int | None) -> None:
        """Write an open down, soon; the same openId again replaces it."""
        self._shared.keep(device, opened, network)
        self._here.keep(device, opened, network)

    async def opened(self, open_id: str) -> Open | None:
        """Recall an open by its id; raises ``StoreFailed`` where it may be known elsewhere."""
        try:
            return await self._shared.opened(open_id)
        except StoreFailed:
            opened = await self._here.opened(open_id)
            if opened is None:
                raise
            return opened

    async def of_device(self, devices: Sequence[str], *, behind: bool = True) -> list[Open]:
        """Recall a device's newest telling opens; raises ``StoreFailed`` if none are known here."""
        try:
            return await self._shared.of_device(devices, behind=behind)
        except StoreFailed:
            opens = await self._here.of_device(devices, behind=behind)
            if not opens:
                raise
            return opens

    async def sightings(self, app: str, since: float) -> list[tuple[int, str, float]]:
        """Return which networks an app's installs opened from since then (Unix seconds), with the time."""
        return await self._shared.sightings(app, since)

    async def ids(self, devices: Sequence[str]) -> list[str]:
        """Return the ids of a device's opens; raises ``StoreFailed``."""
        return [*{*await self._shared.ids(devices), *await self._here.ids(devices)}]

    async def forget(self, devices: Sequence[str]) -> int:
        """Forget a device's opens, there and here; return how many. Raises ``StoreFailed``."""
        here = await self._here.forget(devices)
        return max(await self._shared.forget(devices), here)
