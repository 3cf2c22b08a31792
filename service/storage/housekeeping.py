"""Delete expired rows, in small batches.

What can go wrong: an unexpected exception stops it, and the database grows for ever (the exception is logged,
counted and shown by readiness, and the next round continues); two replicas delete the same rows (harmless:
each deletes the rows that are left).
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
    """Runs each of ``chores`` until nothing is left to delete, every ten minutes."""

    def __init__(self, chores: Sequence[Expire], background: Background) -> None:
        self._chores = chores
        self._background = background
        self.problem: str | None = None  # of the last round
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the background task."""
        self._task = self._background.spawn(self._run(), "housekeeping")

    async def close(self) -> None:
        """Stop the background task."""
        if self._task is not None:
            await cancel_all([self._task])

    async def _run(self) -> None:
        while True:
            try:
                with contextlib.suppress(StoreFailed):
                    await self._round()
                self.problem = None
            except Exception as exc:  # noqa: BLE001  reported, and the next round may succeed
                self.problem = f"expired rows are not deleted: {type(exc).__name__}"
                self._background.report(exc, "housekeeping")
            await asyncio.sleep(_EVERY_S)

    async def _round(self) -> None:
        for expire in self._chores:
            deleted = 1
            while deleted > 0:
                deleted = await expire()
