"""The engine for PostgreSQL 14 or newer, over psycopg, with libpq's URLs, TLS parameters and host lists.

psycopg instead of asyncpg, because of measurements: a lookup takes half the CPU time, libpq finds the
writable host of several, and statements are never prepared by name, so any version of PgBouncer works in
transaction mode.

What can go wrong: the server is down, stopped, full or read-only, or another host has become the primary (the
connection is dropped, and the next call connects to the writable host); a server accepts a connection and
never answers (every call has a time limit); the connection is lost during COMMIT (its outcome is unknown, so
all writes can be repeated safely); two replicas lock rows in different orders (the units are retried in
smaller transactions); another replica stops in a transaction (units that need its rows fail alone, after a
short time).
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import TypeAlias

import psycopg
from psycopg import conninfo

from service.storage.engines.lookups import joined, rows_of_each
from service.storage.engines.port import Unit, UnitResult
from service.storage.errors import EngineUnavailable, RowsLocked, StatementRejected
from service.storage.statements import Row, Statement

_CALL_S = 3.0  # for a server that has stopped answering; callers have shorter time limits
_READERS = 4
CONNECTIONS = _READERS + 1  # per process: the server must allow so many for each replica
_VALUES_PER_TURN = 1000  # of the event loop, as many as 64 leads have: 1 ms
_STATEMENT_COST = 30  # of a statement without values, in values
_PROBLEM_MAX_CHARS = 300
_REJECTIONS = (psycopg.DataError, psycopg.IntegrityError, psycopg.ProgrammingError, psycopg.NotSupportedError)
_NOT_THE_STATEMENT = (  # ProgrammingErrors that an administrator or a migration causes, and ends
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
)
_CONFLICTS = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)
_LOCKED = psycopg.errors.LockNotAvailable
_SEPARABLE = (*_REJECTIONS, *_CONFLICTS, _LOCKED)  # a smaller transaction may succeed
_CONFLICT_TRIES = 5
_LOCK_MS = 100  # callers wait 250 ms
_LOCK_AGAIN_MS = 10  # once a lock was waited for
_LOCK_ALONE_MS = 5000
_TOKENS = {
    "{now_ms}": "(extract(epoch from clock_timestamp()) * 1000)::bigint",
    "{skip_locked}": "FOR UPDATE SKIP LOCKED",
}

_Connection: TypeAlias = psycopg.AsyncConnection[Row]


class BadDatabaseURL(ValueError):
    """FIRSTOPEN_DATABASE_URL is not a PostgreSQL URL. The message does not repeat it: it has a password."""


class PostgresEngine:
    """Implements ``Engine`` for a ``postgresql://`` URL; raises ``BadDatabaseURL``."""

    is_shared = True
    reads_at_once = _READERS

    def __init__(self, url: str) -> None:
        self._conninfo = parse_url(url)
        self.place = f"PostgreSQL, {_place(self._conninfo)}"
        self._writer: _Connection | None = None
        self._writing = asyncio.Lock()
        self._readers: asyncio.LifoQueue[_Connection | None] = asyncio.LifoQueue()
        for _ in range(_READERS):
            self._readers.put_nowait(None)

    async def connect(self) -> None:
        """Connect to the writable host."""
        async with self._writing:
            await self._writer_connection()

    async def fetch(self, queries: Sequence[Statement]) -> list[list[Row]]:
        """Run queries in one round trip."""
        connection = await self._readers.get()
        try:
            if connection is None or connection.closed:
                connection = await self._connected()
            sent = joined(queries)
            async with _limited(connection):
                found = await _pipelined(connection, [statement for statement, _ in sent])
            return rows_of_each(queries, sent, found)
        except _REJECTIONS as exc:
            raise StatementRejected(_kind(exc)) from exc
        except BaseException:
            _discard(connection)
            connection = None
            raise
        finally:
            self._readers.put_nowait(connection)

    async def commit(self, units: Sequence[Unit]) -> list[UnitResult]:
        """Commit the units in one transaction; if that fails, commit them in smaller ones."""
        async with self._writing:
            return await self._committed_apart(units, _LOCK_MS)

    async def commit_alone(self, unit: Unit) -> list[list[Row]]:
        """Commit one unit without a time limit, such as a migration of a large table; only locks have one."""
        async with self._writing:
            try:
                connection = await self._writer_connection()
                async with connection.transaction():
                    await _limit_locks(connection, _LOCK_ALONE_MS)
                    return [await _rows(await _execute(connection, each)) for each in unit]
            except _REJECTIONS as exc:
                raise StatementRejected(_kind(exc)) from exc
            except (psycopg.Error, OSError) as exc:
                self._drop_writer()
                raise EngineUnavailable(_kind(exc)) from exc

    async def after_erasure(self) -> bool:
        """Do nothing: PostgreSQL's own vacuum and log archiving decide how long deleted rows stay on disk."""
        return True

    async def close(self) -> None:
        """Disconnect."""
        self._drop_writer()
        while not self._readers.empty():
            _discard(self._readers.get_nowait())

    async def _committed_apart(self, units: Sequence[Unit], lock_ms: int) -> list[UnitResult]:
        """Commit units together; halve them as long as that fails, so that few transactions are needed."""
        for _ in range(_CONFLICT_TRIES):
            try:
                return [*await self._committed(units, lock_ms)]
            except _NOT_THE_STATEMENT as exc:
                raise EngineUnavailable(_kind(exc)) from exc
            except _SEPARABLE as exc:
                if isinstance(exc, _LOCKED):
                    lock_ms = _LOCK_AGAIN_MS
                if len(units) > 1:
                    break
                if not isinstance(exc, _CONFLICTS):
                    problem = RowsLocked if isinstance(exc, _LOCKED) else StatementRejected
                    return [problem(_kind(exc))]
        else:
            return [RowsLocked("other replicas keep locking the same rows")]
        half = len(units) // 2
        first = await self._committed_apart(units[:half], lock_ms)
        return [*first, *await self._committed_apart(units[half:], lock_ms)]

    async def _committed(self, units: Sequence[Unit], lock_ms: int) -> list[list[list[Row]]]:
        try:
            connection = await self._writer_connection()
            statements = [statement for unit in units for statement in unit]
            async with _limited(connection):
                async with connection.pipeline(), connection.transaction():
                    await _limit_locks(connection, lock_ms)
                    cursors = await _queued(connection, statements)
                rows = iter([await _rows(cursor) for cursor in cursors])
        except _SEPARABLE:
            raise
        except BaseException:
            self._drop_writer()
            raise
        return [[next(rows) for _ in unit] for unit in units]

    def _drop_writer(self) -> None:
        _discard(self._writer)
        self._writer = None

    async def _writer_connection(self) -> _Connection:
        if self._writer is None or self._writer.closed:
            self._writer = await self._connected()
        return self._writer

    async def _connected(self) -> _Connection:
        try:
            async with asyncio.timeout(_CALL_S):
                return await psycopg.AsyncConnection.connect(
                    self._conninfo, autocommit=True, prepare_threshold=None
                )
        except TimeoutError as exc:
            raise EngineUnavailable(f"no answer within {_CALL_S:g} s") from exc
        except psycopg.OperationalError as exc:
            raise EngineUnavailable(_connection_problem(exc)) from exc
        except (psycopg.Error, OSError) as exc:
            raise EngineUnavailable(_kind(exc)) from exc


@asynccontextmanager
async def _limited(connection: _Connection) -> AsyncIterator[None]:
    """Disconnect a call that takes too long; raise ``EngineUnavailable`` for every failure of the server.

    psycopg answers the cancellation of a task with a request to the server, and waits for it up to ten
    seconds; a connection that ends fails the call at once.
    """
    late = False

    def disconnect() -> None:
        nonlocal late
        late = True
        # libpq closes its own descriptor when it notices: until then the event loop watches it
        with (
            contextlib.suppress(psycopg.OperationalError, OSError),
            socket.socket(fileno=os.dup(connection.pgconn.socket)) as shared,
        ):
            shared.shutdown(socket.SHUT_RDWR)

    timer = asyncio.get_running_loop().call_later(_CALL_S, disconnect)
    try:
        yield
    except _SEPARABLE:
        raise
    except (psycopg.Error, OSError) as exc:
        raise EngineUnavailable(f"no answer within {_CALL_S:g} s" if late else _kind(exc)) from exc
    finally:
        timer.cancel()


def parse_url(url: str) -> str:
    """Return libpq's connection string for a URL; raises ``BadDatabaseURL``.

    Of several hosts, the writable one is used unless the URL says otherwise. A connection attempt that takes
    longer than two seconds fails, so that the next host is tried.
    """
    if not url.startswith(("postgresql://", "postgres://")):
        raise BadDatabaseURL("expected a URL such as postgresql://user:password@host1,host2/database")
    try:
        given = {name: str(value) for name, value in conninfo.conninfo_to_dict(url).items()}
    except psycopg.ProgrammingError as exc:
        raise BadDatabaseURL(
            "libpq cannot read this URL (is a special character not percent-encoded?)"
        ) from exc
    defaults = {
        "target_session_attrs": "read-write",
        "connect_timeout": "2",
        "application_name": "firstopen",
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
    }
    return conninfo.make_conninfo(**{**defaults, **given})


def _place(dsn: str) -> str:
    """Return the database, the hosts and the user, for people to read."""
    known = {name: str(value) for name, value in conninfo.conninfo_to_dict(dsn).items()}
    hosts = known.get("host") or known.get("hostaddr") or "the local socket"
    ports = known.get("port", "5432").split(",")
    listed = hosts.split(",")
    if len(ports) == 1:
        ports *= len(listed)
    where = ", ".join(f"{host}:{port or 5432}" for host, port in zip(listed, ports, strict=False))
    user = f" as {known['user']}" if "user" in known else ""
    return f"database {known.get('dbname', known.get('user', ''))!r} on {where}{user}"


@lru_cache(1024)
def text(sql: str) -> bytes:
    """Return a statement in PostgreSQL's own syntax: ``$1``, ``$2`` for each ``?``."""
    for token, meaning in _TOKENS.items():
        sql = sql.replace(token, meaning)
    first, *others = sql.split("?")
    return (first + "".join([f"${number}{part}" for number, part in enumerate(others, 1)])).encode()


async def _limit_locks(connection: _Connection, lock_ms: int) -> None:
    """Let the current transaction fail if it waits for a lock; another transaction may never end."""
    await connection.execute(f"SET LOCAL lock_timeout = {lock_ms}".encode())


async def _execute(connection: _Connection, statement: Statement) -> psycopg.AsyncCursor[Row]:
    # psycopg takes 15 ms and more to replace the ``%s`` of one statement for 64 rows: this cursor does not
    cursor = psycopg.AsyncRawCursor(connection)
    cursor.format = psycopg.pq.Format.BINARY
    return await cursor.execute(text(statement.sql), statement.values)


async def _queued(connection: _Connection, statements: Sequence[Statement]) -> list[psycopg.AsyncCursor[Row]]:
    """Execute statements in a pipeline, which would not let other tasks run by itself."""
    cursors, values = [], 0
    for each in statements:
        cursors.append(await _execute(connection, each))
        values += _STATEMENT_COST + len(each.values)
        if values >= _VALUES_PER_TURN:
            await asyncio.sleep(0)
            values = 0
    return cursors


async def _pipelined(connection: _Connection, queries: Sequence[Statement]) -> list[list[Row]]:
    if len(queries) == 1:
        return [await _rows(await _execute(connection, queries[0]))]
    async with connection.pipeline():
        cursors = [await _execute(connection, each) for each in queries]
    return [await _rows(cursor) for cursor in cursors]


async def _rows(cursor: psycopg.AsyncCursor[Row]) -> list[Row]:
    result = cursor.pgresult  # cheaper than ``description``, which describes every column
    return [] if result is None or result.nfields == 0 else await cursor.fetchall()


def _discard(connection: _Connection | None) -> None:
    """Close a connection whose state is unknown."""
    if connection is not None:
        connection.pgconn.finish()  # without waiting for a server that may not answer


def _connection_problem(exc: psycopg.OperationalError) -> str:
    """Return why each host refused the connection. libpq's messages never contain a password."""
    lines = str(exc).splitlines()
    by_host = [line for line in lines if line.startswith("- host:")] or lines[:1]
    reasons = [line.rpartition("connection failed: ")[2] for line in by_host]
    return "; ".join(dict.fromkeys(reasons))[:_PROBLEM_MAX_CHARS]


def _kind(exc: BaseException) -> str:
    """Return the kind of an error without its message, which may contain values."""
    sqlstate = getattr(exc, "sqlstate", None)
    return type(exc).__name__ if sqlstate is None else f"{type(exc).__name__} ({sqlstate})"
