"""Decide which click of a network, if any, led to an install that opened without a link. Pure rules.

What can go wrong:

- A click is credited to the wrong install because it is the latest one: a crowded network is refused, and
  so are clicks on several links.
- A click is credited that cannot have led to the install: from another system, later than the open, or
  recorded by a deep link.
- A phone clicks twice, in an in-app browser and in the system's browser, and the second click is credited to
  the install of a room-mate: the second click is used up together with the first. Other clicks that were
  credited to another install lower the confidence.
- The confidence is too high: it does not rise when a click is added or gets older, when more installs open,
  or when a click was credited to another install.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from math import log2
from typing import Literal

from msgspec import Struct, structs

from service.domain.device_traits import Fit, Misfit, Traits, compare, may_be_one_device
from service.domain.match_odds import NO_SIGNALS, Signals
from service.domain.models import Link
from service.domain.networks import Unmatchable

CLOCK_DIFFERENCE_S = 60  # between Dub's clock and ours
# People who cannot continue in an in-app browser open the link in the system's browser within minutes. A
# longer time would use up more clicks of other people who received the same link.
SECOND_CLICK_S = 300
CROWD_LIMIT_MAX = 1000  # counting more installs of a network would take longer than an open may take

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
    "crowd": "more installs than crowd_limit opened from this network within the window",
    "several_links": "the unclaimed clicks are on several links, and the device fits them equally well",
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


class Rules(Struct, frozen=True, kw_only=True):
    """An app's settings for matching."""

    window_s: int = 3600
    crowd_limit: int = 3  # distinct installs on one network within the window
    ambiguous: Ambiguous = "refuse"  # for clicks on several links: refuse all, or take the latest
    min_confidence: float = 0.5  # a match that is more likely wrong than right is refused


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
    installs: int  # distinct installs that opened from the network within the window, including this one
    retirements: tuple[Retirement, ...]


class CandidateTrace(Struct, frozen=True, gc=False, rename="camel"):
    """A click that matching considered. ``rejected`` says why it was rejected, null for a candidate."""

    click_id: str
    link: str  # domain and key
    age_s: int
    rejected: str | None


class Decision(Struct, frozen=True, kw_only=True):
    """The chosen click or the reason why there is none, and all clicks considered, newest first."""

    click: Click | None = None
    reason: NoMatch | None = None
    candidates: int = 0
    age_s: int = 0
    confidence: float = 0.0
    installs: int = 0  # distinct installs that opened from the network within the window
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
) -> Decision:
    """Choose one of the clicks of the open's network.

    ``installs`` counts the distinct installs that opened from the network within the window, including this
    one. ``owners`` maps claimed clicks to installs. If the install has claimed a click before, that click
    is chosen regardless of the others, so that a repeated report gets the same answer.
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
        elif click.id not in covered:  # matching credited it to another install, perhaps wrongly
            rivals.append(candidate)
        considered.append(_traced(opened, click, taken))
    claimed = [each for each in candidates if owners.get(each.click.id) == opened.install]
    best = claimed or _best(candidates)
    undecided = Decision(candidates=len(candidates), installs=installs, considered=tuple(considered))
    if not best:
        return structs.replace(undecided, reason=_no_candidate(opened, clicks))
    chosen = best[0]
    certainty = confidence([*candidates, *rivals], installs)
    reason = None if claimed else _why_refused(rules, installs, best, certainty)
    if reason is not None:
        return structs.replace(undecided, reason=reason)
    return structs.replace(undecided, click=chosen.click, age_s=int(chosen.age_s), confidence=certainty)


# ODDS_AGAINST estimates how often a device that fits is the wrong one; no simulation can supply it. The other
# constants are fitted to the tuning seeds of `make bench`'s simulated city, with a window of one hour.
ODDS_AGAINST: Mapping[Fit, float] = {
    Fit.AS_DESKTOP: 0.1,
    Fit.SYSTEM: 0.025,
    Fit.VERSION: 0.02,
    Fit.MODEL: 0.01,
}
ODDS_PER_INSTALL = 0.001  # for a click that was just made
ODDS_OF_AN_HOUR = 0.6  # per install at an age of one hour; below, they grow with the square of the age
ODDS_PER_DOUBLED_AGE = 0.05  # added for each doubling of the age beyond one hour
ODDS_OF_RIVAL = 0.05  # minimum for each further click that fits
_HOUR_S = 3600


def confidence(fitting: Sequence[Candidate], installs: int) -> float:
    """Return the probability that the chosen click is right: 1 / (1 + the odds against it), to 3 decimals.

    ``fitting`` are all clicks that fit: the chosen one, the other candidates, and those credited to another
    install. The odds against a click depend on how well its device fits and on its age; the age counts once
    for each of the ``installs`` that opened from the network. The odds of all clicks are added; each click
    except the likeliest counts with at least ``ODDS_OF_RIVAL``. So the confidence does not depend on which
    click is chosen, and does not rise when a click gets older, when a click or install is added, or when a
    click is credited to another install.
    """
    odds = [odds_against(each, installs) for each in fitting]
    least = min(odds)
    total = sum(max(each, ODDS_OF_RIVAL) for each in odds) - max(least, ODDS_OF_RIVAL) + least
    return round(1 / (1 + total), 3)


def odds_against(candidate: Candidate, installs: int) -> float:
    """Return the odds that a click belongs to another install, if it is the only candidate."""
    hours = max(candidate.age_s, 0) / _HOUR_S
    aged = ODDS_OF_AN_HOUR * min(hours, 1) ** 2 + ODDS_PER_DOUBLED_AGE * log2(max(hours, 1))
    return ODDS_AGAINST[candidate.fit] + max(installs, 1) * (ODDS_PER_INSTALL + aged)


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
    if click.link.id != claimed.link.id or abs(click.at_ms - claimed.at_ms) > SECOND_CLICK_S * 1000:
        return False
    if candidate.fit is Fit.MODEL and compare(device, claimed.device) is not Fit.MODEL:
        return False
    return may_be_one_device(click.device, claimed.device)


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


def _best(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates whose device fits best, newest first.

    A click from an iPhone ranks above one from a Mac, and an equal exact model above an unknown model. An
    equal version does not raise the rank: too many phones have the same version.
    """
    top = max((_rank(each.fit) for each in candidates), default=0)
    return [each for each in candidates if _rank(each.fit) == top]


def _rank(fit: Fit) -> int:
    return {Fit.AS_DESKTOP: 0, Fit.MODEL: 2}.get(fit, 1)


def _no_candidate(opened: FirstOpen, clicks: Sequence[Click]) -> NoMatch:
    if not opened.device.system:
        return "unknown_platform"
    return "no_candidate" if clicks else "no_click"


def _why_refused(rules: Rules, installs: int, best: Sequence[Candidate], certainty: float) -> NoMatch | None:
    """Return why the best candidates are refused, or None if the first of them is accepted."""
    if installs > rules.crowd_limit:
        return "crowd"
    if rules.ambiguous == "refuse" and len({each.click.link.id for each in best}) > 1:
        return "several_links"
    return "unlikely" if certainty < rules.min_confidence else None


def _traced(opened: FirstOpen, click: Click, rejected: Rejection | None) -> CandidateTrace:
    age_s = int(_age_s(opened, click))
    return CandidateTrace(click.id, f"{click.link.domain}/{click.link.key}", age_s, rejected)


def _age_s(opened: FirstOpen, click: Click) -> float:
    return max(opened.at_ms - click.at_ms, 0) / 1000


def _newest_first(click: Click) -> tuple[int, str]:
    return -click.at_ms, click.id
