"""SQL statements as data, which every engine can run.

Statements use ``?`` only for values. ``{now_ms}`` is the database's own clock in Unix milliseconds, so that
replicas with different clocks agree about leases; ``{skip_locked}`` skips rows that another replica has
locked, if the engine has such locks.
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from msgspec import Struct

Values: TypeAlias = tuple[Any, ...]
Row: TypeAlias = tuple[Any, ...]

_ROWS_PER_STATEMENT = (64, 16, 4, 1)  # few sizes, so that there are few distinct statements


class Statement(Struct, frozen=True, gc=False):
    """One SQL statement with its values."""

    sql: str
    values: Values = ()


class RowStatement(Struct, frozen=True):
    """A statement for many rows: ``before``, then ``row`` for each, separated by commas, then ``after``.

    ``key`` is the position of the value that identifies a row. Rows with the same key go into separate
    statements, in their order, because PostgreSQL refuses an upsert that changes a row twice.
    """

    table: str
    before: str
    row: str
    after: str = ""
    key: int = 0

    def over(self, rows: Sequence[Values]) -> Iterator[tuple[Statement, Sequence[Values]]]:
        """Yield statements that write the rows, each with the rows that it writes."""
        while rows:
            distinct: dict[object, Values] = {}
            again = [each for each in rows if distinct.setdefault(each[self.key], each) is not each]
            yield from self._over_distinct(list(distinct.values()))
            rows = again

    def _over_distinct(self, rows: Sequence[Values]) -> Iterator[tuple[Statement, Sequence[Values]]]:
        at = 0
        for count in _ROWS_PER_STATEMENT:
            while len(rows) - at >= count:
                some = rows[at : at + count]
                at += count
                sql = f"{self.before}{', '.join([self.row] * count)}{self.after}"
                yield Statement(sql, tuple(value for each in some for value in each)), some

    def one(self, values: Values) -> Statement:
        """Return the statement that writes one row."""
        return Statement(f"{self.before}{self.row}{self.after}", values)


def placeholders(count: int) -> str:
    """Return ``?, ?, …`` for an ``IN`` list."""
    return ", ".join("?" * count)
