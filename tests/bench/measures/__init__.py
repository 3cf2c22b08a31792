"""Everything that is measured. A new one is a function from a ``Lab`` to rows, and a line below."""

from collections.abc import Callable

from msgspec import Struct

from tests.bench.lab import Lab
from tests.bench.measures import (
    burst,
    drain,
    leads,
    matching,
    memory,
    replicas,
    rolling,
    stalled,
    start,
    throughput,
)
from tests.bench.table import Row


class Measure(Struct, frozen=True):
    """A few rows that are measured together. ``about`` is its line in ``--help``."""

    name: str
    about: str
    run: Callable[[Lab], list[Row]]


MEASURES = (
    Measure(
        "hit", "a repeat, over a bare ASGI echo and a bare Litestar handler; rate limits on", throughput.hit
    ),
    Measure("tiers", "a hit that only Valkey has, over one in process", replicas.tiers),
    Measure("miss", "a first open, over a naive httpx proxy and a bare aiohttp proxy", throughput.miss),
    Measure("burst", "1,000 concurrent reports of one open: one upstream call", burst.run),
    Measure("budget", "upstream stalled: the 99th percentile of answers beyond the budget", stalled.budget),
    Measure("breaker", "upstream stalled, breaker open: another install's open over a hit", stalled.breaker),
    Measure("leads", "durable commits per lead, 64 clients at once", leads.run),
    Measure("streams", "fsyncs of Valkey per lead, 64 clients at once", leads.streams),
    Measure("rolling", "two replicas restarted in turn under load: failed requests", rolling.run),
    Measure("drain", "10,000 queued opens after an outage, and hits meanwhile", drain.run),
    Measure("start", "process start to the first 200 on /health/ready", start.run),
    Measure("memory", "resident memory for 100,000 cached opens", memory.run),
    Measure("footprint", "CPU and Valkey's memory per open and per lead", replicas.footprint),
    Measure("matching", "a simulated city's installs and their clicks; a million clicks", matching.run),
)
