"""One file, one writer: what is written reaches the disk, in order and in time."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from service.resolve.errors import StoreFailed
from service.store.batch import Row, Rows, Write, write_all
from service.store.database import Database
from service.telemetry import Event
from tests.support import LogLines

SCHEMA = "CREATE TABLE IF NOT EXISTS things (name TEXT PRIMARY KEY)"
ADD = Rows(table="things", before="INSERT INTO things (name) VALUES ", row="(?)")
DROP = Rows(table="things", before="DELETE FROM things WHERE name IN (", row="?", after=")")


@pytest.fixture
async def database(tmp_path: Path, logs: LogLines) -> AsyncIterator[Database]:  # noqa: ARG001  they are read
    database = Database(tmp_path, SCHEMA, structlog.get_logger())
    await database.open()
    yield database
    await database.close()


def names(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM things ORDER BY name")]


async def test_what_comes_during_a_commit_is_in_the_next(tmp_path: Path) -> None:
    """Writes that come while a commit runs reach the disk a moment later: the writer never falls behind."""
    commits = 0
    enough = asyncio.Event()

    def committed() -> None:
        nonlocal commits
        commits += 1
        if commits < 20:
            busy.write_behind(lambda _: None)
        else:
            enough.set()

    busy = Database(tmp_path, SCHEMA, structlog.get_logger(), committed=committed)
    await busy.open()
    try:
        busy.write_behind(lambda _: None)
        async with asyncio.timeout(10):  # it takes one
            await enough.wait()
    finally:
        await busy.close()


async def test_a_faulty_row_takes_no_neighbour_down(database: Database, logs: LogLines) -> None:
    """Of rows that go to SQLite together, all but the faulty ones are written, and each fault is logged."""
    for number in range(200):
        database.write_row_behind(ADD, (f"{number % 150:03}",))
    assert await database.read(names) == [f"{number:03}" for number in range(150)]
    assert len(logs.events(Event.STORE_REFUSED)) == 50


async def test_the_disk_takes_what_it_refused_before_what_came_since(database: Database) -> None:
    """What was written behind stays in its order over a failure of the disk."""
    loop = asyncio.get_running_loop()
    failures = iter([sqlite3.OperationalError("disk I/O error")])

    def fail_once(_: sqlite3.Connection) -> None:
        failure = next(failures, None)
        if failure is not None:
            loop.call_soon_threadsafe(database.write_row_behind, DROP, ("a",))
            raise failure

    database.write_row_behind(ADD, ("a",))
    database.write_behind(fail_once)
    with pytest.raises(StoreFailed):
        await database.write(names)
    assert await database.write(names) == []
    assert database.failing is None


@given(st.lists(st.tuples(st.sampled_from(["add", "drop", "work"]), st.integers(0, 9)), max_size=200))
def test_what_happens_to_a_table_happens_in_order(steps: list[tuple[str, int]]) -> None:
    """Rows that are gathered leave what they would have left one by one."""
    add = Rows(table="things", before="INSERT OR IGNORE INTO things (name) VALUES ", row="(?)")
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute(SCHEMA)
    expected: set[str] = set()
    seen: list[list[str]] = []
    batch: list[Write | Row] = []
    for kind, number in steps:
        if kind == "work":
            batch.append(Write(names, None))
            seen.append(sorted(expected))
        else:
            batch.append(Row(add if kind == "add" else DROP, (str(number),)))
            (expected.add if kind == "add" else expected.discard)(str(number))
    written = write_all(connection, batch)
    assert written.outcomes == seen
    assert names(connection) == sorted(expected)
    connection.close()
