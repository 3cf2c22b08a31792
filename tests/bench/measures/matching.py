"""How often a match is right, in cities whose truth is known, and what a decision costs.

The test seeds are only here: the code that the model's constants were chosen with cannot make them.
"""

import time

from service.domain.device_traits import Traits
from service.domain.match_rules import Click, FirstOpen, Rules, decide
from service.domain.models import Link
from tests.bench.lab import Lab
from tests.bench.simulation.parameters import CITIES, DENSITIES
from tests.bench.simulation.run import (
    LATEST,
    REFUSE,
    SAME_24,
    SAME_ADDRESS,
    TOUCHES,
    Results,
    cases,
    of,
    simulate_all,
    table,
)
from tests.bench.simulation.score import Score, tenths
from tests.bench.table import Row

TEST_SEEDS = tuple(f"test {number}" for number in range(1, 7))

PRECISION, PRECISION_OF_A_CITY = 99.0, 98.5
RECALL_NO_CROWD, RECALL = 97.0, 80.0
PRECISION_TOUCHES, RECALL_TOUCHES, RECALL_EU = 99.5, 92.0, 95.0
CALIBRATION_POINTS, CALIBRATED_FROM = 5.0, 50
_JUST_ABOVE = 1e-9
_DECISIONS = 2000


def run(lab: Lab) -> list[Row]:
    """Live the cities on the test seeds."""
    began = time.perf_counter()
    results = simulate_all(cases(TEST_SEEDS), (lab.server_core, lab.load_core))
    took_s = time.perf_counter() - began
    for line in table(results):
        lab.say(line)
    return [
        *_clicks(results),
        *_touches(results),
        *_calibration(results),
        *_costs(),
        Row(name="    the simulation took", unit="s", rounds=[took_s]),
    ]


def _clicks(results: Results) -> list[Row]:
    """Compare the matches by Dub's clicks alone with the goals."""
    refuse = of(results, REFUSE)
    by_density = [of(results, REFUSE, density=density) for density in DENSITIES]
    simple = max(of(results, rule).precision for rule in (SAME_ADDRESS, SAME_24))
    twice = sum(of(results, rule).given_twice for rule in (REFUSE, LATEST, TOUCHES))
    return [
        _share("matching, Dub's clicks only: precision", refuse.precision, PRECISION, refuse),
        *(
            _share(f"    {density:g} first opens per 1,000 people", score.precision)
            for density, score in zip(DENSITIES, by_density, strict=True)
        ),
        *(
            _share(f"    {city}", score.precision, PRECISION_OF_A_CITY, score)
            for city in CITIES
            if (score := of(results, REFUSE, city=city)).matches
        ),
        Row(
            name="    above the better simple rule by",
            unit="points",
            rounds=[100 * (refuse.precision - simple)],
            at_least=_JUST_ABOVE,
        ),
        *(
            _share(f"    recall, no crowd, at {density:g}", score.recall_calm, RECALL_NO_CROWD)
            for density, score in zip(DENSITIES, by_density, strict=True)
        ),
        *(
            _share(f"    recall of all, at {density:g}", score.recall, RECALL)
            for density, score in zip(DENSITIES, by_density, strict=True)
        ),
        Row(name="    clicks given to two installs", rounds=[float(twice)], at_most=0),
    ]


def _touches(results: Results) -> list[Row]:
    touches = of(results, TOUCHES)
    rows = [_share("matching, touches and signals: precision", touches.precision, PRECISION_TOUCHES, touches)]
    for density in DENSITIES:
        score = of(results, TOUCHES, density=density)
        rows += [
            _share(f"    recall of all, at {density:g}", score.recall, RECALL_TOUCHES),
            _share(f"    recall of EU visitors, no crowd, at {density:g}", score.recall_eu_calm, RECALL_EU),
        ]
    return rows


def _calibration(results: Results) -> list[Row]:
    """Compare stated confidence with the truth, in tenths with enough matches."""
    rows = []
    for rule in (REFUSE, LATEST, TOUCHES):
        found = tenths(of(results, rule).stated)
        enough = [each for each in found.values() if each.matches >= CALIBRATED_FROM]
        rows.append(
            Row(
                name=f"{rule}: stated confidence misses the truth by",
                unit="points",
                rounds=[100 * max((abs(each.stated - each.right) for each in enough), default=0)],
                at_most=CALIBRATION_POINTS,
            )
        )
        rows += [
            _share(f"    {name}: {tenth.matches:,} matches, {100 * tenth.stated:.1f} % stated", tenth.right)
            for name, tenth in found.items()
        ]
    return rows


def _costs() -> list[Row]:
    """Measure a decision among few and among many candidates."""
    return [
        Row(name=f"    a decision among {number} clicks", unit="µs", rounds=[_cost_us(number)])
        for number in (5, 50)
    ]


def _cost_us(clicks: int) -> float:
    links = [Link(f"link_{number}", "acme.link", str(number), "https://acme.com/") for number in range(6)]
    seen = [
        Click(str(number), number * 60_000, links[number % 6], "", Traits("ios", "iphone", 17))
        for number in range(clicks)
    ]
    opened = FirstOpen("install", clicks * 60_000, Traits("ios", "", 17))
    rules = Rules()
    began = time.process_time()
    for _ in range(_DECISIONS):
        decide(opened, seen, rules, installs=5, owners={})
    return (time.process_time() - began) / _DECISIONS * 1e6


def _share(name: str, share: float, at_least: float | None = None, score: Score | None = None) -> Row:
    details = {} if score is None else {"errors": dict(score.errors), "missed": dict(score.missed)}
    return Row(name=name, unit="%", rounds=[100 * share], at_least=at_least, details=details)
