"""A circuit breaker: stops calling an endpoint that does not answer, and probes it with one call.

What can go wrong: a crowd gets through half-open, or an old call's outcome closes or opens it again (only the
one probe's outcome counts then); slow calls look like good ones (slow counts as failed); no live call ever
comes to probe, and the outbox waits for ever (an open breaker that no call has met for a while closes by
itself).
"""

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

State = Literal["closed", "open", "half_open"]


class BreakerPolicy(Struct, frozen=True, kw_only=True):
    """When to stop asking. Times in seconds."""

    failures_min: int  # fewer say nothing
    open_s: float  # then one probe


WINDOW_S = 10.0  # over which calls are counted: some budgets long
FAILURE_RATIO = 0.5  # of the window's calls
_LAPSES_AFTER = 12  # times ``open_s`` without a probe: it protects live calls, and there are none


class Breaker:
    """One per endpoint. ``clock`` counts seconds and never goes back."""

    def __init__(self, policy: BreakerPolicy, clock: Callable[[], float]) -> None:
        self._policy = policy
        self._clock = clock
        self._opened_at: float | None = None
        self._probing = False
        self._half = 0  # of the window, counted from the clock's zero
        self._calls = self._failures = self._failures_before = self._calls_before = 0

    @property
    def state(self) -> State:
        """Say where it stands now."""
        if self.closed or self._opened_at is None:
            return "closed"
        return "open" if self._clock() < self._opened_at + self._policy.open_s else "half_open"

    @property
    def closed(self) -> bool:
        """Whether calls go through."""
        if self._opened_at is None:
            return True
        if self._probing or self._clock() < self._opened_at + _LAPSES_AFTER * self._policy.open_s:
            return False
        self._close()
        return True

    def retry_in_s(self) -> float:
        """Return after how many seconds a probe may go; 0 if a call may go now."""
        if self.closed or self._opened_at is None:
            return 0
        left = self._opened_at + self._policy.open_s - self._clock()
        return left if left > 0 else 0 if not self._probing else self._policy.open_s

    def admits_probe(self) -> bool:
        """Take the one probe's place, if it is time for it and free. The taker must report an outcome."""
        if self._opened_at is None or self._probing or self.state == "open":
            return False
        self._probing = True
        return True

    def succeeded(self, *, probe: bool) -> None:
        """Count a call that was answered in time."""
        if probe:
            self._close()
        elif self._opened_at is None:
            self._count(failed=False)

    def failed(self, *, probe: bool) -> None:
        """Count a call that failed, or that is slow."""
        if probe:
            self._probing = False
            self._opened_at = self._clock()
        elif self._opened_at is None:
            self._count(failed=True)
            calls, failures = self._calls + self._calls_before, self._failures + self._failures_before
            policy = self._policy
            if failures >= policy.failures_min and failures >= FAILURE_RATIO * calls:
                self._opened_at = self._clock()

    def abandoned(self, *, probe: bool) -> None:
        """Forget a call that says nothing about Dub: given up by us, or told to wait."""
        if probe:
            self._probing = False

    def _close(self) -> None:
        self._probing = False
        self._opened_at = None
        self._calls = self._failures = self._calls_before = self._failures_before = 0

    def _count(self, *, failed: bool) -> None:
        """Count in the running half of the window; the half before it counts too."""
        half = int(self._clock() / (WINDOW_S / 2))
        if half != self._half:
            follows = half == self._half + 1
            self._calls_before, self._failures_before = (self._calls, self._failures) if follows else (0, 0)
            self._calls = self._failures = 0
            self._half = half
        self._calls += 1
        self._failures += failed
