"""Operators who watch opens live: what it costs the opens while they watch, and after they have left."""

import contextlib
import statistics
import subprocess
import sys
from collections.abc import Iterator

from tests.bench.lab import Lab, complaints
from tests.bench.load import cpu_ratio
from tests.bench.outside import counted, wait_until
from tests.bench.paced import Arrivals, latencies_ms
from tests.bench.processes import ROOT, Failed, Server, end, last_words
from tests.bench.sample import BUDGET_MS
from tests.bench.table import Row

WATCHERS = 10
OPENS_PER_S = 500
COST_OVER_BEFORE = 1.02

_WITHIN_S = 20.0


def run(lab: Lab) -> list[Row]:
    """Compare hits before and after; then report first opens on PostgreSQL, without watchers and with."""
    return [_after(lab), *_meanwhile(lab)]


def _after(lab: Lab) -> Row:
    """Compare a process with another one before and after it is watched: two of the same code may differ."""
    rounds: list[float] = []
    problems: list[str] = []
    with lab.upstream() as upstream:
        for number in range(1, lab.rounds + 1):
            with lab.service(upstream) as watched, lab.service(upstream) as other:
                before, went_wrong = cpu_ratio(lab, watched, other)
                with watching(lab, watched):
                    pass
                after, went_wrong_after = cpu_ratio(lab, watched, other)
                problems += [*went_wrong, *went_wrong_after, *complaints(watched), *complaints(other)]
            rounds.append(after / before)
            lab.say(f"round {number} of {lab.rounds}: a hit takes {rounds[-1]:.3f} of the CPU time of before")
    return Row(
        name="CPU time of a hit after watchers have left / before any came",
        rounds=rounds,
        at_most=COST_OVER_BEFORE,
        problems=problems,
    )


def _meanwhile(lab: Lab) -> list[Row]:
    """Count opens that are answered later than their budget, and compare how long the usual one takes."""
    arrivals = Arrivals(per_s=OPENS_PER_S, seconds=lab.seconds, budget_ms=BUDGET_MS)
    delayed: list[float] = []
    delayed_alone: list[float] = []
    longer: list[float] = []
    dearer: list[float] = []
    shown = 0
    problems: list[str] = []
    with (
        lab.upstream() as upstream,
        lab.postgres() as postgres,
        lab.service(upstream, database_url=postgres.database()) as service,
    ):
        latencies_ms(service.url, arrivals)
        for number in range(1, lab.rounds + 1):
            began_s = service.cpu_s()
            alone_ms, refused_alone = latencies_ms(service.url, arrivals)
            alone_s = service.cpu_s() - began_s
            with watching(lab, service) as watchers:
                began_s = service.cpu_s()
                took_ms, refused = latencies_ms(service.url, arrivals)
                dearer.append((service.cpu_s() - began_s) / alone_s)
            shown += watchers.received
            delayed.append(sum(took > BUDGET_MS for took in took_ms))
            delayed_alone.append(sum(took > BUDGET_MS for took in alone_ms))
            longer.append(_p99(took_ms) - _p99(alone_ms))
            if refused or refused_alone:
                problems.append(f"round {number}: {refused + refused_alone} answers that are no 200")
            lab.say(f"round {number} of {lab.rounds}: {delayed[-1]:.0f} delayed, p99 {longer[-1]:+.1f} ms")
        if not shown:
            problems.append("the watchers were sent nothing")
        problems += complaints(service)
    return [
        Row(
            name=f"{OPENS_PER_S} first opens/s, {WATCHERS} watchers: answers beyond the budget",
            rounds=delayed,
            at_least=0,
            at_most=0,
            problems=problems,
        ),
        Row(name="    the same without watchers: the machine's", rounds=delayed_alone),
        Row(name="    99th percentile, with watchers - without", unit="ms", rounds=longer),
        Row(name="    CPU time of an open, with watchers / without", rounds=dearer),
    ]


class Watchers:
    """What the process of ``WATCHERS`` connections reports when it has ended."""

    received = 0  # opens, of the one that got the fewest


@contextlib.contextmanager
def watching(lab: Lab, service: Server) -> Iterator[Watchers]:
    """Keep ``WATCHERS`` connected, then wait until the service has noticed that they left."""
    found = Watchers()
    log = lab.new_folder("watching") / "log"
    command = [sys.executable, "-m", "tests.bench.watching", service.url, str(WATCHERS)]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            ["taskset", "-c", str(lab.load_core), *command],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise Failed(f"the watchers did not connect:{last_words(log)}")
        yield found
        said, _ = process.communicate(timeout=_WITHIN_S)
        if not said:
            raise Failed(f"the watchers ended early:{last_words(log)}")
        found.received = int(said)
    finally:
        end(process)
    wait_until(
        lambda: counted(service, "firstopen_live_watchers") == 0,
        within_s=_WITHIN_S,
        what="the watchers' places are free",
    )


def _p99(took_ms: list[float]) -> float:
    return statistics.quantiles(took_ms, n=100)[98]
