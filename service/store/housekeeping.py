"""Deletes what is older than it should be, a little at a time.

What can go wrong: an exception that nobody foresaw ends it, and the database grows for ever (it is logged,
counted and named by readiness, and deletion goes on with the next round).
"""

import asyncio
import contextlib
from collections.abc import Callable

from service.resolve.errors import StoreFailed
from service.store.claims import SqliteClaims
from service.store.journal import SqliteJournal
from service.telemetry import Event, Log, where

_EVERY_S = 600.0


class Housekeeping:
    """Forgets opens and claims so many seconds after they were made. ``wall`` is Unix seconds."""

    def __init__(
        self,
        journal: SqliteJournal,
        claims: SqliteClaims,
        *,
        opens_ttl_s: float,
        claims_ttl_s: float,
        wall: Callable[[], float],
        log: Log,
        failures: Callable[[], None],
    ) -> None:
        self._chores = ((journal.forget_before, opens_ttl_s), (claims.forget_before, claims_ttl_s))
        self._wall = wall
        self._log = log
        self._failures = failures
        self.problem: str | None = None  # of the last round
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                with contextlib.suppress(StoreFailed):
                    await self._round()
                self.problem = None
            except Exception as exc:  # noqa: BLE001  the next round may do better, and the log names our mistake
                self.problem = f"old opens and claims are not deleted: {type(exc).__name__}"
                self._failures()
                self._log.error(Event.HOUSEKEEPING_FAILED, error=type(exc).__name__, where=where(exc))
            await asyncio.sleep(_EVERY_S)

    async def _round(self) -> None:
        for forget_before, ttl_s in self._chores:
            more = True
            while more:
                more = await forget_before(self._wall() - ttl_s) > 0
