"""What goes into one commit, and how: rows of one statement go to SQLite together.

Each time SQLite runs a statement, the store's thread lets go of the interpreter's lock and must get it
back, which beside a busy event loop takes longer than the statement: a second's opens took a second more
to reach the disk. So rows that come one after another go in one statement, and a faulty one is found after.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

from msgspec import Struct

_ITS_OWN_FAULT = (
    sqlite3.ProgrammingError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.DataError,
)
_TOGETHER = (64, 16, 4, 1)  # few sizes, so that each statement is prepared once

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
Values = tuple[Any, ...]


class Rows(Struct, frozen=True):
    """A statement over rows of one table: ``before``, a ``row`` for each with commas between, ``after``."""

    table: str
    before: str
    row: str
    after: str = ""


@dataclass(slots=True, eq=False)
class Write:
    """Work for the next commit; ``done`` is for who waits for it."""

    work: Work[Any]
    done: asyncio.Future[Any] | None  # None: written behind, nobody waits


@dataclass(slots=True, eq=False)
class Row:
    """A row for the next commit; nobody waits."""

    rows: Rows
    values: Values


@dataclass(slots=True, eq=False)
class Written:
    """What came of it: what each ``Write`` returned, or its own fault; and the faults of rows."""

    outcomes: list[object] = field(default_factory=list)
    faults: list[Exception] = field(default_factory=list)


def write_all(connection: sqlite3.Connection, batch: Sequence[Write | Row]) -> Written:
    """Do everything; what happens to one table happens in order. The disk's faults are raised."""
    written = Written()
    gathered: dict[str, tuple[Rows, list[Values]]] = {}
    for each in batch:
        if isinstance(each, Row):
            rows, values = gathered.get(each.rows.table, (each.rows, []))
            if rows is not each.rows:
                written.faults += _write_rows(connection, rows, values)
                values = []
            values.append(each.values)
            gathered[each.rows.table] = each.rows, values
        else:
            for rows, values in gathered.values():
                written.faults += _write_rows(connection, rows, values)
            gathered.clear()
            written.outcomes.append(_outcome(each.work, connection))
    for rows, values in gathered.values():
        written.faults += _write_rows(connection, rows, values)
    return written


def _write_rows(connection: sqlite3.Connection, rows: Rows, values: list[Values]) -> list[Exception]:
    """Write rows, as many at a time as may be; where one is faulty, its neighbours go one by one."""
    faults: list[Exception] = []
    at = 0
    for count in _TOGETHER:
        while len(values) - at >= count:
            some = values[at : at + count]
            at += count
            fault = _executed(connection, rows, some)
            if fault is not None:
                faults += [fault] if count == 1 else _one_by_one(connection, rows, some)
    return faults


def _one_by_one(connection: sqlite3.Connection, rows: Rows, values: list[Values]) -> list[Exception]:
    faults = (_executed(connection, rows, [each]) for each in values)
    return [fault for fault in faults if fault is not None]


def _executed(connection: sqlite3.Connection, rows: Rows, values: list[Values]) -> Exception | None:
    together = [value for each in values for value in each]
    outcome = _outcome(lambda its: its.execute(_text(rows, len(values)), together), connection)
    return outcome if isinstance(outcome, Exception) else None


@lru_cache(256)
def _text(rows: Rows, count: int) -> str:
    return f"{rows.before}{', '.join([rows.row] * count)}{rows.after}"


def _outcome(work: Work[Any], connection: sqlite3.Connection) -> object:
    """Do one write; its own fault is its outcome, the disk's faults are raised."""
    try:
        return work(connection)
    except _ITS_OWN_FAULT as exc:
        return exc
    except sqlite3.Error:
        raise
    except Exception as exc:  # noqa: BLE001  a mistake of ours must not end the writer
        return exc
