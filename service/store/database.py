"""One SQLite file, one thread, one writer: what comes while a commit runs shares the next one.

What can go wrong: the disk is full or the file damaged; the file is removed or overwritten under our feet,
and SQLite goes on from its cache; the process is killed between an answer and its commit; one faulty
statement takes its neighbours down. So who asked to wait hears of a failure, the file is looked at before
it is written to, what was written behind waits (bounded) for the disk to come back, and neighbours of a
faulty statement are committed without it.
"""

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, cast

from service.resolve.errors import StoreFailed
from service.store.batch import Row, Rows, Values, Work, Write, Written, write_all
from service.telemetry import Event, Log

FILE = "old.sqlite"
VERSION = 3  # of the schema
BEHIND_S = 0.05
BEHIND_MAX = 50_000
BEHIND_MAX_BYTES = 64 * 1024 * 1024

_RETRY_S = 1.0
_MAGIC = b"SQLite format 3\0"
_WAL_HEADS = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83", bytes(4), b"")
_WRITE_BYTES = 500
_LOOK_EVERY_S = 1.0
_BUSY_MS = 5000
_CHECKPOINT_PAGES = 4000  # 16 MB: a page that many commits touch is copied once
_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    f"busy_timeout={_BUSY_MS}",
    "temp_store=MEMORY",
    "secure_delete=ON",  # what is erased is overwritten
    "cache_size=-8000",  # kB: indexes of random names touch pages all over
    f"wal_autocheckpoint={_CHECKPOINT_PAGES}",
)

T = TypeVar("T")


class DataDirTaken(Exception):
    """Another firstopen writes to this directory."""


class Database:
    """A file in ``folder`` with this ``schema`` (idempotent SQL).

    ``alone`` takes the folder for this process; a command line that looks in does without. ``committed``
    is called after every durable commit; ``clock`` is monotonic seconds.
    """

    def __init__(
        self,
        folder: Path,
        schema: str,
        log: Log,
        *,
        alone: bool = True,
        committed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._committed = committed
        self._clock = clock
        self._file: tuple[int, int] | None = None
        self._next_look = 0.0
        self._alone = alone
        self._path = folder / FILE
        self._schema = schema
        self._log = log
        self._thread = ThreadPoolExecutor(1, "firstopen-store")
        self._reading = ThreadPoolExecutor(1, "firstopen-reader")
        self._connection: sqlite3.Connection | None = None
        self._descriptor: int | None = None
        self._reader: sqlite3.Connection | None = None
        self._lock: int | None = None
        self._waiting: deque[Write] = deque()
        self._behind: deque[Write | Row] = deque()
        self._behind_bytes = 0
        self._wanted = asyncio.Event()
        self._urgent = asyncio.Event()
        self._closing = False
        self._writer: asyncio.Task[None] | None = None
        self.failing: str | None = None
        self.lost = 0

    async def open(self) -> None:
        """Take the folder and begin to write; raises ``DataDirTaken``. A damaged file only makes it fail."""
        if self._alone:
            self._take()
        try:
            await self._run(self._connect)
        except (sqlite3.Error, OSError) as exc:
            self._fail(exc)
        self._writer = asyncio.create_task(self._write())

    async def close(self) -> None:
        """Write what is still waiting, and let go of the folder."""
        self._closing = True
        self._wanted.set()
        self._urgent.set()
        if self._writer is not None:
            await self._writer
        await self._run(self._disconnect)
        self._thread.shutdown()
        self._reading.shutdown()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def write(self, work: Work[T]) -> T:
        """Do the work in the next commit, and return its result once that is durable.

        Raises ``StoreFailed``.
        """
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if self._closing:
            raise StoreFailed("the store is closed")
        self._waiting.append(Write(work, done))
        self._wanted.set()
        self._urgent.set()
        return await done

    def write_behind(self, work: Work[object]) -> None:
        """Do the work within ``BEHIND_S``; while the disk fails it waits, the oldest forgotten first."""
        self._write_soon(Write(work, None))

    def write_row_behind(self, rows: Rows, values: Values) -> None:
        """Write a row as ``write_behind`` does its work, in one statement with others of its kind."""
        self._write_soon(Row(rows, values))

    def _write_soon(self, write: Write | Row) -> None:
        self._behind.append(write)
        self._behind_bytes += _bytes_of(write)
        self._drop_oldest()
        self._wanted.set()

    async def read(self, work: Work[T], *, behind: bool = True, surely: bool = False) -> T:
        """Read; with ``behind``, what was written behind is there to see. Raises ``StoreFailed``.

        Without it, a commit under way is not waited for. While the disk fails, what was written behind
        cannot be seen: then this reads what there is, or fails if it must be seen ``surely``.
        """
        if surely if self.failing else behind and self._behind:
            return await self.write(work)
        try:
            if behind:
                return await self._run(lambda: work(self._connected()))
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._reading, lambda: work(self._looking()))
        except (sqlite3.Error, OSError) as exc:
            self._fail(exc)
            raise StoreFailed(str(exc)) from exc

    async def scrub(self) -> None:
        """Empty the write-ahead log, where deleted rows are still to be read; never raises."""
        with contextlib.suppress(sqlite3.Error, OSError):
            await self._run(lambda: self._connected().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())

    async def _write(self) -> None:
        while True:
            await self._wanted.wait()
            if not self._closing and not self._waiting:
                await self._linger()
            self._wanted.clear()
            self._urgent.clear()
            behind, waiting = list(self._behind), list(self._waiting)
            self._behind.clear()
            self._behind_bytes = 0
            self._waiting.clear()
            if behind or waiting:
                await self._commit(behind, waiting)
            if self._closing and not self._waiting and (not self._behind or self.failing):
                return
            if self._behind:
                self._wanted.set()
            if self.failing:
                await self._linger(_RETRY_S)  # not in a tight loop

    async def _linger(self, seconds: float = BEHIND_S) -> None:
        """Let writes gather, unless somebody waits for one."""
        try:
            async with asyncio.timeout(seconds):
                await self._urgent.wait()
        except TimeoutError:
            return

    async def _commit(self, behind: list[Write | Row], waiting: list[Write]) -> None:
        batch = [*behind, *waiting]
        try:
            written = await self._run(lambda: self._in_one_transaction(batch))
        except Exception as exc:  # noqa: BLE001  whatever it is, the writer must go on
            self._fail(exc)
            self._put_back(behind)
            for each in waiting:
                _end(each, StoreFailed(str(exc)))
            return
        self._committed()
        if self.failing is not None:
            self.failing = None
            self._log.info(Event.STORE_RECOVERED, lost=self.lost)
        writes = (each for each in batch if isinstance(each, Write))
        for each, outcome in zip(writes, written.outcomes, strict=True):
            if isinstance(outcome, Exception):
                written.faults.append(outcome)
                _end(each, StoreFailed(type(outcome).__name__))
            else:
                _end(each, outcome)
        for fault in written.faults:
            self._log.error(Event.STORE_REFUSED, error=type(fault).__name__)

    def _put_back(self, behind: list[Write | Row]) -> None:
        """Keep what the disk did not take in its order, before what came since."""
        self._behind.extendleft(reversed(behind))
        self._behind_bytes += sum(map(_bytes_of, behind))
        self._drop_oldest()

    def _drop_oldest(self) -> None:
        while len(self._behind) > BEHIND_MAX or self._behind_bytes > BEHIND_MAX_BYTES:
            self._behind_bytes -= _bytes_of(self._behind.popleft())
            self.lost += 1

    def _in_one_transaction(self, batch: list[Write | Row]) -> Written:
        """Commit the batch; a write that is itself faulty is left out of it. In the thread."""
        connection = self._connected()
        self._look_at_the_file(connection)
        connection.execute("BEGIN IMMEDIATE")
        try:
            written = write_all(connection, batch)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return written

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connect()
        return cast("sqlite3.Connection", self._connection)

    def _connect(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Readable by this user only. It stays open, to look at the header: closing any descriptor of the file
        # would drop the locks that SQLite holds on it, and another process would delete the log under it.
        if self._descriptor is not None:  # of an attempt that failed: the file may be another one by now
            os.close(self._descriptor)
        self._descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            for pragma in _PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
            _refuse_others(connection)
            connection.executescript(f"{self._schema};PRAGMA user_version = {VERSION};")
        except sqlite3.Error:
            connection.close()
            raise
        self._connection = connection
        self._file = self._identity()

    def _look_at_the_file(self, connection: sqlite3.Connection) -> None:
        """Refuse to write to a file that SQLite would not open again: it goes on from its cache.

        Damage in the middle of the file is found only when SQLite reads it; no check here can promise more.
        """
        if self._identity() != self._file:
            raise sqlite3.DatabaseError("the file was replaced while in use; restart firstopen")
        if self._descriptor is not None and os.pread(self._descriptor, len(_MAGIC), 0) not in (_MAGIC, b""):
            raise sqlite3.DatabaseError("the file was overwritten while in use")
        if _log_head(self._path) not in _WAL_HEADS:
            raise sqlite3.DatabaseError("the write-ahead log was overwritten while in use")
        now = self._clock()
        if now >= self._next_look:
            self._next_look = now + _LOOK_EVERY_S
            connection.execute("PRAGMA shrink_memory")

    def _identity(self) -> tuple[int, int]:
        found = self._path.stat()
        return found.st_dev, found.st_ino

    def _looking(self) -> sqlite3.Connection:
        """Return the connection that only reads. In its own thread."""
        if self._reader is None:
            self._reader = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            self._reader.execute("PRAGMA query_only = ON")
        return self._reader

    def _disconnect(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _take(self) -> None:
        try:
            self._lock = _lock(self._path)
        except OSError as exc:
            self._fail(exc)

    def _fail(self, exc: Exception) -> None:
        if self.failing is None:
            self._log.error(Event.STORE_FAILING, error=type(exc).__name__, detail=str(exc))
        self.failing = str(exc)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _refuse_others(connection: sqlite3.Connection) -> None:
    """Refuse a file that another version of firstopen made, rather than fail at every second question."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if version != VERSION and not empty:
        raise sqlite3.DatabaseError(
            f"the file is of another version of firstopen ({version}, not {VERSION}): move it away"
        )


def refuse_taken(folder: Path) -> None:
    """Raise ``DataDirTaken`` if another firstopen writes to this directory; an unusable one passes."""
    with contextlib.suppress(OSError):
        os.close(_lock(folder / FILE))


def _log_head(path: Path) -> bytes:
    """Return the beginning of a file's write-ahead log, on which SQLite holds no locks."""
    try:
        with path.with_name(f"{FILE}-wal").open("rb") as file:
            return file.read(4)
    except FileNotFoundError:
        return b""


def _lock(path: Path) -> int:
    """Lock a folder for this process; raises ``DataDirTaken`` or ``OSError``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(lock)
        if isinstance(exc, BlockingIOError):
            raise DataDirTaken(f"FIRSTOPEN_DATA_DIR: another firstopen runs on {path.parent}") from exc
        raise
    return lock


def _bytes_of(write: Write | Row) -> int:
    """Estimate what a write that waits takes: a row's values, or a few hundred bytes."""
    if isinstance(write, Write):
        return _WRITE_BYTES
    return _WRITE_BYTES + sum(len(value) for value in write.values if isinstance(value, bytes | str))


def _end(write: Write, outcome: object) -> None:
    """Tell who waits, if anybody does and still is there."""
    done = write.done
    if done is None or done.done():
        return
    if isinstance(outcome, StoreFailed):
        done.set_exception(outcome)
    else:
        done.set_result(outcome)
