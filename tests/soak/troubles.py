"""What happens in each minute, and what it is done with."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec
from msgspec import Struct

from tests.bench.lab import Lab, Upstream
from tests.bench.measures.rolling import Replica, in_front_of, restart, started
from tests.bench.outside import wait_until
from tests.bench.processes import Server, fetch
from tests.durability.processes import Sandbox
from tests.postgres import Postgres
from tests.receiver import HOOK, SECRET
from tests.replicas.processes import sandbox
from tests.soak.verdict import MEMORY_MB

_CALLS = ("/track/*", "/events")  # what the service asks Dub; not what browsers do
_OF_A_MINUTE = 2 / 3  # for so long Dub is bad; then it is well, and the service catches up
_DOWN = 1 / 6  # of a minute the database is down
_RECOVERED_WITHIN_S = 20.0
_TABLES = f"{HOOK}\n[cache]\nmemory_mb = {MEMORY_MB}\n"


class World(Struct, kw_only=True):
    """All processes of a soak, and when its database was ``down``, in monotonic seconds."""

    lab: Lab
    postgres: Postgres
    dub: Sandbox
    replicas: Sequence[Replica]
    proxy: Server
    threads: ThreadPoolExecutor
    down: list[tuple[float, float]] = []
    problems: list[str] = []

    def was_down(self, began: float, ended: float) -> bool:
        """Whether the database was down at any time between the two."""
        return any(began <= until and ended >= since for since, until in self.down)


@contextmanager
def world(lab: Lab, backend_url: str) -> Iterator[World]:
    """Start everything, and end it whatever happens."""
    env = {"ACME_WEBHOOK_URL": backend_url, "ACME_WEBHOOK_SECRET": SECRET}
    with ExitStack() as stack:
        postgres = stack.enter_context(lab.postgres())
        port = stack.enter_context(sandbox(lab.new_folder("dub"))).port
        dub = Sandbox(port)
        stack.enter_context(dub.http)
        url = postgres.database()
        replicas = [Replica(lab, Upstream(dub.url), url, tables=_TABLES, env=env) for _ in range(2)]
        stack.enter_context(started(replicas))
        proxy = stack.enter_context(in_front_of(replicas, lab))
        threads = stack.enter_context(ThreadPoolExecutor())
        yield World(lab=lab, postgres=postgres, dub=dub, replicas=replicas, proxy=proxy, threads=threads)


Happens = Callable[[World, float], Awaitable[None]]


async def _nothing(_: World, seconds: float) -> None:
    await asyncio.sleep(seconds)


def _dub(*faults: dict[str, Any]) -> Happens:
    """Return what sets faults of Dub, for a part of the minute."""

    async def happens(at: World, seconds: float) -> None:
        for fault in faults:
            await asyncio.to_thread(at.dub.fault, **fault)
        await asyncio.sleep(seconds * _OF_A_MINUTE)
        await asyncio.to_thread(at.dub.clear)
        await asyncio.sleep(seconds * (1 - _OF_A_MINUTE))

    return happens


def _postgres(end: Callable[[Postgres], None]) -> Happens:
    """Return what ends PostgreSQL and starts it again."""

    async def happens(at: World, seconds: float) -> None:
        since = time.monotonic()
        at.down.append((since, float("inf")))
        await asyncio.to_thread(end, at.postgres)
        await asyncio.sleep(seconds * _DOWN)
        await asyncio.to_thread(at.postgres.start)
        await asyncio.to_thread(
            wait_until,
            lambda: not any(_without_database(each) for each in at.replicas),
            within_s=_RECOVERED_WITHIN_S,
            what="the replicas use the database again",
        )
        at.down[-1] = (since, time.monotonic())
        await asyncio.sleep(max(0.0, since + seconds - time.monotonic()))

    return happens


async def _rolling(at: World, seconds: float) -> None:
    began = time.monotonic()
    at.problems.extend(await asyncio.to_thread(restart, at.lab, at.proxy, at.replicas))
    await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))


def _together(*parts: Happens) -> Happens:
    async def happens(at: World, seconds: float) -> None:
        await asyncio.gather(*(part(at, seconds) for part in parts))

    return happens


def _without_database(replica: Replica) -> bool:
    told = msgspec.json.decode(fetch("GET", f"{replica.url}/health/ready")[1], type=dict[str, Any])
    return "database" in str(told["degraded"])


_ERRORS = [
    {"route": "/track/lead", "reset": "before", "handled": True, "probability": 0.1, "seed": 1},
    *({"route": route, "status": 503, "probability": 0.5, "seed": 2} for route in _CALLS),
]
_SLOW = [{"route": route, "delayMs": 1200, "probability": 0.5, "seed": 3} for route in _CALLS]
_TIMEOUTS = [{"route": route, "stall": True} for route in _CALLS]

GOOD = ("all well", _nothing)
TROUBLES: Sequence[tuple[str, Happens]] = (
    ("PostgreSQL restarts", _postgres(Postgres.stop)),
    ("rolling restart", _rolling),
    ("Dub: half are 503", _dub(*_ERRORS)),
    ("Dub: half take 1.2 s", _dub(*_SLOW)),
    ("Dub: timeouts", _dub(*_TIMEOUTS)),
    ("PostgreSQL killed, Dub 503", _together(_postgres(Postgres.kill), _dub(*_ERRORS))),
    ("rolling restart, Dub slow", _together(_rolling, _dub(*_SLOW))),
)


def schedule(minutes: int) -> list[tuple[str, Happens]]:
    """Return what happens in each minute: two good ones, all the troubles again and again, a good one."""
    between = [TROUBLES[number % len(TROUBLES)] for number in range(minutes - 3)]
    return [("warm-up", _nothing), GOOD, *between, GOOD]
