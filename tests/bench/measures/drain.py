"""After an outage: how soon has Dub what it missed, and what do people notice of that?

Opens of the moment find out whether Dub answers again, and what is queued never does: so people go on
opening links, one a second, as they would.
"""

import secrets
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench import sample
from tests.bench.lab import Lab, Upstream, complaints
from tests.bench.load import wrk, wrk_until
from tests.bench.measures.stalled import Owed, open_breaker
from tests.bench.outside import queued, wait_until
from tests.bench.processes import Failed, Server, fetch
from tests.bench.table import Row

OPENS = 10_000
WITHIN_S = 30
HITS_KEPT = 0.6

_ROUNDS_MAX = 3  # each is an outage and the recovery from it
_FILLS_MAX = 60
_GIVEN_UP_S = 120
_EVERY_S = 1.0
_ASIDE = ("open.degraded", "open.late")  # as they should be


def run(lab: Lab) -> list[Row]:
    """Queue opens while Dub is away, let it come back, and load hits until it has heard of all of them."""
    took_s: list[float] = []
    kept: list[float] = []
    opens: list[int] = []
    problems: list[str] = []
    rounds = min(lab.rounds, _ROUNDS_MAX)
    with lab.upstream() as upstream, lab.service(upstream) as service:
        wrk(lab, service.url, "same", 1)  # one answer of Dub's, and what its link is
        for number in range(1, rounds + 1):
            before = wrk(lab, service.url, "same", lab.seconds)
            opens.append(_fill(lab, upstream, service))
            heard = upstream.counts().opens
            with _people(service):
                upstream.recover()
                until_first_s = wait_until(
                    lambda: upstream.counts().opens - heard > OPENS // 100,  # noqa: B023  called at once
                    within_s=_GIVEN_UP_S,
                    what="the breaker closes again",
                )
                meanwhile = wrk_until(
                    lab, service.url, "same", lambda: queued(service) == 0, at_most_s=_GIVEN_UP_S
                )
            drained_s = until_first_s + meanwhile.duration_us / 1e6
            after = wrk(lab, service.url, "same", lab.seconds)
            took_s.append(drained_s * OPENS / opens[-1])
            usual = statistics.mean((before.rate, after.rate))
            kept.append(meanwhile.rate / usual if usual else 0.0)
            problems += [
                f"round {number}: {each}" for run in (before, meanwhile, after) for each in run.problems()
            ]
            if upstream.counts().opens - heard < opens[-1]:
                problems.append(f"round {number}: Dub heard of {upstream.counts().opens - heard} only")
            lab.say(
                f"round {number} of {rounds}: {opens[-1]:,} opens in {drained_s:.1f} s "
                f"({until_first_s:.1f} s until the breaker closed), hits at {kept[-1]:.2f} of {usual:,.0f}/s"
            )
        problems += complaints(service, expected=_ASIDE)
    return [
        Row(
            name=f"drain: {OPENS:,} queued opens reach Dub after an outage",
            unit="s",
            rounds=took_s,
            at_most=WITHIN_S,
            details={"opens": opens},
        ),
        Row(name="    hits meanwhile / before and after", rounds=kept, at_least=HITS_KEPT, problems=problems),
    ]


@contextmanager
def _people(service: Server) -> Iterator[None]:
    """Report another install's open every second, until the block ends."""
    over = threading.Event()

    def report() -> None:
        while not over.wait(_EVERY_S):
            fetch("POST", f"{service.url}/v1/opens", sample.body(secrets.token_hex(16)), sample.HEADERS)

    thread = threading.Thread(target=report)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _fill(lab: Lab, upstream: Upstream, service: Server) -> int:
    """Stall Dub, and report opens until there are enough in the outbox; return how many."""
    owed = Owed(service)
    owed.settle(open_breaker(lab, upstream, service))
    for _ in range(_FILLS_MAX):
        waiting = queued(service)
        lab.say(f"{waiting:,} of {OPENS:,} opens queued")
        if waiting >= OPENS:
            return waiting
        owed.settle(wrk(lab, service.url, "new", 1))
    raise Failed(f"only {waiting:,} opens queued after {_FILLS_MAX} runs of wrk")
