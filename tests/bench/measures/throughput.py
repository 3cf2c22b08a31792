"""Answers per second on one core, as a share of what simpler servers manage in the same round."""

from contextlib import ExitStack

from tests.bench.lab import Lab, complaints
from tests.bench.load import CONNECTIONS, Series, Subject, alternate, ratios
from tests.bench.table import Row

HIT_OVER_LITESTAR = 0.7
MISS_OVER_HTTPX = 3.0
MISS_OVER_AIOHTTP = 0.45

ECHO, LITESTAR = "bare ASGI echo", "bare Litestar handler, same Structs"
HTTPX, AIOHTTP = "naive Litestar + httpx.AsyncClient proxy", "bare aiohttp proxy"
HIT, MISS = "firstopen, a hit", "firstopen, a miss"


def hit(lab: Lab) -> list[Row]:
    """Load one install's repeats: none of them reaches Dub."""
    with ExitStack() as running:
        upstream = running.enter_context(lab.upstream())
        echo = running.enter_context(lab.baseline("echo", upstream))
        litestar = running.enter_context(lab.baseline("litestar_handler", upstream))
        service = running.enter_context(lab.service(upstream))
        subjects = [
            Subject(ECHO, echo, "same", "none"),
            Subject(LITESTAR, litestar, "same", "none"),
            Subject(HIT, service, "same", "none"),
        ]
        found = alternate(lab, upstream, subjects)
        found[HIT].problems += complaints(service)
    return [*_rates(found), _ratio(found, HIT, LITESTAR, "a hit / bare Litestar handler", HIT_OVER_LITESTAR)]


def miss(lab: Lab) -> list[Row]:
    """Load opens that are all another install's: each of them reaches Dub."""
    with ExitStack() as running:
        upstream = running.enter_context(lab.upstream())
        httpx = running.enter_context(lab.baseline("httpx_proxy", upstream))
        aiohttp = running.enter_context(lab.baseline("aiohttp_proxy", upstream))
        service = running.enter_context(lab.service(upstream))
        subjects = [
            Subject(HTTPX, httpx, "new", "each"),
            Subject(AIOHTTP, aiohttp, "new", "each"),
            Subject(MISS, service, "new", "each"),
        ]
        found = alternate(lab, upstream, subjects)
        found[MISS].problems += complaints(service)
    return [
        *_rates(found),
        _ratio(found, MISS, HTTPX, "a miss / naive httpx proxy", MISS_OVER_HTTPX),
        _ratio(found, MISS, AIOHTTP, "a miss / bare aiohttp proxy", MISS_OVER_AIOHTTP),
    ]


def _rates(found: dict[str, Series]) -> list[Row]:
    return [
        Row(
            name=name,
            unit="req/s",
            rounds=series.rates,
            details={"connections": CONNECTIONS, "p50Ms": series.p50_ms, "p99Ms": series.p99_ms},
            problems=series.problems,
        )
        for name, series in found.items()
    ]


def _ratio(found: dict[str, Series], over: str, under: str, name: str, at_least: float) -> Row:
    return Row(name=name, rounds=ratios(found[over], found[under]), at_least=at_least)
