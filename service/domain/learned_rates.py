"""Learn an app's rates from its first opens; while these are few, stay near the defaults. Pure rules.

What can go wrong:

- Somebody invents opens, because a publishable key is public. No rate leaves its bounds, whatever was
  counted, and a network counts a few times a day (``attribution.rate_learning``).
- A few opens are taken for a rule: the default counts like 20 or 40 observations.
- An app whose links bring no install referrer looks as if all its installs were organic: without some
  referrers that name a link, the default holds.
- Somebody moves all rates at once: the bounds are narrow, so that together they raise the odds of a click
  less than sixfold.
"""

from collections.abc import Mapping
from math import exp, log

from msgspec import Struct

from service.domain.match_odds import Rates, prior_hours
from service.domain.models import Link
from service.domain.trace import MatchAttempt

LEARNED_DAYS = 90
LOG_UNIT = 1000  # delays are counted by their natural logarithm, in thousandths
DELAY_MIN_S = 5.0  # nobody installs sooner: the clocks differ, or the click is another one
DELAY_MAX_S = 300.0  # longer ones say little about those who install at once
LINKED_MIN = 20  # referrers that name a link, before the share of installs without one is believed

# ln(60th percentile) - mean(ln) of a log-normal distribution with a sigma of 0.6. Delays are roughly like
# that, as nobody installs an app within a second.
_LOG_BELOW = 0.15
_LOG_MAX = log(1e6)  # above every bound
_UNCERTAIN = 0.6  # of the installs after a click; the others have certain evidence


class Prior(Struct, frozen=True):
    """The value without observations, how many observations it counts as, and the bounds of the rate."""

    mean: float
    weight: int
    least: float
    most: float

    def bounded(self, value: float) -> float:
        """Return the value, or the bound that it exceeds."""
        return min(max(value, self.least), self.most)


PRIORS: Mapping[str, Prior] = {
    "organic": Prior(0.5, 40, 0.35, 0.9),
    "ios": Prior(0.5, 20, 0.08, 0.92),
    "click_here": Prior(0.6, 40, 0.4, 0.75),
    "quiet": Prior(0.8, 40, 0.35, 0.85),
    "delay_s": Prior(100.0, 40, 70.0, 150.0),
}

TITLES: Mapping[str, str] = {
    "organic": "installs without a link (by referrer)",
    "ios": "first opens on iOS",
    "click_here": "certain links with a click on the network",
    "quiet": "networks with nobody else",
    "delay_s": "typical delay from click to open (s)",
}


class Observation(Struct, frozen=True):
    """What one first open says; None: nothing."""

    is_organic: bool | None = None  # its install referrer names no link
    is_ios: bool | None = None
    is_click_here: bool | None = None  # its click was in the window, on the network of the open
    is_quiet: bool | None = None  # nobody else clicked or opened the app there
    delay_s: float | None = None  # from the click to the first open


class LearnedRate(Struct, frozen=True, rename="camel"):
    """One rate, for people to read. ``observations`` is how many first opens it was learned from."""

    name: str
    value: float
    default: float
    least: float
    most: float
    observations: int


def count(observation: Observation) -> dict[str, int]:
    """Return by how much each counter grows: of a rate, and (``<rate>_of``) of what it is a share."""
    grown: dict[str, int] = {}
    for name, yes in (
        ("organic", observation.is_organic),
        ("ios", observation.is_ios),
        ("click_here", observation.is_click_here),
        ("quiet", observation.is_quiet),
    ):
        if yes is not None:
            grown[f"{name}_of"] = 1
            if yes:
                grown[name] = 1
    delay_s = observation.delay_s
    if delay_s is not None and DELAY_MIN_S <= delay_s <= DELAY_MAX_S:
        grown["delay_s_of"] = 1
        grown["delay_s"] = round(LOG_UNIT * log(delay_s))
    return grown


def of_shadow_match(certain: Link, attempt: MatchAttempt, *, is_home: bool) -> Observation | None:
    """Return what a shadow match says; None if the network could not be looked at.

    An IPv6 network is one home by itself, so it says nothing about how quiet IPv4 addresses are.
    """
    if not attempt.installs or attempt.match.reason == "unknown_platform":
        return None
    name = f"{certain.domain}/{certain.key}"
    own = next((each for each in attempt.candidates if each.link == name and each.rejected is None), None)
    is_alone = attempt.installs == 1 and attempt.devices <= (own is not None)
    return Observation(
        is_click_here=own is not None,
        is_quiet=None if is_home else is_alone,
        delay_s=None if own is None else float(own.age_s),
    )


def learned_rates(counted: Mapping[str, int]) -> tuple[LearnedRate, ...]:
    """Return the rates that these counters speak for."""
    found = [_learned(name, value, counted) for name, value in _values(counted).items()]
    return tuple(found)


def rates_of(counted: Mapping[str, int]) -> Rates:
    """Return what matching assumes of an app with these counters."""
    learned = _values(counted)
    by_click = (1 - learned["organic"]) * _UNCERTAIN
    return Rates(
        background=1 - by_click * learned["click_here"] / (learned["organic"] + by_click),
        delay_s=learned["delay_s"],
        ios=learned["ios"],
        prior_hours=prior_hours(learned["quiet"]),
    )


def _learned(name: str, value: float, counted: Mapping[str, int]) -> LearnedRate:
    prior = PRIORS[name]
    observations = counted.get(f"{name}_of", 0)
    return LearnedRate(name, round(value, 4), prior.mean, prior.least, prior.most, observations)


def _values(counted: Mapping[str, int]) -> dict[str, float]:
    found = {}
    for name, prior in PRIORS.items():
        seen, of = counted.get(name, 0), counted.get(f"{name}_of", 0)
        if name == "organic" and of - seen < LINKED_MIN:
            value = prior.mean
        elif name == "delay_s":
            logs = log(prior.mean) * prior.weight + seen / LOG_UNIT + of * _LOG_BELOW
            value = exp(min(logs / (prior.weight + of), _LOG_MAX))
        else:
            value = (prior.mean * prior.weight + seen) / (prior.weight + of)
        found[name] = prior.bounded(value)
    return found
