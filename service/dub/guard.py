"""Protect each Dub endpoint with a circuit breaker, a bulkhead, and the rate limits that Dub answers with.

Only network calls pass through a guard; answers from the cache do not. A live call is one that a caller waits
for; a replay is a call of the outbox. A slot is the permission for one call in flight.

What can go wrong: a slot is never released (it is released at the end of its call, also after an error);
calls queue for longer than their callers wait (a call that would wait too long is refused immediately);
stalled calls occupy every slot and count only when they end (a call counts as failed as soon as it is slow);
one app's calls occupy every slot (waiting apps are served in rotation); replays compete with live calls, or
affect the breaker (they have few slots, never wait, are never a probe, and do not change the breaker).
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

from msgspec import Struct

from service.aio.deadlines import Deadlines
from service.domain.errors import BulkheadFull, CircuitOpen, DubThrottled, DubUnavailable
from service.dub.breaker import Breaker, BreakerPolicy
from service.telemetry import Metrics

HOLD_MAX_S = 60.0
_SMOOTHING = 0.1
_OUTAGE_AFTER = 3  # failures in a row: an entry that always fails is not an outage
_SLOTS_PER_REPLAY = 10  # one slot in so many may be used by replays
_REPLAY_PAUSE_S = 1.0  # between two checks of the outbox if the breaker has closed


class Call(Struct, gc=False, eq=False):
    """A call in flight."""

    began: float
    probe: bool = False
    replay: bool = False
    counted: bool = False  # the breaker has counted its outcome


class Guard:
    """The guard of one endpoint.

    ``on_recovered`` is called when Dub answers again after an outage, ``record_duration`` with the seconds
    of each call. ``in_flight_max`` limits calls in flight; after ``slow_s`` seconds a call counts as failed.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        policy: BreakerPolicy,
        in_flight_max: int,
        slow_s: float,
        clock: Callable[[], float],
        on_recovered: Callable[[], None],
        record_duration: Callable[[float], None],
    ) -> None:
        self.endpoint = endpoint
        self.breaker = Breaker(policy, clock)
        self.in_flight = 0
        self.answered_at = float("-inf")  # time of Dub's last good answer, by ``clock``
        self._in_flight_max = in_flight_max
        self._replays_max = replays_max(in_flight_max)
        self._replays_in_flight = 0
        self._slow_s = slow_s
        self._clock = clock
        self._on_recovered = on_recovered
        self._record_duration = record_duration
        self._failures = 0  # in a row
        self._throttled_until: dict[str, float] = {}
        self._calls: dict[Call, None] = {}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # by app; the next app to serve is first
        self._deadlines = Deadlines()
        self._mean_call_s = 0.05

    def retry_in_s(self, app: str) -> float:
        """Return for how many seconds live calls of this app are refused; 0 if they are not.

        This also counts a stalled probe as failed: during an outage the outbox may be the only caller.
        """
        now = self._clock()
        self._count_slow(now)
        return max(self._throttled_until.get(app, 0) - now, self.breaker.retry_in_s(), 0)

    def replay_in_s(self, app: str) -> float:
        """Return the seconds until a replay of this app should be tried; 0 if it may be sent now."""
        wait_s = self.retry_in_s(app)
        return wait_s if self.breaker.closed else max(wait_s, _REPLAY_PAUSE_S)

    async def acquire(self, app: str, queue_timeout_s: float, *, replay: bool = False) -> Call:
        """Acquire a slot for a call, after waiting at most ``queue_timeout_s`` seconds.

        The caller must ``release`` it. Raises ``DubThrottled``, ``CircuitOpen`` or ``BulkheadFull``; Dub is
        not called then.
        """
        now = self._clock()
        self._count_slow(now)
        self._refuse_throttled(app, now)
        if replay:
            return self._acquire_replay(now)
        probe = self._admit()
        if self.in_flight < self._in_flight_max or probe:
            self.in_flight += 1
        else:
            await self._wait_for_slot(app, queue_timeout_s)
            try:
                now = self._clock()
                self._refuse_throttled(app, now)
                probe = self._admit()
            except DubUnavailable:
                self._pass_slot_on()
                raise
        call = Call(now, probe)
        self._calls[call] = None
        return call

    def release(self, call: Call, *, answered: bool | None) -> None:
        """Release the slot of a call.

        ``answered``: True after a good answer; False after a failure or a timeout; None if the outcome says
        nothing about Dub's health.
        """
        now = self._clock()
        self._count_slow(now)
        self._record_duration(now - call.began)
        if answered:
            self.answered_at = now
        if call.replay:
            self._replays_in_flight -= 1
        else:
            self._mean_call_s += _SMOOTHING * (now - call.began - self._mean_call_s)
            if not call.counted:
                del self._calls[call]
                self._count(call, answered=answered)
        self._pass_slot_on()

    def throttle(self, app: str, seconds: float) -> None:
        """Refuse this app's calls for as long as Dub's rate limit asks, one minute at most."""
        self._throttled_until[app] = self._clock() + min(seconds, HOLD_MAX_S)

    def _acquire_replay(self, now: float) -> Call:
        if not self.breaker.closed:
            raise CircuitOpen("circuit breaker open")
        if (
            self._replays_in_flight >= self._replays_max
            or self._waiting
            or self.in_flight >= self._in_flight_max
        ):
            raise BulkheadFull("no slot is free for a replay")
        self._replays_in_flight += 1
        self.in_flight += 1
        return Call(now, replay=True)

    def _admit(self) -> bool:
        """Return True if this call is a probe; raises ``CircuitOpen``."""
        if self.breaker.closed:
            return False
        if self.breaker.admits_probe():
            return True
        raise CircuitOpen("circuit breaker open")

    def _refuse_throttled(self, app: str, now: float) -> None:
        until = self._throttled_until.get(app)
        if until is None:
            return
        if until > now:
            raise DubThrottled(until - now)
        del self._throttled_until[app]

    async def _wait_for_slot(self, app: str, queue_timeout_s: float) -> None:
        ahead = len(self._waiting.get(app, ()))
        apps = len(self._waiting.keys() | {app})  # served in rotation
        expected_s = (ahead + 1) * apps * self._mean_call_s / self._in_flight_max
        if expected_s > queue_timeout_s:
            raise BulkheadFull(f"{ahead} calls of this app are already waiting")
        slot: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(app, deque()).append(slot)
        ticket = self._deadlines.add(queue_timeout_s, partial(_give_up, slot))
        try:
            await slot
        except asyncio.CancelledError:
            if not slot.cancelled():
                self._pass_slot_on()  # this call got the slot before it was cancelled
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise BulkheadFull(f"no free slot within {queue_timeout_s:.1f} s") from None
        finally:
            self._deadlines.cancel(ticket)

    def _pass_slot_on(self) -> None:
        """Give a free slot to the next waiting app, or else free it.

        A slot that is given on stays counted as in flight, so that no other call can take it first. A probe
        may exceed the number of slots by one; then the slot is not given on.
        """
        while self._waiting and self.in_flight <= self._in_flight_max:
            app = next(iter(self._waiting))
            slots = self._waiting.pop(app)
            slot = slots.popleft()
            if slots:
                self._waiting[app] = slots  # after the other apps
            if not slot.done():
                slot.set_result(None)
                return
        self.in_flight -= 1

    def _count_slow(self, now: float) -> None:
        """Count slow calls as failed without waiting for their end."""
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
            if self._failures >= _OUTAGE_AFTER:
                self._on_recovered()
            self._failures = 0
        else:
            self._failures += 1
            self.breaker.failed(probe=call.probe)


def replays_max(in_flight_max: int) -> int:
    """Return how many of ``in_flight_max`` slots replays may use."""
    return max(in_flight_max // _SLOTS_PER_REPLAY, 1)


def _give_up(slot: asyncio.Future[None]) -> None:
    slot.cancel()


class Guards:
    """The guards of all endpoints."""

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
        self._on_recovered: Callable[[], None] = _ignore
        self._guards = {
            endpoint: Guard(
                endpoint,
                policy=policy,
                in_flight_max=in_flight_max,
                slow_s=slow_s,
                clock=clock,
                on_recovered=self._notify_recovered,
                record_duration=metrics.dub_seconds.labels(endpoint).observe,
            )
            for endpoint in endpoints
        }

    def __getitem__(self, endpoint: str) -> Guard:
        """Return the guard of an endpoint."""
        return self._guards[endpoint]

    def _notify_recovered(self) -> None:
        self._on_recovered()

    def on_recovery(self, on_recovered: Callable[[], None]) -> None:
        """Set the function that is called when Dub answers again after an outage."""
        self._on_recovered = on_recovered

    def in_flight(self) -> dict[str, int]:
        """Return the number of calls in flight, by endpoint."""
        return {endpoint: guard.in_flight for endpoint, guard in self._guards.items()}

    def states(self) -> dict[str, str]:
        """Return the state of each circuit breaker, by endpoint."""
        return {endpoint: guard.breaker.state for endpoint, guard in self._guards.items()}

    def open_breakers(self) -> list[str]:
        """Return the endpoints whose circuit breaker is not closed."""
        return [endpoint for endpoint, guard in self._guards.items() if not guard.breaker.closed]


def _ignore() -> None:
    """Do nothing, until a listener is set."""
