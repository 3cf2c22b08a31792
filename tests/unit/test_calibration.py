"""Calibration: what a shadow match counts as, and what the counts say about matching."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.calibration import ShadowMatch, ShadowOutcome, calibration_of, compare_with, share
from service.domain.models import Link, Match, MatchReason
from service.domain.trace import MatchAttempt

CERTAIN = Link("link_1", "acme.link", "fb-promo", None)
SAME_KEY = Link("", "acme.link", "fb-promo", None)  # as a page names it
OTHER = Link("link_2", "acme.link", "invite", None)


def matched(link: Link, confidence: float) -> MatchAttempt:
    match = Match("ip", guaranteed=False, candidates=1, age_s=9, confidence=confidence)
    return MatchAttempt(match, "", ("c" * 16, link, ""))


def unmatched(
    reason: MatchReason, refused: tuple[Link, float] | None = None, *, pending: bool = False
) -> MatchAttempt:
    return MatchAttempt(Match("none", guaranteed=False, reason=reason), "", pending=pending, refused=refused)


@pytest.mark.parametrize(
    ("attempt", "shadow"),
    [
        (matched(CERTAIN, 0.973), ShadowMatch("agreed", 97, agrees=True)),
        (matched(SAME_KEY, 0.9), ShadowMatch("agreed", 90, agrees=True)),
        (matched(OTHER, 0.9), ShadowMatch("other_click", 90)),
        (unmatched("unlikely", (CERTAIN, 0.4)), ShadowMatch("refused", 40, agrees=True)),
        (unmatched("several_links", (OTHER, 0.45)), ShadowMatch("refused", 45)),
        (unmatched("shared_network"), ShadowMatch("refused")),
        (unmatched("unknown_platform"), ShadowMatch("refused")),
        (unmatched("no_click"), ShadowMatch("none")),
        (unmatched("no_candidate"), ShadowMatch("none")),
        (unmatched("no_click", pending=True), None),
        (unmatched("no_events"), None),
        (unmatched("private_address"), None),
        (unmatched("off"), None),
    ],
    ids=str,
)
def test_what_a_shadow_match_counts_as(attempt: MatchAttempt, shadow: ShadowMatch | None) -> None:
    """Agreement is about the link; what was not looked for counts as nothing."""
    assert compare_with(CERTAIN, attempt) == shadow


def test_what_the_counts_say() -> None:
    """Precision, recall and the curve, in which refused clicks count as well."""
    found = calibration_of(
        "acme",
        30,
        [
            (ShadowMatch("agreed", 99, agrees=True), 60),
            (ShadowMatch("agreed", 91, agrees=True), 18),
            (ShadowMatch("other_click", 91), 2),
            (ShadowMatch("refused", 45, agrees=True), 4),
            (ShadowMatch("refused", 41), 6),
            (ShadowMatch("refused"), 5),
            (ShadowMatch("none"), 5),
        ],
    )
    assert (found.opens, found.agreed, found.other_click, found.refused, found.none) == (100, 78, 2, 15, 5)
    assert found.precision is not None
    assert found.recall is not None
    assert found.recall_with_candidate is not None
    assert (found.precision.value, found.recall.value) == (0.975, 0.78)
    assert found.recall_with_candidate.value == round(78 / 90, 4)
    curve = [(each.at_least, each.below, each.opens, each.stated, each.right.value) for each in found.curve]
    assert curve == [(0.4, 0.5, 10, 0.426, 0.4), (0.9, 0.95, 20, 0.91, 0.9), (0.98, 1.0, 60, 0.99, 1.0)]


def test_no_matches_have_no_precision() -> None:
    """Nothing is made up from nothing."""
    empty = calibration_of("acme", 30, [])
    assert (empty.precision, empty.recall, empty.recall_with_candidate, empty.curve) == (None,) * 3 + ((),)
    assert calibration_of("acme", 30, [(ShadowMatch("none"), 3)]).precision is None


def test_intervals_are_wilsons() -> None:
    """Newcombe 1998, method 3: 81 of 263 is 0.2553 to 0.3662, and 0 of 20 is 0 to 0.1611."""
    known, none = share(81, 263), share(0, 20)
    assert known is not None
    assert none is not None
    assert (known.low, known.high) == (0.2553, 0.3662)
    assert (none.low, none.high) == (0.0, 0.1611)


OUTCOMES: tuple[ShadowOutcome, ...] = ("agreed", "other_click", "refused", "none")


@st.composite
def shadow_matches(draw: st.DrawFn) -> ShadowMatch:
    outcome = draw(st.sampled_from(OUTCOMES))
    percent = None if outcome == "none" else draw(st.integers(0, 100))
    return ShadowMatch(outcome, percent, agrees=outcome == "agreed" or draw(st.booleans()))


@given(st.lists(st.tuples(shadow_matches(), st.integers(1, 1000))))
def test_each_candidate_is_on_the_curve_once(counted: list[tuple[ShadowMatch, int]]) -> None:
    """Every confidence from 0 to 1 has its point, and every share lies within its interval."""
    found = calibration_of("acme", 30, counted)
    assert sum(each.opens for each in found.curve) == sum(
        n for match, n in counted if match.percent is not None
    )
    shares = [
        found.precision,
        found.recall,
        found.recall_with_candidate,
        *(each.right for each in found.curve),
    ]
    assert all(0 <= each.low <= each.value <= each.high <= 1 for each in shares if each is not None)
    assert all(each.at_least <= each.stated <= each.below for each in found.curve)
