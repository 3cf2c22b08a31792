"""Operators who watch opens live: what it costs the opens while they watch, and after they have left."""

import contextlib
import socket
import statistics
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

from tests.bench.lab import Lab, complaints
from tests.bench.load import Subject, alternate
from tests.bench.outside import counted, wait_until
from tests.bench.paced import Arrivals, latencies_ms
from tests.bench.processes import Failed, Server
from tests.bench.sample import BUDGET_MS, SERVER_KEY
from tests.bench.table import Row

WATCHERS = 10
OPENS_PER_S = 500
COST_OVER_BEFORE = 1.02

BEFORE, AFTER = (
    "firstopen, a hit, nobody has ever watched",
    f"firstopen, a hit, {WATCHERS} watchers have left",
)

_WITHIN_S = 20.0
_ANSWER_BYTES = 65536


def run(lab: Lab) -> list[Row]:
    """Compare hits before and after; then report first opens on PostgreSQL, without watchers and with."""
    return [_after(lab), *_meanwhile(lab)]


def _after(lab: Lab) -> Row:
    with lab.upstream() as upstream, lab.service(upstream) as never, lab.service(upstream) as left:
        with watching(left):
            pass
        found = alternate(
            lab, upstream, [Subject(BEFORE, never, "same", "any"), Subject(AFTER, left, "same", "any")]
        )
        before, after = found[BEFORE], found[AFTER]
        return Row(
            name="CPU time of a hit after watchers have left / before any came",
            rounds=[late / early for late, early in zip(after.cpu_us, before.cpu_us, strict=True)],
            at_most=COST_OVER_BEFORE,
            problems=[*before.problems, *after.problems, *complaints(never), *complaints(left)],
        )


def _meanwhile(lab: Lab) -> list[Row]:
    """Count opens that are answered later than their budget, and compare how long the usual one takes."""
    arrivals = Arrivals(per_s=OPENS_PER_S, seconds=lab.seconds, budget_ms=BUDGET_MS)
    delayed: list[float] = []
    longer: list[float] = []
    shown = 0
    problems: list[str] = []
    with (
        lab.upstream() as upstream,
        lab.postgres() as postgres,
        lab.service(upstream, database_url=postgres.database()) as service,
    ):
        latencies_ms(service.url, arrivals)
        for number in range(1, lab.rounds + 1):
            alone_ms, refused_alone = latencies_ms(service.url, arrivals)
            with watching(service) as watchers:
                took_ms, refused = latencies_ms(service.url, arrivals)
                shown += min(each.received for each in watchers)
            delayed.append(sum(took > BUDGET_MS for took in took_ms))
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
        Row(name="    99th percentile, with watchers - without", unit="ms", rounds=longer),
    ]


class Watcher:
    """A connection to ``GET /v1/opens/live`` that a thread reads."""

    def __init__(self, service: Server) -> None:
        parts = urlsplit(service.url)
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout=_WITHIN_S)
        self._socket.sendall(
            f"GET /v1/opens/live HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Authorization: Bearer {SERVER_KEY}\r\n\r\n".encode()
        )
        head = self._socket.recv(_ANSWER_BYTES)
        if not head.startswith(b"HTTP/1.1 200 "):
            raise Failed(f"a watcher was refused: {head[:80]!r}")
        self.received = 0  # bytes
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._socket.recv(_ANSWER_BYTES):
                self.received += len(data)

    def leave(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(_WITHIN_S)
        self._socket.close()


@contextlib.contextmanager
def watching(service: Server) -> Iterator[list[Watcher]]:
    """Keep ``WATCHERS`` connected, then wait until the service has noticed that they left."""
    watchers = [Watcher(service) for _ in range(WATCHERS)]
    try:
        yield watchers
    finally:
        for each in watchers:
            each.leave()
    wait_until(
        lambda: counted(service, "firstopen_live_watchers") == 0,
        within_s=_WITHIN_S,
        what="the watchers' places are free",
    )


def _p99(took_ms: list[float]) -> float:
    return statistics.quantiles(took_ms, n=100)[98]
