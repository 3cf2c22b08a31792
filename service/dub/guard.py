"""What stands before each of Dub's endpoints: a circuit breaker, a bulkhead, the waits that Dub asked for.

Around the network call only: an answer from memory never meets it. What can go wrong: a slot that is
never given back; calls queueing longer than anybody waits; stalled calls that fill every slot and are
counted only when they end. So a call's slot goes with its end however it ends, a queue that is too long
for its newest is not joined, and a call counts as failed once it is slow, not when it ends.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

from msgspec import Struct

from service.dub.breaker import Breaker, BreakerPolicy
from service.resolve.deadlines import Deadlines
from service.resolve.errors import DubCrowded, DubHeldBack, DubThrottled, DubUnavailable
from service.telemetry import Metrics

HOLD_MAX_S = 60.0
_SMOOTHING = 0.1
_AWAY_AFTER = 3  # failures in a row: one entry that always fails is no outage


class Call(Struct, gc=False, eq=False):
    """One call in flight."""

    began: float
    probe: bool
    counted: bool = False


class Guard:
    """One per endpoint. ``on_back`` is called when Dub answers again after it had not.

    ``took`` hears how many seconds each call took. ``in_flight_max`` bounds calls in flight, ``slow_s``
    is when one counts as failed, in seconds.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        policy: BreakerPolicy,
        in_flight_max: int,
        slow_s: float,
        clock: Callable[[], float],
        on_back: Callable[[], None],
        took: Callable[[float], None],
    ) -> None:
        self.endpoint = endpoint
        self.breaker = Breaker(policy, clock)
        self.in_flight = 0
        self._in_flight_max = in_flight_max
        self._slow_s = slow_s
        self._clock = clock
        self._on_back = on_back
        self._took = took
        self._failures = 0  # in a row
        self._held: dict[str, float] = {}
        self._calls: dict[Call, None] = {}
        self._queue: deque[asyncio.Future[None]] = deque()
        self._deadlines = Deadlines()
        self._usual_s = 0.05

    def retry_in_s(self, app: str) -> float:
        """Return for how many seconds calls of this app are held back; 0 if they are not.

        Who only looks finds a stalled probe out too: the outbox may be the only one that waits for Dub.
        """
        now = self._clock()
        self._count_slow(now)
        return max(self._held.get(app, 0) - now, self.breaker.retry_in_s(), 0)

    async def enter(self, app: str, patience_s: float) -> Call:
        """Take a place for a call, waiting for up to ``patience_s`` seconds; ``leave`` gives it back.

        Raises ``DubThrottled``, ``DubHeldBack`` or ``DubCrowded``, none of which asked Dub.
        """
        now = self._clock()
        self._count_slow(now)
        self._refuse_held(app, now)
        probe = self._admit()
        if self.in_flight < self._in_flight_max or probe:
            self.in_flight += 1
        else:
            await self._wait_for_a_place(patience_s)
            try:
                now = self._clock()
                self._refuse_held(app, now)
                probe = self._admit()
            except DubUnavailable:
                self._give_on()
                raise
        call = Call(now, probe)
        self._calls[call] = None
        return call

    def leave(self, call: Call, *, answered: bool | None) -> None:
        """Give a place back; ``answered`` is ``None`` for a call that says nothing about Dub's health."""
        now = self._clock()
        self._count_slow(now)
        took_s = now - call.began
        self._took(took_s)
        self._usual_s += _SMOOTHING * (took_s - self._usual_s)
        if not call.counted:
            del self._calls[call]
            self._count(call, answered=answered)
        self._give_on()

    def hold(self, app: str, seconds: float) -> None:
        """Hold this app's calls back, as Dub asked, for a minute at most."""
        self._held[app] = self._clock() + min(seconds, HOLD_MAX_S)

    def _admit(self) -> bool:
        """Say whether this is a probe; raises ``DubHeldBack``."""
        if self.breaker.closed:
            return False
        if self.breaker.admits_probe():
            return True
        raise DubHeldBack("circuit breaker open")

    def _refuse_held(self, app: str, now: float) -> None:
        until = self._held.get(app)
        if until is None:
            return
        if until > now:
            raise DubThrottled(until - now)
        del self._held[app]

    async def _wait_for_a_place(self, patience_s: float) -> None:
        expected_s = (len(self._queue) + 1) * self._usual_s / self._in_flight_max
        if expected_s > patience_s:
            raise DubCrowded(f"{len(self._queue)} calls are waiting already")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        ticket = self._deadlines.add(patience_s, partial(_give_up, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._give_on()  # it was ours, and goes to the next
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise DubCrowded(f"no place within {patience_s:.1f} s") from None
        finally:
            self._deadlines.take_back(ticket)

    def _give_on(self) -> None:
        """Give a place to whoever waits longest; it stays counted, so that nobody else takes it meanwhile."""
        while self._queue and self.in_flight <= self._in_flight_max:  # more only with a probe
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.in_flight -= 1

    def _count_slow(self, now: float) -> None:
        """Count calls that have become slow: they may not end for a long time."""
        late = now - self._slow_s
        while self._calls:
            oldest = next(iter(self._calls))
            if oldest.began > late:
                return
            del self._calls[oldest]
            oldest.counted = True
            self._count(oldest, answered=False)

    def _count(self, call: Call, *, answered: bool | None) -> None:
        if answered is None:
            self.breaker.abandoned(probe=call.probe)
        elif answered:
            self.breaker.succeeded(probe=call.probe)
            if self._failures >= _AWAY_AFTER:
                self._on_back()
            self._failures = 0
        else:
            self._failures += 1
            self.breaker.failed(probe=call.probe)


def _give_up(turn: asyncio.Future[None]) -> None:
    turn.cancel()


class Guards:
    """Every endpoint's guard."""

    def __init__(
        self,
        endpoints: tuple[str, ...],
        *,
        policy: BreakerPolicy,
        in_flight_max: int,
        slow_s: float,
        clock: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self._on_back: Callable[[], None] = _nobody
        self._guards = {
            endpoint: Guard(
                endpoint,
                policy=policy,
                in_flight_max=in_flight_max,
                slow_s=slow_s,
                clock=clock,
                on_back=self._tell,
                took=metrics.dub_seconds.labels(endpoint).observe,
            )
            for endpoint in endpoints
        }

    def __getitem__(self, endpoint: str) -> Guard:
        """Return an endpoint's guard."""
        return self._guards[endpoint]

    def _tell(self) -> None:
        self._on_back()

    def tell(self, on_back: Callable[[], None]) -> None:
        """Have this called when Dub answers again after it had not."""
        self._on_back = on_back

    def in_flight(self) -> dict[str, int]:
        """Count calls under way, by endpoint."""
        return {endpoint: guard.in_flight for endpoint, guard in self._guards.items()}

    def open_breakers(self) -> list[str]:
        """Name the endpoints that are held back."""
        return [endpoint for endpoint, guard in self._guards.items() if not guard.breaker.closed]


def _nobody() -> None:
    """Nobody listens yet."""
