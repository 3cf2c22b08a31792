"""Store which installs were erased. Queries return no rows that are older than their install's erasure.

What can go wrong: an open that was answered before the erasure is written after it, by this replica or by
another that has not read the erasure yet (``expire`` deletes the row, and until then no query returns it); a
replica repeats an open from its cache, or has queued it for Dub (each replica reads the erasures of the
others every second, and deletes such entries).
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence

from service.aio.tasks import cancel_all
from service.domain.errors import StoreFailed
from service.storage.database import Database
from service.storage.hashes import device_name, device_number, to_signed
from service.storage.statements import RowStatement, Statement
from service.telemetry.background import Background

KEPT_S = 8 * 86_400.0  # longer than an outbox entry may wait, and than an open is cached

_POLL_S = 1.0
_SWEPT_AT_A_TIME = 100
_OVERLAP_MS = 60_000  # replicas' clocks differ, and commits may finish out of order
_ADD = """INSERT INTO erasures (device, erased_at) VALUES (?, ?)
    ON CONFLICT (device) DO UPDATE SET erased_at = excluded.erased_at"""
_SINCE = "SELECT device, erased_at FROM erasures WHERE erased_at >= ? ORDER BY erased_at"
_ERASURES_AT_A_TIME = 500
_ROWS_AT_A_TIME = 1000
_DEVICES = "SELECT device FROM erasures WHERE device > ? ORDER BY device LIMIT ?"
# CROSS JOIN: SQLite, without statistics, would begin with the larger table
_LATE_OPENS = """SELECT o.open_id FROM erasures AS e CROSS JOIN opens AS o
    WHERE e.device > ? AND e.device <= ? AND o.device = e.device AND o.opened_at <= e.erased_at LIMIT ?"""
_LATE_CLAIMS = """SELECT c.click_id FROM erasures AS e CROSS JOIN claims AS c
    WHERE e.device > ? AND e.device <= ? AND c.device = e.device AND c.claimed_at <= e.erased_at LIMIT ?"""
_LATE_LINKS = """SELECT l.name FROM erasures AS e CROSS JOIN short_links AS l
    WHERE e.device > ? AND e.device <= ? AND l.device = e.device AND l.created_at <= e.erased_at LIMIT ?"""
_DELETE_OPENS = RowStatement("opens", "DELETE FROM opens WHERE open_id IN (", "?", ")")
_DELETE_CLAIMS = RowStatement("claims", "DELETE FROM claims WHERE click_id IN (", "?", ")")
_DELETE_LINKS = RowStatement("short_links", "DELETE FROM short_links WHERE name IN (", "?", ")")
_LATE_ENTRIES = "DELETE FROM outbox WHERE kind IN ('open', 'webhook') AND subject = ? AND created_at <= ?"
_EXPIRE = """DELETE FROM erasures WHERE device IN
    (SELECT device FROM erasures WHERE erased_at < ? LIMIT ?) RETURNING 1"""


class ErasureStore:
    """Implements ``ports.KeptErasures``. All times, also of ``unix_time``, are Unix seconds."""

    def __init__(self, database: Database, unix_time: Callable[[], float]) -> None:
        self._database = database
        self._unix_time = unix_time
        self._seen_to_ms = 0
        # Erasures of the last minute whose late outbox entries are deleted.
        self._swept: dict[str, float] = {}
        self._following: asyncio.Task[None] | None = None

    async def load(self) -> Mapping[str, float]:
        """Return the times of erasures since the last call, by device; raises ``StoreFailed``.

        Recent erasures are returned again.
        """
        rows = await self._database.read(_SINCE, self._seen_to_ms - _OVERLAP_MS)
        if rows:
            self._seen_to_ms = max(self._seen_to_ms, rows[-1][1])
        return {device_name(device): erased_at / 1000 for device, erased_at in rows}

    async def add(self, devices: Sequence[str], at: float) -> None:
        """Commit the erasure of devices at a time; raises ``StoreFailed``."""
        at_ms = int(at * 1000)
        await self._database.write(*(Statement(_ADD, (device_number(each), at_ms)) for each in devices))

    def follow(self, learn: Callable[[Mapping[str, float]], None], background: Background) -> None:
        """Call ``learn`` with the erasures of other replicas every second, until ``close``."""
        if self._database.is_shared:
            self._following = background.spawn(self._follow(learn), "follow_erasures")

    async def close(self) -> None:
        """Stop reading the erasures of other replicas."""
        if self._following is not None:
            await cancel_all([self._following])

    async def expire(self) -> int:
        """Delete opens, claims and links that were written after their install's erasure, and old erasures.

        The latter in a batch; return how many. Each write is small, because leads wait for it.
        """
        late, last = 0, to_signed(0)
        while devices := await self._database.read(_DEVICES, last, _ERASURES_AT_A_TIME):
            page = (last, devices[-1][0])
            late += await self._delete_late(_LATE_OPENS, _DELETE_OPENS, page)
            late += await self._delete_late(_LATE_CLAIMS, _DELETE_CLAIMS, page)
            late += await self._delete_late(_LATE_LINKS, _DELETE_LINKS, page)
            last = devices[-1][0]
        if late:
            await self._database.erased()
        before_ms = int((self._unix_time() - KEPT_S) * 1000)
        (old,) = await self._database.write(Statement(_EXPIRE, (before_ms, _ROWS_AT_A_TIME)))
        return len(old)

    async def _delete_late(self, query: str, delete: RowStatement, page: tuple[int, int]) -> int:
        """Delete late rows of a page of erasures, in batches; return how many."""
        deleted = 0
        while found := await self._database.read(query, *page, _ROWS_AT_A_TIME):
            await self._database.write(*(each for unit, _ in delete.over(found) for each in unit))
            deleted += len(found)
        return deleted

    async def _follow(self, learn: Callable[[Mapping[str, float]], None]) -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            with contextlib.suppress(StoreFailed):
                erased = await self.load()
                learn(erased)
                await self._delete_late_entries(erased)

    async def _delete_late_entries(self, erased: Mapping[str, float]) -> None:
        """Delete opens and webhooks that this replica queued before it knew of their install's erasure."""
        new = [(device, int(at * 1000)) for device, at in erased.items() if self._swept.get(device) != at]
        for first in range(0, len(new), _SWEPT_AT_A_TIME):
            some = new[first : first + _SWEPT_AT_A_TIME]
            await self._database.write(*(Statement(_LATE_ENTRIES, each) for each in some), in_order=True)
        self._swept = dict(erased)
