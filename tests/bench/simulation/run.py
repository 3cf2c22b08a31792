"""The city's days, answered by every rule and scored: for each seed, and all seeds together."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from tests.bench.simulation.city import Days, Town
from tests.bench.simulation.parameters import City
from tests.bench.simulation.play import Given, networks, play, same_24_and_platform, same_address
from tests.bench.simulation.score import Score, Truth

REFUSE, LATEST = "refuse", "latest"
SAME_ADDRESS, SAME_24 = "same IP, latest click", "same IP /24 and platform"

RULES: Mapping[str, Callable[[Days], list[Given]]] = {
    REFUSE: partial(play, ambiguous="refuse"),
    LATEST: partial(play, ambiguous="latest"),
    SAME_ADDRESS: same_address,
    SAME_24: same_24_and_platform,
}


def simulate(seed: int, city: City | None = None) -> dict[str, Score]:
    """Live one city, and score what each rule made of it."""
    days = Town(city or City(), seed).live()
    truth = Truth(days, networks())
    return {name: truth.score(rule(days)) for name, rule in RULES.items()}


def stated(scores: Iterable[Score]) -> list[tuple[float, bool]]:
    """Return the matches of several cities, as stated and as they were."""
    return [each for score in scores for each in score.stated]
