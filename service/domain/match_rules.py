"""Decide which click of a network, if any, led to an install that opened without a link. Pure rules.

Rules say which clicks can have led to the install at all; ``match_odds`` says how likely each of those has.

What can go wrong:

- A click is credited to the wrong install because it is the latest one: the confidence in it must reach
  ``min_confidence``. It is low among several clicks that fit, and on a busy network.
- A click is credited that cannot have led to the install: from another system, later than the open, or
  recorded by a deep link.
- A phone clicks twice, in an in-app browser and in the system's browser, and the second click is credited to
  the install of a room-mate: the second click is used up together with the first. One on another link, made
  within a quarter of an hour, hardly counts on a quiet network.
- The confidence in a click is too high: it does not rise when the click gets older or fits worse, when
  another click is added, or when more devices use the network.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Container, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Literal

from msgspec import Struct, structs

from service.domain.device_traits import Fit, Misfit, Traits, compare, may_be_one_device
from service.domain.match_odds import (
    CERTAINTY_MAX,
    CLAIM_DOUBT,
    CLOCKS_DIFFER,
    DEFAULT_RATES,
    NO_SIGNALS,
    Rates,
    Signals,
    background_weight,
    clicks_per_s,
    delay_density,
    device_ratio,
    other_person,
    signals_ratio,
)
from service.domain.models import Link
from service.domain.networks import Unmatchable

CLOCK_DIFFERENCE_S = 60  # between Dub's clock and ours
# People who cannot continue in an in-app browser open the link in the system's browser within minutes. A
# longer time would use up more clicks of other people who received the same link.
SECOND_CLICK_S = 300
_HOUR_S = 3600
_AGAIN_MS = 900_000  # a taken click on another link counts against clicks within a quarter of an hour
MIN_CONFIDENCE = 0.9  # the lowest for which 99 % of matches are right on the simulation's tuning seeds

Ambiguous = Literal["refuse", "latest"]
NoMatch = Literal[
    Unmatchable, "unknown_platform", "no_click", "no_candidate", "crowd", "several_links", "unlikely"
]

EXPLANATIONS: Mapping[NoMatch, str] = {
    "no_address": "the IP address of the open is not known",
    "private_address": "the open came from a private, loopback or link-local address",
    "shared_network": "the open came from an address that many people share (carrier NAT, a relay)",
    "unknown_platform": "the install's platform is not known, so that clicks cannot be compared with it",
    "no_click": "no click came from this network within the window",
    "no_candidate": "every click from this network was rejected",
    "crowd": "so many devices used this network lately that the click may be somebody else's",
    "several_links": "clicks on several links fit, and nothing says which of them led to the install",
    "unlikely": "the best candidate's confidence is below min_confidence: it is old, or not the only one",
}


class Rejection(StrEnum):
    """Why a click is not a candidate."""

    DEEP_LINK = "it is a deep link open, not a web click"
    SYSTEM = "its system is not the install's, or not known"
    MODEL = "its device model is not the install's"
    VERSION = "its system version is not the install's"
    LATER = "it is later than the open"
    AFTER_INSTALL = "it is later than the install"
    TOO_OLD = "it is older than the window"
    DOMAIN = "it is not on the domain of the open"
    CLAIMED = "it is claimed by another install"
    USED_UP = "another install claimed a click made minutes from it, likely on the same phone"
    RETIRED = "stronger evidence credited its link to another install on this network"


_MISFITS: Mapping[Misfit, Rejection] = {
    "system": Rejection.SYSTEM,
    "model": Rejection.MODEL,
    "version": Rejection.VERSION,
}


class Click(Struct, frozen=True, gc=False):
    """A click of the matching window."""

    id: str
    at_ms: int  # Unix milliseconds, by Dub's clock
    link: Link
    query: str  # of the clicked short link, as far as Dub's event contains it
    device: Traits
    signals: Signals = NO_SIGNALS  # what a page saw of the browser, if the app lets them be compared
    opened_app: bool = False  # recorded for a deep link that opened the app: it cannot lead to an install
    touch_id: str = ""  # the id of the touch, if a page saw this visitor; claimed together with the click


class FirstOpen(Struct, frozen=True, gc=False):
    """An open without a link, reduced to what matching needs. ``install`` is the install's keyed hash."""

    install: str
    at_ms: int  # Unix milliseconds, by our clock
    device: Traits
    installed_ms: int | None = None  # Unix milliseconds, by the device's clock
    signals: Signals = NO_SIGNALS  # what the app told of itself, if it lets them be compared
    domain: str | None = None  # only clicks on this domain count; None: clicks on every domain of the app
    is_home: bool = False  # from an IPv6 network: one home or one phone


class Rules(Struct, frozen=True, kw_only=True):
    """An app's settings for matching."""

    window_s: int = 3600
    # "refuse": the confidence in the best click must reach min_confidence. "latest": the probability that
    # one of the candidates led to the install must, and the best of them is taken.
    ambiguous: Ambiguous = "refuse"
    min_confidence: float = MIN_CONFIDENCE


class Retirement(Struct, frozen=True, gc=False):
    """An install that a deep link, referrer or clipboard identified: its web clicks are used up."""

    install: str
    link_id: str
    at_ms: int
    device: Traits

    def covers(self, click: Click) -> bool:
        """Return True if a click from the install's network likely belongs to the install."""
        return (
            click.link.id == self.link_id
            and not click.opened_app
            and click.at_ms <= self.at_ms + CLOCK_DIFFERENCE_S * 1000
            and isinstance(compare(self.device, click.device), Fit)
        )


class NetworkView(Struct, frozen=True, gc=False):
    """The clicks, claims and installs of a network when an install opens there."""

    clicks: tuple[Click, ...]
    owners: Mapping[str, str]  # install by claimed click id
    installs: int  # distinct installs that opened from the network within ACTIVITY_S, including this one
    retirements: tuple[Retirement, ...]


class CandidateTrace(Struct, frozen=True, gc=False, rename="camel"):
    """A click that matching considered. ``rejected`` says why it was rejected, null for a candidate."""

    click_id: str
    link: str  # domain and key
    age_s: int
    rejected: str | None


class Decision(Struct, frozen=True, kw_only=True):
    """The chosen click or the reason why there is none, and all clicks considered, newest first.

    ``confidence`` is that in the likeliest candidate, chosen or refused.
    """

    click: Click | None = None
    reason: NoMatch | None = None
    refused: Click | None = None  # the likeliest candidate, if it is refused
    candidates: int = 0
    age_s: int = 0
    confidence: float = 0.0
    installs: int = 0  # distinct installs that opened from the network within ACTIVITY_S
    devices: int = 0  # that clicked there within the window
    considered: tuple[CandidateTrace, ...] = ()


class Candidate(Struct, frozen=True, gc=False):
    """A click that no rule rejects, with how well it fits and its age."""

    click: Click
    fit: Fit
    age_s: float


def decide(
    opened: FirstOpen,
    clicks: Sequence[Click],
    rules: Rules,
    *,
    installs: int,
    owners: Mapping[str, str],
    retirements: Iterable[Retirement] = (),
    rates: Rates = DEFAULT_RATES,
) -> Decision:
    """Choose one of the clicks of the open's network.

    ``installs`` counts the distinct installs that opened from the network within ``ACTIVITY_S``, including
    this one. ``owners`` maps claimed clicks to installs. If the install has claimed a click before, that
    click is chosen regardless of the others, so that a repeated report gets the same answer.
    """
    retired = [each for each in retirements if each.install != opened.install]
    covered = (
        {click.id for click in clicks if any(each.covers(click) for each in retired)} if retired else set()
    )
    newest_first = sorted(clicks, key=_newest_first)
    taken_by_others = [
        click
        for click in newest_first
        if not click.opened_app
        and (owners[click.id] != opened.install if click.id in owners else click.id in covered)
    ]
    candidates, rivals, considered = _consider(opened, newest_first, rules, owners, covered, taken_by_others)
    devices = _devices(newest_first)
    undecided = Decision(
        candidates=len(candidates), installs=installs, devices=devices, considered=tuple(considered)
    )
    if not candidates:
        return structs.replace(undecided, reason=_no_candidate(opened, clicks))

    def others_per_s(own: int) -> float:
        """Return how many clicks a second the network's devices make; ``own`` devices are left out."""
        return clicks_per_s(
            max(devices - own, 0), installs - 1, rules.window_s, rates, is_home=opened.is_home
        )

    weights = [_weight(opened, each, rates) for each in candidates]
    if len(candidates) > 1 or taken_by_others:
        # Whether two clicks are two people's is judged without either of them.
        weights = _weights_together(opened, candidates, weights, taken_by_others, others_per_s(2), rates)
    mine = next((at for at, each in enumerate(candidates) if each.click.id in owners), None)
    chosen = weights.index(max(weights)) if mine is None else mine
    claimed = CLAIM_DOUBT * sum([_weight(opened, each, rates) for each in rivals])
    odds = Odds(weights[chosen], sum(weights), claimed, background_weight(others_per_s(1), rates))
    best, confidence = candidates[chosen], round(odds.confidence, 3)
    if mine is None and (reason := _why_refused(opened, rules, rates, odds, candidates)) is not None:
        return structs.replace(undecided, reason=reason, refused=best.click, confidence=confidence)
    return structs.replace(undecided, click=best.click, age_s=int(best.age_s), confidence=confidence)


class Odds(Struct, frozen=True, gc=False):
    """The weights of the chosen candidate, of all candidates together, and of everything else."""

    chosen: float
    candidates: float
    claimed: float  # clicks that other installs were given
    background: float

    @property
    def confidence(self) -> float:
        """Return the probability that the chosen candidate led to the install."""
        return CERTAINTY_MAX * self.chosen / (self.candidates + self.claimed + self.background)

    @property
    def any_confidence(self) -> float:
        """Return the probability that one of the candidates led to the install."""
        return CERTAINTY_MAX * self.candidates / (self.candidates + self.claimed + self.background)


def _consider(
    opened: FirstOpen,
    newest_first: Iterable[Click],
    rules: Rules,
    owners: Mapping[str, str],
    covered: Container[str],
    taken_by_others: Sequence[Click],
) -> tuple[list[Candidate], list[Candidate], list[CandidateTrace]]:
    """Return the candidates, the clicks that only another install's claim excludes, and a trace of all."""
    candidates: list[Candidate] = []
    rivals: list[Candidate] = []
    considered: list[CandidateTrace] = []
    for click in newest_first:
        fit, age_s = _fit(opened, click, rules), _age_s(opened, click)
        if not isinstance(fit, Fit):
            considered.append(_traced(click, age_s, fit))
            continue
        candidate = Candidate(click, fit, age_s)
        taken: Rejection | None = None
        if click.id in owners:
            taken = Rejection.CLAIMED if owners[click.id] != opened.install else None
        elif click.id in covered:
            taken = Rejection.RETIRED
        elif any(_is_second_click(candidate, each, opened.device) for each in taken_by_others):
            taken = Rejection.USED_UP
        if taken is None:
            candidates.append(candidate)
        elif click.id not in covered:  # matching credited it to another install, perhaps wrongly
            rivals.append(candidate)
        considered.append(_traced(click, age_s, taken))
    return candidates, rivals, considered


def from_provider(click_id: str, link: Link, opened: FirstOpen, rules: Rules) -> Click:
    """Make a click from the answer of a Dub that accepts forwarded addresses.

    The answer contains neither time nor device. Dub matched the address within the past hour, so the click's
    age is taken as half an hour (or half the window), but not younger than the install; its system is taken
    to be the install's.
    """
    age_s = min(_HOUR_S, rules.window_s) // 2
    at_ms = opened.at_ms - age_s * 1000
    if opened.installed_ms is not None:
        at_ms = min(at_ms, opened.installed_ms)
    return Click(click_id, at_ms, link, "", Traits(opened.device.system))


def _fit(opened: FirstOpen, click: Click, rules: Rules) -> Fit | Rejection:
    """Return how well a click fits, regardless of claims, or the first rule that rejects it."""
    rejection = _rejection(opened, click, rules)
    if rejection is not None:
        return rejection
    fit = compare(opened.device, click.device)
    return fit if isinstance(fit, Fit) else _MISFITS[fit]


def _is_second_click(candidate: Candidate, claimed: Click, device: Traits) -> bool:
    """Return True if the phone that made a claimed click likely also made this candidate's click.

    It did not if the candidate names the exact model of the opening device and the claimed click does not.
    """
    click = candidate.click
    if click.link.id != claimed.link.id:
        return False
    if candidate.fit is Fit.MODEL and compare(device, claimed.device) is not Fit.MODEL:
        return False
    return _may_be_second_click(click, claimed)


def _rejection(opened: FirstOpen, click: Click, rules: Rules) -> Rejection | None:
    """Return why the click cannot have led to this install, regardless of its device; None if it can."""
    later_ms = click.at_ms - opened.at_ms
    if click.opened_app:
        return Rejection.DEEP_LINK
    if later_ms > CLOCK_DIFFERENCE_S * 1000:
        return Rejection.LATER
    if opened.installed_ms is not None and click.at_ms > opened.installed_ms + CLOCK_DIFFERENCE_S * 1000:
        return Rejection.AFTER_INSTALL
    if -later_ms > rules.window_s * 1000:
        return Rejection.TOO_OLD
    if opened.domain is not None and click.link.domain != opened.domain:
        return Rejection.DOMAIN
    return None


def _no_candidate(opened: FirstOpen, clicks: Sequence[Click]) -> NoMatch:
    if not opened.device.system:
        return "unknown_platform"
    return "no_candidate" if clicks else "no_click"


def _why_refused(
    opened: FirstOpen, rules: Rules, rates: Rates, odds: Odds, candidates: Sequence[Candidate]
) -> NoMatch | None:
    """Return why the best candidate is refused, or None if it is accepted."""
    certainty = odds.confidence if rules.ambiguous == "refuse" else odds.any_confidence
    if certainty >= rules.min_confidence:
        return None
    if odds.any_confidence >= rules.min_confidence and _are_several_links(candidates):
        return "several_links"
    alone = background_weight(clicks_per_s(0, 0, rules.window_s, rates, is_home=opened.is_home), rates)
    in_calm = structs.replace(odds, background=alone)
    return "crowd" if in_calm.confidence >= rules.min_confidence else "unlikely"


def _are_several_links(candidates: Sequence[Candidate]) -> bool:
    return len({each.click.link.id for each in candidates}) > 1


def _weights_together(
    opened: FirstOpen,
    candidates: Sequence[Candidate],
    alone: Sequence[float],
    taken: Sequence[Click],
    others_per_s: float,
    rates: Rates,
) -> list[float]:
    """Return the weights of candidates, which are newest first, from those that each has alone.

    Of the clicks that one phone may have made, one counts: on the same link the likelier one, on different
    links the newer one, unless it is less likely by itself. The weight of the others is reduced. So is the
    weight of a click whose phone may have made one of the ``taken`` clicks, which other installs were given;
    these are newest first, too.
    """
    weights = list(alone)
    counting: list[int] = []  # the likeliest click of each phone
    for at in sorted(range(len(alone)), key=lambda at: -alone[at]):  # the newest of equal ones first
        candidate = candidates[at]
        click, ratio = candidate.click, _ratio(opened, candidate, rates)
        shares = [
            # By the click's age, not the time between the two: otherwise older clicks could gain confidence.
            other_person(candidate.age_s, others_per_s, ratio, same_link=instead.link.id == click.link.id)
            for other in counting
            for instead in [candidates[other].click]
            if (other < at or instead.link.id == click.link.id)
            and may_be_one_device(click.device, instead.device)
        ]
        if shares:
            weights[at] *= min(shares)
        else:
            counting.append(at)
        gap_s = _gap_s(click, taken) if taken else None
        if gap_s is not None:
            weights[at] *= other_person(gap_s, others_per_s, ratio, same_link=False)
    return weights


def _gap_s(click: Click, taken: Sequence[Click]) -> float | None:
    """Return the seconds to the nearest taken click on another link that the same phone may have made.

    None if there is none within ``_AGAIN_MS``; ``_is_second_click`` decides about those on the same link.
    ``taken`` are newest first.
    """
    at = bisect_left(taken, -click.at_ms, key=_newest_first_ms)
    nearest_ms = _AGAIN_MS + 1
    for side in (reversed(taken[:at]), iter(taken[at:])):
        for each in side:
            gap_ms = abs(each.at_ms - click.at_ms)
            if gap_ms >= nearest_ms:
                break
            if each.link.id != click.link.id and may_be_one_device(each.device, click.device):
                nearest_ms = gap_ms
                break
    return nearest_ms / 1000 if nearest_ms <= _AGAIN_MS else None


def _weight(opened: FirstOpen, candidate: Candidate, rates: Rates) -> float:
    """Return the weight of a click by its delay (until the app was installed), device and signals."""
    click, delay_s, until_ms = candidate.click, candidate.age_s, opened.at_ms
    if opened.installed_ms is not None:
        delay_s = min(delay_s, max(opened.installed_ms - click.at_ms, 0) / 1000)
        until_ms = min(until_ms, opened.installed_ms)
    density = delay_density(delay_s, rates, to_install=opened.installed_ms is not None)
    if click.at_ms > until_ms:
        density *= CLOCKS_DIFFER
    return density * _ratio(opened, candidate, rates)


def _ratio(opened: FirstOpen, candidate: Candidate, rates: Rates) -> float:
    """Return how much likelier a click's device and signals are for the open's phone than for another one."""
    ratio = device_ratio(candidate.fit, opened.device, rates)
    if candidate.click.signals is NO_SIGNALS:
        return ratio
    return ratio * signals_ratio(opened.signals, candidate.click.signals)


def _devices(newest_first: Iterable[Click]) -> int:
    """Return how many devices have made these clicks. Two that one phone may have made count once."""
    devices = 0
    singles: dict[str, deque[Click]] = {}  # by link: those that may have a pair
    for click in newest_first:
        same_link = singles.setdefault(click.link.id, deque())
        while same_link and same_link[0].at_ms - click.at_ms > SECOND_CLICK_S * 1000:
            same_link.popleft()
        pair = next((each for each in same_link if _may_be_second_click(each, click)), None)
        if pair is None:
            same_link.append(click)
            devices += 1
        else:
            same_link.remove(pair)
    return devices


def _may_be_second_click(one: Click, other: Click) -> bool:
    """Return True if two clicks on one link likely come from one phone."""
    is_soon = abs(one.at_ms - other.at_ms) <= SECOND_CLICK_S * 1000
    return is_soon and may_be_one_device(one.device, other.device)


def _traced(click: Click, age_s: float, rejected: Rejection | None) -> CandidateTrace:
    return CandidateTrace(click.id, f"{click.link.domain}/{click.link.key}", int(age_s), rejected)


def _age_s(opened: FirstOpen, click: Click) -> float:
    return max(opened.at_ms - click.at_ms, 0) / 1000


def _newest_first_ms(click: Click) -> int:
    return -click.at_ms


def _newest_first(click: Click) -> tuple[int, str]:
    return -click.at_ms, click.id
