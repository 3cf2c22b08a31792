"""What the disk keeps after it failed, and what an operator can send again."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from service.resolve.owed import Entry
from service.store.database import Database
from service.store.entries import ENTRIES_SCHEMA, SqliteEntries
from service.store.sealing import Seal
from service.telemetry import configure_logs
from tests.integration.world import Disk
from tests.support import LogLines, until

SCHEMA = f"{ENTRIES_SCHEMA}CREATE TABLE IF NOT EXISTS opens (id TEXT PRIMARY KEY, said TEXT NOT NULL);"
DAY_S = 86_400
LEAD = Entry(
    id="lead", app="acme", kind="lead", lane="anna", waits_for="open", created=1, next_try=1, payload=b"{}"
)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
async def database(data_dir: Path, logs: LogLines) -> AsyncIterator[Database]:
    database = Database(data_dir, SCHEMA, configure_logs("debug", logs))
    await database.open()
    yield database
    await database.close()


def saying(text: str) -> Callable[[sqlite3.Connection], object]:
    query = "INSERT INTO opens VALUES ('open', ?) ON CONFLICT (id) DO UPDATE SET said = excluded.said"
    return lambda connection: connection.execute(query, (text,))


def said(connection: sqlite3.Connection) -> str:
    return str(connection.execute("SELECT said FROM opens").fetchone()[0])


async def test_a_failed_commit_keeps_the_order(
    database: Database, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written behind before and during a failing commit is on disk in the order in which it came."""
    monkeypatch.setattr("service.store.database._RETRY_S", 0.01)
    disk.full = True
    disk.stall()
    database.write_behind(saying("pending"))
    await until(lambda: not database._behind)  # the commit is under way now, and will fail
    database.write_behind(saying("resolved"))
    disk.go_on()
    await until(lambda: disk.refused >= 2)
    disk.full = False
    await until(lambda: database.failing is None)
    async with asyncio.timeout(10):
        assert await database.read(said) == "resolved"


async def test_a_lead_that_waited_can_be_retried(database: Database) -> None:
    """Its open will never be settled: sent again by an operator, it waits for it no longer."""
    entries = SqliteEntries(database, Seal(["a secret"]))
    await entries.add(LEAD)
    assert await entries.expire(before=2, now=DAY_S) == 1
    assert await entries.revive("lead", DAY_S) == 1
    (due,) = await entries.due(["lead"], DAY_S, 10, [])
    assert (due.id, due.waits_for, due.created, due.attempts) == ("lead", "", DAY_S, 0)
    assert await entries.awaited() == set()
