"""What it costs to be several: a hit that only the shared tier has, and workers side by side."""

from collections.abc import Mapping
from typing import Any

from tests.bench.lab import VALKEY_LATE, Lab, Upstream, complaints
from tests.bench.load import CONNECTIONS, POOL, Run, Subject, alternate, leads, ratios, wrk, wrk_until
from tests.bench.outside import counted, wait_until
from tests.bench.processes import Failed, Server
from tests.bench.table import Row
from tests.bench.valkey import Valkey

VALKEY_OVER_MEMORY = 0.35
TWO_OVER_ONE = 1.1
OPENS = 20_000

MEMORY_HIT, VALKEY_HIT = "firstopen with Valkey, a hit in process", "firstopen, a hit that only Valkey has"
ONE, TWO = "one worker: CPU of a hit", "two workers: CPU of a hit"

# Smaller than a pool of installs that take turns: whoever comes has been forgotten in process.
_SMALL = """
[cache]
memory_mb = 16
"""
_STRAYS = 1  # of "in process": the first of a run comes from Valkey, and others wait for it
_WITHIN_S = 30
_FILLED_WITHIN_S = 120
_KEYS = {"answer": "fo1:a:*", "open": "fo1:o:*", "install": "fo1:d:*", "lead": "fo1:{outbox}:e:*"}
_SHARE_MIN = 0.2  # of the work that each of two workers must have done


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


def workers(lab: Lab) -> list[Row]:
    """Load one worker, and two, with hits in turns, and divide their CPU time by the hits.

    Two have a core each where they are run; here they share both with the load, and so does the one.
    """
    used_us: dict[str, list[float]] = {ONE: [], TWO: []}
    shares: list[float] = []
    problems: list[str] = []
    with (
        lab.upstream() as upstream,
        lab.valkey() as valkey,
        lab.service(upstream, valkey=valkey, on_both_cores=True) as one,
        lab.service(upstream, valkey=valkey, on_both_cores=True, workers=2) as two,
    ):
        services = {ONE: one, TWO: two}
        for service in services.values():
            wrk(lab, service.url, "same", 1)
        for number in range(1, lab.rounds + 1):
            for name, service in services.items():
                calls, before = upstream.calls(), service.cpu_s()
                run = wrk(lab, service.url, "same", lab.seconds)
                each_s = _since(before, service.cpu_s())
                used_us[name].append(sum(each_s) * 1e6 / max(run.requests, 1))
                problems += [f"round {number}, {name}: {problem}" for problem in run.problems()]
                if upstream.calls() > calls:
                    problems.append(f"round {number}, {name}: upstream calls for hits")
            shares.append(
                sorted(each_s)[-2] / sum(each_s)
            )  # of the worker that did less; the parent does nothing
            lab.say(
                f"round {number} of {lab.rounds}: {used_us[ONE][-1]:.1f} and {used_us[TWO][-1]:.1f} µs, "
                f"the lesser worker's share {shares[-1]:.2f}"
            )
        problems += complaints(one, expected=VALKEY_LATE) + complaints(two, expected=VALKEY_LATE)
    if min(shares) < _SHARE_MIN:
        problems.append(f"one of the two workers did {100 * min(shares):.0f} % of the work only")
    return [
        *(Row(name=name, unit="µs", rounds=rounds) for name, rounds in used_us.items()),
        Row(
            name="two workers: CPU seconds per hit / one worker's, both with Valkey",
            rounds=[two / one for one, two in zip(used_us[ONE], used_us[TWO], strict=True)],
            at_most=TWO_OVER_ONE,
            details={"lesserShare": shares},
            problems=problems,
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
        self.service_s = sum(service.cpu_s().values())
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


def _since(before: Mapping[int, float], now: Mapping[int, float]) -> list[float]:
    return [seconds - before[pid] for pid, seconds in now.items()]
