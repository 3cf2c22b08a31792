"""Reads and writes: what is committed, what is left out, what is answered while the database fails."""

import asyncio
import gc
import signal
import time
from collections.abc import Sequence

import psycopg
import pytest
import structlog
from msgspec import structs

from service.domain.errors import StoreFailed
from service.storage.database import Database
from service.storage.engines.port import Engine, Unit, UnitResult
from service.storage.engines.postgres import PostgresEngine
from service.storage.errors import EngineUnavailable
from service.storage.statements import Row, RowStatement, Statement, Values
from tests.postgres import Postgres, serving
from tests.storage.conftest import MakeEngine

CLAIM = RowStatement(
    table="claims",
    before="INSERT INTO claims (click_id, device, claimed_at) VALUES ",
    row="(?, ?, ?)",
    after=" ON CONFLICT (click_id) DO UPDATE SET device = excluded.device",
)
OWN = structs.replace(CLAIM, query="SELECT click_id, device FROM claims WHERE click_id IN ({ids})")
OWNERS = "SELECT click_id, device FROM claims ORDER BY click_id"


def claim(click_id: str, device: object) -> Statement:
    (statement,) = CLAIM.one((click_id, device, 1))
    return statement


async def test_what_is_written_is_read_by_another_process(
    database: Database, make_engine: MakeEngine
) -> None:
    await database.write(claim("a", 1), claim("b", 2))
    other = Database(make_engine(), structlog.get_logger())
    await other.open()
    assert await other.read(OWNERS) == [("a", 1), ("b", 2)]
    await other.close()


async def test_a_rejected_unit_leaves_its_neighbours(database: Database) -> None:
    """Of three writes of one commit the one with a value that cannot be stored fails, wholly, and alone."""
    results = await asyncio.gather(
        database.write(claim("a", 1)),
        database.write(claim("b", 2), claim("c", {"no": "integer"})),
        database.write(claim("d", 4)),
        return_exceptions=True,
    )
    assert [isinstance(each, StoreFailed) for each in results] == [False, True, False]
    assert await database.read(OWNERS) == [("a", 1), ("d", 4)]


async def test_a_rejected_row_leaves_its_neighbours(database: Database) -> None:
    """Rows written behind share a statement; the faulty one of them is left out, and the others are
    committed."""
    for number in range(100):
        database.write_row_behind(CLAIM, (f"{number:03}", {} if number == 50 else number, 1))
    await database.read_written(OWNERS)
    await database.write()
    assert len(await database.read(OWNERS)) == 99


async def test_a_rejected_row_is_counted(database: Database) -> None:
    database.write_row_behind(CLAIM, ("a", {}, 1))
    database.write_row_behind(CLAIM, ("b", 2, 1))
    await database.write()
    await database.write()
    assert database.dropped == 1


@pytest.mark.parametrize(
    ("taken", "given"),
    [
        ("ALTER TABLE claims RENAME TO away", "ALTER TABLE away RENAME TO claims"),
        ("ALTER TABLE claims RENAME device TO away", "ALTER TABLE claims RENAME away TO device"),
    ],
)
async def test_rows_wait_for_a_missing_table_or_column(
    database: Database, make_engine: MakeEngine, taken: str, given: str
) -> None:
    """The schema is at fault, not the row: none is dropped."""
    administrator = make_engine()
    await administrator.connect()
    await administrator.commit_alone([Statement(taken)])
    database.write_row_behind(CLAIM, ("a", 1, 1))
    with pytest.raises(StoreFailed):
        await database.write(claim("b", 2))
    assert database.failing
    await administrator.commit_alone([Statement(given)])
    await administrator.close()
    await database.write()
    assert await database.read(OWNERS) == [("a", 1)]
    assert database.dropped == 0


async def test_only_writes_of_a_locked_row_wait(postgres: Postgres) -> None:
    """A replica that stops within a transaction keeps its locks: the others' leads must not fail for it."""
    url = postgres.database()
    database = Database(PostgresEngine(url), structlog.get_logger())
    await database.open()
    await database.write(claim("a", 1))
    with psycopg.connect(url) as stopped:
        stopped.execute("UPDATE claims SET device = 2 WHERE click_id = 'a'")
        for number in range(20):
            database.write_row_behind(CLAIM, ("a" if number == 9 else f"behind {number:02}", 3, 1))
        results = await asyncio.gather(
            *(database.write(claim("a" if number == 9 else f"{number:02}", 4)) for number in range(20)),
            return_exceptions=True,
        )
        assert [isinstance(each, StoreFailed) for each in results] == [number == 9 for number in range(20)]
        assert database.failing is None
        while len(await database.read(OWNERS)) < 1 + 19 + 19:
            await database.write()  # rows that shared a statement with the locked one are retried
        stopped.rollback()
    while ("a", 3) not in await database.read(OWNERS):
        await database.write()
    assert database.dropped == 0
    await database.close()


async def test_a_locked_row_does_not_keep_a_process_from_ending(postgres: Postgres) -> None:
    url = postgres.database()
    database = Database(PostgresEngine(url), structlog.get_logger())
    await database.open()
    await database.write(claim("a", 1))
    with psycopg.connect(url) as stopped:
        stopped.execute("UPDATE claims SET device = 2 WHERE click_id = 'a'")
        database.write_row_behind(CLAIM, ("a", 3, 1))
        await database.close()
    assert database.dropped == 1


async def test_a_server_that_hangs_costs_no_more_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.storage.engines.postgres._CALL_S", 1.0)
    with serving() as server:
        database = Database(PostgresEngine(server.database()), structlog.get_logger())
        await database.open()
        await database.write(claim("a", 1))
        await database.read(OWNERS)
        server.signal(signal.SIGSTOP)
        begun = time.monotonic()
        results = await asyncio.gather(
            database.write(claim("b", 2)), database.read(OWNERS), return_exceptions=True
        )
        took = time.monotonic() - begun
        server.signal(signal.SIGCONT)
        assert [str(each) for each in results] == ["no answer within 1 s"] * 2
        assert took < 4
        await database.write(claim("c", 3))
        assert ("c", 3) in await database.read(OWNERS)
        await database.close()


async def test_rows_wait_for_a_missing_right(postgres: Postgres) -> None:
    url = postgres.database()
    name = url.rpartition("/")[2]
    owner = Database(PostgresEngine(url), structlog.get_logger())
    await owner.open()
    postgres.query(f"CREATE ROLE {name}_user LOGIN", name)
    grant = f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {name}_user"
    postgres.query(grant, name)
    url = url.replace("//firstopen@", f"//{name}_user@")
    database = Database(PostgresEngine(url), structlog.get_logger())
    await database.open()
    postgres.query(f"REVOKE INSERT ON claims FROM {name}_user", name)
    database.write_row_behind(CLAIM, ("a", 1, 1))
    with pytest.raises(StoreFailed):
        await database.write()
    assert database.failing == "InsufficientPrivilege (42501)"
    postgres.query(grant, name)
    await database.write()
    assert await database.read(OWNERS) == [("a", 1)]
    assert database.dropped == 0
    await database.close()
    await owner.close()


async def test_the_later_of_two_rows_wins(database: Database) -> None:
    database.write_row_behind(CLAIM, ("a", 1, 1))
    database.write_row_behind(CLAIM, ("a", 2, 1))
    assert await database.read_written(OWNERS) == [("a", 2)]


async def test_writes_to_one_table_keep_their_order(database: Database) -> None:
    database.write_row_behind(CLAIM, ("a", 1, 1))
    database.write_behind(Statement("DELETE FROM claims WHERE click_id = ?", ("a",)))
    database.write_row_behind(CLAIM, ("b", 1, 1))
    assert await database.read_written(OWNERS) == [("b", 1)]


async def test_writers_share_commits(make_engine: MakeEngine) -> None:
    commits = []
    database = Database(make_engine(), structlog.get_logger(), committed=lambda: commits.append(1))
    await database.open()
    await asyncio.gather(*(database.write(claim(f"{number}", number)) for number in range(500)))
    assert len(commits) < 20
    await database.close()


async def test_a_slow_commit_serves_fewer_callers(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A burst is answered in parts: those at its head do not wait for all of it."""
    engine = make_engine()
    database = Database(engine, structlog.get_logger())
    await database.open()
    commit, served = engine.commit, []

    async def commit_slowly(units: Sequence[Unit]) -> list[UnitResult]:
        served.append(len(units))
        results = await commit(units)
        await asyncio.sleep(len(units) * 0.002)  # the time that it takes is what is tested
        return results

    monkeypatch.setattr(engine, "commit", commit_slowly)
    await asyncio.gather(*(database.write(claim(f"{number}", number)) for number in range(200)))
    assert served == [64, 64, 64, 8]
    await database.close()


async def test_rows_of_several_callers_share_statements(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each caller gets what its own row returns. Rows with the same key are written in their order."""
    engine = make_engine()
    database = Database(engine, structlog.get_logger())
    await database.open()
    commit, units_of = engine.commit, []

    async def commit_counted(units: Sequence[Unit]) -> list[UnitResult]:
        units_of.append(len(units))
        return await commit(units)

    monkeypatch.setattr(engine, "commit", commit_counted)
    rows = [(f"{number % 50:02}", number, 1) for number in range(64)]
    results = await asyncio.gather(*(database.write_row(OWN, row, timeout_s=9) for row in rows))
    assert results == [[[], [(click_id, device)]] for click_id, device, _ in rows]
    assert units_of == [3 + 2 + 3 + 2]  # 50 rows in statements of 16, 4 and 1, then the 14 of the same clicks
    await database.close()


async def test_a_rejected_row_of_a_caller_leaves_its_neighbours(database: Database) -> None:
    rows: list[Values] = [(f"{number:02}", {} if number == 9 else number, 1) for number in range(20)]
    results = await asyncio.gather(
        *(database.write_row(OWN, row, timeout_s=9) for row in rows), return_exceptions=True
    )
    assert [isinstance(each, StoreFailed) for each in results] == [number == 9 for number in range(20)]
    assert len(await database.read(OWNERS)) == 19
    assert database.dropped == 0


async def test_a_flush_commits_all_that_was_written_before(database: Database) -> None:
    """However many rows there are; a write does not wait for them."""
    for number in range(3000):
        database.write_row_behind(CLAIM, (f"{number:04}", number, 1))
    (_, seen), rows = await asyncio.gather(
        database.write(claim("first", 1), Statement("SELECT count(*) FROM claims")),
        database.read_written(OWNERS),
    )
    assert seen[0][0] < 3000
    assert len(rows) == 3001


async def test_a_row_waits_in_the_queue_of_a_database_that_works(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time limit is for one commit: those before it may take longer all together."""
    engine = make_engine()
    database = Database(engine, structlog.get_logger())
    await database.open()
    commit, stuck = engine.commit, asyncio.Event()

    async def commit_slowly(units: Sequence[Unit]) -> list[UnitResult]:
        results = await commit(units)
        await asyncio.sleep(0.1)  # the time that it takes is what is tested
        return results

    async def commit_never(units: Sequence[Unit]) -> list[UnitResult]:
        await stuck.wait()
        return await commit(units)

    monkeypatch.setattr(engine, "commit", commit_slowly)
    rows = [(f"{number:03}", number, 1) for number in range(640)]
    await asyncio.gather(*(database.write_row(OWN, row, timeout_s=0.3, queue_s=9) for row in rows))
    monkeypatch.setattr(engine, "commit", commit_never)
    with pytest.raises(StoreFailed):
        await database.write_row(OWN, ("late", 1, 1), timeout_s=0.05, queue_s=9)
    stuck.set()
    await database.close()


async def test_waiting_leaves_nothing_for_the_garbage_collector(database: Database) -> None:
    """Reference cycles once paused the service for 25 ms every 1,400 matched opens."""
    await asyncio.gather(*(database.read(OWNERS, timeout_s=9) for _ in range(10)))
    gc.collect()
    gc.disable()
    try:
        for number in range(100):
            row = (f"{number:03}", number, 1)
            await asyncio.gather(
                database.write_row(OWN, row, timeout_s=9, queue_s=9), database.read(OWNERS, timeout_s=9)
            )
        left = gc.collect()
    finally:
        gc.enable()
    assert left < 100


async def test_a_faulty_query_fails_alone(database: Database) -> None:
    results = await asyncio.gather(
        database.read(OWNERS),
        database.read("SELECT 1 FROM nowhere"),
        database.read(OWNERS),
        return_exceptions=True,
    )
    assert [isinstance(each, StoreFailed) for each in results] == [False, True, False]


async def test_an_answer_that_waits_for_a_busy_process_is_not_late(database: Database) -> None:
    """Only the database's own time counts, not that in which the event loop did other work."""

    async def busy() -> None:
        for _ in range(6):
            time.sleep(0.05)  # noqa: ASYNC251  this is the work
            await asyncio.sleep(0)

    (rows,), _ = await asyncio.gather(database.read("SELECT 1", timeout_s=0.05), busy())
    assert rows == (1,)


async def test_reads_do_not_wait_for_a_round_trip_that_takes_long(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a moment share one; a stuck one holds up nobody where there is another connection."""
    engine = make_engine()
    database = Database(engine, structlog.get_logger())
    await database.open()
    fetch, began, stuck = engine.fetch, asyncio.Event(), asyncio.Event()
    asked: list[int] = []

    async def fetch_late(queries: Sequence[Statement]) -> list[list[Row]]:
        asked.append(len(queries))
        if len(asked) == 1:
            began.set()
            await stuck.wait()
        return await fetch(queries)

    monkeypatch.setattr(engine, "fetch", fetch_late)
    first = asyncio.create_task(database.read("SELECT 1"))
    await began.wait()
    others = asyncio.gather(*(database.read("SELECT ?", number) for number in range(3)))
    if engine.reads_at_once > 1:
        assert await others == [[(0,)], [(1,)], [(2,)]]
    stuck.set()
    assert await others == [[(0,)], [(1,)], [(2,)]]
    assert await first == [(1,)]
    assert asked == [1, 3]
    await database.close()


async def test_of_two_processes_that_write_at_once_one_sees_the_other(make_engine: MakeEngine) -> None:
    """What is read with all that was written is read after the commit, not within it."""
    databases = [Database(make_engine(), structlog.get_logger()) for _ in range(2)]
    for database in databases:
        await database.open()
    for turn in range(30):

        async def seen(number: int, turn: int = turn) -> int:
            databases[number].write_row_behind(CLAIM, (f"{turn}-{number}", number, 1))
            return len(await databases[number].read_written(f"{OWNERS} LIMIT 100"))

        assert max(await asyncio.gather(seen(0), seen(1))) == 2 * (turn + 1)
    for database in databases:
        await database.close()


class Faulty:
    """An engine that fails when it is told to, with whatever it is told to."""

    def __init__(self, engine: Engine) -> None:
        self.is_shared = engine.is_shared
        self.reads_at_once = engine.reads_at_once
        self.engine = engine
        self.fault: Exception | None = None
        self.stuck: asyncio.Event | None = None

    async def _maybe(self) -> None:
        if self.stuck is not None:
            await self.stuck.wait()
        if self.fault is not None:
            raise self.fault

    async def connect(self) -> None:
        await self._maybe()
        await self.engine.connect()

    async def fetch(self, queries: list[Statement]) -> list[list[Row]]:
        await self._maybe()
        return await self.engine.fetch(queries)

    async def commit(self, units: list[Unit]) -> list[UnitResult]:
        await self._maybe()
        return await self.engine.commit(units)

    async def commit_alone(self, unit: Unit) -> list[list[Row]]:
        await self._maybe()
        return await self.engine.commit_alone(unit)

    async def after_erasure(self) -> None:
        await self.engine.after_erasure()

    async def close(self) -> None:
        await self.engine.close()


@pytest.mark.parametrize("fault", [EngineUnavailable("down"), ZeroDivisionError("a bug of ours")])
async def test_any_fault_is_reported_and_outlived(make_engine: MakeEngine, fault: Exception) -> None:
    """No exception ends the writer: while it lasts writes fail, and what was written behind is kept."""
    engine = Faulty(make_engine())
    database = Database(engine, structlog.get_logger())  # type: ignore[arg-type]  # lists are sequences
    await database.open()
    engine.fault = fault
    database.write_row_behind(CLAIM, ("behind", 1, 1))
    with pytest.raises(StoreFailed):
        await database.write(claim("refused", 1))
    assert database.failing
    engine.fault = None
    await database.write(claim("later", 2))
    assert database.failing is None
    assert await database.read(OWNERS) == [("behind", 1), ("later", 2)]
    await database.close()


async def test_a_flush_fails_at_once_however_many_rows_wait(make_engine: MakeEngine) -> None:
    """While the database is away, a lead that names an open is refused: it does not wait until it is back."""
    engine = Faulty(make_engine())
    database = Database(engine, structlog.get_logger())  # type: ignore[arg-type]
    await database.open()
    engine.fault = EngineUnavailable("down")
    for number in range(1000):  # more than one commit takes
        database.write_row_behind(CLAIM, (f"{number:04}", number, 1))
    async with asyncio.timeout(20):
        for _ in range(3):
            with pytest.raises(StoreFailed, match="down"):
                await database.read_written(OWNERS)
    engine.fault = None
    await database.write()
    assert len(await database.read_written(OWNERS)) == 1000
    await database.close()


async def test_a_database_that_only_accepts_connections_is_still_failing(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a full disk, one can connect: readiness must not alternate with each lead that fails."""
    engine = make_engine()
    database = Database(engine, structlog.get_logger())
    await database.open()
    commit, tried_again = engine.commit, asyncio.Event()
    tries = 0

    async def refuse(units: Sequence[Unit]) -> list[UnitResult]:
        nonlocal tries
        await commit([[Statement("SELECT 1")], *units])  # the statements are valid
        tries += 1
        if tries > 2:
            tried_again.set()
        raise EngineUnavailable("full")

    monkeypatch.setattr(engine, "commit", refuse)
    with pytest.raises(StoreFailed):
        await database.write(claim("a", 1))
    await tried_again.wait()
    assert database.failing == "full"
    monkeypatch.undo()
    await database.write()
    assert database.failing is None
    await database.close()


async def test_a_stuck_database_costs_as_long_as_the_caller_says(make_engine: MakeEngine) -> None:
    engine = Faulty(make_engine())
    database = Database(engine, structlog.get_logger())  # type: ignore[arg-type]
    await database.open()
    engine.stuck = asyncio.Event()
    with pytest.raises(StoreFailed):
        await database.read(OWNERS, timeout_s=0.05)
    with pytest.raises(StoreFailed):
        await database.write(claim("a", 1), timeout_s=0.05)
    engine.stuck.set()
    await database.close()


async def test_a_database_that_is_away_at_the_start_is_migrated_later(make_engine: MakeEngine) -> None:
    engine = Faulty(make_engine())
    engine.fault = EngineUnavailable("down")
    database = Database(engine, structlog.get_logger())  # type: ignore[arg-type]
    await database.open()
    assert database.failing == "down"
    with pytest.raises(StoreFailed):
        await database.read(OWNERS)
    engine.fault = None
    await database.write(claim("a", 1))
    assert await database.read(OWNERS) == [("a", 1)]
    await database.close()
