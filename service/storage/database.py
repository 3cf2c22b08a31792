"""Run all reads and writes of the database; reads share a round trip, and writes share a commit.

What can go wrong: the database is down, slow, full or read-only (callers wait no longer than their timeouts;
rows that are written behind wait in a bounded queue, whose oldest rows are dropped and counted); another
process stops while it has rows locked (writes that need them fail or wait, the others are committed); an
unexpected exception stops the writer (any exception fails the current batch and is logged, and the writer
continues); one invalid statement makes others fail (the engine leaves it out); a write that is reported as
failed is committed all the same (callers only make writes that may be repeated).
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, TypeVar

from service.aio.deadlines import IdleDeadlines
from service.aio.tasks import cancel_all
from service.domain.errors import StoreFailed
from service.storage.engines.port import Engine, Unit, UnitResult
from service.storage.errors import EngineUnavailable, RowsLocked, StartRefused, StatementRejected
from service.storage.migrate import LOCK, log_migrations, migrate
from service.storage.statements import Row, RowStatement, Statement, Values
from service.telemetry import Event, Log, where

WRITE_BEHIND_S = 0.05
WRITE_BEHIND_MAX = 50_000
WRITE_BEHIND_MAX_BYTES = 64 * 1024 * 1024
WRITES_PER_COMMIT = 2_000

_COMMIT_S = 0.08  # how long a commit may take: a caller waits 250 ms, perhaps for two of them
_MIN_CALLERS = 50  # of one commit
_RETRY_S = 0.5
_SIZED = (bytes, str)
_WRITE_BYTES = 500  # of a queued row, without its texts and blobs
_READS_PER_ROUND_TRIP = 64
_ROUND_TRIP_S = 0.005  # if a round trip takes longer, another one is started

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Write:
    unit: Unit
    done: asyncio.Future[list[list[Row]]]


@dataclass(slots=True, eq=False)
class _BehindRow:
    rows: RowStatement
    values: Values
    size_bytes: int


@dataclass(slots=True, eq=False)
class _Read:
    queries: Sequence[Statement]
    done: asyncio.Future[list[list[Row]]]


class Database:
    """Reads and writes through one ``Engine``.

    ``check`` runs once, after migration and before the first read or write; it raises ``StartRefused``.
    ``committed`` is called after every durable commit. ``failing`` describes the problem while the database
    cannot be used. Every awaited method raises ``StoreFailed`` if the database fails or does not answer in
    time.
    """

    def __init__(
        self,
        engine: Engine,
        log: Log,
        *,
        check: Callable[[Engine], Awaitable[None]] | None = None,
        committed: Callable[[], None] = lambda: None,
    ) -> None:
        self.is_shared = engine.is_shared
        self.failing: str | None = None
        self.dropped = 0  # rows that were written behind and never reached the database
        self._engine = engine
        self._log = log
        self._check = check
        self._committed = committed
        self._waiting: deque[_Write] = deque()
        self._behind: deque[_BehindRow | Unit] = deque()
        self._behind_bytes = 0
        self._locked: list[Unit] = []  # was written behind and is retried after ``_RETRY_S``
        self._callers_at_once = _MIN_CALLERS  # as many as one commit of ``_COMMIT_S`` serves
        self._reads: deque[_Read] = deque()
        self._deadlines = IdleDeadlines()
        self._wanted = asyncio.Event()
        self._urgent = asyncio.Event()
        self._closing = False
        self._committing = False
        self._migrated = False
        self._writer: asyncio.Task[None] | None = None
        self._readers: set[asyncio.Task[None]] = set()
        self._waits_for_round_trip = False
        self._reads_at_once = engine.reads_at_once

    async def open(self) -> None:
        """Connect, migrate, and start the writer, which retries while the database cannot be reached.

        Raises ``StartRefused``.
        """
        try:
            await self._prepare()
        except EngineUnavailable as exc:
            self._fail(exc)
        except BaseException:
            await self._engine.close()
            raise
        self._writer = asyncio.create_task(self._write())

    async def close(self) -> None:
        """Write queued rows, if the database is available, and disconnect."""
        self._closing = True
        self._retry_locked()
        self._urgent.set()
        if self._writer is not None:
            await self._writer
        for read in self._reads:
            _fail(read.done, StoreFailed("the database is closed"))
        self._reads.clear()
        await cancel_all(self._readers)
        await self._engine.close()

    async def read(self, sql: str, *values: object, timeout_s: float | None = None) -> list[Row]:
        """Return a query's rows as of the last commit; concurrent reads share a round trip."""
        return (await self.read_all(Statement(sql, values), timeout_s=timeout_s))[0]

    async def read_all(self, *queries: Statement, timeout_s: float | None = None) -> list[list[Row]]:
        """Return the rows of several queries in one round trip; otherwise as ``read``."""
        if not self._migrated:
            raise StoreFailed(self.failing or "the database is not ready")
        done: asyncio.Future[list[list[Row]]] = asyncio.get_running_loop().create_future()
        self._reads.append(_Read(queries, done))
        if len(self._reads) == 1:
            asyncio.get_running_loop().call_soon(self._start_reading)
        return await self._wait_for(done, timeout_s)

    async def read_written(self, sql: str, *values: object, timeout_s: float | None = None) -> list[Row]:
        """Return a query's rows after committing the rows that were written behind before this call.

        Of two processes that write and then read at the same time, at least one sees the other's rows: a read
        within the commit would not.
        """
        if self._behind or self._committing:
            await self.write(timeout_s=timeout_s)
        return await self.read(sql, *values, timeout_s=timeout_s)

    async def write(self, *unit: Statement, timeout_s: float | None = None) -> list[list[Row]]:
        """Commit statements in one durable transaction, and return the rows of each.

        After a ``StoreFailed``, they may have been committed all the same.
        """
        if self._closing:
            raise StoreFailed("the database is closed")
        done: asyncio.Future[list[list[Row]]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Write(unit, done))
        self._wanted.set()
        self._urgent.set()
        return await self._wait_for(done, timeout_s)

    def write_behind(self, *unit: Statement) -> None:
        """Queue statements, to be committed within ``WRITE_BEHIND_S``, or when the database works again."""
        self._push_behind(unit)

    def write_row_behind(self, rows: RowStatement, values: Values) -> None:
        """Queue a row as ``write_behind`` does; rows of one kind share a statement."""
        self._push_behind(_BehindRow(rows, values, _WRITE_BYTES + _sizes(values)))

    async def erased(self) -> None:
        """Remove copies of rows that were just erased from the database's files."""
        with contextlib.suppress(EngineUnavailable):
            await self._engine.after_erasure()

    async def _wait_for(
        self, done: "asyncio.Future[list[list[Row]]]", timeout_s: float | None
    ) -> list[list[Row]]:
        if timeout_s is None:
            return await done
        late = StoreFailed(f"the database took longer than {timeout_s} s")
        ticket = self._deadlines.add(timeout_s, partial(_fail, done, late))
        try:
            return await done
        finally:
            self._deadlines.cancel(ticket)

    def _push_behind(self, item: _BehindRow | Unit) -> None:
        self._behind.append(item)
        self._behind_bytes += _bytes_of(item)
        self._drop_oldest()
        self._wanted.set()

    def _drop_oldest(self) -> None:
        while len(self._behind) > WRITE_BEHIND_MAX or self._behind_bytes > WRITE_BEHIND_MAX_BYTES:
            self._behind_bytes -= _bytes_of(self._behind.popleft())
            self.dropped += 1

    def _start_reading(self) -> None:
        """Start a round trip, or wait for the current one up to ``_ROUND_TRIP_S``, to collect more reads.

        A read that shares a round trip takes a fifth of the CPU time of a separate one.
        """
        if not self._readers:
            self._start_round_trip()
        elif not self._waits_for_round_trip:
            self._waits_for_round_trip = True
            self._deadlines.add(_ROUND_TRIP_S, self._start_another)

    def _start_another(self) -> None:
        """Start a round trip over another connection, because the current ones are slow."""
        self._waits_for_round_trip = False
        self._start_round_trip()
        if self._reads:
            self._start_reading()

    def _start_round_trip(self) -> None:
        if len(self._readers) >= self._reads_at_once:
            return
        batch: list[_Read] = []
        while self._reads and len(batch) < _READS_PER_ROUND_TRIP:
            read = self._reads.popleft()
            if not read.done.done():  # else its caller timed out
                batch.append(read)
        if batch:
            task = asyncio.create_task(self._fetch(batch))
            self._readers.add(task)
            task.add_done_callback(self._end_round_trip)

    def _end_round_trip(self, task: asyncio.Task[None]) -> None:
        self._readers.discard(task)
        self._start_round_trip()

    async def _fetch(self, batch: Sequence[_Read]) -> None:
        """Answer reads; if the batch has an invalid query, run each read separately. Never raises."""
        try:
            found = await self._engine.fetch([query for each in batch for query in each.queries])
        except StatementRejected as exc:
            if len(batch) == 1:
                self._log.error(Event.STORE_REFUSED, error=str(exc))
                _fail(batch[0].done, StoreFailed(str(exc)))
            else:
                for each in batch:
                    await self._fetch([each])
        except Exception as exc:  # noqa: BLE001  callers must get an answer after any error
            self._fail(exc)
            for each in batch:
                _fail(each.done, StoreFailed(_named(exc)))
        else:
            results = iter(found)
            for each in batch:
                rows = [next(results) for _ in each.queries]
                if not each.done.done():
                    each.done.set_result(rows)

    async def _write(self) -> None:
        """Commit batches until the database is closed; exceptions do not end it."""
        while True:
            await self._wanted.wait()
            if not self._closing and not self._waiting:
                await self._linger(WRITE_BEHIND_S)
            self._wanted.clear()
            self._urgent.clear()
            behind, waiting = self._taken()
            if behind or waiting or self.failing:
                self._committing = True
                await self._commit(behind, waiting)
                self._committing = False
            if self._closing and not self._waiting and (not self._behind or self.failing):
                return
            if self._behind or self._waiting or self.failing:
                self._wanted.set()
            if self.failing:
                await self._linger(_RETRY_S)

    def _taken(self) -> tuple[list[_BehindRow | Unit], list[_Write]]:
        behind = [self._behind.popleft() for _ in range(min(len(self._behind), WRITES_PER_COMMIT))]
        self._behind_bytes -= sum(map(_bytes_of, behind))
        waiting = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._callers_at_once))]
        return behind, [each for each in waiting if not each.done.done()]  # without timed-out callers

    async def _linger(self, seconds: float) -> None:
        """Wait for more writes to collect, unless a caller waits for one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._urgent.wait()

    async def _commit(self, behind: list[_BehindRow | Unit], waiting: list[_Write]) -> None:
        try:
            if not self._migrated or self.failing:
                await self._prepare()
            grouped = _grouped(behind)
            units = [*(unit for unit, _ in grouped), *(each.unit for each in waiting)]
            began = time.monotonic()
            results = await self._engine.commit(units) if units else []
            self._resize(len(waiting), time.monotonic() - began)
        except Exception as exc:  # noqa: BLE001  the writer must continue after any error
            if not isinstance(exc, EngineUnavailable | StartRefused):
                self._log.error(Event.STORE_REFUSED, error=type(exc).__name__, where=where(exc))
            self._fail(exc)
            self._put_back(behind)
            for each in waiting:
                _fail(each.done, StoreFailed(_named(exc)))
            return
        if units:
            self._committed()
        self._recovered()
        for each, result in zip(waiting, results[len(grouped) :], strict=True):
            _end(each.done, result)
        for (_, singles), result in zip(grouped, results, strict=False):
            if isinstance(result, Exception) and len(singles) > 1:
                self._put_back(list(singles))  # one row is invalid or locked: retry them one by one
            elif isinstance(result, RowsLocked):
                self._put_aside(singles)
        self._count_rejected(grouped, results)

    def _resize(self, callers: int, took_s: float) -> None:
        """Let the next commit serve as many callers as take ``_COMMIT_S``, but at most twice as many."""
        if callers >= self._callers_at_once or took_s > _COMMIT_S:
            fitting = int(self._callers_at_once * min(2.0, _COMMIT_S / max(took_s, 0.001)))
            self._callers_at_once = min(WRITES_PER_COMMIT, max(_MIN_CALLERS, fitting))

    async def _prepare(self) -> None:
        """Connect, migrate and check once, and try a write after a failure.

        Raises ``EngineUnavailable`` or ``StartRefused``.
        """
        await self._engine.connect()
        if not self._migrated:
            log_migrations(self._log, await migrate(self._engine))
            if self._check is not None:
                await self._check(self._engine)
            self._migrated = True
        if self.failing:
            await self._engine.commit([[LOCK]])  # a full disk accepts connections, but not this write

    def _put_back(self, behind: list[_BehindRow | Unit]) -> None:
        self._behind.extendleft(reversed(behind))
        self._behind_bytes += sum(map(_bytes_of, behind))
        self._drop_oldest()

    def _put_aside(self, units: Sequence[Unit]) -> None:
        """Retry units later, behind all others; while closing, give them up."""
        if self._closing:
            self.dropped += len(units)
            self._log.error(Event.STORE_REFUSED, error=RowsLocked.__name__)
            return
        if not self._locked:
            self._deadlines.add(_RETRY_S, self._retry_locked)
        self._locked.extend(units)

    def _retry_locked(self) -> None:
        for each in self._locked:
            self._push_behind(each)
        self._locked.clear()
        self._wanted.set()

    def _fail(self, exc: Exception) -> None:
        problem = _named(exc)
        if self.failing is None or (isinstance(exc, StartRefused) and self.failing != problem):
            self._log.error(Event.STORE_FAILING, detail=problem)
        self.failing = problem
        self._wanted.set()  # the writer checks when the database works again

    def _count_rejected(self, grouped: Sequence["_Group"], results: Sequence[UnitResult]) -> None:
        for number, result in enumerate(results):
            will_be_retried = number < len(grouped) and len(grouped[number][1]) > 1
            if isinstance(result, StatementRejected) and not will_be_retried:
                self.dropped += number < len(grouped)
                self._log.error(Event.STORE_REFUSED, error=str(result))

    def _recovered(self) -> None:
        if self.failing is not None:
            self.failing = None
            self._log.info(Event.STORE_RECOVERED, lost=self.dropped)


_Group: TypeAlias = tuple[Unit, list[Unit]]  # a unit to commit, and the same rows as one unit each


def _grouped(behind: Sequence[_BehindRow | Unit]) -> list[_Group]:
    """Group rows of one kind into statements; writes to one table keep their order."""
    groups: list[_Group] = []
    gathered: dict[str, tuple[RowStatement, list[Values]]] = {}

    def flush(table: str) -> None:
        rows, values = gathered.pop(table)
        for statement, written in rows.over(values):
            groups.append(([statement], [[rows.one(each)] for each in written]))

    for item in behind:
        if not isinstance(item, _BehindRow):
            for table in list(gathered):
                flush(table)
            groups.append((item, [item]))
            continue
        known = gathered.get(item.rows.table)
        if known is not None and known[0] is not item.rows:
            flush(item.rows.table)
        gathered.setdefault(item.rows.table, (item.rows, []))[1].append(item.values)
    for table in list(gathered):
        flush(table)
    return groups


def _bytes_of(item: _BehindRow | Unit) -> int:
    """Estimate the memory that a queued write takes."""
    if isinstance(item, _BehindRow):
        return item.size_bytes
    return sum(_WRITE_BYTES + _sizes(statement.values) for statement in item)


def _sizes(values: Values) -> int:
    return sum([len(value) for value in values if isinstance(value, _SIZED)])


def _end(done: "asyncio.Future[list[list[Row]]]", result: UnitResult) -> None:
    if isinstance(result, Exception):
        _fail(done, StoreFailed(str(result)))
    elif not done.done():
        done.set_result(result)


def _fail(done: "asyncio.Future[list[list[Row]]]", exc: StoreFailed) -> None:
    if not done.done():
        done.set_exception(exc)


def _named(exc: Exception) -> str:
    return str(exc) if isinstance(exc, EngineUnavailable | StartRefused) else type(exc).__name__
