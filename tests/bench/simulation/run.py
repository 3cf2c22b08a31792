"""Cities, answered by every rule and scored; and the table of what came out."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from msgspec import structs

from tests.bench.simulation.city import Town
from tests.bench.simulation.parameters import CITIES, DENSITIES
from tests.bench.simulation.play import play, same_24_and_platform, same_address
from tests.bench.simulation.score import Score, Truth, added

REFUSE, LATEST, TOUCHES = "refuse", "latest", "touches"
SAME_ADDRESS, SAME_24 = "same IP, latest click", "same IP /24 and platform"
RULES = (REFUSE, LATEST, TOUCHES, SAME_ADDRESS, SAME_24)


class Case(NamedTuple):
    """One city at one density, from one seed."""

    city: str
    density: float
    seed: str


Results = Mapping[Case, Mapping[str, Score]]


def cases(seeds: Sequence[str], cities: Iterable[str] = CITIES) -> list[Case]:
    """Return every city at every density, from these seeds."""
    return [Case(city, density, seed) for city in cities for density in DENSITIES for seed in seeds]


def simulate(case: Case, first_opens: int | None = None) -> dict[str, Score]:
    """Live one city, and score what each rule made of it."""
    city = structs.replace(CITIES[case.city], first_opens_per_1000=case.density)
    if first_opens is not None:
        city = structs.replace(city, first_opens=first_opens)
    days = Town(city, f"{case.seed}: {case.city}, {case.density}").live()
    truth, touched = Truth(days), Truth(days, "touches")
    return {
        REFUSE: truth.score(play(days, "refuse")),
        LATEST: truth.score(play(days, "latest")),
        TOUCHES: touched.score(play(days, "refuse", "touches")),
        SAME_ADDRESS: truth.score(same_address(days)),
        SAME_24: truth.score(same_24_and_platform(days)),
    }


def simulate_all(wanted: Sequence[Case], cores: Collection[int]) -> Results:
    """Live many cities, one on each core at a time."""
    with ProcessPoolExecutor(len(cores), initializer=os.sched_setaffinity, initargs=(0, cores)) as pool:
        return dict(zip(wanted, pool.map(simulate, wanted), strict=True))


def of(results: Results, rule: str, *, city: str | None = None, density: float | None = None) -> Score:
    """Add up the scores of one rule: of all cities, of one, of one density."""
    return added(
        scores[rule]
        for case, scores in results.items()
        if city in (None, case.city) and density in (None, case.density)
    )


def table(results: Results) -> Iterator[str]:
    """Draw a line for each city and density, for each density, and for all. Shares are in percent."""
    yield f"{'':<20}  {'clicks of Dub only':<43}  {'touches and signals':<31}  same IP"
    yield (
        f"{'city':<14}{'per k':>6}  {'matches':>7}{'right':>8}{'no crowd':>10}{'quiet h.':>10}{'all':>8}"
        f"  {'right':>6}{'no crowd':>10}{'EU':>7}{'all':>8}  {'right':>7}"
    )
    cities = list(dict.fromkeys(case.city for case in results))
    for city in cities:
        for density in DENSITIES:
            yield _line(results, city, f"{density:g}", city=city, density=density)
        yield _line(results, city, "all", city=city)
    for density in DENSITIES:
        yield _line(results, "all cities", f"{density:g}", density=density)
    yield _line(results, "all cities", "all")


def _line(
    results: Results, name: str, density_name: str, *, city: str | None = None, density: float | None = None
) -> str:
    clicks, touches, simple = (
        of(results, rule, city=city, density=density) for rule in (REFUSE, TOUCHES, SAME_ADDRESS)
    )
    return (
        f"{name:<14}{density_name:>6}  {clicks.matches:>7}{_percent(clicks.precision, clicks.matches):>8}"
        f"{_percent(clicks.recall_calm, clicks.calm):>10}"
        f"{_percent(clicks.recall_quiet_hour, clicks.quiet_hour):>10}"
        f"{_percent(clicks.recall, clicks.matchable):>8}"
        f"  {_percent(touches.precision, touches.matches):>6}"
        f"{_percent(touches.recall_calm, touches.calm):>10}"
        f"{_percent(touches.recall_eu_calm, touches.eu_calm):>7}"
        f"{_percent(touches.recall, touches.matchable):>8}"
        f"  {_percent(simple.precision, simple.matches):>7}"
    )


def _percent(share: float, of_how_many: int) -> str:
    return f"{100 * share:.1f}" if of_how_many else "-"
