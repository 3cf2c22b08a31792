"""Show the tuning seeds: ``python -m tests.bench.simulation``. `make bench` reports on others."""

import sys

from tests.bench.simulation.parameters import TUNING_SEEDS
from tests.bench.simulation.run import RULES, simulate, stated
from tests.bench.simulation.score import tenths


def main() -> None:
    """Print what each rule made of each city, and how sure it was."""
    cities = [simulate(seed) for seed in TUNING_SEEDS]
    lines = [f"{'rule':<26}{'seed':>5}{'matches':>9}{'precision':>11}{'recall':>8}{'crowd errors':>14}"]
    for rule in RULES:
        for seed, city in zip(TUNING_SEEDS, cities, strict=True):
            score = city[rule]
            shares = f"{score.precision:>11.4f}{score.recall:>8.4f}"
            lines.append(f"{rule:<26}{seed:>5}{score.matches:>9}{shares}{score.crowd_errors:>14}")
        for name, tenth in tenths(stated(city[rule] for city in cities)).items():
            lines.append(f"    {name}: {tenth.matches} matches, stated {tenth.stated}, right {tenth.right}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
