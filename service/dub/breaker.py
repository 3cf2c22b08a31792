"""A circuit breaker: stops calls to an endpoint that fails, and checks with one probe if it works again.

What can go wrong: many calls pass while it is half-open, or the result of an older call closes or opens it
(while it is open, only the result of the one probe counts); slow calls count as good (a slow call counts as
failed); no live call arrives to be the probe, and the outbox waits for ever (a breaker that has been open for
a while without a probe closes by itself).
"""

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

State = Literal["closed", "open", "half_open"]


class BreakerPolicy(Struct, frozen=True, kw_only=True):
    """When the breaker opens, and for how many seconds."""

    failures_min: int  # fewer failures never open it
    open_s: float  # then one probe is admitted


WINDOW_S = 10.0  # over which calls are counted: several budgets
FAILURE_RATIO = 0.5  # of the window's calls
_LAPSES_AFTER = 12  # times ``open_s`` without a probe: there are no live calls to protect


class Breaker:
    """The circuit breaker of one endpoint. ``clock`` returns monotonic seconds."""

    def __init__(self, policy: BreakerPolicy, clock: Callable[[], float]) -> None:
        self._policy = policy
        self._clock = clock
        self._opened_at: float | None = None
        self._probing = False
        self._half = 0  # of the window, counted from the clock's zero
        self._calls = self._failures = self._failures_before = self._calls_before = 0

    @property
    def state(self) -> State:
        """Return the breaker's state."""
        if self._opened_at is None or self.closed:
            return "closed"
        return "open" if self._clock() < self._opened_at + self._policy.open_s else "half_open"

    @property
    def closed(self) -> bool:
        """Return True if calls are admitted."""
        if self._opened_at is None:
            return True
        if self._probing or self._clock() < self._opened_at + _LAPSES_AFTER * self._policy.open_s:
            return False
        self._close()
        return True

    def retry_in_s(self) -> float:
        """Return the seconds until a probe is admitted; 0 if a call is admitted now."""
        if self.closed or self._opened_at is None:
            return 0
        left = self._opened_at + self._policy.open_s - self._clock()
        return left if left > 0 else 0 if not self._probing else self._policy.open_s

    def admits_probe(self) -> bool:
        """Return True if the caller becomes the one probe, whose outcome it must then report."""
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
        """Count a call that failed or is slow."""
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
        """End a call without counting it: it was cancelled, or Dub's rate limit refused it."""
        if probe:
            self._probing = False

    def _close(self) -> None:
        self._probing = False
        self._opened_at = None
        self._calls = self._failures = self._calls_before = self._failures_before = 0

    def _count(self, *, failed: bool) -> None:
        """Count a call in the current half of the window; the previous half also belongs to the window."""
        half = int(self._clock() / (WINDOW_S / 2))
        if half != self._half:
            follows = half == self._half + 1
            self._calls_before, self._failures_before = (self._calls, self._failures) if follows else (0, 0)
            self._calls = self._failures = 0
            self._half = half
        self._calls += 1
        self._failures += failed
