"""Everything that is measured. A new one is a function from a ``Lab`` to rows, and a line below."""

from collections.abc import Callable

from msgspec import Struct

from tests.bench.lab import Lab
from tests.bench.measures import (
    burst,
    drain,
    leads,
    matched,
    matching,
    memory,
    replicas,
    rolling,
    stalled,
    start,
    throughput,
    watchers,
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
    Measure("repeats", "a repeat that only PostgreSQL has, over a hit in process", replicas.repeats),
    Measure("miss", "a first open, over a naive httpx proxy and a bare aiohttp proxy", throughput.miss),
    Measure("burst", "1,000 concurrent reports of one open: one upstream call", burst.run),
    Measure("budget", "upstream stalled: the 99th percentile of answers beyond the budget", stalled.budget),
    Measure("breaker", "upstream stalled, breaker open: another install's open over a hit", stalled.breaker),
    Measure("leads", "SQLite's durable commits per lead, 64 clients at once", leads.on_sqlite),
    Measure("pgleads", "PostgreSQL's durable commits per lead, 64 clients at once", leads.on_postgres),
    Measure("rolling", "two replicas restarted in turn under load: failed requests", rolling.run),
    Measure("watchers", "opens while 10 operators watch them live, and after they have left", watchers.run),
    Measure("drain", "10,000 queued opens after an outage, and hits meanwhile", drain.run),
    Measure("start", "process start to the first 200 on /health/ready", start.run),
    Measure("memory", "resident memory for 100,000 cached opens", memory.run),
    Measure("footprint", "CPU, and bytes in PostgreSQL, per open and per lead", replicas.footprint),
    Measure("matched", "first opens matched by address, over hits; with a million clicks", matched.run),
    Measure("matching", "a simulated city: how many installs get the click that brought them", matching.run),
)
