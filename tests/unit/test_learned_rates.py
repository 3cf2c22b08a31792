"""Learned rates: what first opens say of an app's installs, and how far they can move it."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.device_traits import Traits
from service.domain.learned_rates import (
    LINKED_MIN,
    PRIORS,
    Observation,
    count,
    learned_rates,
    of_shadow_match,
    rates_of,
)
from service.domain.match_odds import DEFAULT_RATES, Rates
from service.domain.match_rules import (
    MIN_CONFIDENCE,
    CandidateTrace,
    Click,
    FirstOpen,
    Rejection,
    Rules,
    decide,
)
from service.domain.models import Link, Match, MatchReason
from service.domain.trace import MatchAttempt

CERTAIN = Link("link_1", "acme.link", "fb-promo", None)
INVENTED = 10_000


def counted(*observations: Observation) -> dict[str, int]:
    """Add up what observations count."""
    total: dict[str, int] = {}
    for each in observations:
        for name, grown in count(each).items():
            total[name] = total.get(name, 0) + grown
    return total


def values(counts: dict[str, int]) -> dict[str, float]:
    return {each.name: each.value for each in learned_rates(counts)}


def test_without_opens_the_defaults_hold() -> None:
    """What nobody has observed is as match_odds assumes."""
    rates = rates_of({})
    assert rates.background == pytest.approx(DEFAULT_RATES.background, abs=1e-3)
    assert (rates.delay_s, rates.ios) == pytest.approx((DEFAULT_RATES.delay_s, DEFAULT_RATES.ios))
    assert rates.prior_hours == pytest.approx(DEFAULT_RATES.prior_hours, rel=1e-2)


def test_many_opens_are_believed_and_few_are_not() -> None:
    """Of 1,000 installs of which 40 % are organic, it is 40 %; of three, about the default."""
    seen = [Observation(is_organic=number % 10 < 4) for number in range(1000)]
    assert values(counted(*seen))["organic"] == pytest.approx(0.4, abs=0.01)
    few = [Observation(is_organic=number > 0) for number in range(3)]
    assert values(counted(*few))["organic"] == pytest.approx(0.5, abs=0.02)


def test_the_delay_is_that_of_those_who_install_at_once() -> None:
    """Delays as match_odds assumes them are learned from; those of many minutes are left out."""
    chance = random.Random(17)
    delays = [chance.lognormvariate(math.log(100), 0.6) for _ in range(4000)]
    typical_s = sorted(delays)[2400]  # 6 in 10 are below
    learned = values(counted(*(Observation(delay_s=each) for each in delays)))["delay_s"]
    assert learned == pytest.approx(typical_s, rel=0.1)
    assert count(Observation(delay_s=301)) == {}


def test_an_app_without_linked_referrers_is_not_called_organic() -> None:
    """Links on a domain without its well-known files bring no referrer (dub-api.md, "Clicks")."""
    assert values(counted(*[Observation(is_organic=True)] * 500))["organic"] == 0.5
    few = [Observation(is_organic=True)] * 500 + [Observation(is_organic=False)] * (LINKED_MIN - 1)
    assert values(counted(*few))["organic"] == 0.5
    assert values(counted(*few, Observation(is_organic=False)))["organic"] == 0.9


@given(
    st.dictionaries(
        st.sampled_from([*PRIORS, *(f"{name}_of" for name in PRIORS)]), st.integers(0, 10**9), max_size=10
    )
)
def test_no_rate_leaves_its_bounds(counts: dict[str, int]) -> None:
    """Whatever is stored, also numbers that contradict each other."""
    for each in learned_rates(counts):
        assert PRIORS[each.name].least <= each.value <= PRIORS[each.name].most
    rates = rates_of(counts)
    assert 0.6 < rates.background <= 0.976
    assert all(math.isfinite(each) and each > 0 for each in (rates.delay_s, rates.ios, rates.prior_hours))


@pytest.mark.parametrize("is_yes", [True, False])
def test_invented_opens_move_each_rate_to_its_bound_and_no_further(is_yes: bool) -> None:  # noqa: FBT001
    """10,000 opens that all say the same, after 1,000 honest ones that say what the defaults do."""
    honest = [
        Observation(is_organic=half, is_ios=half, is_click_here=number % 10 < 6, is_quiet=number % 10 < 8)
        for number in range(1000)
        for half in [number % 2 == 0]
    ]
    lie = Observation(is_yes, is_yes, is_yes, is_yes, 300.0 if is_yes else 5.0)
    found = values(counted(*honest, *[lie] * INVENTED))
    for name, prior in PRIORS.items():
        assert found[name] == (prior.most if is_yes else prior.least), name


def test_rates_at_their_bounds_move_a_confidence_little() -> None:
    """After 10,000 invented opens, what was far from sure is still refused.

    A click of 40 minutes, on a network where fourteen other devices have been seen.
    """
    liars = [
        Observation(is_organic=False, is_ios=False, is_click_here=True, is_quiet=True, delay_s=delay_s)
        for delay_s in (5.0, 120.0, 300.0)
    ]
    opened = FirstOpen("install", 2_400_000, Traits("ios", "iphone", 17))
    clicks = [Click("click", 0, CERTAIN, "", Traits("ios", "iphone", 17))]

    def confidence(rates: Rates) -> float:
        return decide(opened, clicks, Rules(), installs=15, owners={}, rates=rates).confidence

    honest = confidence(DEFAULT_RATES)
    for liar in liars:
        bent = confidence(rates_of(counted(*[liar] * INVENTED)))
        assert bent < MIN_CONFIDENCE
        assert bent / (1 - bent) < 6 * honest / (1 - honest)


def attempt(
    *candidates: CandidateTrace, installs: int = 1, devices: int = 1, reason: MatchReason = "unlikely"
) -> MatchAttempt:
    match = Match("none", guaranteed=False, reason=reason)
    return MatchAttempt(match, "", candidates=candidates, installs=installs, devices=devices)


def click(link: str = "acme.link/fb-promo", age_s: int = 60, rejected: str | None = None) -> CandidateTrace:
    return CandidateTrace("c1", link, age_s, rejected)


@pytest.mark.parametrize(
    ("shadow", "is_home", "says"),
    [
        (attempt(installs=0), False, None),
        (attempt(devices=0, reason="unknown_platform"), False, None),
        (attempt(devices=0), False, Observation(is_click_here=False, is_quiet=True)),
        (attempt(click()), False, Observation(is_click_here=True, is_quiet=True, delay_s=60)),
        (attempt(click()), True, Observation(is_click_here=True, delay_s=60)),
        (attempt(click(), installs=2), False, Observation(is_click_here=True, is_quiet=False, delay_s=60)),
        (
            attempt(click("acme.link/invite"), click(), devices=2),
            False,
            Observation(is_click_here=True, is_quiet=False, delay_s=60),
        ),
        (
            attempt(click(), click(), devices=2),
            False,
            Observation(is_click_here=True, is_quiet=False, delay_s=60),
        ),
        (
            attempt(click(rejected=Rejection.SYSTEM)),
            False,
            Observation(is_click_here=False, is_quiet=False),
        ),
    ],
    ids=[
        "not looked",
        "unknown platform",
        "no click",
        "one click",
        "IPv6",
        "another install",
        "another link",
        "somebody else on the same link",
        "another phone",
    ],
)
def test_what_a_shadow_match_says(shadow: MatchAttempt, is_home: bool, says: Observation | None) -> None:  # noqa: FBT001
    """The click on the certain link was there, and whether anybody else was."""
    assert of_shadow_match(CERTAIN, shadow, is_home=is_home) == says
