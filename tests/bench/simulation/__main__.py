"""Show the tuning seeds: ``python -m tests.bench.simulation [SEEDS]``.

The model's constants were chosen on these. Two seeds take some minutes; with ten, half a point in one city is
more than chance.

The seeds that `make bench` reports on are others, and nothing here can make them.
"""

import os
import sys

from tests.bench.simulation.run import LATEST, REFUSE, TOUCHES, cases, of, simulate_all, table
from tests.bench.simulation.score import tenths

SEEDS = 2


def tuning_seed(number: int) -> str:
    """Return a seed to tune with."""
    return f"tuning {number}"


def main(seeds: int) -> None:
    """Print the table, and how sure the matches were."""
    results = simulate_all(
        cases([tuning_seed(number) for number in range(seeds)]), sorted(os.sched_getaffinity(0))
    )
    lines = list(table(results))
    for rule in (REFUSE, LATEST, TOUCHES):
        score = of(results, rule)
        lines += ["", f"{rule}: errors {dict(score.errors)}, missed {dict(score.missed)}"]
        for name, tenth in tenths(score.stated).items():
            lines.append(f"    {name}: {tenth.matches} matches, stated {tenth.stated}, right {tenth.right}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS)
