"""Compare matching with first opens whose link is certain, and say how good matching is. Pure rules.

Matching is run in the shadow of such an open (``attribution.shadow_matching``). What can go wrong:

- The numbers look better than matching is: the certain evidence says the link and not the click, so that
  another visitor's click on the same link agrees. An app with very few links learns little from this.
- They look worse: people who clicked on another network, or whose address Dub does not record, have no click
  that could be found. They are counted apart, as ``none``.
- A few opens look like a measurement: each share has its 95 % interval.
"""

from collections.abc import Iterable
from math import sqrt
from typing import Literal

from msgspec import Struct

from service.domain.learned_rates import LearnedRate
from service.domain.models import Link
from service.domain.trace import MatchAttempt

ShadowOutcome = Literal["agreed", "other_click", "refused", "none"]

SHADOW_KEPT_DAYS = 90
CONFIDENCE_BOUNDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0)

_PERCENT = 100
_Z = 1.96  # of a 95 % interval
# Matching did not look for a click: for these opens it says nothing about how good it is.
_NOT_LOOKED = frozenset({"off", "no_address", "private_address", "no_events", "not_recorded", "superseded"})
_NO_CANDIDATE = frozenset({"no_click", "no_candidate"})


class ShadowMatch(Struct, frozen=True):
    """What matching would have made of a first open whose link is certain."""

    outcome: ShadowOutcome
    percent: int | None = (
        None  # the confidence in the likeliest click, also if it was refused; None: no candidate
    )
    agrees: bool = False  # the likeliest click is on the certain link


class Share(Struct, frozen=True):
    """A share of the counted opens, and its 95 % interval (Wilson)."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return it for people, such as ``0.980 [0.895, 0.997]``."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class CurvePoint(Struct, frozen=True, rename="camel"):
    """The opens whose likeliest click had a confidence between two bounds, whether it was refused or not."""

    at_least: float
    below: float  # the last point includes 1
    opens: int
    stated: float  # the mean confidence
    right: Share  # of these clicks, those on the certain link

    @property
    def bounds(self) -> str:
        """Return between which confidences, for people."""
        return f"{self.at_least:.2f} to {self.below:.2f}"


class Calibration(Struct, frozen=True, kw_only=True, rename="camel"):
    """How good the matching of an app was in the last ``days`` days, on all replicas."""

    app: str
    days: int
    opens: int  # first opens with certain evidence that were compared
    agreed: int
    other_click: int
    refused: int
    none: int
    precision: Share | None  # of the matches, those on the certain link; None: no matches
    recall: Share | None  # of all opens, those matched to the certain link
    recall_with_candidate: Share | None  # of the opens with a click that could have been theirs
    curve: tuple[CurvePoint, ...]
    rates: tuple[LearnedRate, ...] = ()  # learned from the first opens of ``LEARNED_DAYS``

    @property
    def matched(self) -> int:
        """Return how many opens were matched, rightly or not."""
        return self.agreed + self.other_click


def compare_with(certain: Link, attempt: MatchAttempt) -> ShadowMatch | None:
    """Compare a match attempt with the certain link; return None if it says nothing about matching."""
    reason = attempt.match.reason
    if attempt.pending or reason in _NOT_LOOKED:
        return None
    if attempt.click is not None:
        confidence, agrees = attempt.match.confidence or 0.0, _is_same(attempt.click[1], certain)
        return ShadowMatch("agreed" if agrees else "other_click", round(confidence * _PERCENT), agrees)
    if attempt.refused is not None:
        link, confidence = attempt.refused
        return ShadowMatch("refused", round(confidence * _PERCENT), _is_same(link, certain))
    return ShadowMatch("none" if reason in _NO_CANDIDATE else "refused")


def calibration_of(app: str, days: int, counted: Iterable[tuple[ShadowMatch, int]]) -> Calibration:
    """Return what the counted shadow matches say."""
    counts = list(counted)
    totals: dict[ShadowOutcome, int] = {}
    for match, count in counts:
        totals[match.outcome] = totals.get(match.outcome, 0) + count
    agreed, other = totals.get("agreed", 0), totals.get("other_click", 0)
    opens = sum(totals.values())
    return Calibration(
        app=app,
        days=days,
        opens=opens,
        agreed=agreed,
        other_click=other,
        refused=totals.get("refused", 0),
        none=totals.get("none", 0),
        precision=share(agreed, agreed + other),
        recall=share(agreed, opens),
        recall_with_candidate=share(agreed, sum(n for match, n in counts if match.percent is not None)),
        curve=tuple(_curve(counts)),
    )


def share(part: int, whole: int) -> Share | None:
    """Return a share and its 95 % interval by Wilson's formula; None of nothing."""
    if not whole:
        return None
    value = part / whole
    spread = _Z * sqrt(value * (1 - value) / whole + _Z**2 / (4 * whole**2))
    middle, scale = value + _Z**2 / (2 * whole), 1 + _Z**2 / whole
    low, high = max((middle - spread) / scale, 0.0), min((middle + spread) / scale, 1.0)
    return Share(round(value, 4), round(low, 4), round(high, 4))


def _is_same(link: Link, certain: Link) -> bool:
    return link.id == certain.id or (link.domain, link.key) == (certain.domain, certain.key)


def _curve(counts: list[tuple[ShadowMatch, int]]) -> Iterable[CurvePoint]:
    at_least = 0.0
    for below in CONFIDENCE_BOUNDS:
        low, high = round(at_least * _PERCENT), round(below * _PERCENT) + (below == 1)
        within = [
            (match.percent, match.agrees, count)
            for match, count in counts
            if match.percent is not None and low <= match.percent < high
        ]
        opens = sum(count for *_, count in within)
        right = share(sum(count for _, agrees, count in within if agrees), opens)
        if right is not None:
            stated = sum(percent * count for percent, _, count in within) / opens / _PERCENT
            yield CurvePoint(at_least, below, opens, round(stated, 4), right)
        at_least = below
