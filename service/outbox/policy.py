"""How hard the outbox tries."""

from msgspec import Struct

from service.domain.errors import DubThrottled
from service.domain.outbox_entries import DELAY_MAX_S, Entry, RetryLater


class OutboxPolicy(Struct, frozen=True, kw_only=True):
    """How hard to try. Times in seconds."""

    in_flight_max: int  # leads, and as many sales
    replays_max: int  # opens
    backoff_min_s: float
    backoff_max_s: float
    expiry_s: float

    def delay_s(self, entry: Entry, later: RetryLater, jitter: float) -> float:
        """Return after how many seconds to try again: Dub's own time, or full jitter under a doubling bound.

        ``jitter`` is a random number from 0 to 1.
        """
        return min(self._delay_s(entry, later, jitter), DELAY_MAX_S)

    def _delay_s(self, entry: Entry, later: RetryLater, jitter: float) -> float:
        if later.after_s is not None:
            return later.after_s
        bound = min(self.backoff_max_s, self.backoff_min_s * float(2 ** min(entry.attempts, 16)))
        delay_s = jitter * bound
        return max(later.error.retry_after_s, delay_s) if isinstance(later.error, DubThrottled) else delay_s
