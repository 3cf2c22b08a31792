"""The sandbox's clock: the machine's time plus an offset that tests set.

Everything that Dub measures (hours of deduplication, days of idempotency, event times) uses this clock, so
that a test can let eight days pass with one call. Delays of faults are in real time: clients wait for them.
"""

from collections.abc import Callable
from datetime import UTC, datetime

HOUR_S = 3_600
DAY_S = 86_400
LAST_S = 4_102_444_800  # 2100-01-01: later than any test needs, and within `datetime`'s range


class SandboxClock:
    """A clock that tests can move; it keeps running from the time that was set."""

    def __init__(self, base: Callable[[], float]) -> None:
        self._base = base
        self._shift_s = 0.0

    def now_s(self) -> float:
        """Return Unix time in seconds."""
        return self._base() + self._shift_s

    def now_ms(self) -> int:
        """Return Unix time in whole milliseconds, the unit in which everything is stored."""
        return int(self.now_s() * 1_000)

    def advance(self, by_s: float) -> None:
        """Move the clock by `by_s` seconds (back if negative); raises ValueError, as `set` does."""
        self.set(self.now_s() + by_s)

    def set(self, now_s: float) -> None:
        """Set the clock to `now_s` (Unix seconds); raises ValueError before 1970 and after 2100."""
        if not 0 <= now_s <= LAST_S:
            raise ValueError("expected a time between 1970 and 2100")
        self._shift_s = now_s - self._base()

    def reset(self) -> None:
        """Return to the machine's time."""
        self._shift_s = 0.0


def iso(at_ms: int) -> str:
    """Return a time as ISO 8601: UTC, with milliseconds and a `Z`."""
    moment = datetime.fromtimestamp(at_ms / 1_000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def javascript_text(at_ms: int) -> str:
    """Return a time as JavaScript's `String(date)` writes it in UTC, without milliseconds."""
    moment = datetime.fromtimestamp(at_ms / 1_000, UTC)
    return moment.strftime("%a %b %d %Y %H:%M:%S GMT+0000 (Coordinated Universal Time)")
