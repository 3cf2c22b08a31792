"""What stands before each of Dub's endpoints: a circuit breaker, a bulkhead, and Dub's own rate limits.

It is around the network call only: an answer from memory never meets it. A live call is one that a caller
waits for; a replay is one that the outbox makes.

What can go wrong: a place that is never given back (it goes with the end of its call, however that ends);
calls that queue for longer than their callers wait (a queue that is too long for its newest is not joined);
stalled calls that fill every place and are counted only when they end (a call counts as failed once it is
slow); one app's storm that takes every place (apps that wait take turns); replays that compete with live
calls, or speak for them (they have few places, never wait, never probe, and change no breaker).
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
_AWAY_AFTER = 3  # failures in a row: one entry that always fails is no outage
_PLACES_PER_REPLAY = 5  # one place in so many is open to replays
_REPLAY_PAUSE_S = 1.0  # between two looks of the outbox whether the breaker has closed


class Call(Struct, gc=False, eq=False):
    """One call in flight."""

    began: float
    probe: bool = False
    replay: bool = False
    counted: bool = False  # the breaker has its outcome


class Guard:
    """One per endpoint.

    ``on_back`` is called when Dub answers again after it had not, ``took`` with the seconds that each call
    took. ``in_flight_max`` bounds calls in flight; after ``slow_s`` seconds a call counts as failed.
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
        self.answered_at = float("-inf")  # when Dub last gave a good answer, on the clock
        self._in_flight_max = in_flight_max
        self._replays_max = replays_max(in_flight_max)
        self._open_replay = 0
        self._slow_s = slow_s
        self._clock = clock
        self._on_back = on_back
        self._took = took
        self._failures = 0  # in a row
        self._held: dict[str, float] = {}
        self._calls: dict[Call, None] = {}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # by app, the next to be served first
        self._deadlines = Deadlines()
        self._usual_s = 0.05

    def retry_in_s(self, app: str) -> float:
        """Return for how many seconds live calls of this app are held back; 0 if they are not.

        Asking also finds a stalled probe: the outbox may be the only one that waits for Dub.
        """
        now = self._clock()
        self._count_slow(now)
        return max(self._held.get(app, 0) - now, self.breaker.retry_in_s(), 0)

    def replay_in_s(self, app: str) -> float:
        """Return after how many seconds a replay of this app is worth trying; 0 if one may go now."""
        wait_s = self.retry_in_s(app)
        return wait_s if self.breaker.closed else max(wait_s, _REPLAY_PAUSE_S)

    async def enter(self, app: str, queue_timeout_s: float, *, replay: bool = False) -> Call:
        """Take a place for a call, waiting for up to ``queue_timeout_s`` seconds; ``leave`` gives it back.

        Raises ``DubThrottled``, ``CircuitOpen`` or ``BulkheadFull``, none of which asked Dub.
        """
        now = self._clock()
        self._count_slow(now)
        self._refuse_held(app, now)
        if replay:
            return self._enter_replay(now)
        probe = self._admit()
        if self.in_flight < self._in_flight_max or probe:
            self.in_flight += 1
        else:
            await self._wait_for_a_place(app, queue_timeout_s)
            try:
                now = self._clock()
                self._refuse_held(app, now)
                probe = self._admit()
            except DubUnavailable:
                self._pass_place_on()
                raise
        call = Call(now, probe)
        self._calls[call] = None
        return call

    def leave(self, call: Call, *, answered: bool | None) -> None:
        """Give a place back.

        ``answered``: True for a good answer, False for one that cost time or never came, None for a call that
        says nothing about Dub's health.
        """
        now = self._clock()
        self._count_slow(now)
        self._took(now - call.began)
        if answered:
            self.answered_at = now
        if call.replay:
            self._open_replay -= 1
        else:
            self._usual_s += _SMOOTHING * (now - call.began - self._usual_s)
            if not call.counted:
                del self._calls[call]
                self._count(call, answered=answered)
        self._pass_place_on()

    def hold(self, app: str, seconds: float) -> None:
        """Hold this app's calls back, as Dub asked, for a minute at most."""
        self._held[app] = self._clock() + min(seconds, HOLD_MAX_S)

    def _enter_replay(self, now: float) -> Call:
        if not self.breaker.closed:
            raise CircuitOpen("circuit breaker open")
        if self._open_replay >= self._replays_max or self._waiting or self.in_flight >= self._in_flight_max:
            raise BulkheadFull("no place for a replay beside live calls")
        self._open_replay += 1
        self.in_flight += 1
        return Call(now, replay=True)

    def _admit(self) -> bool:
        """Say whether this call is a probe; raises ``CircuitOpen``."""
        if self.breaker.closed:
            return False
        if self.breaker.admits_probe():
            return True
        raise CircuitOpen("circuit breaker open")

    def _refuse_held(self, app: str, now: float) -> None:
        until = self._held.get(app)
        if until is None:
            return
        if until > now:
            raise DubThrottled(until - now)
        del self._held[app]

    async def _wait_for_a_place(self, app: str, queue_timeout_s: float) -> None:
        ahead = len(self._waiting.get(app, ()))
        apps = len(self._waiting.keys() | {app})  # they take turns
        expected_s = (ahead + 1) * apps * self._usual_s / self._in_flight_max
        if expected_s > queue_timeout_s:
            raise BulkheadFull(f"{ahead} calls of this app are waiting already")
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(app, deque()).append(place)
        ticket = self._deadlines.add(queue_timeout_s, partial(_give_up, place))
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():
                self._pass_place_on()  # it was given to this call meanwhile
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise BulkheadFull(f"no place within {queue_timeout_s:.1f} s") from None
        finally:
            self._deadlines.cancel(ticket)

    def _pass_place_on(self) -> None:
        """Give a free place to the app whose turn it is.

        The place stays counted, so that no other call takes it meanwhile. With a probe there may be one more
        call than there are places: then it is not passed on.
        """
        while self._waiting and self.in_flight <= self._in_flight_max:
            app = next(iter(self._waiting))
            places = self._waiting.pop(app)
            place = places.popleft()
            if places:
                self._waiting[app] = places  # behind the other apps
            if not place.done():
                place.set_result(None)
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


def replays_max(in_flight_max: int) -> int:
    """Return how many of so many places are open to replays."""
    return max(in_flight_max // _PLACES_PER_REPLAY, 1)


def _give_up(place: asyncio.Future[None]) -> None:
    place.cancel()


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
        self._on_back: Callable[[], None] = _ignore
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


def _ignore() -> None:
    """Do nothing, until a listener is set."""
