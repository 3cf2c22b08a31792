"""Which click, if any, brought an install that opened with no link: pure rules over a network's clicks.

What can go wrong:

- A click is given to the wrong install because it was the latest: crowds and several links are refused.
- A click is given that cannot be the install's own: another system's, one later than the open, a deep link's.
- A phone clicks twice, in an in-app browser and in the system's, and a room-mate's install is given the
  second click: it is used up with the first one. Other clicks that an install was given lower the confidence.
- An answer is surer of itself than it was right: the confidence does not rise when a click is added or gets
  older, when more installs open, or when another install was given one of the clicks.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from math import log2
from typing import Literal

from msgspec import Struct, structs

from service.domain.device_traits import Fit, Misfit, Traits, compare, may_be_one_device
from service.domain.models import Link
from service.domain.networks import Unmatchable

CLOCK_DIFFERENCE_S = 60  # between Dub's clock and ours
# People who get stuck in an in-app browser try the link in the system's browser within minutes. A longer span
# would use up more clicks of other people who were sent the same link.
SECOND_CLICK_S = 300
CROWD_LIMIT_MAX = 1000  # counting more would read a network's opens for longer than an open may take

Ambiguous = Literal["refuse", "latest"]
NoMatch = Literal[
    Unmatchable, "unknown_platform", "no_click", "no_candidate", "crowd", "several_links", "unlikely"
]

EXPLANATIONS: Mapping[NoMatch, str] = {
    "no_address": "the address that the open came from is not known",
    "private_address": "the open came from a private, loopback or link-local address",
    "shared_network": "the open came from an address that many people share (carrier NAT, a relay)",
    "unknown_platform": "the install's platform is not known, and would fit any click",
    "no_click": "no click was seen from this network within the window",
    "no_candidate": "every click from this network was rejected",
    "crowd": "more installs than crowd_limit opened from this network within the window",
    "several_links": "unclaimed clicks for several links, and nothing to tell them apart",
    "unlikely": "the best candidate is more likely somebody else's: it is old, or not alone",
}


class Rejection(StrEnum):
    """Why a click is no candidate."""

    DEEP_LINK = "it is a deep link open, not a web click"
    SYSTEM = "its system is not the install's, or not known"
    MODEL = "its device model is not the install's"
    VERSION = "its system version is not the install's"
    LATER = "it is later than the open"
    AFTER_INSTALL = "it is later than the install"
    TOO_OLD = "it is older than the window"
    DOMAIN = "it is on another domain than was asked for"
    CLAIMED = "it is claimed by another install"
    USED_UP = "another install was given a click made minutes from it, likely on the same phone"
    RETIRED = "an install found by stronger evidence used its link"


_MISFITS: Mapping[Misfit, Rejection] = {
    "system": Rejection.SYSTEM,
    "model": Rejection.MODEL,
    "version": Rejection.VERSION,
}


class Click(Struct, frozen=True, gc=False):
    """A click as the window holds it: what matching looks at, and what an answer needs."""

    id: str
    at_ms: int  # Unix milliseconds, by Dub's clock
    link: Link
    query: str  # of the clicked short link, as far as Dub's event shows it
    device: Traits
    opened_app: bool = False  # a deep link's: recorded when the app opened, never a reason for an install


class FirstOpen(Struct, frozen=True, gc=False):
    """An open with no link, as matching sees it. ``install`` is its keyed hash."""

    install: str
    at_ms: int  # Unix milliseconds, by our clock
    device: Traits
    installed_ms: int | None = None  # Unix milliseconds, by the device's clock
    domain: str | None = None  # only clicks on this domain; None: on any of the app's


class Rules(Struct, frozen=True, kw_only=True):
    """An app's policy."""

    window_s: int = 3600
    crowd_limit: int = 3  # distinct installs on one network within the window
    ambiguous: Ambiguous = "refuse"  # between clicks of several links: none of them, or the latest
    min_confidence: float = 0.5  # what is more likely wrong than right is refused


class Retirement(Struct, frozen=True, gc=False):
    """An install found by deep link, referrer or clipboard: the web clicks that led to it are used up."""

    install: str
    link_id: str
    at_ms: int
    device: Traits

    def covers(self, click: Click) -> bool:
        """Whether a click from the install's network is likely to be its own."""
        return (
            click.link.id == self.link_id
            and not click.opened_app
            and click.at_ms <= self.at_ms + CLOCK_DIFFERENCE_S * 1000
            and isinstance(compare(self.device, click.device), Fit)
        )


class NetworkView(Struct, frozen=True, gc=False):
    """What is known of a network when an install opens there."""

    clicks: tuple[Click, ...]
    owners: Mapping[str, str]  # the installs that have claimed any of the clicks
    installs: int  # distinct ones that opened from it within the window, the one that opens included
    retirements: tuple[Retirement, ...]


class CandidateTrace(Struct, frozen=True, gc=False, rename="camel"):
    """A click that was considered. ``rejected`` says why it is not the one; null for one that may be."""

    click_id: str
    link: str  # domain and key
    age_s: int
    rejected: str | None


class Decision(Struct, frozen=True, kw_only=True):
    """The chosen click, or the reason for none; and everything that was looked at, newest first."""

    click: Click | None = None
    reason: NoMatch | None = None
    candidates: int = 0
    age_s: int = 0
    confidence: float = 0.0
    installs: int = 0  # distinct installs that opened from the network within the window
    considered: tuple[CandidateTrace, ...] = ()


class Candidate(Struct, frozen=True, gc=False):
    """A candidate that no rule rejects: how well it fits, and how old it is."""

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
) -> Decision:
    """Choose among the clicks of the open's network.

    ``installs`` counts the distinct installs that opened from it within the window, this one included;
    ``owners`` are the installs that clicks are claimed by. A click that is the install's own already is
    chosen whatever the others are: an install that asks again gets the same answer.
    """
    retired = [each for each in retirements if each.install != opened.install]
    covered = {click.id for click in clicks if any(each.covers(click) for each in retired)}
    taken_by_others = [
        click
        for click in clicks
        if not click.opened_app
        and (owners[click.id] != opened.install if click.id in owners else click.id in covered)
    ]
    candidates: list[Candidate] = []
    rivals: list[Candidate] = []
    considered: list[CandidateTrace] = []
    for click in sorted(clicks, key=_newest_first):
        fit = _fit(opened, click, rules)
        if not isinstance(fit, Fit):
            considered.append(_traced(opened, click, fit))
            continue
        candidate = Candidate(click, fit, _age_s(opened, click))
        taken: Rejection | None = None
        if click.id in owners:
            taken = Rejection.CLAIMED if owners[click.id] != opened.install else None
        elif click.id in covered:
            taken = Rejection.RETIRED
        elif any(_is_second_click(candidate, each, opened.device) for each in taken_by_others):
            taken = Rejection.USED_UP
        if taken is None:
            candidates.append(candidate)
        elif click.id not in covered:  # matching gave it to another install, and may have been wrong
            rivals.append(candidate)
        considered.append(_traced(opened, click, taken))
    own = [each for each in candidates if owners.get(each.click.id) == opened.install]
    best = own or _best(candidates)
    looked_at = Decision(candidates=len(candidates), installs=installs, considered=tuple(considered))
    if not best:
        return structs.replace(looked_at, reason=_no_candidate(opened, clicks))
    chosen = best[0]
    sure = confidence([*candidates, *rivals], installs)
    reason = None if own else _ambiguous(rules, installs, best, sure)
    if reason is not None:
        return structs.replace(looked_at, reason=reason)
    return structs.replace(looked_at, click=chosen.click, age_s=int(chosen.age_s), confidence=sure)


# ODDS_AGAINST is what no simulation knows: how far a device that fits is to be believed. The others are
# fitted on the tuning seeds of `make bench`'s simulated city, at its default window of an hour.
ODDS_AGAINST: Mapping[Fit, float] = {
    Fit.AS_DESKTOP: 0.1,
    Fit.SYSTEM: 0.025,
    Fit.VERSION: 0.02,
    Fit.MODEL: 0.01,
}
ODDS_PER_INSTALL = 0.001  # of a click just made
ODDS_OF_AN_HOUR = 0.6  # for each install; they grow with the square of the age up to there, then slowly
ODDS_PER_DOUBLED_AGE = 0.05
ODDS_OF_RIVAL = 0.05  # at least, for each further click that fits
_HOUR_S = 3600


def confidence(fitting: Sequence[Candidate], installs: int) -> float:
    """Return how likely the right click is chosen: 1 / (1 + the odds against it), to three decimals.

    ``fitting`` are all clicks that fit: the chosen one, the other candidates, and those that another install
    was given. Each has odds against it from how well its device fits, and from its age, which count once for
    each of the ``installs`` that opened from the network. All odds add up; each click but the likeliest
    counts with at least ``ODDS_OF_RIVAL``. So the confidence does not depend on which click is chosen, and
    does not rise with a click's age, with one more click or install, or when another install is given a
    click.
    """
    odds = [odds_against(each, installs) for each in fitting]
    least = min(odds)
    total = sum(max(each, ODDS_OF_RIVAL) for each in odds) - max(least, ODDS_OF_RIVAL) + least
    return round(1 / (1 + total), 3)


def odds_against(candidate: Candidate, installs: int) -> float:
    """Return the odds that a click is somebody else's, when it is the only candidate."""
    hours = max(candidate.age_s, 0) / _HOUR_S
    aged = ODDS_OF_AN_HOUR * min(hours, 1) ** 2 + ODDS_PER_DOUBLED_AGE * log2(max(hours, 1))
    return ODDS_AGAINST[candidate.fit] + max(installs, 1) * (ODDS_PER_INSTALL + aged)


def from_provider(click_id: str, link: Link, opened: FirstOpen, rules: Rules) -> Click:
    """Make a candidate of what a Dub that honours forwarded addresses answered.

    It says neither when nor on which device: Dub matched the address within the past hour, so the click
    counts as half as old as that (or as the window), and as old as the install at least, on a device of the
    install's system.
    """
    age_s = min(_HOUR_S, rules.window_s) // 2
    at_ms = opened.at_ms - age_s * 1000
    if opened.installed_ms is not None:
        at_ms = min(at_ms, opened.installed_ms)
    return Click(click_id, at_ms, link, "", Traits(opened.device.system))


def _fit(opened: FirstOpen, click: Click, rules: Rules) -> Fit | Rejection:
    """Return how well a click fits, whoever it was given to, or the first rule that it breaks."""
    out_of_reach = _out_of_reach(opened, click, rules)
    if out_of_reach is not None:
        return out_of_reach
    fit = compare(opened.device, click.device)
    return fit if isinstance(fit, Fit) else _MISFITS[fit]


def _is_second_click(candidate: Candidate, claimed: Click, device: Traits) -> bool:
    """Return whether the phone that made a claimed click is likely to have made this one, too.

    Not if it names the very model of the install that asks, and the claimed one does not.
    """
    click = candidate.click
    if click.link.id != claimed.link.id or abs(click.at_ms - claimed.at_ms) > SECOND_CLICK_S * 1000:
        return False
    if candidate.fit is Fit.MODEL and compare(device, claimed.device) is not Fit.MODEL:
        return False
    return may_be_one_device(click.device, claimed.device)


def _out_of_reach(opened: FirstOpen, click: Click, rules: Rules) -> Rejection | None:
    """Return why no install like this could have come from the click, whatever its device."""
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


def _best(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that the device does not tell apart, newest first.

    An iPhone's click goes before a Mac's, and an exact model's before one that did not say. A version
    that agrees is no more than a good sign: too many phones have the same one.
    """
    top = max((_rank(each.fit) for each in candidates), default=0)
    return [each for each in candidates if _rank(each.fit) == top]


def _rank(fit: Fit) -> int:
    return {Fit.AS_DESKTOP: 0, Fit.MODEL: 2}.get(fit, 1)


def _no_candidate(opened: FirstOpen, clicks: Sequence[Click]) -> NoMatch:
    if not opened.device.system:
        return "unknown_platform"
    return "no_candidate" if clicks else "no_click"


def _ambiguous(rules: Rules, installs: int, best: Sequence[Candidate], sure: float) -> NoMatch | None:
    """Return why the best candidates are not good enough."""
    if installs > rules.crowd_limit:
        return "crowd"
    if rules.ambiguous == "refuse" and len({each.click.link.id for each in best}) > 1:
        return "several_links"
    return "unlikely" if sure < rules.min_confidence else None


def _traced(opened: FirstOpen, click: Click, rejected: Rejection | None) -> CandidateTrace:
    age_s = int(_age_s(opened, click))
    return CandidateTrace(click.id, f"{click.link.domain}/{click.link.key}", age_s, rejected)


def _age_s(opened: FirstOpen, click: Click) -> float:
    return max(opened.at_ms - click.at_ms, 0) / 1000


def _newest_first(click: Click) -> tuple[int, str]:
    return -click.at_ms, click.id
