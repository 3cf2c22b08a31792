"""Erasure: an erased install stays erased, on every replica, whatever was under way.

What can go wrong: an open that was decided before the erasure is written after it, or repeated from another
replica's memory (opens that are older than their install's erasure are returned by nobody: see ``opens`` and
``Erasures``).
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from msgspec import Struct

from service.resolve.errors import StoreFailed
from service.storage.database import Database
from service.storage.hashes import device_name, device_number
from service.storage.statements import Statement, placeholders

KEPT_S = 8 * 86_400.0  # longer than anything that is under way: an outbox entry

_POLL_S = 1.0


class Erased(Struct, frozen=True):
    """How much was removed."""

    opens: int
    claims: int
    outbox: int


class Erasures:
    """Erases installs, and remembers which were. ``unix_time`` is wall clock seconds."""

    def __init__(self, database: Database, unix_time: Callable[[], float]) -> None:
        self._database = database
        self._unix_time = unix_time
        self._erased_at: dict[str, float] = {}
        self._seen_to_ms = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Learn what was erased before, and what other replicas erase from now on."""
        with contextlib.suppress(StoreFailed):
            await self._learn()
        if self._database.is_shared:
            self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def covers(self, device: str, at: float) -> bool:
        """Return True if the install was erased at this time (Unix seconds) or later."""
        erased_at = self._erased_at.get(device)
        return erased_at is not None and erased_at >= at

    async def erase(self, devices: Sequence[str], open_ids: Sequence[str]) -> Erased:
        """Remove everything that is kept of an install, under all its names; raises ``StoreFailed``."""
        now = self._unix_time()
        numbers = [device_number(device) for device in devices]
        mark = [_mark(number, int(now * 1000)) for number in numbers]
        self._erased_at.update(dict.fromkeys(devices, now))
        these, subjects = placeholders(len(numbers)), [*devices, *open_ids]
        results = await self._database.write(
            *mark,
            Statement(f"DELETE FROM opens WHERE device IN ({these}) RETURNING 1", tuple(numbers)),  # noqa: S608
            Statement(f"DELETE FROM claims WHERE device IN ({these}) RETURNING 1", tuple(numbers)),  # noqa: S608
            *_delete_entries(subjects),
        )
        opens, claims, *entries = results[len(mark) :]
        await self._database.erased()
        return Erased(len(opens), len(claims), sum(map(len, entries)))

    async def expire(self) -> int:
        """Delete opens and claims that were written after their install's erasure, and old erasures."""
        before_ms = int((self._unix_time() - KEPT_S) * 1000)
        late = """device IN (SELECT device FROM erasures)
            AND {at} <= (SELECT erased_at FROM erasures AS e WHERE e.device = {table}.device) RETURNING 1"""
        results = await self._database.write(
            Statement(f"DELETE FROM opens WHERE {late.format(at='opened_at', table='opens')}"),  # noqa: S608
            Statement(f"DELETE FROM claims WHERE {late.format(at='claimed_at', table='claims')}"),  # noqa: S608
            Statement("DELETE FROM erasures WHERE erased_at < ?", (before_ms,)),
        )
        if any(results[:2]):
            await self._database.erased()
        return 0

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            with contextlib.suppress(StoreFailed):
                await self._learn()

    async def _learn(self) -> None:
        sql = "SELECT device, erased_at FROM erasures WHERE erased_at >= ? ORDER BY erased_at"
        for device, erased_at in await self._database.read(sql, self._seen_to_ms - 60_000):
            self._erased_at[device_name(device)] = erased_at / 1000
            self._seen_to_ms = max(self._seen_to_ms, erased_at)


def _mark(device: int, at_ms: int) -> Statement:
    return Statement(
        """INSERT INTO erasures (device, erased_at) VALUES (?, ?)
        ON CONFLICT (device) DO UPDATE SET erased_at = excluded.erased_at""",
        (device, at_ms),
    )


def _delete_entries(subjects: Sequence[str]) -> list[Statement]:
    sql = "DELETE FROM outbox WHERE (subject <> '' AND subject IN ({ids})) OR id IN ({ids}) RETURNING 1"
    ids = placeholders(len(subjects))
    return [Statement(sql.format(ids=ids), (*subjects, *subjects))]
