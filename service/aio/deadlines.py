"""Deadlines that share timers: one event loop timer per tick, for any number of deadlines.

A cache miss sets two deadlines and cancels both in nearly every case. ``asyncio.timeout`` and ``call_later``
would take a fifteenth of the CPU time of an open; an entry in a dictionary takes almost none.
"""

import asyncio
from collections.abc import Callable

TICK_S = 0.01
_SHORT_TICK_S = 0.003
_COUNTED_MAX_S = 0.004  # of one iteration of the event loop

Wake = Callable[[], None]


class Deadlines:
    """Call a function when its deadline passes, up to one tick early. For one event loop."""

    def __init__(self) -> None:
        self._due: dict[int, dict[int, Wake]] = {}
        self._number = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    def add(self, timeout_s: float, wake: Wake) -> tuple[int, int]:
        """Call ``wake`` after ``timeout_s`` seconds; return a ticket that cancels the deadline."""
        loop = self._loop
        if loop is None:  # asked once: until Python 3.12, each answer takes a system call
            loop = self._loop = asyncio.get_running_loop()
        tick = int((loop.time() + timeout_s) / TICK_S)
        waiting = self._due.get(tick)
        if waiting is None:
            waiting = self._due[tick] = {}
            loop.call_at(tick * TICK_S, self._wake, tick)
        self._number += 1
        waiting[self._number] = wake
        return tick, self._number

    def cancel(self, ticket: tuple[int, int]) -> None:
        """Cancel a deadline; do nothing if it has passed."""
        waiting = self._due.get(ticket[0])
        if waiting is not None:
            waiting.pop(ticket[1], None)

    def _wake(self, tick: int) -> None:
        for wake in self._due.pop(tick).values():
            wake()


class IdleDeadlines:
    """Deadlines that count almost none of the time in which the event loop was busy.

    For waiting for another process, such as the database: when this process has more work than CPU time, an
    answer that has arrived but was not read yet is not late. Each iteration of the loop counts as
    ``_COUNTED_MAX_S`` seconds at most.
    """

    def __init__(self) -> None:
        self._due: dict[tuple[int, int], Wake] = {}
        self._counted_s = 0.0
        self._number = 0
        self._ticked_at: float | None = None  # None: nothing is waiting

    def add(self, timeout_s: float, wake: Wake) -> tuple[int, int]:
        """Call ``wake`` after ``timeout_s`` seconds; return a ticket that cancels the deadline."""
        if self._ticked_at is None:
            self._next_tick()
        self._number += 1
        ticket = int((self._counted_s + timeout_s) / _SHORT_TICK_S), self._number
        self._due[ticket] = wake
        return ticket

    def cancel(self, ticket: tuple[int, int]) -> None:
        """Cancel a deadline; do nothing if it has passed."""
        self._due.pop(ticket, None)

    def _next_tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._ticked_at = loop.time()
        loop.call_later(_SHORT_TICK_S, self._tick, self._ticked_at)

    def _tick(self, ticked_at: float) -> None:
        passed_s = asyncio.get_running_loop().time() - ticked_at
        self._counted_s += min(passed_s, _COUNTED_MAX_S)
        now = int(self._counted_s / _SHORT_TICK_S)
        for ticket in [each for each in self._due if each[0] <= now]:
            self._due.pop(ticket)()
        self._ticked_at = None
        if self._due:
            self._next_tick()
