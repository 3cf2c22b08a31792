"""The SQLite file: who owns it, what a full disk and damage do to it, and how it comes back."""

import asyncio
import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from service.domain.errors import StoreFailed
from service.storage import database as database_module
from service.storage.database import WRITE_BEHIND_S, Database
from service.storage.engines import sqlite
from service.storage.engines.sqlite import FILE, SqliteEngine
from service.storage.errors import DataDirTaken
from service.storage.statements import Row, Statement
from service.telemetry import configure_logs
from tests.integration.world import Disk
from tests.support import LogLines, until

BIG = "x" * 20_000
TEXTS = "SELECT click_id FROM claims ORDER BY claimed_at, click_id"
FULL = 2
_PRAGMAS = sqlite._PRAGMAS  # before any test changes them
_moments = iter(range(1, 10**9))


def note(text: str) -> Statement:
    """Write a row that keeps its place among the others."""
    query = "INSERT INTO claims (click_id, device, claimed_at) VALUES (?, 1, ?)"
    return Statement(query, (text, next(_moments)))


def texts(rows: list[Row]) -> list[str]:
    return [text for (text,) in rows]


async def stored(database: Database) -> list[str]:
    return texts(await database.read(TEXTS))


def on_disk(folder: Path) -> list[str]:
    """Read as somebody else would: what is here survives a kill."""
    connection = sqlite3.connect(f"file:{folder / FILE}?mode=ro", uri=True)
    try:
        return texts(connection.execute(TEXTS).fetchall())
    finally:
        connection.close()


def fill_up() -> Statement:
    """Let the file grow no further, as a full disk would."""
    return Statement("PRAGMA max_page_count = 1")


def make_room() -> Statement:
    return Statement("PRAGMA max_page_count = 1000000")


def over(folder: Path, logs: LogLines, *, exclusive: bool = True) -> Database:
    return Database(SqliteEngine(folder, exclusive=exclusive), configure_logs("debug", logs))


@pytest.fixture(autouse=True)
def durable(monkeypatch: pytest.MonkeyPatch, unhurried: None) -> None:  # noqa: ARG001  which is undone here
    """Wait for the disk, as in production."""
    monkeypatch.setattr(sqlite, "_PRAGMAS", _PRAGMAS)


@pytest.fixture
async def file_database(data_dir: Path, logs: LogLines) -> AsyncIterator[Database]:
    database = over(data_dir, logs)
    await database.open()
    yield database
    await database.close()


async def test_a_write_is_durable_when_it_returns(file_database: Database, data_dir: Path) -> None:
    """Another connection sees it at once; the file is nobody else's to read."""
    await file_database.write(note("one"))
    assert on_disk(data_dir) == ["one"]
    assert stat.S_IMODE((data_dir / FILE).stat().st_mode) == 0o600
    found = await file_database.write(Statement("PRAGMA journal_mode"), Statement("PRAGMA synchronous"))
    assert found == [[("wal",)], [(FULL,)]]


async def test_a_write_behind_waits_for_nobody(file_database: Database, data_dir: Path) -> None:
    """It is on disk a moment later without anybody waiting, and who asks for it sees it at once."""
    file_database.write_behind(note("behind"))
    assert texts(await file_database.read_written(TEXTS)) == ["behind"]
    file_database.write_behind(note("later"))
    began = asyncio.get_running_loop().time()
    await until(lambda: on_disk(data_dir) == ["behind", "later"])
    assert asyncio.get_running_loop().time() - began < WRITE_BEHIND_S + 1


async def test_order_is_kept(file_database: Database) -> None:
    """What was written behind goes before what is written after it, in one commit."""
    file_database.write_behind(note("first"))
    await file_database.write(note("second"))
    assert await stored(file_database) == ["first", "second"]


@pytest.mark.parametrize(
    "values",
    [("one", 1), ("a", None), ("a", 1, 1), (object(), 1), ("a", 2**70), ("\ud800", 1)],
    ids=["constraint", "null", "count", "type", "overflow", "surrogate"],
)
async def test_a_faulty_write_fails_alone(
    file_database: Database, logs: LogLines, values: tuple[object, ...]
) -> None:
    """Its neighbours in the commit are kept, its own caller hears of it, the writer goes on."""
    faulty = Statement("INSERT INTO claims (click_id, device, claimed_at) VALUES (?, 1, ?)", values)
    await file_database.write(note("one"))
    outcomes = await asyncio.gather(
        file_database.write(note("two")),
        file_database.write(faulty),
        file_database.write(note("three")),
        return_exceptions=True,
    )
    assert [isinstance(outcome, StoreFailed) for outcome in outcomes] == [False, True, False]
    file_database.write_behind(faulty)
    await file_database.write(note("four"))
    assert await stored(file_database) == ["one", "two", "three", "four"]
    assert file_database.failing is None
    assert len(logs.events("store.refused")) == 2


async def test_a_full_disk_is_told_and_gets_over(file_database: Database, logs: LogLines) -> None:
    """Who waits hears that nothing was kept, once in the log; what was written behind waits for the disk."""
    await file_database.write(fill_up())
    for _ in range(3):
        with pytest.raises(StoreFailed):
            await file_database.write(note(BIG))
    file_database.write_behind(note("open"))
    with pytest.raises(StoreFailed):
        await file_database.write(note(f"{BIG}2"))
    assert file_database.failing
    assert [line["level"] for line in logs.events("store.failing")] == ["error"]
    await file_database.write(make_room())
    await file_database.write(note("lead"))
    assert file_database.failing is None
    assert await stored(file_database) == ["open", "lead"]
    assert [line["lost"] for line in logs.events("store.recovered")] == [0]


@pytest.mark.parametrize("bound", ["WRITE_BEHIND_MAX", "WRITE_BEHIND_MAX_BYTES"])
async def test_what_is_written_behind_is_bounded(
    file_database: Database, logs: LogLines, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    """While the disk fails, the oldest are dropped first, counted, and the count is logged."""
    monkeypatch.setattr(database_module, bound, {"WRITE_BEHIND_MAX": 3}.get(bound, 3 * 510))
    disk = Disk(monkeypatch)
    disk.full = True
    with pytest.raises(StoreFailed):
        await file_database.write(note("refused"))
    for number in range(5):
        file_database.write_behind(note(f"open {number}"))
    disk.full = False
    await file_database.write(make_room())
    assert await stored(file_database) == ["open 2", "open 3", "open 4"]
    assert [line["lost"] for line in logs.events("store.recovered")] == [2]


async def test_a_failed_commit_keeps_the_order(
    file_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written behind before and during a failing commit reaches the disk in the order it came in."""
    monkeypatch.setattr(database_module, "_RETRY_S", 0.01)
    disk = Disk(monkeypatch)
    disk.full = True
    disk.stall()
    file_database.write_behind(note("first"))
    await until(lambda: not file_database._behind)  # the commit is under way now, and will fail
    file_database.write_behind(Statement("UPDATE claims SET click_id = 'revised' WHERE click_id = 'first'"))
    disk.go_on()
    await until(lambda: disk.refused >= 2)
    disk.full = False
    await until(lambda: file_database.failing is None)
    assert texts(await file_database.read_written(TEXTS)) == ["revised"]


def garbage(folder: Path) -> Path:
    """Put something that is no database where one is expected."""
    folder.mkdir()
    (folder / FILE).write_bytes(os.urandom(16_384))
    return folder / FILE


async def test_a_damaged_file_at_boot_is_told(data_dir: Path, logs: LogLines) -> None:
    """It does not keep the process from starting; nothing is accepted until the file is gone."""
    file = garbage(data_dir)
    database = over(data_dir, logs)
    await database.open()
    assert len(logs.events("store.failing")) == 1
    with pytest.raises(StoreFailed):
        await database.write(note("refused"))
    with pytest.raises(StoreFailed):
        await database.read(TEXTS)
    file.unlink()
    await database.write(note("again"))
    assert await stored(database) == ["again"]
    assert logs.events("store.recovered")
    await database.close()


def overwrite(folder: Path) -> None:
    for path in (folder / FILE, folder / f"{FILE}-wal"):
        path.write_bytes(os.urandom(path.stat().st_size))


def overwrite_the_header(folder: Path) -> None:
    with (folder / FILE).open("r+b") as file:
        file.write(b"this is no database any more")


def cut_off(folder: Path) -> None:
    for path in (folder / FILE, folder / f"{FILE}-wal"):
        os.truncate(path, 0)


def remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def replace(folder: Path) -> None:
    (folder / FILE).rename(folder / "old")
    (folder / FILE).touch()


@pytest.mark.parametrize("damage", [overwrite, overwrite_the_header, cut_off, remove, replace])
async def test_a_file_damaged_in_use_stops_the_acceptance(
    data_dir: Path, logs: LogLines, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    """SQLite would go on from its cache, and all of it would be gone after a restart: so the file is checked
    before each commit, and the cache is emptied every second.
    """
    monkeypatch.setattr("service.storage.engines.sqlite._SHRINK_EVERY_S", 0)
    database = over(data_dir, logs)
    await database.open()
    for number in range(20):
        await database.write(note(f"{number} {BIG}"))
    damage(data_dir)
    for number in range(3):
        with pytest.raises(StoreFailed):
            await database.write(note(f"lost {number}"))
    assert database.failing
    assert len(logs.events("store.failing")) == 1
    await database.close()


def blocked(folder: Path) -> Callable[[], None]:
    """Put a file in the folder's place; return what takes it away."""
    folder.write_text("in the way")
    return folder.unlink


async def test_a_folder_that_cannot_be_used_is_told(data_dir: Path, logs: LogLines) -> None:
    """Neither reads nor writes raise anything but StoreFailed; once it can be used, they work."""
    unblock = blocked(data_dir)
    database = over(data_dir, logs)
    await database.open()
    with pytest.raises(StoreFailed):
        await database.read(TEXTS)
    for _ in range(2):
        with pytest.raises(StoreFailed):
            await database.write(note("refused"))
    assert len(logs.events("store.failing")) == 1
    unblock()
    await database.write(note("again"))
    assert on_disk(data_dir) == ["again"]
    await database.close()


async def test_a_folder_has_one_owner(data_dir: Path, logs: LogLines) -> None:
    """A second process is refused by name; one that only looks in is not; a closed one lets go."""
    database = over(data_dir, logs)
    await database.open()
    await database.write(note("mine"))
    with pytest.raises(DataDirTaken, match="FIRSTOPEN_DATA_DIR"):
        await over(data_dir, logs).open()
    guest = over(data_dir, logs, exclusive=False)
    await guest.open()
    assert await stored(guest) == ["mine"]
    await guest.write(note("a guest's"))
    assert await stored(database) == ["mine", "a guest's"]
    await guest.close()
    await database.write(note("mine again"))  # a guest that leaves takes no lock and no log with it
    assert on_disk(data_dir) == ["mine", "a guest's", "mine again"]
    await database.close()
    heir = over(data_dir, logs)
    await heir.open()
    await heir.close()


async def test_closing_writes_what_waits(data_dir: Path, logs: LogLines) -> None:
    """What was written behind is on disk after a clean stop; later writes are refused, not lost silently."""
    database = over(data_dir, logs)
    await database.open()
    for number in range(100):
        database.write_behind(note(f"{number}"))
    await database.close()
    assert len(on_disk(data_dir)) == 100
    with pytest.raises(StoreFailed):
        await database.write(note("too late"))


async def test_closing_does_not_wait_for_a_full_disk(data_dir: Path, logs: LogLines) -> None:
    """A disk that takes nothing any more does not keep the process from stopping."""
    database = over(data_dir, logs)
    await database.open()
    await database.write(fill_up())
    database.write_behind(note(BIG))
    async with asyncio.timeout(5):
        await database.close()


async def test_what_comes_during_a_commit_is_in_the_next(data_dir: Path) -> None:
    """Writes that come while a commit runs reach the disk a moment later: the writer never falls behind."""
    commits = 0
    enough = asyncio.Event()

    def committed() -> None:
        nonlocal commits
        commits += 1
        if commits < 20:
            database.write_behind(note(f"{commits}"))
        else:
            enough.set()

    database = Database(SqliteEngine(data_dir), configure_logs("critical"), committed=committed)
    await database.open()
    try:
        database.write_behind(note("first"))
        async with asyncio.timeout(10):  # it takes one
            await enough.wait()
    finally:
        await database.close()
