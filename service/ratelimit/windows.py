"""Counting in process: fixed windows, as the strategy of that name in ``limits``, without its storage.

That one starts a thread every 10 ms which walks all that is held: with a million addresses it stops the
process for a tenth of a second at a time, and they take 300 MB. Here a window that is over is dropped as a
whole, at the next request, and what is held has a bound.
"""

from msgspec import Struct

from service.domain.rate_limit_status import By
from service.domain.rates import Rate

GENERATION_MAX = 50_000  # callers; 9 MB with the generation before it


class Window:
    """Counts callers within one length of time; every window begins at a multiple of it, on every replica.

    Beyond its bound it forgets who was not seen for longest, which a caller who asks again and again is not.
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

    def count(self, who: bytes, number: int) -> int:
        """Count a request in the window of this number, and return how many there are."""
        if number != self._number:
            self._number, self._young, self._old = number, {}, {}
        young = self._young
        count = young.get(who)
        if count is None:
            count = self._old.get(who, 0)
            if len(young) >= self._generation_max:
                self._old, self._young = young, {}
                young = self._young
        young[who] = count = count + 1
        return count


class Cell(Struct, frozen=True, gc=False):
    """One caller's count in one window."""

    window: Window
    who: bytes
    number: int
