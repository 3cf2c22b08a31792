"""What a promise on disk costs: leads are durable before anything is sent, and share what that takes."""

from collections.abc import Callable

from msgspec import Struct, field

from tests.bench import load
from tests.bench.lab import VALKEY_LATE, Lab, Upstream, complaints
from tests.bench.outside import commits, queued, wait_until
from tests.bench.processes import Server
from tests.bench.table import Row

CLIENTS = 64
COMMITS_PER_LEAD = 0.1
FSYNCS_PER_LEAD = 0.2

_WARM_UP_S = 1
_WITHIN_S = 30.0


class Store(Struct, frozen=True):
    """Where leads are kept: how many wait there, and what it has done to be sure of its disk."""

    queued: Callable[[], int]
    syncs: Callable[[], int]
    unit: str


class Found(Struct):
    """What was measured, a round each."""

    per_lead: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def run(lab: Lab) -> list[Row]:
    """Report leads from many clients at once; count what SQLite commits until all of them are delivered."""
    with lab.upstream() as upstream, lab.service(upstream) as service:
        store = Store(lambda: queued(service), lambda: commits(service), "commits")
        found = _measured(lab, upstream, service, store)
    return [
        _rate(f"leads delivered, {CLIENTS} clients", found),
        Row(
            name=f"durable commits per lead on SQLite, {CLIENTS} clients",
            rounds=found.per_lead,
            at_most=COMMITS_PER_LEAD,
            problems=found.problems,
        ),
    ]


def streams(lab: Lab) -> list[Row]:
    """Do the same on Valkey; count its fsyncs."""
    with (
        lab.upstream() as upstream,
        lab.valkey(is_traced=True) as valkey,
        lab.service(upstream, valkey=valkey) as service,
    ):
        store = Store(valkey.queued_leads, valkey.fsyncs, "fsyncs")
        found = _measured(lab, upstream, service, store)
    return [
        _rate(f"leads delivered on Streams, {CLIENTS} clients", found),
        Row(
            name=f"fsyncs per lead on Streams (appendfsync always, by strace), {CLIENTS} clients",
            rounds=found.per_lead,
            at_most=FSYNCS_PER_LEAD,
            problems=found.problems,
        ),
    ]


def _measured(lab: Lab, upstream: Upstream, service: Server, store: Store) -> Found:
    found = Found()
    load.leads(lab, service.url, CLIENTS, _WARM_UP_S)
    for number in range(1, lab.rounds + 1):
        wait_until(lambda: store.queued() == 0, within_s=_WITHIN_S, what="leads reach Dub")
        leads_before, syncs_before = upstream.counts().leads, store.syncs()
        run = load.leads(lab, service.url, CLIENTS, lab.seconds)
        wait_until(lambda: store.queued() == 0, within_s=_WITHIN_S, what="leads reach Dub")
        leads = upstream.counts().leads - leads_before
        found.per_lead.append((store.syncs() - syncs_before) / max(leads, 1))
        found.rates.append(run.rate)
        found.p99_ms.append(run.p99_us / 1000)
        found.problems += [f"round {number}: {problem}" for problem in run.problems()]
        if leads < run.requests:
            found.problems.append(f"round {number}: {run.requests} leads taken, {leads} at Dub")
        lab.say(f"round {number} of {lab.rounds}: {leads} leads, {found.per_lead[-1]:.3f} {store.unit} each")
    found.problems += complaints(service, expected=VALKEY_LATE)
    return found


def _rate(name: str, found: Found) -> Row:
    return Row(name=name, unit="req/s", rounds=found.rates, details={"p99Ms": found.p99_ms})
