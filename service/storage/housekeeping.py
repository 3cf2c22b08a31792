"""Deletes what is older than it should be, a little at a time.

What can go wrong: an exception that nobody foresaw ends it, and the database grows for ever (it is logged,
counted and named by readiness, and deletion goes on with the next round); two replicas delete the same rows
(each deletes what it finds).
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from service.aio.tasks import cancel_all
from service.domain.errors import StoreFailed
from service.telemetry.background import Background

_EVERY_S = 600.0

Expire = Callable[[], Awaitable[int]]  # deletes some rows and returns how many: 0, no more are left


class Housekeeping:
    """Runs each of these until nothing is left to delete, every ten minutes."""

    def __init__(self, chores: Sequence[Expire], background: Background) -> None:
        self._chores = chores
        self._background = background
        self.problem: str | None = None  # of the last round
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = self._background.spawn(self._run(), "housekeeping")

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            await cancel_all([self._task])

    async def _run(self) -> None:
        while True:
            try:
                with contextlib.suppress(StoreFailed):
                    await self._round()
                self.problem = None
            except Exception as exc:  # noqa: BLE001  the next round may do better, and the log names our mistake
                self.problem = f"what is old is not deleted: {type(exc).__name__}"
                self._background.report(exc, "housekeeping")
            await asyncio.sleep(_EVERY_S)

    async def _round(self) -> None:
        for expire in self._chores:
            deleted = 1
            while deleted > 0:
                deleted = await expire()
