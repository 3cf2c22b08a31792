"""What a promise on disk costs: leads are durable before anything is sent, and share their commits."""

from tests.bench import load
from tests.bench.lab import Lab, complaints
from tests.bench.outside import commits, queued, wait_until
from tests.bench.table import Row

CLIENTS = 64
COMMITS_PER_LEAD = 0.1

_WARM_UP_S = 1
_WITHIN_S = 30.0


def run(lab: Lab) -> list[Row]:
    """Report leads from many clients at once; count what SQLite commits until all of them are delivered."""
    per_lead: list[float] = []
    rates: list[float] = []
    p99_ms: list[float] = []
    problems: list[str] = []
    with lab.upstream() as upstream, lab.service(upstream) as service:
        load.leads(lab, service.url, CLIENTS, _WARM_UP_S)
        for number in range(1, lab.rounds + 1):
            wait_until(lambda: queued(service) == 0, within_s=_WITHIN_S, what="leads reach Dub")
            leads_before, commits_before = upstream.counts().leads, commits(service)
            run = load.leads(lab, service.url, CLIENTS, lab.seconds)
            wait_until(lambda: queued(service) == 0, within_s=_WITHIN_S, what="leads reach Dub")
            leads = upstream.counts().leads - leads_before
            per_lead.append((commits(service) - commits_before) / max(leads, 1))
            rates.append(run.rate)
            p99_ms.append(run.p99_us / 1000)
            problems += [f"round {number}: {problem}" for problem in run.problems()]
            if leads < run.requests:
                problems.append(f"round {number}: {run.requests} leads taken, {leads} at Dub")
            lab.say(f"round {number} of {lab.rounds}: {leads} leads, {per_lead[-1]:.3f} commits each")
        problems += complaints(service)
    return [
        Row(
            name=f"leads delivered, {CLIENTS} clients",
            unit="req/s",
            rounds=rates,
            details={"p99Ms": p99_ms},
        ),
        Row(
            name=f"durable commits per lead on SQLite, {CLIENTS} clients",
            rounds=per_lead,
            at_most=COMMITS_PER_LEAD,
            problems=problems,
        ),
    ]
