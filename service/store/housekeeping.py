"""Forgets what is older than it should be, a little at a time."""

import asyncio
import contextlib
from collections.abc import Callable

from service.resolve.errors import StoreFailed
from service.store.claims import SqliteClaims
from service.store.journal import SqliteJournal

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
    ) -> None:
        self._chores = ((journal.forget_before, opens_ttl_s), (claims.forget_before, claims_ttl_s))
        self._wall = wall
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
            with contextlib.suppress(StoreFailed):
                for forget_before, ttl_s in self._chores:
                    more = True
                    while more:
                        more = await forget_before(self._wall() - ttl_s) > 0
            await asyncio.sleep(_EVERY_S)
