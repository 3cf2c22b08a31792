"""How often a match is right, in a city whose truth is known."""

import time
from collections.abc import Iterable

import msgspec

from tests.bench.lab import Lab
from tests.bench.simulation.parameters import REPORT_SEEDS, City
from tests.bench.simulation.run import LATEST, REFUSE, RULES, SAME_24, SAME_ADDRESS, simulate, stated
from tests.bench.simulation.score import Score, calibration_error, tenths
from tests.bench.table import Row

PRECISION_PERCENT = 99.0
RECALL_PERCENT = 95.0
SIMULATION_S = 300

_JUST_ABOVE = 1e-9

Cities = list[dict[str, Score]]


def run(lab: Lab) -> list[Row]:
    """Live the city on the report seeds."""
    began = time.perf_counter()
    cities: Cities = []
    for seed in REPORT_SEEDS:
        cities.append(simulate(seed))
        lab.say(f"city {seed}: precision {cities[-1][REFUSE].precision:.4f} with refuse")
    took_s = time.perf_counter() - began
    return [
        *_required(cities),
        *(row for rule in RULES for row in _described(cities, rule)),
        *_calibration(cities),
        Row(name="    the simulation took", unit="s", rounds=[took_s], at_most=SIMULATION_S),
    ]


def _required(cities: Cities) -> list[Row]:
    refuse = [city[REFUSE] for city in cities]
    above = [
        100 * (city[REFUSE].precision - max(city[rule].precision for rule in (SAME_ADDRESS, SAME_24)))
        for city in cities
    ]
    details = {"seeds": list(REPORT_SEEDS), "city": msgspec.to_builtins(City())}
    return [
        Row(
            name="matching, refuse: precision",
            unit="%",
            rounds=_percent(score.precision for score in refuse),
            at_least=PRECISION_PERCENT,
            details=details,
        ),
        Row(name="    above the better simple rule by", unit="points", rounds=above, at_least=_JUST_ABOVE),
        Row(
            name="    recall on networks with no crowd",
            unit="%",
            rounds=_percent(score.recall for score in refuse),
            at_least=RECALL_PERCENT,
        ),
        Row(
            name="    clicks given to two installs, refuse and latest",
            rounds=[float(sum(city[rule].given_twice for city in cities for rule in (REFUSE, LATEST)))],
            at_most=0,
        ),
    ]


def _described(cities: Cities, rule: str) -> list[Row]:
    """Describe one rule: what it got right, and what it missed."""
    scores = [city[rule] for city in cities]
    details = [
        {name: value for name, value in msgspec.to_builtins(score).items() if name != "stated"}
        for score in scores
    ]
    return [
        Row(
            name=f"{rule}: precision",
            unit="%",
            rounds=_percent(score.precision for score in scores),
            details={"seeds": details},
        ),
        Row(name="    of the link", unit="%", rounds=_percent(score.link_precision for score in scores)),
        Row(
            name="    recall, no crowd",
            unit="%",
            rounds=_percent(score.recall for score in scores),
        ),
        Row(name="    recall, everywhere", unit="%", rounds=_percent(s.recall_everywhere for s in scores)),
        Row(name="    crowd errors", rounds=[float(score.crowd_errors) for score in scores]),
        Row(name="    clicks given twice", rounds=[float(score.given_twice) for score in scores]),
    ]


def _calibration(cities: Cities) -> list[Row]:
    """Compare stated confidence with the truth, in tenths, over all seeds."""
    rows = []
    for rule in (REFUSE, LATEST):
        matches = stated(city[rule] for city in cities)
        rows.append(
            Row(
                name=f"{rule}: stated confidence misses the truth by",
                unit="points",
                rounds=[100 * calibration_error(matches)],
            )
        )
        rows += [
            Row(
                name=f"    {name}: {tenth.matches:,} matches, stated {100 * tenth.stated:.1f} %, right",
                unit="%",
                rounds=[100 * tenth.right],
                details=msgspec.to_builtins(tenth),
            )
            for name, tenth in tenths(matches).items()
        ]
    return rows


def _percent(shares: Iterable[float]) -> list[float]:
    return [100 * share for share in shares]
