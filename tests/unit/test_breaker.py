"""The circuit breaker against a clock that stands still."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.dub.breaker import WINDOW_S, Breaker, BreakerPolicy
from tests.support import FakeClock

POLICY = BreakerPolicy(failures_min=4, open_s=5)


@pytest.fixture
def breaker(clock: FakeClock) -> Breaker:
    return Breaker(POLICY, clock)


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        breaker.failed(probe=False)


def succeed(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        breaker.succeeded(probe=False)


def open_up(breaker: Breaker, clock: FakeClock) -> None:
    """Open it, and let its time pass: half-open."""
    fail(breaker, POLICY.failures_min)
    clock.advance(POLICY.open_s)
    assert breaker.state == "half_open"


def test_too_few_failures_say_nothing(breaker: Breaker) -> None:
    """It opens with the failure that makes enough of them, not before."""
    fail(breaker, 3)
    assert breaker.closed
    fail(breaker, 1)
    assert (breaker.state, breaker.closed) == ("open", False)


def test_failures_among_many_answers_say_nothing(breaker: Breaker) -> None:
    """Failures under the ratio leave it closed, however many they are."""
    succeed(breaker, 11)
    fail(breaker, 10)
    assert breaker.closed
    fail(breaker, 1)
    assert not breaker.closed


@pytest.mark.parametrize(("pause_s", "opens"), [(4.9, True), (9.9, True), (10.0, False), (60.0, False)])
def test_old_failures_are_forgotten(breaker: Breaker, clock: FakeClock, pause_s: float, opens: bool) -> None:  # noqa: FBT001
    """Failures of the window before count; older ones do not."""
    fail(breaker, 3)
    clock.advance(pause_s)
    fail(breaker, 1)
    assert breaker.closed is not opens


def test_a_lull_does_not_bring_old_calls_back(breaker: Breaker, clock: FakeClock) -> None:
    """After a silence of several windows the count begins anew, in both of its halves."""
    fail(breaker, 3)
    clock.advance(7)
    clock.advance(100)
    fail(breaker, 3)
    assert breaker.closed


def test_open_it_admits_nobody_until_its_time(breaker: Breaker, clock: FakeClock) -> None:
    """No probe before ``open_s`` seconds have passed; it says how long that is."""
    fail(breaker, 4)
    assert breaker.retry_in_s() == POLICY.open_s
    clock.advance(POLICY.open_s - 0.001)
    assert not breaker.admits_probe()
    assert breaker.retry_in_s() == pytest.approx(0.001)
    clock.advance(0.001)
    assert (breaker.state, breaker.retry_in_s()) == ("half_open", 0)
    assert breaker.admits_probe()


def test_half_open_admits_exactly_one_of_a_thousand(breaker: Breaker, clock: FakeClock) -> None:
    """However many ask, one goes; the others are told to wait, and time alone admits no second one."""
    open_up(breaker, clock)
    assert sum(breaker.admits_probe() for _ in range(1000)) == 1
    assert breaker.retry_in_s() > 0
    clock.advance(1000)
    assert sum(breaker.admits_probe() for _ in range(1000)) == 0


def test_a_probe_that_is_answered_closes_it(breaker: Breaker, clock: FakeClock) -> None:
    """Calls go through again, and the failures from before are forgotten."""
    open_up(breaker, clock)
    breaker.admits_probe()
    breaker.succeeded(probe=True)
    assert (breaker.state, breaker.retry_in_s()) == ("closed", 0)
    fail(breaker, POLICY.failures_min - 1)
    assert breaker.closed


def test_a_probe_that_fails_opens_it_for_its_whole_time(breaker: Breaker, clock: FakeClock) -> None:
    """The next probe goes ``open_s`` seconds after the failed one."""
    open_up(breaker, clock)
    breaker.admits_probe()
    clock.advance(3)
    breaker.failed(probe=True)
    assert breaker.retry_in_s() == POLICY.open_s
    clock.advance(POLICY.open_s)
    assert breaker.admits_probe()


def test_a_probe_that_is_given_up_frees_its_place(breaker: Breaker, clock: FakeClock) -> None:
    """A probe that says nothing about Dub neither opens nor closes, and the next caller may probe."""
    open_up(breaker, clock)
    breaker.admits_probe()
    breaker.abandoned(probe=True)
    assert breaker.state == "half_open"
    assert breaker.admits_probe()


def test_stragglers_neither_close_nor_open(breaker: Breaker, clock: FakeClock) -> None:
    """Calls from before it opened change nothing any more: not open, not half-open, not with a probe out."""
    fail(breaker, 4)
    succeed(breaker, 100)
    assert breaker.retry_in_s() == POLICY.open_s
    clock.advance(POLICY.open_s)
    succeed(breaker, 100)
    fail(breaker, 100)
    breaker.abandoned(probe=False)
    assert breaker.state == "half_open"
    assert breaker.admits_probe()
    succeed(breaker, 100)
    fail(breaker, 100)
    breaker.abandoned(probe=False)
    assert not breaker.admits_probe()
    breaker.succeeded(probe=True)
    assert breaker.closed


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 8)), max_size=60))
def test_it_opens_for_its_reasons_and_no_other(calls: list[tuple[bool, float]]) -> None:
    """It opens on failures of one window alone; enough of them within half a window always open it."""
    clock = FakeClock()
    breaker = Breaker(POLICY, clock)
    seen: list[tuple[float, bool]] = []
    for failed, pause_s in calls:
        clock.advance(pause_s)
        seen.append((clock(), failed))
        (breaker.failed if failed else breaker.succeeded)(probe=False)
        within = [each for at, each in seen if clock() - at <= WINDOW_S]
        if not breaker.closed:
            assert failed
            assert sum(within) >= POLICY.failures_min
            return
        recent = [each for at, each in seen if clock() - at <= WINDOW_S / 2]
        only_failures = all(within)
        assert not (only_failures and len(recent) >= POLICY.failures_min)


@pytest.mark.parametrize("began", range(11))
def test_a_window_is_never_longer_than_it_says(began: int) -> None:
    """Whenever the window's first call comes, failures further apart than the window do not add up."""
    clock = FakeClock()
    clock.advance(began)
    breaker = Breaker(POLICY, clock)
    fail(breaker, 2)
    clock.advance(WINDOW_S * 0.7)
    fail(breaker, 1)
    clock.advance(WINDOW_S * 0.4)
    fail(breaker, 1)
    assert breaker.closed
