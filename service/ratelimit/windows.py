"""Fixed-window counters in memory, like the fixed-window strategy of the ``limits`` package.

The in-memory storage of ``limits`` starts a thread every 10 ms that walks all entries: with a million
addresses it blocks the process for 100 ms at a time and takes 300 MB. Here the first request of a new window
drops all counts of the previous one, and the number of counters is bounded.
"""

from msgspec import Struct

from service.domain.rate_limit_status import By
from service.domain.rates import Rate

GENERATION_MAX = 50_000  # callers; 9 MB with the generation before it


class Window:
    """Count requests per caller in a period; periods begin at multiples of ``period_s`` of Unix time.

    All replicas therefore use the same periods. At ``generation_max`` callers, the callers that have made no
    request for the longest time are dropped; a caller that keeps sending requests keeps its count.
    """

    __slots__ = ("_generation_max", "_number", "_old", "_young", "amount", "by", "period_s")

    def __init__(self, by: By, rate: Rate, generation_max: int = GENERATION_MAX) -> None:
        self.by: By = by
        self.amount = rate.amount
        self.period_s = rate.period_s
        self._generation_max = generation_max
        self._number = -1
        self._young: dict[bytes, int] = {}
        self._old: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def count(self, caller: bytes, number: int) -> int:
        """Count a request in period ``number``; return the caller's requests in it so far."""
        if number != self._number:
            self._number, self._young, self._old = number, {}, {}
        young = self._young
        count = young.get(caller)
        if count is None:
            count = self._old.get(caller, 0)
            if len(young) >= self._generation_max:
                self._old, self._young = young, {}
                young = self._young
        young[caller] = count = count + 1
        return count


class Cell(Struct, frozen=True, gc=False):
    """The counter of one caller in one period of a window."""

    window: Window
    caller: bytes
    number: int
