"""Deadlines for many at a time: one timer a tick, however many calls it ends.

A miss sets two deadlines and nearly always keeps both. ``asyncio.timeout`` and ``call_later`` cost a
fifteenth of the whole open; a place in a dictionary costs next to nothing.
"""

import asyncio
from collections.abc import Callable

TICK_S = 0.01

Wake = Callable[[], None]


class Deadlines:
    """Calls what was not taken back in time, up to a tick early. For one event loop."""

    def __init__(self) -> None:
        self._due: dict[int, dict[int, Wake]] = {}
        self._number = 0

    def add(self, timeout_s: float, wake: Wake) -> tuple[int, int]:
        """Have ``wake`` called after ``timeout_s`` seconds, unless it is taken back; return its ticket."""
        loop = asyncio.get_running_loop()
        tick = int((loop.time() + timeout_s) / TICK_S)
        waiting = self._due.get(tick)
        if waiting is None:
            waiting = self._due[tick] = {}
            loop.call_at(tick * TICK_S, self._wake, tick)
        self._number += 1
        waiting[self._number] = wake
        return tick, self._number

    def take_back(self, ticket: tuple[int, int]) -> None:
        """Forget a deadline that was kept."""
        waiting = self._due.get(ticket[0])
        if waiting is not None:
            waiting.pop(ticket[1], None)

    def _wake(self, tick: int) -> None:
        for wake in self._due.pop(tick).values():
            wake()
