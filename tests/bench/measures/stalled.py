"""Dub accepts calls and answers none: what do people wait, and how many can be served?"""

import statistics

import msgspec

from tests.bench.lab import Lab, Upstream, complaints
from tests.bench.load import Run, Subject, alternate, ratios, wrk, wrk_until
from tests.bench.outside import queued, wait_until
from tests.bench.paced import Arrivals, latencies_ms
from tests.bench.processes import Failed, Server, fetch
from tests.bench.table import Row

BUDGET_MS = 500
OPENS_PER_S = 200
BEYOND_MS = 100
OPENS_OVER_HITS = 0.4

HIT, OPEN = "firstopen, a hit", "firstopen, breaker open, every open another install"

# Nothing answers before its deadline: no breaker, a place in flight for everybody, calls given up soon after.
_ALL_WAIT = f"""
[dub]
breaker_failures = 10000
in_flight_max = 10000
timeout_ms = {BUDGET_MS + 250}
"""
_ASIDE = ("open.degraded", "open.late")  # as they should be
_WITHIN_S = 30.0


def budget(lab: Lab) -> list[Row]:
    """Let every open wait for a Dub that does not answer; see by how much its budget is overdrawn."""
    beyond: list[float] = []
    usual: list[float] = []
    worst: list[float] = []
    problems: list[str] = []
    arrivals = Arrivals(per_s=OPENS_PER_S, seconds=lab.seconds, budget_ms=BUDGET_MS)
    with lab.upstream() as upstream, lab.service(upstream, tables=_ALL_WAIT) as service:
        upstream.stall()
        for number in range(1, lab.rounds + 1):
            before = upstream.calls()
            took_ms, refused = latencies_ms(service.url, arrivals)
            over_ms = [took - BUDGET_MS for took in took_ms]
            cuts = statistics.quantiles(over_ms, n=100)
            usual.append(cuts[49])
            beyond.append(cuts[98])
            worst.append(max(over_ms))
            if refused:
                problems.append(f"round {number}: {refused} answers that are no 200")
            if upstream.calls() - before < len(took_ms):
                problems.append(f"round {number}: Dub was asked for {upstream.calls() - before} opens only")
            lab.say(f"round {number} of {lab.rounds}: p99 {cuts[98]:+.0f} ms, worst {worst[-1]:+.0f} ms")
        upstream.recover()
        problems += complaints(service, expected=_ASIDE)
    return [
        Row(
            name=f"upstream stalled, {OPENS_PER_S} opens/s: 99th percentile beyond the {BUDGET_MS} ms budget",
            unit="ms",
            rounds=beyond,
            at_most=BEYOND_MS,
            details={"p50Ms": usual, "worstMs": worst},
            problems=problems,
        )
    ]


def breaker(lab: Lab) -> list[Row]:
    """Load one service, Dub's breaker open, with one install's repeats and with others' opens, in turns."""
    with lab.upstream() as upstream, lab.service(upstream) as service:
        wrk(lab, service.url, "same", 1)  # one answer of Dub's, and what its link is
        owed = Owed(service)
        owed.settle(open_breaker(lab, upstream, service))
        subjects = [
            Subject(HIT, service, "same", "any"),
            Subject(OPEN, service, "new", "any", owed.settle),
        ]
        found = alternate(lab, upstream, subjects)
        waiting = queued(service)
        upstream.recover()
        found[OPEN].problems += complaints(service, expected=_ASIDE)
    return [
        *(
            Row(
                name=name,
                unit="req/s",
                rounds=series.rates,
                details=series.details,
                problems=series.problems,
            )
            for name, series in found.items()
        ),
        Row(
            name="an open, breaker open / a hit, the same service",
            rounds=ratios(found[OPEN], found[HIT]),
            at_least=OPENS_OVER_HITS,
            details={"queued": waiting, "onDiskAfterS": owed.lags_s},
        ),
    ]


def open_breaker(lab: Lab, upstream: Upstream, service: Server) -> Run:
    """Stall Dub, and let opens find that out."""
    upstream.stall()
    run = wrk_until(lab, service.url, "new", lambda: _held_back(service), at_most_s=int(_WITHIN_S))
    if not _held_back(service):
        raise Failed("the breaker does not open")
    return run


class Owed:
    """Opens that were answered without Dub: all of them must turn up in the outbox."""

    def __init__(self, service: Server) -> None:
        self._service = service
        self._opens = queued(service)
        self.lags_s: list[float] = []

    def settle(self, run: Run) -> None:
        """Wait until the run's opens are on disk."""
        self._opens += run.requests
        lag_s = wait_until(
            lambda: queued(self._service) >= self._opens, within_s=_WITHIN_S, what="opens reach the disk"
        )
        self._opens = queued(self._service)  # wrk hangs up on a few at its end
        self.lags_s.append(lag_s)


def _held_back(service: Server) -> bool:
    told = msgspec.json.decode(fetch("GET", f"{service.url}/health/ready")[1], type=dict[str, object])
    return "/track/open" in str(told["degraded"])
