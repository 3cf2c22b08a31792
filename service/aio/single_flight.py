"""Single flight: one task per key, shared by all requests for that key.

A caller that times out or disconnects does not cancel the task, which completes for the other callers.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Generic, TypeVar

from msgspec import Struct, field

from service.aio.deadlines import Deadlines
from service.aio.tasks import cancel_all

T = TypeVar("T")


class Flight(Struct, Generic[T], eq=False):
    """A running task, and the id of the open that it answers."""

    open_id: str
    task: asyncio.Task[T]
    deadlines: Deadlines
    late: bool = False  # a caller was answered before the task completed
    _waiting: set[asyncio.Future[None]] = field(default_factory=set)

    async def wait(self, timeout_s: float) -> T | None:
        """Return the task's result, or None if it is not done within ``timeout_s`` seconds.

        The timeout may be one tick short (see ``Deadlines``). Raises what the task raises.
        """
        task = self.task
        if not task.done():
            woken: asyncio.Future[None] = task.get_loop().create_future()
            ticket = self.deadlines.add(timeout_s, partial(_wake, woken))
            self._waiting.add(woken)
            try:
                await woken
            finally:
                self.deadlines.cancel(ticket)
                self._waiting.discard(woken)
        return task.result() if task.done() else None

    def wake_all(self) -> None:
        """Wake the waiting callers, because the task is done."""
        for woken in self._waiting:
            _wake(woken)


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


class SingleFlight(Generic[T]):
    """Run one task per key; every waiter gets the task's result or exception."""

    def __init__(self, spawn: Callable[[Coroutine[Any, Any, T]], asyncio.Task[T]]) -> None:
        self._spawn = spawn
        self._flights: dict[bytes, Flight[T]] = {}
        self._deadlines = Deadlines()

    @property
    def is_idle(self) -> bool:
        """Return True if no task is running."""
        return not self._flights

    def under_way(self, key: bytes) -> Flight[T] | None:
        """Return the flight of this key, or None."""
        return self._flights.get(key)

    def launch(self, key: bytes, open_id: str, work: Coroutine[Any, Any, T]) -> Flight[T]:
        """Start ``work`` as the flight of this key, which must not have one already."""
        task = self._spawn(work)
        flight = self._flights[key] = Flight(open_id, task, self._deadlines)
        task.add_done_callback(partial(self._land, key, flight))
        return flight

    def _land(self, key: bytes, flight: Flight[T], _: asyncio.Task[T]) -> None:
        self._flights.pop(key, None)
        flight.wake_all()

    async def close(self, grace_s: float) -> None:
        """Wait up to ``grace_s`` seconds for running tasks, then cancel the rest."""
        tasks = [flight.task for flight in self._flights.values()]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=grace_s)
        await cancel_all(late)
