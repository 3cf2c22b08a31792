"""While the synchronous standby is away, nothing is acknowledged that only the primary has."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import structlog

from service.domain.errors import StoreFailed
from service.domain.outbox_entries import Entry, LeadKeys, Repeat
from service.storage.claims import ClaimStore
from service.storage.database import Database
from service.storage.encryption import Cipher
from service.storage.engines.postgres import PostgresEngine
from service.storage.outbox import SqlOutboxStore
from tests.postgres import Postgres, serving
from tests.support import until

INSTALL = "00000000000000a1"


@pytest.fixture
def alone() -> Iterator[Postgres]:
    with serving() as server:
        yield server


def lead(name: str) -> Entry:
    now = time.time()
    keys = LeadKeys(event="anna signed up")
    return Entry(
        id=name,
        app="acme",
        kind="lead",
        ordering_key="anna",
        created=now,
        next_try=now,
        payload=b"{}",
        keys=keys,
    )


async def test_what_no_standby_has_is_not_acknowledged_by_a_retry(alone: Postgres) -> None:
    """A retry finds the row that the first attempt left on the primary; it is refused all the same."""
    url = alone.database()
    database = Database(PostgresEngine(url), structlog.get_logger())
    await database.open()
    outbox, claims = SqlOutboxStore(database, Cipher(["s" * 32]), time.time), ClaimStore(database, time.time)
    try:
        standby(alone, "'gone'")
        await until(lambda: waits_for_the_standby(alone))
        with pytest.raises(StoreFailed):
            await outbox.add(lead("first"), leased=True)
        with pytest.raises(StoreFailed):
            await claims.claim("d0UtZqE0BZuBPrJS", INSTALL)
        name = url.rpartition("/")[2]
        await until(lambda: shown_without_a_standby(alone, name) == [("first",)])
        for _ in range(3):
            with pytest.raises(StoreFailed):
                await outbox.add(lead("again"), leased=True)
            with pytest.raises(StoreFailed):
                await claims.claim("d0UtZqE0BZuBPrJS", INSTALL)
            await asyncio.sleep(1)
        standby(alone, "''")
        await until(lambda: database.failing is None)
        found = await outbox.add(lead("later"), leased=True)
        assert isinstance(found, Repeat)
        assert await claims.claim("d0UtZqE0BZuBPrJS", INSTALL)
    finally:
        standby(alone, "''")
        await database.close()


def waits_for_the_standby(server: Postgres) -> bool:
    """Return True if a commit waits: the process that decides it reads the configuration in its own time."""
    with ThreadPoolExecutor() as threads:
        commit = threads.submit(server.query, "SELECT pg_logical_emit_message(true, 'a commit', '')")
        while not commit.done():
            if stop_waiting(server):
                return True
    return False


def stop_waiting(server: Postgres) -> list[tuple[object, ...]]:
    """Cancel the waits for the standby, as an operator may: the primary then shows what it has."""
    return server.query("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")


def shown_without_a_standby(server: Postgres, database: str) -> list[tuple[object, ...]]:
    stop_waiting(server)
    return server.query("SELECT id FROM outbox", database)


def standby(server: Postgres, names: str) -> None:
    server.query(f"ALTER SYSTEM SET synchronous_standby_names = {names}")
    server.query("SELECT pg_reload_conf()")
