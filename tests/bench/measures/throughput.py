"""Answers per second on one core, as a share of what simpler servers manage in the same round."""

from contextlib import ExitStack
from urllib.request import Request, urlopen

from tests.bench import sample
from tests.bench.lab import Lab, complaints
from tests.bench.load import Run, Series, Subject, alternate, ratios
from tests.bench.outside import counted
from tests.bench.processes import Server
from tests.bench.table import Row

LIMITED_OVER_LITESTAR = 1.1
MISS_OVER_HTTPX = 5.0
MISS_OVER_AIOHTTP = 0.45

ECHO, LITESTAR = "bare ASGI echo", "bare Litestar handler, same Structs"
HTTPX, AIOHTTP = "naive Litestar + httpx.AsyncClient proxy", "bare aiohttp proxy"
HIT, MISS = "firstopen, a hit", "firstopen, a miss"

# With every call httpx searches its whole pool. So an answer takes 2.6 ms of CPU with the 9 connections that
# it needs in the long run, but 4.6 ms with the 23 that 32 clients make it open when all begin at once. It
# closes idle ones after 5 s (``keepalive_expiry``); a round before that would flatter us up to twofold.
_HTTPX_LEAD_IN_S = 7
LIMITED = "firstopen, a hit, rate limits on"

_LIMITS = """
[limits]
per_key = "100000000/second"
per_address = "100000000/second;1000000000/day"
"""


def hit(lab: Lab) -> list[Row]:
    """Load one install's repeats: none of them reaches Dub."""
    with ExitStack() as running:
        upstream = running.enter_context(lab.upstream())
        echo = running.enter_context(lab.baseline("echo", upstream))
        litestar = running.enter_context(lab.baseline("litestar_handler", upstream))
        service = running.enter_context(lab.service(upstream))
        limited = running.enter_context(lab.service(upstream, tables=_LIMITS))
        counts = Counts(limited)
        subjects = [
            Subject(ECHO, echo, "same", "none"),
            Subject(LITESTAR, litestar, "same", "none"),
            Subject(HIT, service, "same", "none"),
            Subject(LIMITED, limited, "same", "none", counts.compare),
        ]
        found = alternate(lab, upstream, subjects)
        found[HIT].problems += complaints(service)
        found[LIMITED].problems += complaints(limited) + counts.problems + _unlimited(limited)
    return [
        *_rates(found),
        _ratio(found, HIT, LITESTAR, "a hit / bare Litestar handler", None),
        _ratio(
            found,
            LIMITED,
            LITESTAR,
            "a hit, metrics and rate limits on / bare Litestar handler",
            LIMITED_OVER_LITESTAR,
        ),
        _ratio(found, LIMITED, HIT, "    rate limits on / off", None),
    ]


class Counts:
    """Holds the service's metrics against what wrk has seen: they are on."""

    def __init__(self, service: Server) -> None:
        self._service = service
        self._before = 0
        self.problems: list[str] = []

    def compare(self, run: Run) -> None:
        """Look whether every answer was counted as a repeat."""
        repeats = counted(self._service, "firstopen_opens_total", outcome="repeat")
        if repeats - self._before < run.requests:
            self.problems.append(f"{run.requests} answers, {repeats - self._before} counted as repeats")
        self._before = repeats


def _unlimited(service: Server) -> list[str]:
    """Report another install's open, which is counted, and look whether it was."""
    request = Request(f"{service.url}/v1/opens", sample.body("limited-0").encode(), dict(sample.HEADERS))
    with urlopen(request) as reply:
        return [] if reply.headers["RateLimit-Limit"] else ["no RateLimit-Limit: rate limits are off"]


def miss(lab: Lab) -> list[Row]:
    """Load opens that are all another install's: each of them reaches Dub."""
    with ExitStack() as running:
        upstream = running.enter_context(lab.upstream())
        httpx = running.enter_context(lab.baseline("httpx_proxy", upstream))
        aiohttp = running.enter_context(lab.baseline("aiohttp_proxy", upstream))
        service = running.enter_context(lab.service(upstream))
        subjects = [
            Subject(HTTPX, httpx, "new", "each", lead_in_s=_HTTPX_LEAD_IN_S),
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
            details=series.details,
            problems=series.problems,
        )
        for name, series in found.items()
    ]


def _ratio(found: dict[str, Series], over: str, under: str, name: str, at_least: float | None) -> Row:
    return Row(name=name, rounds=ratios(found[over], found[under]), at_least=at_least)
