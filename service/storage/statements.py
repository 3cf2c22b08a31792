"""SQL as data: statements that any engine runs, and rows that are written together.

Statements use ``?`` for values and never contain a question mark otherwise. ``{now_ms}`` is the database's
own clock in Unix milliseconds, so that replicas whose clocks differ agree about leases; ``{skip_locked}``
leaves out rows that another replica has locked, where the engine has such locks.
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from msgspec import Struct

Values: TypeAlias = tuple[Any, ...]
Row: TypeAlias = tuple[Any, ...]

_ROWS_PER_STATEMENT = (64, 16, 4, 1)  # few sizes, so that few distinct texts are prepared


class Statement(Struct, frozen=True, gc=False):
    """One SQL statement with its values."""

    sql: str
    values: Values = ()


class RowStatement(Struct, frozen=True):
    """A statement over many rows: ``before``, one ``row`` for each, separated by commas, then ``after``.

    ``key`` is the position of the value that identifies a row. Of two rows with one key in a batch only the
    later is written: PostgreSQL refuses an upsert that meets a row twice.
    """

    table: str
    before: str
    row: str
    after: str = ""
    key: int = 0

    def over(self, rows: Sequence[Values]) -> Iterator[tuple[Statement, Sequence[Values]]]:
        """Yield statements that write these rows, each with the rows that it writes."""
        latest = list({values[self.key]: values for values in rows}.values())
        at = 0
        for count in _ROWS_PER_STATEMENT:
            while len(latest) - at >= count:
                some = latest[at : at + count]
                at += count
                sql = f"{self.before}{', '.join([self.row] * count)}{self.after}"
                yield Statement(sql, tuple(value for each in some for value in each)), some

    def one(self, values: Values) -> Statement:
        """Return the statement that writes one row."""
        return Statement(f"{self.before}{self.row}{self.after}", values)


def placeholders(count: int) -> str:
    """Return ``?, ?, …`` for an ``IN`` list."""
    return ", ".join("?" * count)
