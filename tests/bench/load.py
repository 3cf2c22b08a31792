"""wrk: runs of it, and several servers under it in turns."""

import secrets
import subprocess
from collections.abc import Sequence
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

Opens = Literal["same", "new"]  # one install's again and again, or every time another's
Upcalls = Literal["none", "each"]  # what an open may cost upstream


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


class Subject(Struct, frozen=True):
    """A server under load; ``upcalls`` is what is held against the upstream's own count."""

    name: str
    server: Server
    opens: Opens
    upcalls: Upcalls


class Series(Struct):
    """One subject's rates, a round each, and what went wrong in any of its runs."""

    rates: list[float]
    p50_ms: list[float]
    p99_ms: list[float]
    problems: list[str]


def wrk(lab: Lab, url: str, opens: Opens, seconds: int) -> Run:
    """Load one server with opens for whole seconds; raises ``Failed`` if wrk does."""
    env = {**clean_env(), "BENCH_BODY": sample.body(sample.INSTALL)}
    if opens == "new":
        env["BENCH_BODY"] = sample.body("INSTALL")
        env["BENCH_RUN"] = secrets.token_hex(4)
    headers = [part for name, value in sample.HEADERS.items() for part in ("-H", f"{name}: {value}")]
    command = ["taskset", "-c", str(lab.load_core), "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}"]
    done = subprocess.run(
        [*command, "-s", str(_SCRIPT), *headers, f"{url}/v1/opens"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + 30,
    )
    _, found, result = done.stdout.partition("BENCH ")
    if not found:
        raise Failed(f"wrk: {(done.stderr or done.stdout).strip()}")
    return json.decode(result, type=Run)


def alternate(lab: Lab, upstream: Upstream, subjects: Sequence[Subject]) -> dict[str, Series]:
    """Load the subjects in turns, round after round, so that the machine's noise hits all alike."""
    found = {subject.name: Series([], [], [], []) for subject in subjects}
    for subject in subjects:
        lab.say(f"warming up {subject.name}")
        found[subject.name].problems += _first_answer(subject)
        _, problems = _checked(lab, upstream, subject, _WARM_UP_S)
        found[subject.name].problems += problems
    for number in range(1, lab.rounds + 1):
        for subject in subjects:
            run, problems = _checked(lab, upstream, subject, lab.seconds)
            series = found[subject.name]
            series.rates.append(run.rate)
            series.p50_ms.append(run.p50_us / 1000)
            series.p99_ms.append(run.p99_us / 1000)
            series.problems += [f"round {number}: {problem}" for problem in problems]
        told = "  ".join(f"{name} {series.rates[-1]:,.0f}/s" for name, series in found.items())
        lab.say(f"round {number} of {lab.rounds}: {told}")
    return found


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
    run = wrk(lab, subject.server.url, subject.opens, seconds)
    calls = upstream.calls() - before
    problems = run.problems()
    if subject.upcalls == "none" and calls:
        problems.append(f"{calls} upstream calls for opens that need none")
    if subject.upcalls == "each" and calls < run.requests - run.refused:
        problems.append(f"{run.requests} answers, but only {calls} upstream calls")
    return run, problems
