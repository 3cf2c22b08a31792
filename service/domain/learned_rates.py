"""Learn an app's rates from its first opens with certain evidence; while these are few, stay near defaults.

What can go wrong: somebody invents opens, because a publishable key is public. Each rate is clipped to
``BOUNDS``, whatever was counted; a network counts a few times a day (``matching.rate_learning``).
"""

from collections.abc import Mapping
from math import exp, log

from msgspec import Struct

from service.domain.match_odds import Rates, prior_hours


class Observation(Struct, frozen=True):
    """What one first open with certain evidence says; None: nothing."""

    is_organic: bool | None = None  # by the install referrer, that of Google Play included
    is_ios: bool | None = None
    is_here: bool | None = None  # its click was in the window, on the network of the open
    is_quiet: bool | None = None  # nobody else clicked or opened the app there
    delay_s: float | None = None  # from the click to the first open


LOG_UNIT = 1000  # delays are counted by their logarithm, in thousandths
DELAY_MAX_S = 300.0  # longer ones say little about those who install at once

# The value without observations, how many observations it is worth, and the bounds that a rate never leaves.
_ORGANIC = (0.5, 40.0, 0.2, 0.9)
_IOS = (0.5, 20.0, 0.1, 0.9)
_HERE = (0.6, 40.0, 0.4, 0.85)
_QUIET = (0.8, 40.0, 0.35, 0.98)
_DELAY_S = (100.0, 40.0, 50.0, 200.0)
# By how much the mean logarithm of delays up to DELAY_MAX_S is below that of ``delay_s``, by match_odds.
_LOG_BELOW = 0.15
_UNCERTAIN = 0.6  # of the installs after a click; the others have certain evidence


def count(observation: Observation) -> dict[str, int]:
    """Return by how much each counter grows."""
    grown: dict[str, int] = {}
    for yes, name, of in (
        (observation.is_organic, "organic", "referrers"),
        (observation.is_ios, "ios", "systems"),
        (observation.is_here, "here", "clicks"),
        (observation.is_quiet, "quiet", "networks"),
    ):
        if yes is not None:
            grown[of] = 1
            if yes:
                grown[name] = 1
    delay_s = observation.delay_s
    if delay_s is not None and 0 <= delay_s <= DELAY_MAX_S:
        grown["delays"] = 1
        grown["delay_logs"] = round(LOG_UNIT * log(max(delay_s, 1)))
    return grown


def rates_of(counted: Mapping[str, int]) -> Rates:
    """Return the rates that these counters speak for."""
    organic = _share(counted, "organic", "referrers", _ORGANIC)
    here = _share(counted, "here", "clicks", _HERE)
    by_click = (1 - organic) * _UNCERTAIN
    mean, worth, least, most = _DELAY_S
    delays = counted.get("delays", 0)
    logs = counted.get("delay_logs", 0) / LOG_UNIT + delays * _LOG_BELOW
    delay_s = exp((log(mean) * worth + logs) / (worth + delays))
    return Rates(
        background=1 - by_click * here / (organic + by_click),
        delay_s=min(max(delay_s, least), most),
        ios=_share(counted, "ios", "systems", _IOS),
        prior_hours=prior_hours(_share(counted, "quiet", "networks", _QUIET)),
    )


def _share(counted: Mapping[str, int], name: str, of: str, prior: tuple[float, float, float, float]) -> float:
    mean, worth, least, most = prior
    share = (mean * worth + counted.get(name, 0)) / (worth + counted.get(of, 0))
    return min(max(share, least), most)
