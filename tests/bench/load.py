"""wrk: runs of it, and several servers under it in turns."""

import secrets
import signal
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from msgspec import Struct, json

from tests.bench import sample
from tests.bench.lab import Lab, Upstream
from tests.bench.processes import Failed, Server, clean_env, fetch

CONNECTIONS = 32

_SCRIPT = Path(__file__).with_name("opens.lua")
_CLICK_ID_CHARS = 16
_WARM_UP_S = 1
_RUNS_AT_ONCE = 3
_ASKED_EVERY_S = 0.1

POOL = 12_000  # installs: more than a process with [cache] memory_mb = 16 remembers

# One install's again and again; every time another's; a pool's installs in turns, on from where the last run
# ended; or first launches without a link, each another install's at an address that no run used before.
Opens = Literal["same", "new", "pooled", "first launch"]
Upcalls = Literal["none", "each", "any"]  # what an open may cost upstream


_OPENS: dict[Opens, str] = {
    "same": sample.body(sample.INSTALL),
    "new": sample.body("INSTALL"),
    "pooled": sample.body("INSTALL"),
    "first launch": sample.ip_matching("INSTALL"),
}
_used: Counter[tuple[str, Opens]] = Counter()  # installs of a pool, or addresses, by server


class Run(Struct, frozen=True):
    """What wrk said of one run. ``refused`` counts answers that are no 2xx."""

    requests: int
    duration_us: int
    p50_us: int
    p99_us: int
    refused: int
    connect: int
    read: int
    write: int
    timeout: int

    @property
    def rate(self) -> float:
        """Return answers per second."""
        return self.requests / (self.duration_us / 1e6)

    def problems(self) -> list[str]:
        """Return everything that was not an answer in time."""
        counts = {
            "answers that are no 2xx": self.refused,
            "connect errors": self.connect,
            "read errors": self.read,
            "write errors": self.write,
            "timeouts": self.timeout,
        }
        found = [f"{count} {what}" for what, count in counts.items() if count]
        return found if self.requests else [*found, "no answer at all"]


def _nothing(_: Run) -> None:
    """Wait for nothing."""


class Subject(Struct, frozen=True):
    """A server under load; ``upcalls`` is what is held against the upstream's own count.

    ``settle`` waits for what a run leaves to do, so that the next subject does not pay for it. Before each of
    its rounds, a subject is loaded for ``lead_in_s`` seconds, if what it does depends on what it did last.
    """

    name: str
    server: Server
    opens: Opens
    upcalls: Upcalls
    settle: Callable[[Run], None] = _nothing
    lead_in_s: int = 0
    connections: int = CONNECTIONS


class Series(Struct):
    """One subject's rates, a round each, and what went wrong in any of its runs."""

    rates: list[float] = []
    p50_ms: list[float] = []
    p99_ms: list[float] = []
    cpu_us: list[float] = []  # of the server, an answer: steadier than rates on a busy machine
    problems: list[str] = []
    connections: int = CONNECTIONS

    @property
    def details(self) -> dict[str, object]:
        """Return what the table's JSON tells beside the rates."""
        return {
            "connections": self.connections,
            "p50Ms": self.p50_ms,
            "p99Ms": self.p99_ms,
            "cpuUs": [round(each, 1) for each in self.cpu_us],
        }


def wrk(lab: Lab, url: str, opens: Opens, seconds: int, connections: int = CONNECTIONS) -> Run:
    """Load one server with opens for whole seconds; raises ``Failed`` if wrk does."""
    with _opens(lab, url, opens, seconds, connections) as running:
        run = _result(running, seconds)
    _used[url, opens] += run.requests + connections  # those under way at the end
    return run


def leads(lab: Lab, url: str, clients: int, seconds: int) -> Run:
    """Load one server with leads, each another customer's, from so many clients at once."""
    with _wrk(lab, f"{url}/v1/leads", sample.lead("INSTALL"), clients, seconds, {}) as running:
        return _result(running, seconds)


def wrk_until(lab: Lab, url: str, opens: Opens, over: Callable[[], bool], *, at_most_s: int) -> Run:
    """Load one server with opens until something is over, asked ten times a second; raises ``Failed``."""
    with _opens(lab, url, opens, at_most_s) as running:
        while running.poll() is None:
            if over():
                running.send_signal(signal.SIGINT)  # wrk then says what it has seen so far
                break
            time.sleep(_ASKED_EVERY_S)
        run = _result(running, at_most_s)
    _used[url, opens] += run.requests + CONNECTIONS
    return run


@contextmanager
def _opens(
    lab: Lab, url: str, opens: Opens, seconds: int, connections: int = CONNECTIONS
) -> Iterator[subprocess.Popen[str]]:
    settings = {"BENCH_SKIP": str(_used[url, opens])}
    if opens == "pooled":
        settings |= {"BENCH_RUN": "00000000", "BENCH_POOL": str(POOL)}
    with _wrk(lab, f"{url}/v1/opens", _OPENS[opens], connections, seconds, settings) as running:
        yield running


@contextmanager
def _wrk(
    lab: Lab, url: str, body: str, connections: int, seconds: int, settings: Mapping[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """Start wrk with a body; INSTALL in it becomes another install's id in every request."""
    env = {**clean_env(), "BENCH_BODY": body}
    if "INSTALL" in body:
        env["BENCH_RUN"] = secrets.token_hex(4)
    env.update(settings)
    headers = [part for name, value in sample.HEADERS.items() for part in ("-H", f"{name}: {value}")]
    command = ["taskset", "-c", str(lab.load_core), "wrk", "-t1", f"-c{connections}", f"-d{seconds}"]
    with subprocess.Popen(
        [*command, "-s", str(_SCRIPT), *headers, url],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def _result(running: subprocess.Popen[str], seconds: int) -> Run:
    said, complained = running.communicate(timeout=seconds + 30)
    _, found, result = said.partition("BENCH ")
    if not found:
        raise Failed(f"wrk: {(complained or said).strip()}")
    return json.decode(result, type=Run)


def alternate(
    lab: Lab, upstream: Upstream, subjects: Sequence[Subject], rounds: int | None = None
) -> dict[str, Series]:
    """Load the subjects in turns, round after round, so that the machine's noise hits all alike.

    ``rounds`` are the lab's, unless a bound is so tight that it needs more.
    """
    rounds = rounds or lab.rounds
    found = {subject.name: Series(connections=subject.connections) for subject in subjects}
    for subject in subjects:
        lab.say(f"warming up {subject.name}")
        found[subject.name].problems += _first_answer(subject)
        run, problems = _checked(lab, upstream, subject, _WARM_UP_S)
        subject.settle(run)
        found[subject.name].problems += problems
    for number in range(1, rounds + 1):
        for subject in subjects:
            if subject.lead_in_s:
                subject.settle(
                    wrk(lab, subject.server.url, subject.opens, subject.lead_in_s, subject.connections)
                )
            before_s = subject.server.cpu_s()
            run, problems = _checked(lab, upstream, subject, lab.seconds)
            series = found[subject.name]
            series.cpu_us.append((subject.server.cpu_s() - before_s) / max(run.requests, 1) * 1e6)
            subject.settle(run)
            series.rates.append(run.rate)
            series.p50_ms.append(run.p50_us / 1000)
            series.p99_ms.append(run.p99_us / 1000)
            series.problems += [f"round {number}: {problem}" for problem in problems]
        told = "  ".join(f"{name} {series.rates[-1]:,.0f}/s" for name, series in found.items())
        lab.say(f"round {number} of {rounds}: {told}")
    return found


def cpu_ratio(lab: Lab, over: Server, under: Server) -> tuple[float, list[str]]:
    """Return the CPU time of a hit on one server over that on another, and what went wrong.

    Both are under load at the same time on the same core, so that the machine's noise hits both alike. The
    median of three runs, after a warm-up, varies by 1 %; that of servers in turns varies by 10 %.
    """
    servers = over, under
    found: list[float] = []
    problems: list[str] = []
    with ThreadPoolExecutor(len(servers)) as pool:
        for seconds in (_WARM_UP_S, *[lab.seconds] * _RUNS_AT_ONCE):
            before_s = [each.cpu_s() for each in servers]
            runs = list(pool.map(lambda each, for_s=seconds: wrk(lab, each.url, "same", for_s), servers))
            used_s = [each.cpu_s() - was for each, was in zip(servers, before_s, strict=True)]
            cost, other = (used / max(run.requests, 1) for used, run in zip(used_s, runs, strict=True))
            found.append(cost / other)
            problems += [problem for run in runs for problem in run.problems()]
    return statistics.median(found[1:]), problems


def ratios(over: Series, under: Series) -> list[float]:
    """Return the ratio in each round."""
    return [a / b if b else 0.0 for a, b in zip(over.rates, under.rates, strict=True)]


def _first_answer(subject: Subject) -> list[str]:
    """Report one open by hand: a fast wrong answer must not win."""
    url = f"{subject.server.url}/v1/opens"
    status, answer = fetch("POST", url, sample.body(sample.INSTALL), sample.HEADERS)
    if status != 200:
        return [f"its first answer is {status}: {answer[:200]!r}"]
    if subject.upcalls == "each":
        click_id = json.decode(answer).get("clickId")
        if not isinstance(click_id, str) or len(click_id) != _CLICK_ID_CHARS:
            return [f"its first answer has no clickId: {answer[:200]!r}"]
    return []


def _checked(lab: Lab, upstream: Upstream, subject: Subject, seconds: int) -> tuple[Run, list[str]]:
    before = upstream.calls()
    run = wrk(lab, subject.server.url, subject.opens, seconds, subject.connections)
    calls = upstream.calls() - before
    problems = run.problems()
    if subject.upcalls == "none" and calls:
        problems.append(f"{calls} upstream calls for opens that need none")
    if subject.upcalls == "each" and calls < run.requests - run.refused:
        problems.append(f"{run.requests} answers, but only {calls} upstream calls")
    return run, problems
