"""The one writer: group commit, what a full disk and a damaged file do to it, and how it comes back."""

import asyncio
import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from service.resolve.errors import StoreFailed
from service.store import database as database_module
from service.store.database import BEHIND_S, FILE, Database, DataDirTaken, refuse_taken
from service.telemetry import configure_logs
from tests.support import FakeClock, LogLines, until

SCHEMA = "CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);"
BIG = "x" * 20_000
FULL = 2


def note(text: str) -> Callable[[sqlite3.Connection], int | None]:
    return lambda connection: connection.execute("INSERT INTO notes (text) VALUES (?)", (text,)).lastrowid


def texts(connection: sqlite3.Connection) -> list[str]:
    return [text for (text,) in connection.execute("SELECT text FROM notes ORDER BY id")]


def pragma(name: str) -> Callable[[sqlite3.Connection], Any]:
    return lambda connection: connection.execute(f"PRAGMA {name}").fetchone()[0]


def on_disk(folder: Path) -> list[str]:
    """Read as somebody else would: what is here survives a kill."""
    connection = sqlite3.connect(f"file:{folder / FILE}?mode=ro", uri=True)
    try:
        return texts(connection)
    finally:
        connection.close()


def fill_up(connection: sqlite3.Connection) -> Any:
    """Let the file grow no further, as a full disk would."""
    return connection.execute("PRAGMA max_page_count = 1").fetchall()


def make_room(connection: sqlite3.Connection) -> Any:
    return connection.execute("PRAGMA max_page_count = 1000000").fetchall()


class Counted:
    def __init__(self) -> None:
        self.commits = 0

    def __call__(self) -> None:
        self.commits += 1


@pytest.fixture
def commits() -> Counted:
    return Counted()


@pytest.fixture
async def database(data_dir: Path, logs: LogLines, commits: Counted) -> AsyncIterator[Database]:
    database = Database(data_dir, SCHEMA, configure_logs("debug", logs), committed=commits)
    await database.open()
    yield database
    await database.close()


async def test_a_write_is_durable_when_it_returns(database: Database, data_dir: Path) -> None:
    """Its result comes back, and another connection sees it at once; the file is nobody else's to read."""
    assert await database.write(note("one")) == 1
    assert on_disk(data_dir) == ["one"]
    assert stat.S_IMODE((data_dir / FILE).stat().st_mode) == 0o600
    assert await database.read(pragma("journal_mode")) == "wal"
    assert await database.read(pragma("synchronous")) == FULL


async def test_writes_share_commits(database: Database, commits: Counted) -> None:
    """Sixty-four writers that come while a commit runs share the next: 0.1 commits a write at most."""

    async def writer(number: int) -> None:
        for turn in range(20):
            await database.write(note(f"{number}/{turn}"))

    await asyncio.gather(*(writer(number) for number in range(64)))
    assert len(await database.read(texts)) == 64 * 20
    assert commits.commits <= 64 * 20 * 0.1


async def test_a_write_behind_waits_for_nobody(database: Database, data_dir: Path) -> None:
    """It is on disk a moment later without anybody waiting, and a read sees it at once."""
    database.write_behind(note("behind"))
    assert on_disk(data_dir) == []
    assert await database.read(texts) == ["behind"]
    database.write_behind(note("later"))
    began = asyncio.get_running_loop().time()
    await until(lambda: on_disk(data_dir) == ["behind", "later"])
    assert asyncio.get_running_loop().time() - began < BEHIND_S + 1


async def test_order_is_kept(database: Database) -> None:
    """What was written behind goes before what is written after it, in one commit."""
    database.write_behind(note("first"))
    await database.write(note("second"))
    assert await database.read(texts) == ["first", "second"]


def boom(_: sqlite3.Connection) -> object:
    raise RuntimeError("somebody's secret")


FAULTY: dict[str, Callable[[sqlite3.Connection], object]] = {
    "constraint": note("one"),
    "null": lambda c: c.execute("INSERT INTO notes (text) VALUES (?)", (None,)),
    "count": lambda c: c.execute("INSERT INTO notes (text) VALUES (?)", ("a", "b")),
    "type": lambda c: c.execute("INSERT INTO notes (text) VALUES (?)", (object(),)),
    "overflow": lambda c: c.execute("INSERT INTO notes (id, text) VALUES (?, ?)", (2**70, "a")),
    "surrogate": note("\ud800"),
    "our bug": boom,
}


@pytest.mark.parametrize("kind", FAULTY)
async def test_a_faulty_write_fails_alone(database: Database, logs: LogLines, kind: str) -> None:
    """Its neighbours in the commit are kept, its own caller hears of it, the writer goes on."""
    await database.write(note("one"))
    outcomes = await asyncio.gather(
        database.write(note("two")),
        database.write(FAULTY[kind]),
        database.write(note("three")),
        return_exceptions=True,
    )
    assert [isinstance(outcome, StoreFailed) for outcome in outcomes] == [False, True, False]
    database.write_behind(FAULTY[kind])
    await database.write(note("four"))
    assert await database.read(texts) == ["one", "two", "three", "four"]
    assert database.failing is None
    assert len(logs.events("store.refused")) == 2
    assert "secret" not in logs.text


async def test_a_full_disk_is_told_and_gets_over(database: Database, logs: LogLines) -> None:
    """Who waits hears that nothing was kept, once in the log; what was written behind waits for the disk."""
    await database.write(fill_up)
    for _ in range(3):
        with pytest.raises(StoreFailed):
            await database.write(note(BIG))
    database.write_behind(note("open"))
    with pytest.raises(StoreFailed):
        await database.write(note(f"{BIG}2"))
    assert database.failing
    assert [line["level"] for line in logs.events("store.failing")] == ["error"]
    await database.write(make_room)
    await database.write(note("lead"))
    assert database.failing is None
    assert await database.read(texts) == ["open", "lead"]
    assert [line["lost"] for line in logs.events("store.recovered")] == [0]


async def test_what_is_written_behind_is_bounded(
    database: Database, logs: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the disk fails, the oldest are forgotten first, counted, and the count is logged."""
    monkeypatch.setattr(database_module, "BEHIND_MAX", 3)
    await database.write(fill_up)
    with pytest.raises(StoreFailed):
        await database.write(note(BIG))
    for number in range(5):
        database.write_behind(note(f"open {number}"))
    await database.write(make_room)
    assert await database.read(texts) == ["open 2", "open 3", "open 4"]
    assert [line["lost"] for line in logs.events("store.recovered")] == [2]


def garbage(folder: Path) -> Path:
    """Put something that is no database where one is expected."""
    folder.mkdir()
    (folder / FILE).write_bytes(os.urandom(16_384))
    return folder / FILE


async def test_a_damaged_file_at_boot_is_told(data_dir: Path, logs: LogLines) -> None:
    """It does not keep the process from starting; nothing is accepted until the file is gone."""
    file = garbage(data_dir)
    database = Database(data_dir, SCHEMA, configure_logs("debug", logs))
    await database.open()
    assert len(logs.events("store.failing")) == 1
    for work in (database.write, database.read):
        with pytest.raises(StoreFailed):
            await work(texts)
    file.unlink()
    await database.write(note("again"))
    assert await database.read(texts) == ["again"]
    assert logs.events("store.recovered")
    await database.close()


def overwrite(folder: Path) -> None:
    for path in (folder / FILE, folder / f"{FILE}-wal"):
        path.write_bytes(os.urandom(path.stat().st_size))


def cut_off(folder: Path) -> None:
    for path in (folder / FILE, folder / f"{FILE}-wal"):
        os.truncate(path, 0)


def remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def replace(folder: Path) -> None:
    (folder / FILE).rename(folder / "old")
    (folder / FILE).touch()


@pytest.mark.parametrize("damage", [overwrite, cut_off, remove, replace])
async def test_a_file_damaged_in_use_stops_the_acceptance(
    data_dir: Path, logs: LogLines, damage: Callable[[Path], None]
) -> None:
    """SQLite would go on from its cache, and all of it would be gone after a restart: so we look, within
    a second of the damage.
    """
    clock = FakeClock()
    database = Database(data_dir, SCHEMA, configure_logs("debug", logs), clock=clock)
    await database.open()
    for number in range(20):
        await database.write(note(f"{number} {BIG}"))
    damage(data_dir)
    clock.advance(1)
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
    database = Database(data_dir, SCHEMA, configure_logs("debug", logs))
    await database.open()
    for work in (database.write, database.read, database.write):
        with pytest.raises(StoreFailed):
            await work(texts)
    assert len(logs.events("store.failing")) == 1
    unblock()
    await database.write(note("again"))
    assert on_disk(data_dir) == ["again"]
    await database.close()


async def test_a_folder_has_one_owner(data_dir: Path, logs: LogLines) -> None:
    """A second process is refused by name; one that only looks in is not; a closed one lets go."""
    log = configure_logs("debug", logs)
    database = Database(data_dir, SCHEMA, log)
    await database.open()
    await database.write(note("mine"))
    with pytest.raises(DataDirTaken, match="FIRSTOPEN_DATA_DIR"):
        await Database(data_dir, SCHEMA, log).open()
    with pytest.raises(DataDirTaken):
        refuse_taken(data_dir)
    guest = Database(data_dir, SCHEMA, log, alone=False)
    await guest.open()
    assert await guest.read(texts) == ["mine"]
    await guest.write(note("a guest's"))
    assert await database.read(texts) == ["mine", "a guest's"]
    await guest.close()
    await database.close()
    refuse_taken(data_dir)
    heir = Database(data_dir, SCHEMA, log)
    await heir.open()
    await heir.close()


async def test_closing_writes_what_waits(data_dir: Path) -> None:
    """What was written behind is on disk after a clean stop; later writes are refused, not lost silently."""
    database = Database(data_dir, SCHEMA, configure_logs("critical"))
    await database.open()
    for number in range(100):
        database.write_behind(note(f"{number}"))
    await database.close()
    assert len(on_disk(data_dir)) == 100
    with pytest.raises(StoreFailed):
        await database.write(note("too late"))


async def test_closing_does_not_wait_for_a_full_disk(data_dir: Path) -> None:
    """A disk that takes nothing any more does not keep the process from stopping."""
    database = Database(data_dir, SCHEMA, configure_logs("critical"))
    await database.open()
    await database.write(fill_up)
    database.write_behind(note(BIG))
    async with asyncio.timeout(5):
        await database.close()


async def test_a_caller_that_gives_up_harms_nobody(database: Database) -> None:
    """A write whose caller is gone is committed with the others."""
    gone = asyncio.create_task(database.write(note("gone")))
    kept = asyncio.create_task(database.write(note("kept")))
    await asyncio.sleep(0)
    gone.cancel()
    await kept
    assert await database.read(texts) == ["gone", "kept"]


async def test_what_comes_during_a_commit_is_in_the_next(tmp_path: Path) -> None:
    """Writes that come while a commit runs reach the disk a moment later: the writer never falls behind."""
    commits = 0
    enough = asyncio.Event()

    def committed() -> None:
        nonlocal commits
        commits += 1
        if commits < 20:
            store.write_behind(lambda _: None)
        else:
            enough.set()

    store = Database(tmp_path, SCHEMA, configure_logs("critical"), committed=committed)
    await store.open()
    try:
        store.write_behind(lambda _: None)
        async with asyncio.timeout(10):  # it takes one
            await enough.wait()
    finally:
        await store.close()


async def test_no_exception_ends_the_writer(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that nobody foresaw fails the writes at hand; later ones are committed."""

    def broken(_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(database, "_in_one_transaction", broken)
        with pytest.raises(StoreFailed):
            await database.write(note("lost"))
    await database.write(note("kept"))
    assert database.failing is None


async def test_an_overwritten_header_is_found_before_anything_is_accepted(
    data_dir: Path, logs: LogLines
) -> None:
    """SQLite itself would go on from its cache: ten leads were acknowledged and lost that way."""
    database = Database(data_dir, SCHEMA, configure_logs("debug", logs))
    await database.open()
    await database.write(note("kept"))
    with (data_dir / "firstopen.sqlite").open("r+b") as file:
        file.write(b"this is no database any more")
    with pytest.raises(StoreFailed):
        await database.write(note("lost"))
    assert database.failing
    await database.close()
