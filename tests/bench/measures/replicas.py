"""What replicas share: a repeat that only PostgreSQL has, and what opens and leads take there."""

from typing import Any

from tests.bench.lab import Lab, Upstream, complaints
from tests.bench.load import CONNECTIONS, POOL, Run, Subject, alternate, leads, ratios, wrk_until
from tests.bench.outside import counted, number, queued, wait_until
from tests.bench.processes import Failed, Server
from tests.bench.table import Row

SHARED_OVER_MEMORY = 0.35
OPEN_BYTES = 600
OPENS = 20_000

MEMORY_HIT, SHARED_HIT = "firstopen with PostgreSQL, a hit in process", "a repeat that only PostgreSQL has"

# Remembers fewer installs than the pool has that take turns: whoever comes has been forgotten in process.
_SMALL = """
[cache]
memory_mb = 16
"""
_SIZE = """SELECT sum(pg_total_relation_size(oid)) FROM pg_class
    WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"""
_WITHIN_S = 30
_FILLED_WITHIN_S = 120


class Misses:
    """Holds the service's own counters against what wrk has seen: how many answers it did not remember."""

    def __init__(self, service: Server) -> None:
        self._service = service
        self._before = self._now()
        self.problems: list[str] = []

    def expect_none(self, run: Run) -> None:
        """Look whether the process remembered all answers since the last look, but the first."""
        self._expect(run, at_least=0, at_most=CONNECTIONS)

    def expect_all(self, run: Run) -> None:
        """Look whether it remembered none of them."""
        self._expect(run, at_least=run.requests - CONNECTIONS, at_most=run.requests + CONNECTIONS)

    def _expect(self, run: Run, *, at_least: int, at_most: int) -> None:
        now = self._now()
        missed, self._before = now - self._before, now
        if not at_least <= missed <= at_most:
            self.problems.append(f"{run.requests} answers, {missed} of them not remembered in process")

    def _now(self) -> int:
        return counted(self._service, "firstopen_cache_total", tier="memory", result="miss")


def repeats(lab: Lab) -> list[Row]:
    """Load one service with repeats that it remembers itself, and with those that only PostgreSQL has."""
    with (
        lab.upstream() as upstream,
        lab.postgres() as postgres,
        lab.service(upstream, database_url=postgres.database(), tables=_SMALL) as service,
    ):
        _fill(lab, upstream, service)
        misses = Misses(service)
        subjects = [
            Subject(MEMORY_HIT, service, "same", "none", misses.expect_none),
            Subject(SHARED_HIT, service, "pooled", "none", misses.expect_all),
        ]
        found = alternate(lab, upstream, subjects)
        found[SHARED_HIT].problems += misses.problems + complaints(service)
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
            name="a repeat that only PostgreSQL has / a hit in process",
            rounds=ratios(found[SHARED_HIT], found[MEMORY_HIT]),
            at_least=SHARED_OVER_MEMORY,
        ),
    ]


def footprint(lab: Lab) -> list[Row]:
    """Report opens of as many installs, then leads of as many customers; what does each take, and leave?"""
    with (
        lab.upstream() as upstream,
        lab.postgres() as postgres,
        lab.service(upstream, database_url=postgres.database()) as service,
    ):
        began = Spent(service)
        run = wrk_until(
            lab, service.url, "new", lambda: upstream.calls() >= OPENS, at_most_s=_FILLED_WITHIN_S
        )
        opens = upstream.calls()
        wait_until(lambda: _opens(service) >= opens, within_s=_WITHIN_S, what="opens reach PostgreSQL")
        opened = Spent(service)
        sold = leads(lab, service.url, CONNECTIONS, lab.seconds)
        wait_until(lambda: queued(service) == 0, within_s=_WITHIN_S, what="leads reach Dub")
        count = upstream.counts().leads
        led = Spent(service)
        problems = run.problems() + sold.problems() + complaints(service)
    return [
        *opened.rows(began, opens, "new open with a deep link", OPEN_BYTES, problems),
        *led.rows(opened, count, "delivered lead", None, []),
    ]


class Spent:
    """What the service has used so far, and what PostgreSQL keeps for it: tables, indexes, free space."""

    def __init__(self, service: Server) -> None:
        self.cpu_s = service.cpu_s()
        self.bytes = number(service, _SIZE)

    def rows(
        self, before: "Spent", count: int, what: str, bytes_at_most: float | None, problems: list[str]
    ) -> list[Row]:
        """Say what one of so many has used since."""
        details: dict[str, Any] = {"count": count}
        return [
            Row(
                name=f"a {what}, with PostgreSQL: CPU of firstopen",
                unit="µs",
                rounds=[(self.cpu_s - before.cpu_s) * 1e6 / count],
                details=details,
                problems=problems,
            ),
            Row(
                name="    kept in PostgreSQL, indexes included",
                unit="B",
                rounds=[(self.bytes - before.bytes) / count],
                at_most=bytes_at_most,
            ),
        ]


def _opens(service: Server) -> int:
    return number(service, "SELECT count(*) FROM opens")


def _fill(lab: Lab, upstream: Upstream, service: Server) -> None:
    """Report the opens of the pool, and wait until PostgreSQL has them."""
    run = wrk_until(lab, service.url, "pooled", lambda: upstream.calls() >= POOL, at_most_s=_FILLED_WITHIN_S)
    if run.problems():
        raise Failed(f"the pool is not filled: {run.problems()}")
    wait_until(lambda: _opens(service) >= POOL, within_s=_WITHIN_S, what="opens reach PostgreSQL")
