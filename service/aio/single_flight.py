"""Single flight: one task per key, owned by no request.

A caller that gives up or disconnects cancels nothing: the task goes on for the others, and settles.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from service.aio.deadlines import Deadlines

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Flight(Generic[T]):
    """Work under way, and the id of the open that it settles."""

    open_id: str
    task: asyncio.Task[T]
    deadlines: Deadlines
    late: bool = False  # a caller has gone without it

    async def wait(self, timeout_s: float) -> T | None:
        """Wait for the work; ``None`` if it is not done within ``timeout_s`` seconds (or a tick less)."""
        task = self.task
        if not task.done():
            woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            wake = partial(_wake, woken)
            ticket = self.deadlines.add(timeout_s, wake)
            task.add_done_callback(wake)
            try:
                await woken
            finally:
                self.deadlines.take_back(ticket)
                task.remove_done_callback(wake)
        return task.result() if task.done() else None


def _wake(woken: asyncio.Future[None], *_: object) -> None:
    if not woken.done():
        woken.set_result(None)


class SingleFlight(Generic[T]):
    """What is under way, by key. What work returns, or raises, is every waiter's answer."""

    def __init__(self, spawn: Callable[[Coroutine[Any, Any, T]], asyncio.Task[T]]) -> None:
        self._spawn = spawn
        self._flights: dict[bytes, Flight[T]] = {}
        self._deadlines = Deadlines()

    def under_way(self, key: bytes) -> Flight[T] | None:
        """Return the key's flight, if there is one."""
        return self._flights.get(key)

    def launch(self, key: bytes, open_id: str, work: Coroutine[Any, Any, T]) -> Flight[T]:
        """Start the work under a key that has none under way."""
        task = self._spawn(work)
        task.add_done_callback(lambda _: self._flights.pop(key, None))
        flight = self._flights[key] = Flight(open_id, task, self._deadlines)
        return flight

    async def close(self, grace_s: float) -> None:
        """Let what is under way settle for up to ``grace_s`` seconds, then cancel it."""
        tasks = [flight.task for flight in self._flights.values()]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=grace_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
