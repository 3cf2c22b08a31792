"""Compute how likely it is that a click led to a first open, as a pure function.

The model compares two explanations of a first open without certain evidence. Each recent click on its network
leads to such an open with some probability, after a random delay. The network's other first opens are the
background: organic installs, and people whose own click is on another network or older than the window. How
many of those a network has is not known, but it is proportional to how many people use the network, and so to
the clicks that other people make there. With ``b``, the share of background among an app's first opens,

    weight of a click = density of its delay x likelihood ratio of its device and signals
    weight of the background = clicks of other people per second x b / (1 - b)
    confidence in a click = its weight / sum of all weights

How many clicks lead to an open cancels out. How many people use a network is a Gamma distribution: before
anything is seen it is that of a home, and it is updated by the devices that clicked within the window or
opened the app within a day. Nothing here is fitted to the test seeds of the simulation (``make bench``).

What can go wrong: the confidence in a click rises for a bad reason. It does not rise when the click gets
older, fits worse or has more signals that differ, when another click is added, or when more devices open or
click on the network.
"""

import math
from math import log

from msgspec import Struct

from service.domain.device_traits import Fit, Traits

_HOUR_S = 3600.0
_DAY_S = 86_400.0
ACTIVITY_S = 86_400  # for how long an open counts for how busy its network is


class Rates(Struct, frozen=True, kw_only=True):
    """What an app's own opens say of its installs; the defaults hold until it has some."""

    background: float = 0.775
    """Share of first opens without certain evidence that no click on their network has led to."""
    delay_s: float = 100.0
    """Delay below which 6 in 10 of those who install at once open the app for the first time."""
    ios: float = 0.5
    """Share of first opens that are on iOS."""
    prior_hours: float = 36.2
    """What is assumed of an IPv4 address beforehand: that so many hours were quiet there."""


class Signals(Struct, frozen=True, gc=False, omit_defaults=True):
    """What a browser and an app say of themselves; an empty text is unknown."""

    language: str = ""
    timezone: str = ""
    screen: str = ""


DEFAULT_RATES = Rates()
NO_SIGNALS = Signals()

# The delay from a click to the install, and to the first open. Of those who install at once, 6 in 10 do so
# within ``delay_s``, the others by a power law; some of them open the app up to 2 hours later. The rest come
# back later: from 5 minutes to 3 days. Both delays are spread evenly by the logarithm of the time. So a click
# of half an hour ago is more likely to have led to an open than to an install, if the app says when that was.
# Together, 75 % open the app within an hour and 95 % within a day, as AppsFlyer's glossary says ("click to
# install time": 75 % and 94 %). Clocks differ by seconds, so that a very short delay is not held against a
# click.
_LATER = 0.35
_OPENED_LATER = 0.3  # of those who install at once
_LATER_FROM_S = 300.0
_LATER_TO_S = 3 * _DAY_S
_OPENED_TO_S = 2 * _HOUR_S
_LATER_DENSITY = _LATER / log((_LATER_TO_S + _LATER_FROM_S) / _LATER_FROM_S)
_OPENED_DENSITY = (1 - _LATER) * _OPENED_LATER / log((_OPENED_TO_S + _LATER_FROM_S) / _LATER_FROM_S)
_FALL = 2.5

# How many people use a network is a Gamma distribution. Its shape far below 1 says that most networks have
# few people and some have very many; its rate is learned. An IPv6 /64 is one home or one phone.
_SHAPE = 0.3
_HOME = 10.0
# What a day of opens on a network says about its clicks: three devices open the app there for each click in
# a day (an app has some five users on a day for each new install). Opens and clicks are spread over the
# waking hours and are most frequent in the evening, so a day's activity says what 13 hours of an evening's
# would.
_OPENS_PER_CLICK = 3.0
_ACTIVE_HOURS = 13.0
# Where other people are, clicks and opens come in bursts: a post, a break, a colleague's tip. So an open
# comes at a moment that is busier than the average, as if up to ten more devices had been seen. This matters
# little among very many people. The values are calibrated on the tuning seeds.
_BURST = 10.0
_BURST_HALF = 4.0

# Share of clicks that can lead to an open within an hour: 80 % are made on phones, 75 % of first opens come
# so soon.
_CAN_LEAD = 0.6

# How much more often a device fits if it is the same one. The system alone: 1 / its share. StatCounter: the
# major versions of iOS and of Android that most devices have make up 40 %; the most common model is one
# phone in 25. A Mac's click may be an iPad's, and most are not.
_FIT = (0.3, 1.0, 2.5, 20.0)  # by ``Fit``: as a desktop, system, version, model

# A system that few installs have says much if it is the same, but it may only seem to be rare: a learned rate
# below this counts as this.
_RARE = 0.3

# Likelihood ratios of signals that are equal and that differ. Screens: the most common size is that of one
# phone in six; 3 % of installs differ (display zoom), and five in six of other phones. Languages: most people
# of a network have the same, one in three another one; 3 % have set another one for the app. Time zones:
# nearly all people of a network have the same.
_SCREEN = (6.0, 0.04)
_LANGUAGE = (1.4, 0.1)
_TIMEZONE = (1.0, 0.3)

# Some matches are wrong although nothing else fits: the person's last click was on another network.
CERTAINTY_MAX = 0.998
# Probability that clocks differ by so much that a click seems to be later than the install it led to. An
# install takes half a minute, and most clocks agree within seconds.
CLOCKS_DIFFER = 0.05
CLAIM_DOUBT = 0.05  # probability that a click that matching gave to another install is not that install's

# Of those who click, 8 % click the same link again within minutes, often in another browser, and 2 % another
# one.
_AGAIN = 0.08
_AGAIN_ELSEWHERE = 0.02
_CLOCKS_S = 1.0


def delay_density(delay_s: float, rates: Rates, *, to_install: bool = False) -> float:
    """Return the probability per second of a delay between a click and a first open; it never rises.

    With ``to_install``, return that of a delay between a click and the install.
    """
    typical_s = rates.delay_s
    at_once, later = 1 - _LATER, _LATER_DENSITY
    if not to_install:
        at_once *= 1 - _OPENED_LATER
        if delay_s < _OPENED_TO_S:
            later += _OPENED_DENSITY
    density = at_once * (1 - 1 / _FALL) / typical_s
    if delay_s > typical_s:
        density *= math.pow(typical_s / delay_s, _FALL)
    return density + later / (max(delay_s, 0) + _LATER_FROM_S)


def device_ratio(fit: Fit, device: Traits, rates: Rates) -> float:
    """Return how much likelier such a fit is for one device than for two; ``device`` is the open's."""
    return _FIT[fit] / max(rates.ios if device.system == "ios" else 1 - rates.ios, _RARE)


def clicks_per_s(clicked: int, opened: int, window_s: float, rates: Rates, *, is_home: bool) -> float:
    """Return how many clicks other people make on a network in a second.

    ``clicked`` and ``opened`` are how many other devices clicked there within the window of ``window_s``
    seconds, and opened the app there within ``ACTIVITY_S``.
    """
    hours = rates.prior_hours * (_HOME if is_home else 1) + _seen_hours(window_s)
    seen = clicked + opened
    burst = _BURST * (seen / (seen + _BURST_HALF)) ** 2
    return (_SHAPE + seen + burst) / hours / _HOUR_S


def background_weight(others_per_s: float, rates: Rates) -> float:
    """Return the weight of the background on a network with so many clicks of other people in a second."""
    return _CAN_LEAD * others_per_s * rates.background / (1 - rates.background)


def other_person(within_s: float, others_per_s: float, ratio: float, *, same_link: bool) -> float:
    """Return the probability that two clicks within so many seconds are two people's.

    ``ratio`` is how much likelier their devices and signals are for one phone than for two.
    """
    others = others_per_s * (within_s + _CLOCKS_S) / ratio
    return others / (others + (_AGAIN if same_link else _AGAIN_ELSEWHERE))


def prior_hours(quiet: float, window_s: float = 3600) -> float:
    """Return the prior of a network's activity, if on a share of networks nobody else is ever seen."""
    return _seen_hours(window_s) / (math.pow(quiet, -1 / _SHAPE) - 1)


def _seen_hours(window_s: float) -> float:
    return window_s / _HOUR_S + _ACTIVE_HOURS * _OPENS_PER_CLICK


def signals_ratio(opened: Signals, clicked: Signals) -> float:
    """Return how much more often signals like these belong to one device than to two."""
    ratio = 1.0
    for one, other, (equal, different) in (
        (opened.screen, clicked.screen, _SCREEN),
        (opened.language, clicked.language, _LANGUAGE),
        (opened.timezone, clicked.timezone, _TIMEZONE),
    ):
        if one and other:
            ratio *= equal if one == other else different
    return ratio
