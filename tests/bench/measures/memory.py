"""What remembering costs."""

from tests.bench.lab import Lab, Upstream, complaints
from tests.bench.load import wrk
from tests.bench.processes import Failed, Server
from tests.bench.table import Row

OPENS = 100_000
OPENS_MB = 100

_MB = 1_000_000
_SLICE_S = 5
_SLICES_MAX = 60


def run(lab: Lab) -> list[Row]:
    """Fill a new service with opens of as many installs, and scale what they took to exactly 100,000."""
    with lab.upstream() as upstream, lab.service(upstream) as service:
        empty = service.rss_bytes()
        opens, problems = _fill(lab, upstream, service)
        full = service.rss_bytes()
        problems += complaints(service)
    return [
        Row(name="resident memory, started and empty", unit="MB", rounds=[empty / _MB]),
        Row(
            name=f"resident memory for {OPENS:,} cached opens, above empty",
            unit="MB",
            rounds=[(full - empty) / _MB * OPENS / opens],
            at_most=OPENS_MB,
            details={"opens": opens, "fullMb": full / _MB},
            problems=problems,
        ),
    ]


def _fill(lab: Lab, upstream: Upstream, service: Server) -> tuple[int, list[str]]:
    """Report opens until there are enough, the last second's worth too many at most."""
    problems: list[str] = []
    seconds = 1
    for _ in range(_SLICES_MAX):
        run = wrk(lab, service.url, "new", seconds)
        problems += run.problems()
        opens = upstream.calls()
        lab.say(f"{opens:,} of {OPENS:,} opens")
        if opens >= OPENS:
            return opens, problems
        seconds = max(1, min(_SLICE_S, int((OPENS - opens) / (run.rate or 1))))
    raise Failed(f"only {opens:,} opens after {_SLICES_MAX} runs of wrk")
