"""Counting together with the other replicas, in Valkey or Redis, as long as that takes next to no time.

A server that is gone, stalled or slow costs whoever asks at that moment some milliseconds. From then on each
replica counts alone, and a task that no request waits for finds out when the server is back.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from limits.aio.storage import RedisStorage
from redis.asyncio import Redis, RedisCluster

from service.limiting.windows import Cell
from service.telemetry import Event, Log

PATIENCE_S = 0.03  # for all the counts of one request
_TICKS = 4  # turns of the loop at least: a process that is busy itself finds the reply in one of them
_RETRY_S = 0.5
_CONNECTIONS_MAX = 8  # a request counts on one of them; the others wait for a moment
_PREFIX = "fo1:n"  # of every key


class SharedWindows:
    """Counts through a client. ``fault`` hears of every time that this fails."""

    def __init__(self, client: Redis | RedisCluster, *, fault: Callable[[], None], log: Log) -> None:
        self._client = client
        self._storage = _Storage(client)
        self._fault = fault
        self._log = log
        self._turn = asyncio.Semaphore(_CONNECTIONS_MAX)
        self._asking: set[asyncio.Task[list[int]]] = set()
        self._looking: asyncio.Task[None] | None = None

    async def counts(self, cells: Sequence[Cell]) -> list[int] | None:
        """Count a request in these, up to the first that is over; ``None`` if nobody can say in time."""
        if self._looking is not None:
            return None
        asking = self._begin(self._ask(cells))
        try:
            return await _soon(asking)
        except Exception as exc:  # noqa: BLE001  whatever it is, an open does not fail for it
            self._fault()
            if self._looking is None:
                self._log.warning(Event.LIMITS_ALONE, error=type(exc).__name__)
                self._looking = asyncio.create_task(self._look())
            return None

    async def close(self) -> None:
        """Let go of the server."""
        tasks: list[asyncio.Task[list[int]] | asyncio.Task[None]] = [*self._asking]
        if self._looking is not None:
            tasks.append(self._looking)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    async def _ask(self, cells: Sequence[Cell]) -> list[int]:
        counts = []
        async with self._turn:
            for cell in cells:
                window = cell.window
                key = f"{window.by}:{window.period_s}:{cell.number}:{cell.who.hex()}"
                counts.append(await self._storage.incr(key, window.period_s))
                if counts[-1] > window.amount:
                    break
        return counts

    async def _look(self) -> None:
        """Wait until the server answers again."""
        back = False
        while not back:
            await asyncio.sleep(_RETRY_S)
            try:
                await _soon(self._begin(self._look_once()))
                back = True
            except Exception:  # noqa: BLE001  still away
                self._fault()
        self._looking = None
        self._log.info(Event.LIMITS_SHARED)

    async def _look_once(self) -> list[int]:
        return [await self._storage.incr("look", 1)]

    def _begin(self, asking: Coroutine[Any, Any, list[int]]) -> asyncio.Task[list[int]]:
        """Ask in a task of its own: redis-py may swallow a cancellation."""
        task = asyncio.create_task(asking)
        self._asking.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[list[int]]) -> None:
        self._asking.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, whether anybody still waits or not


class _Storage(RedisStorage):
    """The library's storage, over a client that is handed in."""

    def __init__(self, client: Redis | RedisCluster) -> None:
        self._handed_in = client
        super().__init__("async+redis://", implementation="redispy", key_prefix=_PREFIX)

    def configure_bridge(self) -> None:
        """Use the client."""
        bridge: Any = self.bridge
        bridge.storage = self._handed_in
        bridge.connection_getter = lambda _: self._handed_in


async def _soon(asking: asyncio.Task[list[int]]) -> list[int]:
    """Wait for an answer, but not for long; raises what went wrong."""
    for _ in range(_TICKS):
        await asyncio.wait((asking,), timeout=PATIENCE_S / _TICKS)
        if asking.done():
            return asking.result()
    asking.cancel()
    raise TimeoutError
