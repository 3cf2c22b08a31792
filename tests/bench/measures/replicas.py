"""Measure what replicas share: a hit that only the shared tier has, and what opens and leads take there."""

from typing import Any

from tests.bench.lab import VALKEY_LATE, Lab, Upstream, complaints
from tests.bench.load import CONNECTIONS, POOL, Run, Subject, alternate, leads, ratios, wrk_until
from tests.bench.outside import counted, wait_until
from tests.bench.processes import Failed, Server
from tests.bench.table import Row
from tests.bench.valkey import Valkey

VALKEY_OVER_MEMORY = 0.35
OPENS = 20_000

MEMORY_HIT, VALKEY_HIT = "firstopen with Valkey, a hit in process", "firstopen, a hit that only Valkey has"

# Smaller than a pool of installs that take turns: whoever comes has been forgotten in process.
_SMALL = """
[cache]
memory_mb = 16
"""
_STRAYS = 1  # of "in process": the first of a run comes from Valkey, and others wait for it
_WITHIN_S = 30
_FILLED_WITHIN_S = 120
_KEYS = {"answer": "fo1:a:*", "open": "fo1:o:*", "install": "fo1:d:*", "lead": "fo1:{outbox}:e:*"}


class Tier:
    """Holds the service's own counters against what wrk has seen: which tier had the answers."""

    def __init__(self, service: Server, tier: str) -> None:
        self._service = service
        self._tier = tier
        self._before = self._now()
        self.problems: list[str] = []

    def rebase(self) -> None:
        """Count from here."""
        self._before = self._now()

    def compare(self, run: Run) -> None:
        """Look whether all the answers since came from this tier."""
        hits = {tier: count - self._before[tier] for tier, count in self._now().items()}
        here = hits.pop(self._tier)
        if here < run.requests - CONNECTIONS or sum(hits.values()) > _STRAYS:
            self.problems.append(f"{run.requests} answers, {here} hits in {self._tier}, {hits}")

    def _now(self) -> dict[str, int]:
        return {
            tier: counted(self._service, "firstopen_cache_total", tier=tier, result="hit")
            for tier in ("memory", "valkey")
        }


def tiers(lab: Lab) -> list[Row]:
    """Load one service with repeats that it remembers itself, and with those that only Valkey has."""
    with (
        lab.upstream() as upstream,
        lab.valkey() as valkey,
        lab.service(upstream, valkey=valkey, tables=_SMALL) as service,
    ):
        _fill(lab, upstream, valkey, service)
        in_process, in_valkey = Tier(service, "memory"), Tier(service, "valkey")

        def told_in_process(run: Run) -> None:
            in_process.compare(run)
            in_valkey.rebase()

        def told_in_valkey(run: Run) -> None:
            in_valkey.compare(run)
            in_process.rebase()

        subjects = [
            Subject(MEMORY_HIT, service, "same", "none", told_in_process),
            Subject(VALKEY_HIT, service, "pooled", "none", told_in_valkey),
        ]
        found = alternate(lab, upstream, subjects)
        found[MEMORY_HIT].problems += in_process.problems
        found[VALKEY_HIT].problems += in_valkey.problems + complaints(service, expected=VALKEY_LATE)
    return [
        *(
            Row(
                name=name,
                unit="req/s",
                rounds=series.rates,
                details={"connections": CONNECTIONS, "p50Ms": series.p50_ms, "p99Ms": series.p99_ms},
                problems=series.problems,
            )
            for name, series in found.items()
        ),
        Row(
            name="a hit that only Valkey has / a hit in process, the same service",
            rounds=ratios(found[VALKEY_HIT], found[MEMORY_HIT]),
            at_least=VALKEY_OVER_MEMORY,
        ),
    ]


def footprint(lab: Lab) -> list[Row]:
    """Report opens of as many installs, then leads of as many customers; what does each take, and leave?"""
    with lab.upstream() as upstream, lab.valkey() as valkey, lab.service(upstream, valkey=valkey) as service:
        began = Spent(valkey, service)
        run = wrk_until(
            lab, service.url, "new", lambda: upstream.calls() >= OPENS, at_most_s=_FILLED_WITHIN_S
        )
        opens = upstream.calls()
        wait_until(lambda: valkey.answers() >= opens, within_s=_WITHIN_S, what="answers reach Valkey")
        opened = Spent(valkey, service)
        sold = leads(lab, service.url, CONNECTIONS, lab.seconds)
        wait_until(lambda: valkey.queued_leads() == 0, within_s=_WITHIN_S, what="leads reach Dub")
        count = upstream.counts().leads
        led = Spent(valkey, service)
        keys = {name: valkey.key_bytes(pattern) for name, pattern in _KEYS.items()}
        problems = run.problems() + sold.problems() + complaints(service, expected=VALKEY_LATE)
    return [
        *opened.rows(began, opens, "new open with a deep link", {"bytesPerKey": keys}, problems),
        *led.rows(opened, count, "delivered lead", {}, []),
    ]


class Spent:
    """What the service and Valkey have used so far."""

    def __init__(self, valkey: Valkey, service: Server) -> None:
        self.service_s = service.cpu_s()
        self.valkey_s = valkey.cpu_s()
        self.bytes = valkey.used_bytes()

    def rows(
        self, before: "Spent", count: int, what: str, details: dict[str, Any], problems: list[str]
    ) -> list[Row]:
        """Say what one of so many has used since."""
        each = f"    of a {what}"
        return [
            Row(
                name=f"with Valkey, {count:,} times a {what}: CPU of firstopen",
                unit="µs",
                rounds=[(self.service_s - before.service_s) * 1e6 / count],
                details=details,
                problems=problems,
            ),
            Row(
                name=f"{each}: CPU of Valkey",
                unit="µs",
                rounds=[(self.valkey_s - before.valkey_s) * 1e6 / count],
            ),
            Row(name=f"{each}: memory of Valkey", unit="B", rounds=[(self.bytes - before.bytes) / count]),
        ]


def _fill(lab: Lab, upstream: Upstream, valkey: Valkey, service: Server) -> None:
    """Report the opens of both pools, and wait until Valkey has their answers."""
    for pool in (1, 2):
        run = wrk_until(
            lab,
            service.url,
            "pooled",
            lambda: upstream.calls() >= pool * POOL,  # noqa: B023  called at once
            at_most_s=_WITHIN_S,
        )
        if run.problems():
            raise Failed(f"the pools are not filled: {run.problems()}")
    wait_until(lambda: valkey.answers() >= 2 * POOL, within_s=_WITHIN_S, what="answers reach Valkey")
