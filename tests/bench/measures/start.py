"""How long a new pod keeps people waiting."""

from tests.bench.lab import Lab
from tests.bench.table import Row

READY_S = 1.5


def run(lab: Lab) -> list[Row]:
    """Start the service from nothing, again and again."""
    took: list[float] = []
    with lab.upstream() as upstream:
        for number in range(1, lab.rounds + 1):
            with lab.service(upstream) as service:
                took.append(service.ready_s)
            lab.say(f"round {number} of {lab.rounds}: ready in {took[-1]:.2f} s")
    return [
        Row(name="process start to first 200 on /health/ready", unit="s", rounds=took, at_most=READY_S),
    ]
