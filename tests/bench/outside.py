"""The service, looked at from outside: SQLite's own counter, rows that are committed, its metrics.

Nothing in the service counts for us. SQLite keeps a number in its WAL index that grows by one with each
transaction that is committed (https://www.sqlite.org/walformat.html, 1.3.1: ``iChange``); with
``synchronous=FULL`` each of them is one fdatasync of the log, and a checkpoint now and then takes two more.
"""

import contextlib
import sqlite3
import struct
import time
from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families

from service.store.database import FILE
from tests.bench.processes import Failed, Server, fetch

_CHANGES = struct.Struct("=I")
_CHANGES_AT = 8
_ASKED_EVERY_S = 0.02


def commits(service: Server) -> int:
    """Return how many transactions were committed to the service's store, at the time of asking."""
    index = service.folder / f"{FILE}-shm"
    return int(_CHANGES.unpack_from(index.read_bytes(), _CHANGES_AT)[0])


def queued(service: Server) -> int:
    """Return how many entries wait in the outbox, as far as they are committed."""
    uri = f"file:{service.folder / FILE}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
        row = connection.execute("SELECT count(*) FROM entries WHERE state = 'queued'").fetchone()
    return int(row[0])


def counted(service: Server, name: str, **labels: str) -> int:
    """Return what the service's own counters of this name and these labels add up to."""
    families = text_string_to_metric_families(fetch("GET", f"{service.url}/metrics")[1].decode())
    return int(
        sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )
    )


def wait_until(reached: Callable[[], bool], *, within_s: float, what: str) -> float:
    """Wait; return how many seconds it took. Raises ``Failed`` if it does not come to pass."""
    began = time.monotonic()
    while not reached():
        if time.monotonic() - began > within_s:
            raise Failed(f"{what}: not within {within_s:.0f} s")
        time.sleep(_ASKED_EVERY_S)
    return time.monotonic() - began
