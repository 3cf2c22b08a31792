"""How hard the outbox tries."""

from msgspec import Struct

from service.domain.errors import DubThrottled
from service.domain.outbox_entries import DELAY_MAX_S, Entry, RetryLater

BACKOFF_MIN_S = 0.5  # the longest pause after a first failure; then doubled, up to
BACKOFF_MAX_S = 10.0  # this: an outage of a minute delays no lead by more than some seconds


class OutboxPolicy(Struct, frozen=True, kw_only=True):
    """How hard to try. Times in seconds."""

    in_flight_max: int  # leads, and as many sales
    replays_max: int  # opens
    expiry_s: float

    def delay_s(self, entry: Entry, later: RetryLater, jitter: float) -> float:
        """Return after how many seconds to try again: Dub's own time, or full jitter under a doubling bound.

        ``jitter`` is a random number from 0 to 1.
        """
        return min(self._delay_s(entry, later, jitter), DELAY_MAX_S)

    def _delay_s(self, entry: Entry, later: RetryLater, jitter: float) -> float:
        if later.after_s is not None:
            return later.after_s
        bound = min(BACKOFF_MAX_S, BACKOFF_MIN_S * float(2 ** min(entry.attempts, 16)))
        delay_s = jitter * bound
        return max(later.error.retry_after_s, delay_s) if isinstance(later.error, DubThrottled) else delay_s
