"""What a promise on disk costs: leads are durable before anything is sent, and share what that takes."""

from msgspec import Struct, field

from tests.bench import load
from tests.bench.lab import Lab, Upstream, complaints
from tests.bench.outside import commits, queued, wait_until
from tests.bench.processes import Server
from tests.bench.table import Row

CLIENTS = 64
ON_SQLITE, ON_POSTGRES = 0.1, 0.2  # commits per lead

_WARM_UP_S = 1
_WITHIN_S = 30.0


class Found(Struct):
    """What was measured, a round each."""

    per_lead: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def on_sqlite(lab: Lab) -> list[Row]:
    """Report leads from many clients at once; count what SQLite commits until all of them are delivered."""
    with lab.upstream() as upstream, lab.service(upstream) as service:
        return _rows("SQLite", _measured(lab, upstream, service), ON_SQLITE)


def on_postgres(lab: Lab) -> list[Row]:
    """Do the same on PostgreSQL."""
    with (
        lab.upstream() as upstream,
        lab.postgres() as postgres,
        lab.service(upstream, database_url=postgres.database()) as service,
    ):
        return _rows("PostgreSQL", _measured(lab, upstream, service), ON_POSTGRES)


def _rows(engine: str, found: Found, at_most: float) -> list[Row]:
    return [
        Row(
            name=f"leads delivered on {engine}, {CLIENTS} clients",
            unit="req/s",
            rounds=found.rates,
            details={"p99Ms": found.p99_ms},
        ),
        Row(
            name="    durable commits per lead",
            rounds=found.per_lead,
            at_most=at_most,
            problems=found.problems,
        ),
    ]


def _measured(lab: Lab, upstream: Upstream, service: Server) -> Found:
    found = Found()
    load.leads(lab, service.url, CLIENTS, _WARM_UP_S)
    for number in range(1, lab.rounds + 1):
        wait_until(lambda: queued(service) == 0, within_s=_WITHIN_S, what="leads reach Dub")
        leads_before, commits_before = upstream.counts().leads, commits(service)
        run = load.leads(lab, service.url, CLIENTS, lab.seconds)
        wait_until(lambda: queued(service) == 0, within_s=_WITHIN_S, what="leads reach Dub")
        leads = upstream.counts().leads - leads_before
        found.per_lead.append((commits(service) - commits_before) / max(leads, 1))
        found.rates.append(run.rate)
        found.p99_ms.append(run.p99_us / 1000)
        found.problems += [f"round {number}: {problem}" for problem in run.problems()]
        if leads < run.requests:
            found.problems.append(f"round {number}: {run.requests} leads taken, {leads} at Dub")
        lab.say(f"round {number} of {lab.rounds}: {leads} leads, {found.per_lead[-1]:.3f} commits each")
    found.problems += complaints(service)
    return found
