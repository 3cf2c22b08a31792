"""Concurrency, backoff and expiry of the outbox."""

from msgspec import Struct

from service.domain.errors import DubThrottled
from service.domain.outbox_entries import DELAY_MAX_S, Entry, RetryLater

WEBHOOKS_MAX = 8  # in flight to one endpoint: 160 a second if it answers in 50 ms
WEBHOOK_EXPIRY_S = 3 * 86_400.0
BACKOFF_MIN_S = 0.5  # the longest pause after the first failure; doubled after each further one
BACKOFF_MAX_S = 10.0  # short, so that a lead is sent within seconds after an outage


class OutboxPolicy(Struct, frozen=True, kw_only=True):
    """How many entries are sent at the same time, and for how many seconds an entry is retried."""

    in_flight_max: int  # of leads, and also of sales
    replays_max: int  # of opens
    expiry_s: float

    def delay_s(self, entry: Entry, later: RetryLater, jitter: float) -> float:
        """Return the seconds until the next attempt: as Dub asks, or exponential backoff with full jitter.

        ``jitter`` is a random number from 0 to 1.
        """
        return min(self._delay_s(entry, later, jitter), DELAY_MAX_S)

    def _delay_s(self, entry: Entry, later: RetryLater, jitter: float) -> float:
        if later.after_s is not None:
            return later.after_s
        bound = min(BACKOFF_MAX_S, BACKOFF_MIN_S * float(2 ** min(entry.attempts, 16)))
        delay_s = jitter * bound
        return max(later.error.retry_after_s, delay_s) if isinstance(later.error, DubThrottled) else delay_s
