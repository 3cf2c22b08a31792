"""Forgets what is older than it should be, a little at a time."""

import asyncio
import contextlib
from collections.abc import Callable

from service.resolve.errors import StoreFailed
from service.store.journal import SqliteJournal

_EVERY_S = 600.0


class Housekeeping:
    """Forgets opens ``ttl_s`` seconds after they were made. ``wall`` is Unix seconds."""

    def __init__(self, journal: SqliteJournal, ttl_s: float, wall: Callable[[], float]) -> None:
        self._journal = journal
        self._ttl_s = ttl_s
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
                more = True
                while more:
                    more = await self._journal.forget_before(self._wall() - self._ttl_s) > 0
            await asyncio.sleep(_EVERY_S)
