"""The service, looked at from outside: what its database has committed, and its metrics.

Nothing in the service counts for us. SQLite keeps a number in its WAL index that grows by one with each
transaction that is committed (https://www.sqlite.org/walformat.html, 1.3.1: ``iChange``); with
``synchronous=FULL`` each of them is one fdatasync of the log, and a checkpoint now and then takes two more.
PostgreSQL numbers the transactions that write, and no others.
"""

import contextlib
import sqlite3
import struct
import time
from collections.abc import Callable

import psycopg
from prometheus_client.parser import text_string_to_metric_families

from service.storage.engines.sqlite import FILE
from tests.bench.processes import Failed, Server, fetch

_CHANGES = struct.Struct("=I")
_CHANGES_AT = 8
_ASKED_EVERY_S = 0.02


def query(service: Server, sql: str) -> list[tuple[object, ...]]:
    """Return what a query finds in the service's database, as far as it is committed."""
    if service.database_url:
        with psycopg.connect(service.database_url, autocommit=True) as connection:
            return connection.execute(sql.encode()).fetchall()
    uri = f"file:{service.folder / FILE}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as database:
        return database.execute(sql).fetchall()


def number(service: Server, sql: str) -> int:
    """Return the one number that a query finds."""
    ((found,),) = query(service, sql)
    return int(str(found))


def commits(service: Server) -> int:
    """Return how many transactions that wrote were committed to the service's database."""
    if service.database_url:
        return number(service, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
    index = service.folder / f"{FILE}-shm"
    return int(_CHANGES.unpack_from(index.read_bytes(), _CHANGES_AT)[0])


def queued(service: Server) -> int:
    """Return how many entries wait in the outbox."""
    return number(service, "SELECT count(*) FROM outbox WHERE state = 'queued'")


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
