"""A rolling update as Kubernetes does it: does anybody whose app opens just then notice?

Two replicas that share a PostgreSQL stand behind a proxy that learns late who is there. The manifest's own
numbers hold: what ``preStop`` waits, how often a probe asks, how many failures it forgives.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec
import yaml

from tests.bench.lab import Lab, Upstream, complaints
from tests.bench.load import CONNECTIONS, wrk_until
from tests.bench.outside import wait_until
from tests.bench.processes import ROOT, STOPPED_WITHIN_S, Server, fetch, free_port
from tests.bench.proxy import Told
from tests.bench.table import Row

LAG_S = 2.0  # from what kubelet or the API server knows to what the proxy does; preStop must outlast it
DUB_MS = 30  # so that requests are under way when a replica is told to stop

_ROUNDS_MAX = 2
_AT_MOST_S = 300
_WITHIN_S = 30.0
_BEFORE_AND_AFTER_S = 1.0


class Replica:
    """One of the two: the same port, whatever process is behind it."""

    def __init__(
        self,
        lab: Lab,
        upstream: Upstream,
        database_url: str,
        *,
        tables: str = "",
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._lab = lab
        self._upstream = upstream
        self._database_url = database_url
        self._tables = tables
        self._env = env
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.logs: list[Server] = []
        self._running = ExitStack()

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        service = self._lab.service(
            self._upstream,
            database_url=self._database_url,
            tables=self._tables,
            port=self.port,
            env=self._env,
        )
        self.logs.append(self._running.enter_context(service))

    def stop(self) -> None:
        """Tell it to stop, as SIGTERM does, and wait until it has ended."""
        self._running.close()


def run(lab: Lab) -> list[Row]:
    """Restart one replica after the other, again and again, while opens come."""
    failed: list[float] = []
    requests: list[int] = []
    rates: list[float] = []
    problems: list[str] = []
    with (
        lab.upstream() as upstream,
        lab.postgres() as postgres,
        started(_two(lab, upstream, postgres.database())) as replicas,
        in_front_of(replicas, lab) as proxy,
        ThreadPoolExecutor(1) as threads,
    ):
        upstream.delay(DUB_MS)
        for number in range(1, min(lab.rounds, _ROUNDS_MAX) + 1):
            before = _told(proxy)
            restarted = threads.submit(restart, lab, proxy, replicas)
            run = wrk_until(lab, proxy.url, "new", restarted.done, at_most_s=_AT_MOST_S)
            problems += restarted.result()
            after = _told(proxy)
            failed.append(run.refused + run.connect + run.read + run.write + run.timeout)
            requests.append(run.requests)
            rates.append(run.rate)
            shares = {
                each.url: after.answered[each.url] - before.answered.get(each.url, 0) for each in replicas
            }
            lab.say(
                f"round {number}: {failed[-1]:.0f} of {run.requests:,} failed; "
                f"answered by the two: {sorted(shares.values())}; {after.failed or ''}"
            )
            if min(shares.values()) < run.requests / 10:
                problems.append(f"round {number}: not both replicas were at work: {shares}")
        for each in replicas:
            problems += [found for log in each.logs for found in complaints(log)]
    return [
        Row(
            name=f"opens through the proxy, Dub {DUB_MS} ms away",
            unit="req/s",
            rounds=rates,
            details={"connections": CONNECTIONS},
        ),
        Row(
            name="rolling restart of two replicas behind a proxy under load: failed requests",
            rounds=failed,
            at_least=0,
            at_most=0,
            details={"requests": requests, "lagS": LAG_S},
            problems=problems,
        ),
    ]


def _two(lab: Lab, upstream: Upstream, database_url: str) -> list[Replica]:
    return [Replica(lab, upstream, database_url) for _ in range(2)]


@contextmanager
def started(replicas: Sequence[Replica]) -> Iterator[Sequence[Replica]]:
    """Start replicas one after the other, and stop all of them in the end."""
    try:
        for each in replicas:
            each.start()
        yield replicas
    finally:
        for each in replicas:
            each.stop()


@contextmanager
def in_front_of(replicas: Sequence[Replica], lab: Lab) -> Iterator[Server]:
    """Run a proxy that sends requests to all of the replicas."""
    probe = _pod()["readinessProbe"]
    with lab.proxy(
        str(probe["periodSeconds"]),
        str(probe["failureThreshold"]),
        str(LAG_S),
        *(each.url for each in replicas),
    ) as proxy:
        for each in replicas:
            _await_rotation(proxy, each)
        yield proxy


def restart(lab: Lab, proxy: Server, replicas: Sequence[Replica]) -> list[str]:
    """Replace one after the other as a Deployment does: delete, preStop, SIGTERM, start, ready, the next.

    Returns what was not as it should be.
    """
    pre_stop_s = _pod()["lifecycle"]["preStop"]["sleep"]["seconds"]
    problems = []
    for number, each in enumerate(replicas, 1):
        time.sleep(_BEFORE_AND_AFTER_S)
        fetch("PUT", f"{proxy.url}/proxy/leaving", each.url)
        time.sleep(pre_stop_s)  # what a pod does, not what we wait for
        began = time.monotonic()
        each.stop()
        took_s = time.monotonic() - began
        if took_s >= STOPPED_WITHIN_S:
            problems.append(f"replica {number} did not stop by itself")
        each.start()
        fetch("PUT", f"{proxy.url}/proxy/coming", each.url)
        _await_rotation(proxy, each)
        lab.say(f"replica {number} restarted; its stop took {took_s:.1f} s")
    time.sleep(_BEFORE_AND_AFTER_S)
    return problems


def _await_rotation(proxy: Server, replica: Replica) -> None:
    wait_until(
        lambda: replica.url in _told(proxy).rotation, within_s=_WITHIN_S, what="the proxy sees a replica"
    )


def _told(proxy: Server) -> Told:
    return msgspec.json.decode(fetch("GET", f"{proxy.url}/proxy/status")[1], type=Told)


def _pod() -> dict[str, Any]:
    """Return the container of the Deployment that operators run."""
    deployment = yaml.safe_load((ROOT / "k8s/base/deployment.yaml").read_text())
    container: dict[str, Any] = deployment["spec"]["template"]["spec"]["containers"][0]
    return container
