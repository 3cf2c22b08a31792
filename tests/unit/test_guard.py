"""What stands before Dub, against a clock that stands still: places, holds, one probe."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.errors import BulkheadFull, CircuitOpen, DubThrottled
from service.dub.breaker import BreakerPolicy
from service.dub.guard import HOLD_MAX_S, Call, Guard, Guards
from service.telemetry import Metrics
from tests.support import FakeClock, until

POLICY = BreakerPolicy(failures_min=4, open_s=5)
SLOW_S = 1.0
PLACES = 3
PATIENT_S = 60.0
HASTY_S = 0.03


class Backs(list[float]):
    """When Dub was said to be back."""


@pytest.fixture
def backs() -> Backs:
    return Backs()


@pytest.fixture
def guard(clock: FakeClock, backs: Backs) -> Guard:
    return new_guard(clock, lambda: backs.append(clock()))


def new_guard(
    clock: FakeClock, on_recovered: Callable[[], None] = lambda: None, places: int = PLACES
) -> Guard:
    return Guard(
        "/track/open",
        policy=POLICY,
        in_flight_max=places,
        slow_s=SLOW_S,
        clock=clock,
        on_recovered=on_recovered,
        record_duration=lambda _: None,
    )


async def enter(guard: Guard, app: str = "acme") -> Call:
    """Take a place that must be free."""
    task = asyncio.ensure_future(guard.acquire(app, PATIENT_S))
    await asyncio.sleep(0)
    assert task.done(), "it had to wait"
    return task.result()


async def asked(guard: Guard, *, answered: bool | None) -> None:
    guard.release(await enter(guard), answered=answered)


async def waiting(
    guard: Guard, queue_timeout_s: float = PATIENT_S, app: str = "acme"
) -> "asyncio.Task[Call]":
    """Have a caller wait for a place."""
    task = asyncio.create_task(guard.acquire(app, queue_timeout_s))
    await asyncio.sleep(0)
    assert not task.done()
    return task


async def break_it(guard: Guard) -> None:
    for _ in range(POLICY.failures_min):
        await asked(guard, answered=False)
    assert not guard.breaker.closed


async def test_places_are_bounded(guard: Guard) -> None:
    """A call more than there are places waits until one is given back, and then has it."""
    calls = [await enter(guard) for _ in range(PLACES)]
    late = await waiting(guard)
    guard.release(calls[0], answered=True)
    await late
    assert guard.in_flight == PLACES


async def test_a_place_that_is_given_on_is_nobody_elses(guard: Guard) -> None:
    """Who comes between a place being given back and its heir waking up does not slip in: never more calls
    in flight than there are places.
    """
    calls = [await enter(guard) for _ in range(PLACES)]
    heirs = [await waiting(guard) for _ in calls]
    newcomers = [asyncio.create_task(guard.acquire("acme", PATIENT_S)) for _ in calls]
    for call in calls:
        guard.release(call, answered=True)  # before the newcomers have their first turn of the loop
    for _ in range(5):
        await asyncio.sleep(0)
    assert [task.done() for task in (*heirs, *newcomers)] == [True] * PLACES + [False] * PLACES
    assert guard.in_flight == PLACES
    for task in newcomers:
        task.cancel()
    await asyncio.gather(*newcomers, return_exceptions=True)


async def test_first_come_first_served(guard: Guard) -> None:
    """Places go to whoever has waited longest."""
    calls = [await enter(guard) for _ in range(PLACES)]
    queue = [await waiting(guard) for _ in range(PLACES)]
    for number, call in enumerate(calls, 1):
        guard.release(call, answered=True)
        await queue[number - 1]
        assert [task.done() for task in queue] == [True] * number + [False] * (PLACES - number)


async def test_waiting_ends_with_patience(guard: Guard) -> None:
    """Who gets no place in time is told so, without a call; a place that is free later goes to the next."""
    calls = [await enter(guard) for _ in range(PLACES)]
    hasty, patient = await waiting(guard, HASTY_S), await waiting(guard)
    began = asyncio.get_running_loop().time()
    with pytest.raises(BulkheadFull):
        await hasty
    assert asyncio.get_running_loop().time() - began < HASTY_S + 0.5
    guard.release(calls[0], answered=True)
    await patient
    assert guard.in_flight == PLACES


async def test_the_newest_are_shed_at_once(guard: Guard, clock: FakeClock) -> None:
    """Who would wait longer than their patience, as calls usually take, is refused without waiting."""
    for _ in range(50):
        call = await enter(guard)
        clock.advance(0.32)  # what calls take from now on
        guard.release(call, answered=True)
    for _ in range(PLACES):
        await enter(guard)
    queue = [await waiting(guard, 0.5) for _ in range(4)]  # the fifth would wait half a second
    with pytest.raises(BulkheadFull):
        async with asyncio.timeout(0.2):
            await guard.acquire("acme", 0.5)
    assert not any(task.done() for task in queue)
    await asyncio.gather(*queue, return_exceptions=True)


async def test_a_cancelled_caller_gives_its_turn_on(guard: Guard) -> None:
    """Cancelled while waiting, or after its turn came and before it took it: the next has the place."""
    calls = [await enter(guard) for _ in range(PLACES)]
    one, two, three = [await waiting(guard) for _ in range(3)]
    one.cancel()
    await asyncio.sleep(0)
    guard.release(calls[0], answered=True)
    two.cancel()  # its turn has come already
    assert isinstance(await three, Call)
    assert (one.cancelled(), two.cancelled(), guard.in_flight) == (True, True, PLACES)


async def test_a_turn_whose_patience_ends_with_it_is_given_on(guard: Guard) -> None:
    """A caller whose time is over in the moment in which its turn comes takes no place with it."""
    calls = [await enter(guard) for _ in range(PLACES)]
    hasty = await waiting(guard, HASTY_S)
    with pytest.raises(BulkheadFull):
        await hasty
    for call in calls:
        guard.release(call, answered=True)
    assert guard.in_flight == 0
    for _ in range(PLACES):
        await enter(guard)


async def test_an_open_breaker_refuses_who_waits(guard: Guard) -> None:
    """When calls fail while others wait, the waiting are refused as their turn comes, one after another:
    none is forgotten, and no place is lost.
    """
    calls = [await enter(guard) for _ in range(PLACES)]
    queue = [await waiting(guard) for _ in range(20)]
    for call in calls:
        guard.release(call, answered=False)
        guard._count(Call(0, probe=False), answered=False)
    outcomes = await asyncio.wait_for(asyncio.gather(*queue, return_exceptions=True), 1)
    assert {type(outcome) for outcome in outcomes} <= {Call, CircuitOpen}
    entered = [outcome for outcome in outcomes if isinstance(outcome, Call)]
    assert sum(isinstance(outcome, CircuitOpen) for outcome in outcomes) >= 20 - PLACES
    for call in entered:
        guard.release(call, answered=False)
    assert guard.in_flight == 0


async def test_one_probe_of_a_thousand_callers(guard: Guard, clock: FakeClock, backs: Backs) -> None:
    """Half-open, one call of a thousand concurrent ones reaches Dub; answered, it lets everybody through."""
    await break_it(guard)
    clock.advance(POLICY.open_s)
    outcomes = await asyncio.gather(
        *(guard.acquire("acme", PATIENT_S) for _ in range(1000)), return_exceptions=True
    )
    (probe,) = [outcome for outcome in outcomes if isinstance(outcome, Call)]
    assert sum(isinstance(outcome, CircuitOpen) for outcome in outcomes) == 999
    assert guard.retry_in_s("acme") > 0
    guard.release(probe, answered=True)
    assert (guard.breaker.state, backs) == ("closed", [clock()])
    await asked(guard, answered=True)
    assert len(backs) == 1


async def test_a_probe_needs_no_place(guard: Guard, clock: FakeClock) -> None:
    """Stalled calls that fill every place do not keep the probe from going; it counts while it lasts."""
    stalled = [await enter(guard) for _ in range(PLACES)]
    guard.breaker._opened_at = clock()
    clock.advance(POLICY.open_s)
    probe = await enter(guard)
    assert (probe.probe, guard.in_flight) == (True, PLACES + 1)
    guard.release(probe, answered=True)
    late = await waiting(guard)
    for call in stalled:
        guard.release(call, answered=None)
    guard.release(await late, answered=True)
    assert guard.in_flight == 0


@pytest.mark.parametrize("answered", [True, False, None])
async def test_a_straggler_changes_nothing(
    guard: Guard,
    clock: FakeClock,
    answered: bool | None,  # noqa: FBT001
) -> None:
    """A call from before the breaker opened neither closes nor opens it, however it ends."""
    straggler = await enter(guard)
    for _ in range(POLICY.failures_min):
        await asked(guard, answered=False)
    clock.advance(POLICY.open_s)
    probe = await enter(guard)
    guard.release(straggler, answered=answered)
    assert guard.breaker.state == "half_open"
    with pytest.raises(CircuitOpen):
        await guard.acquire("acme", PATIENT_S)
    guard.release(probe, answered=True)
    assert guard.breaker.closed


async def test_slow_calls_count_when_they_become_slow(guard: Guard, clock: FakeClock) -> None:
    """Stalled calls open the breaker after ``slow_s``, long before they end; ending, they count no more."""
    guard = new_guard(clock, places=100)
    stalled = [await enter(guard) for _ in range(POLICY.failures_min)]
    clock.advance(SLOW_S - 0.01)
    await asked(guard, answered=True)
    assert guard.breaker.closed
    clock.advance(0.01)
    with pytest.raises(CircuitOpen):
        await guard.acquire("acme", PATIENT_S)
    clock.advance(POLICY.open_s)
    probe = await enter(guard)
    guard.release(probe, answered=True)
    for call in stalled:
        guard.release(call, answered=False)
    assert (guard.breaker.closed, guard.in_flight) == (True, 0)


async def test_slow_answers_are_failures_one_by_one_too(guard: Guard, clock: FakeClock, backs: Backs) -> None:
    """Answers that take too long open the breaker also when no other call comes in between."""
    for _ in range(POLICY.failures_min):
        call = await enter(guard)
        clock.advance(SLOW_S)
        guard.release(call, answered=True)
    assert not guard.breaker.closed
    assert backs == []


async def test_a_slow_probe_opens_again(guard: Guard, clock: FakeClock) -> None:
    """A probe that stalls is given up after ``slow_s``: the breaker opens anew, and another may probe."""
    await break_it(guard)
    clock.advance(POLICY.open_s)
    stalled = await enter(guard)
    clock.advance(SLOW_S)
    with pytest.raises(CircuitOpen):
        await guard.acquire("acme", PATIENT_S)
    assert guard.retry_in_s("acme") == POLICY.open_s
    clock.advance(POLICY.open_s)
    probe = await enter(guard)
    guard.release(stalled, answered=False)
    assert guard.breaker.state == "half_open"
    guard.release(probe, answered=True)
    assert guard.breaker.closed


async def test_who_only_looks_finds_a_stalled_probe_out(guard: Guard, clock: FakeClock) -> None:
    """With nobody but the outbox to look, another may probe as soon as after a probe that failed at once."""
    await break_it(guard)
    clock.advance(POLICY.open_s)
    assert (await enter(guard)).probe
    clock.advance(SLOW_S)
    assert guard.retry_in_s("acme") == POLICY.open_s
    clock.advance(POLICY.open_s)
    assert guard.retry_in_s("acme") == 0
    assert (await enter(guard)).probe


async def test_a_cancelled_probe_frees_its_place(guard: Guard, clock: FakeClock) -> None:
    """A probe that we gave up says nothing; the next call is the probe."""
    await break_it(guard)
    clock.advance(POLICY.open_s)
    guard.release(await enter(guard), answered=None)
    assert guard.breaker.state == "half_open"
    assert (await enter(guard)).probe


async def test_a_429_holds_one_app(guard: Guard, clock: FakeClock) -> None:
    """The app that Dub throttles waits until the stated time; another app's calls go on."""
    guard.throttle("acme", 7)
    with pytest.raises(DubThrottled) as held:
        await guard.acquire("acme", PATIENT_S)
    assert held.value.retry_after_s == 7
    assert (guard.retry_in_s("acme"), guard.retry_in_s("globex")) == (7, 0)
    guard.release(await enter(guard, "globex"), answered=True)
    clock.advance(7)
    assert guard.retry_in_s("acme") == 0
    guard.release(await enter(guard, "acme"), answered=True)


async def test_a_429_holds_a_minute_at_most(guard: Guard, clock: FakeClock) -> None:
    """However long Dub says, a minute later one call asks again."""
    guard.throttle("acme", 3600)
    assert guard.retry_in_s("acme") == HOLD_MAX_S
    clock.advance(HOLD_MAX_S)
    await enter(guard)


async def test_a_replay_gives_way_and_says_nothing(guard: Guard, clock: FakeClock) -> None:
    """A replay takes one of few places, waits for none, never probes, and its outcome opens no breaker."""
    for _ in range(100):
        guard.release(await guard.acquire("acme", 0, replay=True), answered=False)
    assert guard.breaker.closed
    replay = await guard.acquire("acme", 0, replay=True)
    with pytest.raises(BulkheadFull):
        await guard.acquire("acme", 0, replay=True)
    guard.release(replay, answered=True)
    calls = [await enter(guard) for _ in range(PLACES)]
    with pytest.raises(BulkheadFull):
        await guard.acquire("acme", 0, replay=True)
    for call in calls:
        guard.release(call, answered=True)
    await break_it(guard)
    clock.advance(POLICY.open_s)
    with pytest.raises(CircuitOpen):
        await guard.acquire("acme", 0, replay=True)
    assert guard.replay_in_s("acme") > 0
    assert (await enter(guard)).probe


async def test_an_open_breaker_that_no_live_call_meets_lapses(guard: Guard, clock: FakeClock) -> None:
    """With no live call to probe for them, replays go again a minute after the breaker opened."""
    await break_it(guard)
    clock.advance(12 * POLICY.open_s)
    assert guard.replay_in_s("acme") == 0
    guard.release(await guard.acquire("acme", 0, replay=True), answered=True)


async def test_apps_take_turns(guard: Guard) -> None:
    """Behind one app's storm another app's call has the next place but one."""
    calls = [await enter(guard) for _ in range(PLACES)]
    storm = [await waiting(guard) for _ in range(50)]
    other = await waiting(guard, app="globex")
    guard.release(calls[0], answered=True)
    guard.release(calls[1], answered=True)
    await asyncio.sleep(0)
    assert storm[0].done()
    assert other.done()
    assert not storm[1].done()
    for task in storm[1:]:
        task.cancel()
    await asyncio.gather(*storm, return_exceptions=True)


async def test_a_429_says_nothing_about_health(guard: Guard) -> None:
    """Where a key is throttled, the breaker of everybody's calls stays closed."""
    for _ in range(100):
        await asked(guard, answered=None)
    assert guard.breaker.closed


async def test_a_429_holds_who_waits_already(guard: Guard) -> None:
    """Calls that waited for a place when the 429 came are held as well, and give the place on."""
    calls = [await enter(guard) for _ in range(PLACES)]
    held, free = await waiting(guard, app="acme"), await waiting(guard, app="globex")
    guard.throttle("acme", 30)
    guard.release(calls[0], answered=None)
    with pytest.raises(DubThrottled):
        await held
    assert isinstance(await free, Call)
    assert guard.in_flight == PLACES


async def test_each_endpoint_has_its_own_guard(clock: FakeClock) -> None:
    """Leads that fail do not hold opens back; whose breaker is open is known by name."""
    backs: list[str] = []
    guards = Guards(
        ("/track/open", "/track/lead"),
        policy=POLICY,
        in_flight_max=PLACES,
        slow_s=SLOW_S,
        clock=clock,
        metrics=Metrics(),
    )
    guards.on_recovery(lambda: backs.append("back"))
    await break_it(guards["/track/lead"])
    assert guards.open_breakers() == ["/track/lead"]
    await asked(guards["/track/open"], answered=True)
    assert backs == []
    clock.advance(POLICY.open_s)
    await asked(guards["/track/lead"], answered=True)
    assert (guards.open_breakers(), backs) == ([], ["back"])


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), st.sampled_from(["acme", "globex"])),
        st.tuples(st.just("leave"), st.sampled_from([True, False, None])),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("hold"), st.sampled_from([0.5, 5.0, 90.0])),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 0.3, SLOW_S, POLICY.open_s, 61.0])),
        st.tuples(st.just("turn"), st.integers(1, 3)),
    ),
    max_size=80,
)


@settings(deadline=None, max_examples=200)
@given(STEPS)
def test_places_never_leak(recorder: list[tuple[str, Any]]) -> None:
    """Whatever callers do, in whatever order: calls in flight are those that entered, never more than the
    places and one probe, never two probes; and in the end every place is free again.
    """
    asyncio.run(play(recorder))


async def play(recorder: list[tuple[str, Any]]) -> None:
    crowd = Crowd()
    for action, value in recorder:
        await getattr(crowd, action)(value)
        crowd.check()
    await crowd.go_home()


class Crowd:
    """Callers of one guard."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.guard = new_guard(self.clock)
        self.tasks: list[asyncio.Task[Call]] = []
        self.left: list[Call] = []

    @property
    def inside(self) -> list[Call]:
        done = [task for task in self.tasks if task.done() and not task.cancelled() and not task.exception()]
        return [task.result() for task in done if task.result() not in self.left]

    async def enter(self, app: str) -> None:
        self.tasks.append(asyncio.create_task(self.guard.acquire(app, PATIENT_S)))

    async def leave(self, answered: bool | None) -> None:  # noqa: FBT001  drawn by Hypothesis
        for call in self.inside[:1]:
            self.left.append(call)
            self.guard.release(call, answered=answered)

    async def cancel(self, number: int) -> None:
        if self.tasks:
            self.tasks[number % len(self.tasks)].cancel()

    async def hold(self, seconds: float) -> None:
        self.guard.throttle("acme", seconds)

    async def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    async def turn(self, times: int) -> None:
        for _ in range(times):
            await asyncio.sleep(0)

    def check(self) -> None:
        inside = self.inside
        probes = [call for call in inside if call.probe]
        assert len(inside) <= self.guard.in_flight <= PLACES + len(probes)
        assert sum(not call.counted for call in probes) <= 1

    async def go_home(self) -> None:
        """Let everybody end; every place is free then."""
        while self.inside or not all(task.done() for task in self.tasks):
            await asyncio.sleep(0)
            await self.leave(answered=True)
        assert self.guard.in_flight == 0
        assert not self.guard._calls
        self.clock.advance(HOLD_MAX_S + POLICY.open_s)
        self.guard.release(await enter(self.guard), answered=True)
        for _ in range(PLACES):
            await enter(self.guard)


async def test_a_place_is_given_back_however_a_caller_ends(guard: Guard) -> None:
    """Hundreds of callers that come, wait, give up and leave at once end with every place free."""

    async def call(number: int) -> None:
        held = await guard.acquire("acme", HASTY_S if number % 3 else PATIENT_S)
        try:
            await asyncio.sleep(0)
        finally:
            guard.release(held, answered=True)

    tasks = [asyncio.create_task(call(number)) for number in range(500)]
    await until(lambda: guard.in_flight == PLACES)
    for task in tasks[::5]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert guard.in_flight == 0
