"""The engine for SQLite: one file, with a connection for writing and one for reading, each in its own thread.

What can go wrong: the disk is full, or the file is removed, replaced or damaged while SQLite continues from
its cache (the file's identity and headers are checked before each commit; damage in the middle of the file is
found only when SQLite reads that part); two processes write to one folder (a lock file prevents it); deleted
data remains in the file (``secure_delete`` is on, and the write-ahead log is emptied after an erasure, as
soon as no query reads it any more).
"""

import asyncio
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from service.storage.engines.port import Unit, UnitResult
from service.storage.errors import DataDirTaken, EngineUnavailable, StatementRejected
from service.storage.statements import Row, Statement

FILE = "firstopen.sqlite"

_BUSY_MS = 5000
_CHECKPOINT_PAGES = 4000  # 16 MB: a page that many commits change is copied only once
_SHRINK_EVERY_S = 1.0  # the page cache can hide damage to the file for this long
_CACHE = "cache_size=-8000"  # kB: indexes of random keys use pages in all places
_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    f"busy_timeout={_BUSY_MS}",
    "temp_store=MEMORY",
    _CACHE,
    "secure_delete=ON",
    f"wal_autocheckpoint={_CHECKPOINT_PAGES}",
)
_REJECTIONS = (
    sqlite3.ProgrammingError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.DataError,
)
_MISSING = ("no such table", "no such column", "has no column named")
_MAGIC = b"SQLite format 3\0"
_WAL_MAGIC = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
_TOKENS = {
    "{now_ms}": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    "{skip_locked}": "",  # there is only one writer
}

T = TypeVar("T")


class SqliteEngine:
    """Implements ``Engine`` for a file in ``folder``. ``exclusive`` locks the folder for this process."""

    is_shared = False
    reads_at_once = 1

    def __init__(self, folder: Path, *, exclusive: bool = True) -> None:
        self._path = folder / FILE
        self.place = f"SQLite, {self._path}"
        self._exclusive = exclusive
        self._lock: int | None = None
        self._writing = ThreadPoolExecutor(1, "firstopen-sqlite-writer")
        self._reading = ThreadPoolExecutor(1, "firstopen-sqlite-reader")
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._descriptor: int | None = None
        self._identity: tuple[int, int] | None = None
        self._next_shrink = 0.0

    async def connect(self) -> None:
        """Open or create the file; raises ``DataDirTaken`` if another process has locked the folder."""
        if self._exclusive and self._lock is None:
            self._lock = lock_folder(self._path)
        await self._in(self._writing, self._connected)

    async def fetch(self, queries: Sequence[Statement]) -> list[list[Row]]:
        """Run queries in the reading thread, without waiting for a commit."""

        def fetch() -> list[list[Row]]:
            connection = self._reading_connection()
            try:
                return [connection.execute(text(each.sql), each.values).fetchall() for each in queries]
            except sqlite3.Error as exc:
                if _is_rejection(exc):
                    raise StatementRejected(type(exc).__name__) from exc
                raise

        return await self._in(self._reading, fetch)

    async def commit(self, units: Sequence[Unit]) -> list[UnitResult]:
        """Commit the units in one transaction."""
        return await self._in(self._writing, lambda: self._committed(units))

    async def commit_alone(self, unit: Unit) -> list[list[Row]]:
        """Commit one unit, such as a migration."""
        (result,) = await self.commit([unit])
        if isinstance(result, Exception):
            raise result
        return result

    async def after_erasure(self) -> bool:
        """Empty the write-ahead log, which may still contain deleted rows; never wait for readers of it."""

        def checkpoint() -> bool:
            connection = self._connected()
            connection.execute("PRAGMA busy_timeout=0")
            try:
                ((is_busy, *_),) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                connection.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
            return not is_busy

        return await self._in(self._writing, checkpoint)

    async def close(self) -> None:
        """Close both connections and unlock the folder."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(
            self._reading, self._close_reader
        )  # in its own thread, after a running query
        await loop.run_in_executor(self._writing, self._close_writer)
        self._writing.shutdown()
        self._reading.shutdown()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def _in(self, thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, work)
        except (sqlite3.Error, OSError) as exc:
            raise EngineUnavailable(f"{type(exc).__name__}: {exc}") from exc

    def _committed(self, units: Sequence[Unit]) -> list[UnitResult]:
        connection = self._connected()
        self._check_file(connection)
        connection.execute("BEGIN IMMEDIATE")
        try:
            results = [_run(connection, unit) for unit in units]
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return results

    def _connected(self) -> sqlite3.Connection:
        if self._writer is not None:
            return self._writer
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Only this user may read the file. The descriptor, used to read the header, stays open: closing any
        # descriptor of the file drops SQLite's locks, and another process could then delete the log.
        if self._descriptor is not None:  # from a failed attempt: the file may have been replaced
            os.close(self._descriptor)
        self._descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            for pragma in _PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
        except sqlite3.Error:
            connection.close()
            raise
        self._identity = self._file_identity()
        self._writer = connection
        return connection

    def _reading_connection(self) -> sqlite3.Connection:
        if self._reader is None:
            self._reader = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            self._reader.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
            self._reader.execute(f"PRAGMA {_CACHE}")  # a click among a million is found in 4/5 of the time
            self._reader.execute("PRAGMA query_only = ON")
        return self._reader

    def _check_file(self, connection: sqlite3.Connection) -> None:
        """Raise ``sqlite3.DatabaseError`` if the file was replaced or overwritten."""
        if self._file_identity() != self._identity:
            raise sqlite3.DatabaseError("the database file was replaced while in use; restart firstopen")
        if self._descriptor is not None and os.pread(self._descriptor, len(_MAGIC), 0) not in (_MAGIC, b""):
            raise sqlite3.DatabaseError("the database file was overwritten while in use")
        if _log_head(Path(f"{self._path}-wal")) not in (*_WAL_MAGIC, b"", bytes(4)):
            raise sqlite3.DatabaseError("the write-ahead log was overwritten while in use")
        now = time.monotonic()
        if now >= self._next_shrink:
            self._next_shrink = now + _SHRINK_EVERY_S
            connection.execute("PRAGMA shrink_memory")

    def _file_identity(self) -> tuple[int, int]:
        found = self._path.stat()
        return found.st_dev, found.st_ino

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@lru_cache(1024)
def text(sql: str) -> str:
    """Return a statement in SQLite's syntax."""
    for token, meaning in _TOKENS.items():
        sql = sql.replace(token, meaning)
    return sql


def _run(connection: sqlite3.Connection, unit: Unit) -> UnitResult:
    """Run a unit inside the open transaction; if it is rejected, roll back only this unit."""
    several = len(unit) > 1
    try:
        if several:
            connection.execute("SAVEPOINT unit")
        results = [connection.execute(text(each.sql), each.values).fetchall() for each in unit]
        if several:
            connection.execute("RELEASE unit")
    except (sqlite3.Error, OverflowError, ValueError, TypeError) as exc:
        if isinstance(exc, sqlite3.Error) and (not _is_rejection(exc) or _is_missing(exc)):
            raise
        if several:
            connection.execute("ROLLBACK TO unit")
            connection.execute("RELEASE unit")
        return StatementRejected(type(exc).__name__)
    return results


def _is_rejection(exc: sqlite3.Error) -> bool:
    """Return True if the statement is at fault (such as a missing table), and False for the disk."""
    if isinstance(exc, sqlite3.OperationalError):
        return exc.sqlite_errorcode == sqlite3.SQLITE_ERROR
    return isinstance(exc, _REJECTIONS)


def _is_missing(exc: sqlite3.Error) -> bool:
    """Return True if a table or column is missing: the schema, not the values of the statement."""
    return any(problem in str(exc) for problem in _MISSING)


def _log_head(path: Path) -> bytes:
    """Return the beginning of the write-ahead log; reading it is safe, as SQLite does not lock that file."""
    try:
        with path.open("rb") as file:
            return file.read(4)
    except FileNotFoundError:
        return b""


def lock_folder(path: Path) -> int:
    """Lock a folder for this process; raises ``DataDirTaken`` or ``EngineUnavailable``."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise EngineUnavailable(f"{type(exc).__name__}: {exc}") from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(lock)
        if isinstance(exc, BlockingIOError):
            raise DataDirTaken(f"FIRSTOPEN_DATA_DIR: another firstopen runs on {path.parent}") from exc
        raise EngineUnavailable(f"{type(exc).__name__}: {exc}") from exc
    return lock
