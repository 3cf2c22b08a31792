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
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple

from msgspec import Struct

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
_MIN_WRITES = 64  # of one commit
_RETRY_S = 0.5
_SCRUB_EVERY_S = 1.0
_SIZED = frozenset({bytes, str})
_WRITE_BYTES = 500  # of a queued row, without its texts and blobs
_READS_PER_ROUND_TRIP = 64
_ROUND_TRIP_S = 0.005  # if a round trip takes longer, another one is started


class _Write(Struct, eq=False):
    """Statements of ``unit``, or ``values`` of a row. Without ``done``, it was written behind."""

    unit: Unit
    rows: RowStatement | None = None
    values: Values = ()
    done: "asyncio.Future[list[list[Row]]] | None" = None
    alone: bool = False  # not together with other rows: one of those failed
    size_bytes: int = 0  # an estimate of its memory, made once, when it is queued behind

    @property
    def is_wanted(self) -> bool:
        """Return False if its caller has timed out."""
        return self.done is None or not self.done.done()

    @property
    def weight(self) -> int:
        """Return how much of a commit's room it takes: one for a row or statement."""
        return len(self.unit) if self.rows is None else 1

    def estimated_bytes(self) -> int:
        """Estimate the memory that it takes."""
        if self.rows is not None:
            return _WRITE_BYTES + _sizes(self.values)
        return sum(_WRITE_BYTES + _sizes(statement.values) for statement in self.unit)


class _Read(Struct, eq=False):
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
        self._behind: deque[_Write] = deque()
        self._behind_bytes = 0
        self._locked: list[_Write] = []  # was written behind and is retried after ``_RETRY_S``
        self._writes_at_once = _MIN_WRITES  # as many as a commit of ``_COMMIT_S`` has room for
        self._commits = 0
        self._reads: deque[_Read] = deque()
        self._deadlines = IdleDeadlines()
        self._wanted = asyncio.Event()
        self._urgent = asyncio.Event()
        self._closing = False
        self._committing = False
        self._migrated = False
        self._writer: asyncio.Task[None] | None = None
        self._scrubbing: asyncio.Task[None] | None = None
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
        await cancel_all(self._readers if self._scrubbing is None else [*self._readers, self._scrubbing])
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
        await self.flush(timeout_s=timeout_s)
        return await self.read(sql, *values, timeout_s=timeout_s)

    async def flush(self, *, timeout_s: float | None = None) -> None:
        """Commit what was written behind before this call."""
        if self._behind or self._committing:
            await self.write(timeout_s=timeout_s, in_order=True)

    async def write(
        self, *unit: Statement, timeout_s: float | None = None, in_order: bool = False
    ) -> list[list[Row]]:
        """Commit statements in one durable transaction, and return the rows of each.

        They overtake what was written behind before this call, unless ``in_order``. After a ``StoreFailed``,
        they may have been committed all the same.
        """
        done = self._asked()
        if in_order:
            self._push_behind(_Write(unit, done=done))
        else:
            self._waiting.append(_Write(unit, done=done))
        return await self._wait_for(done, timeout_s)

    async def write_row(
        self, rows: RowStatement, values: Values, *, timeout_s: float, queue_s: float = 0
    ) -> list[list[Row]]:
        """Commit a row durably, and return what its statements return for its id.

        Rows of one kind share statements. ``timeout_s`` is for one commit: in the queue of a database that
        commits other writes, the row waits up to ``queue_s`` seconds more.
        """
        done = self._asked()
        self._waiting.append(_Write((), rows, values, done))
        return await self._wait_for(done, timeout_s, queue_s)

    def write_behind(self, *unit: Statement) -> None:
        """Queue statements, to be committed within ``WRITE_BEHIND_S``, or when the database works again."""
        self._push_behind(_Write(unit))

    def write_row_behind(self, rows: RowStatement, values: Values) -> None:
        """Queue a row as ``write_behind`` does; rows of one kind share a statement."""
        self._push_behind(_Write((), rows, values))

    async def erased(self) -> None:
        """Remove copies of rows that were just erased from the database's files.

        A query that runs for long may prevent that: then it is tried again in the background.
        """
        if not await self._scrubbed() and (self._scrubbing is None or self._scrubbing.done()):
            self._scrubbing = asyncio.create_task(self._scrub())

    async def _scrub(self) -> None:
        done = False
        while not done:
            await asyncio.sleep(_SCRUB_EVERY_S)
            done = await self._scrubbed()

    async def _scrubbed(self) -> bool:
        try:
            return await self._engine.after_erasure()
        except EngineUnavailable:
            return False

    def _asked(self) -> "asyncio.Future[list[list[Row]]]":
        """Wake the writer for a caller that waits; return its result. Raises ``StoreFailed``."""
        if self._closing:
            raise StoreFailed("the database is closed")
        self._wanted.set()
        self._urgent.set()
        return asyncio.get_running_loop().create_future()

    async def _wait_for(
        self, done: "asyncio.Future[list[list[Row]]]", timeout_s: float | None, queue_s: float = 0
    ) -> list[list[Row]]:
        """Wait for a result up to ``timeout_s``; while commits succeed, ``queue_s`` seconds more."""
        if timeout_s is None:
            return await done
        ticket = self._deadlines.add(
            timeout_s, partial(self._give_up, done, timeout_s, queue_s, self._commits)
        )
        try:
            return await done
        finally:
            self._deadlines.cancel(ticket)

    def _give_up(
        self, done: "asyncio.Future[list[list[Row]]]", timeout_s: float, queue_s: float, commits: int
    ) -> None:
        """Fail a late result, unless commits succeed and ``queue_s`` seconds are left to wait.

        ``commits`` is how many commits there were when this wait began.
        """
        if done.done():  # a deadline that was added here is not cancelled when the result arrives
            return
        if queue_s > 0 and self._commits > commits:
            again = partial(self._give_up, done, timeout_s, queue_s - timeout_s, self._commits)
            self._deadlines.add(timeout_s, again)
        else:
            _fail(done, StoreFailed(f"the database took longer than {timeout_s} s"))

    def _push_behind(self, write: _Write) -> None:
        self._behind.append(write)
        write.size_bytes = write.size_bytes or write.estimated_bytes()
        self._behind_bytes += write.size_bytes
        self._drop_oldest()
        self._wanted.set()

    def _drop_oldest(self) -> None:
        while len(self._behind) > WRITE_BEHIND_MAX or self._behind_bytes > WRITE_BEHIND_MAX_BYTES:
            oldest = self._behind.popleft()
            self._behind_bytes -= oldest.size_bytes
            self._lose(oldest, "too many writes wait for the database")

    def _lose(self, write: _Write, why: str) -> None:
        """Count a write that was written behind; tell the caller of another one."""
        if write.done is None:
            self.dropped += 1
        else:
            _fail(write.done, StoreFailed(why))

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
            more_behind = bool(self._behind)
            if behind or waiting or self.failing:
                self._committing = True
                await self._commit(behind, waiting)
                self._committing = False
            if more_behind and not self.failing:
                self._urgent.set()
            if self._closing and not self._waiting and (not self._behind or self.failing):
                return
            if self._behind or self._waiting or self.failing:
                self._wanted.set()
            if self.failing:
                await self._linger(_RETRY_S)

    def _taken(self) -> tuple[list[_Write], list[_Write]]:
        """Take as many writes as one commit has room for, without those of callers that timed out.

        Callers come first, but leave some room: the queue behind them must not fill up.
        """
        waiting = _popped(self._waiting, self._writes_at_once)
        behind = _popped(self._behind, max(_MIN_WRITES, self._writes_at_once - _weight(waiting)))
        self._behind_bytes -= sum(each.size_bytes for each in behind)
        return [each for each in behind if each.is_wanted], [each for each in waiting if each.is_wanted]

    async def _linger(self, seconds: float) -> None:
        """Wait for more writes to collect, unless a caller waits for one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._urgent.wait()

    async def _commit(self, behind: list[_Write], waiting: list[_Write]) -> None:
        try:
            if not self._migrated or self.failing:
                await self._prepare()
            groups = [*_grouped(behind), *_grouped(waiting)]
            units = [each.unit for each in groups]
            began = time.monotonic()
            results = await self._engine.commit(units) if units else []
            self._resize(_weight(behind) + _weight(waiting), time.monotonic() - began)
        except Exception as exc:  # noqa: BLE001  the writer must continue after any error
            if not isinstance(exc, EngineUnavailable | StartRefused):
                self._log.error(Event.STORE_REFUSED, error=type(exc).__name__, where=where(exc))
            self._fail(exc)
            # Callers further back in the queue, too: their turn would come only once the database works.
            for each in (*behind, *waiting, *self._behind):
                if each.done is not None:
                    _fail(each.done, StoreFailed(_named(exc)))
            self._put_back([each for each in behind if each.done is None])
            return
        if units:
            self._commits += 1
            self._committed()
        self._recovered()
        for group, result in zip(groups, results, strict=True):
            self._end(group, result)

    def _end(self, group: "_Group", result: UnitResult) -> None:
        """Answer the callers of a group that was committed or left out."""
        if isinstance(result, Exception) and len(group.writes) > 1:
            self._retry_alone(group.writes)  # one row is invalid or locked
            return
        if isinstance(result, StatementRejected):
            self._log.error(Event.STORE_REFUSED, error=str(result))
        if not isinstance(result, Exception):
            _answer(group.writes, result)
            return
        for each in group.writes:
            if each.done is None and isinstance(result, RowsLocked):
                self._put_aside(each)
            else:
                self._lose(each, str(result))

    def _retry_alone(self, writes: Sequence[_Write]) -> None:
        for each in writes:
            each.alone = True
        self._waiting.extendleft(each for each in reversed(writes) if each.done is not None)
        self._put_back([each for each in writes if each.done is None])

    def _resize(self, writes: int, took_s: float) -> None:
        """Let the next commit have as many writes as take ``_COMMIT_S``, but at most twice as many."""
        if writes >= self._writes_at_once or took_s > _COMMIT_S:
            fitting = int(self._writes_at_once * min(2.0, _COMMIT_S / max(took_s, 0.001)))
            self._writes_at_once = min(WRITES_PER_COMMIT, max(_MIN_WRITES, fitting))

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

    def _put_back(self, behind: list[_Write]) -> None:
        self._behind.extendleft(reversed(behind))
        self._behind_bytes += sum(each.size_bytes for each in behind)
        self._drop_oldest()

    def _put_aside(self, write: _Write) -> None:
        """Retry a write later, behind all others; while closing, give it up."""
        if self._closing:
            self.dropped += 1
            self._log.error(Event.STORE_REFUSED, error=RowsLocked.__name__)
            return
        if not self._locked:
            self._deadlines.add(_RETRY_S, self._retry_locked)
        self._locked.append(write)

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

    def _recovered(self) -> None:
        if self.failing is not None:
            self.failing = None
            self._log.info(Event.STORE_RECOVERED, lost=self.dropped)


class _Group(NamedTuple):
    """A unit to commit, and the writes that it contains."""

    unit: Unit
    writes: list[_Write]


def _grouped(writes: Sequence[_Write]) -> list[_Group]:
    """Group rows of one kind into statements; writes to one table keep their order."""
    groups: list[_Group] = []
    gathered: dict[str, tuple[RowStatement, list[_Write]]] = {}

    def flush(table: str) -> None:
        rows, some = gathered.pop(table)
        for unit, positions in rows.over([each.values for each in some]):
            groups.append(_Group(unit, [some[position] for position in positions]))

    for write in writes:
        if write.rows is None or write.alone:
            for table in list(gathered):
                flush(table)
            unit = write.unit if write.rows is None else write.rows.one(write.values)
            groups.append(_Group(unit, [write]))
            continue
        known = gathered.get(write.rows.table)
        if known is not None and known[0] is not write.rows:
            flush(write.rows.table)
        gathered.setdefault(write.rows.table, (write.rows, []))[1].append(write)
    for table in list(gathered):
        flush(table)
    return groups


def _popped(queue: deque[_Write], room: int) -> list[_Write]:
    popped = []
    while queue and room > 0:
        popped.append(queue.popleft())
        room -= popped[-1].weight
    return popped


def _weight(writes: Sequence[_Write]) -> int:
    return sum(each.weight for each in writes)


def _answer(writes: Sequence[_Write], results: list[list[Row]]) -> None:
    """Pass the rows of each statement to the callers; those of a row's caller begin with its id."""
    by_id: list[defaultdict[object, list[Row]]] = []
    for each in writes:
        if each.done is None or each.done.done():
            continue
        if each.rows is None:
            each.done.set_result(results)
            continue
        by_id = by_id or [_by_id(rows) for rows in results]
        each.done.set_result([rows.get(each.values[0], []) for rows in by_id])


def _by_id(rows: Sequence[Row]) -> defaultdict[object, list[Row]]:
    found: defaultdict[object, list[Row]] = defaultdict(list)
    for row in rows:
        found[row[0]].append(row)
    return found


def _sizes(values: Values) -> int:
    return sum([len(value) for value in values if type(value) in _SIZED])


def _fail(done: "asyncio.Future[list[list[Row]]]", exc: StoreFailed) -> None:
    if not done.done():
        done.set_exception(exc)


def _named(exc: Exception) -> str:
    return str(exc) if isinstance(exc, EngineUnavailable | StartRefused) else type(exc).__name__
