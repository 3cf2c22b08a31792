"""An endpoint that fails is probed at growing intervals, and used again as soon as it works."""

from itertools import pairwise

from service.webhooks.endpoint_health import FAILURES_MAX, PAUSE_MAX_S, PAUSE_MIN_S, EndpointHealth
from tests.support import FakeClock


def failing(clock: FakeClock) -> EndpointHealth:
    health = EndpointHealth(clock)
    for _ in range(FAILURES_MAX):
        assert health.retry_in_s() == 0
        assert health.take_max() is None
        health.failed()
    return health


def test_a_few_failures_pause_nothing() -> None:
    """One success in between, and the count begins again."""
    health = EndpointHealth(FakeClock())
    for _ in range(3 * FAILURES_MAX):
        for _ in range(FAILURES_MAX - 1):
            health.failed()
        assert health.retry_in_s() == 0
        assert not health.succeeded()


def test_a_dead_endpoint_is_probed_less_and_less() -> None:
    """One probe after each pause; pauses double up to five minutes."""
    clock = FakeClock()
    health, pauses = failing(clock), []
    for _ in range(12):
        pauses.append(health.retry_in_s())
        clock.advance(pauses[-1])
        assert (health.retry_in_s(), health.take_max()) == (0, 1)
        health.begun()
        assert health.retry_in_s() > 0  # while the probe is under way
        health.failed()
        health.ended()
    assert pauses[0] == PAUSE_MIN_S
    assert pauses[-1] == PAUSE_MAX_S
    assert all(after == min(2 * before, PAUSE_MAX_S) for before, after in pairwise(pauses))


def test_attempts_that_began_before_the_pause_do_not_lengthen_it() -> None:
    """Eight were under way when the fifth failed: the pause is still the first."""
    clock = FakeClock()
    health = failing(clock)
    for _ in range(8):
        health.failed()
    assert health.retry_in_s() == PAUSE_MIN_S


def test_a_success_ends_the_pause() -> None:
    """It says so once, and the next series of failures begins with the shortest pause."""
    clock = FakeClock()
    health = failing(clock)
    clock.advance(PAUSE_MIN_S)
    assert health.succeeded()
    assert (health.retry_in_s(), health.take_max(), health.is_failing) == (0, None, False)
    assert not health.succeeded()
    assert failing(clock).retry_in_s() == PAUSE_MIN_S


def test_a_pause_that_is_asked_for_is_kept() -> None:
    """Retry-After pauses a healthy endpoint, too."""
    clock = FakeClock()
    health = EndpointHealth(clock)
    health.failed(40)
    assert health.retry_in_s() == 40
    clock.advance(40)
    assert health.retry_in_s() == 0
