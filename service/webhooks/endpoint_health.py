"""The circuit breaker of one webhook endpoint.

Unlike Dub's endpoints (``dub.breaker``), a backend may get one webhook an hour: failures are counted in a
row, not in a window of time. What can go wrong: a dead endpoint costs an attempt for each queued webhook
(after ``FAILURES_MAX`` failures in a row there is one probe at a time, at growing intervals); one webhook
that always fails pauses the others (its own retries are late, so the next probe is another webhook).
"""

from collections.abc import Callable

FAILURES_MAX = 5
PAUSE_MIN_S = 5.0
PAUSE_MAX_S = 300.0

_PROBE_S = 1.0  # between looks while a probe is under way


class EndpointHealth:
    """Counts failures in a row, and says when to try again. ``clock`` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0
        self._in_flight = 0
        self._pause_s = PAUSE_MIN_S
        self._paused_until = float("-inf")

    @property
    def is_failing(self) -> bool:
        """Return True while only probes are sent."""
        return self._failures >= FAILURES_MAX

    def retry_in_s(self) -> float:
        """Return for how many seconds nothing may be sent; 0 if something may."""
        left_s = self._paused_until - self._clock()
        if left_s > 0:
            return left_s
        return _PROBE_S if self.is_failing and self._in_flight else 0

    def take_max(self) -> int | None:
        """Return how many webhooks may be taken from the outbox at once: one as a probe, else any number."""
        return 1 if self.is_failing else None

    def begun(self) -> None:
        """Record the start of an attempt."""
        self._in_flight += 1

    def ended(self) -> None:
        """Record the end of an attempt, whatever its result."""
        self._in_flight -= 1

    def succeeded(self) -> bool:
        """Record a success; return True if it ends a series of failures."""
        was_failing = self.is_failing
        self._failures, self._pause_s = 0, PAUSE_MIN_S
        self._paused_until = float("-inf")
        return was_failing

    def failed(self, retry_after_s: float | None = None) -> None:
        """Record a failure, and for how many seconds the endpoint asks to wait, if it does."""
        self._failures += 1
        now, pause_s = self._clock(), retry_after_s or 0
        if (
            self.is_failing and now >= self._paused_until
        ):  # else it began before the pause, which it must not double
            pause_s, self._pause_s = max(pause_s, self._pause_s), min(self._pause_s * 2, PAUSE_MAX_S)
        self._paused_until = max(self._paused_until, now + pause_s)
