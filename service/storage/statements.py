"""SQL statements as data, which every engine can run.

Statements use ``?`` only for values. ``{now_ms}`` is the database's own clock in Unix milliseconds, so that
replicas with different clocks agree about leases; ``{skip_locked}`` skips rows that another replica has
locked, if the engine has such locks.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, TypeAlias

from msgspec import Struct

Values: TypeAlias = tuple[Any, ...]
Row: TypeAlias = tuple[Any, ...]

_ROWS_PER_STATEMENT = (64, 16, 4, 1)  # few sizes, so that there are few distinct statements


class Statement(Struct, frozen=True, gc=False):
    """One SQL statement with its values.

    ``key_at`` is for a query that looks up an integer key: the key is the first value, and each row has it
    at this position. An engine may send such queries as one if they differ only in their keys.
    """

    sql: str
    values: Values = ()
    key_at: int | None = None


class RowStatement(Struct, frozen=True):
    """A statement for many rows: ``before``, then ``row`` for each, separated by commas, then ``after``.

    The first value of a row is its id. ``key`` is the position of a value that no two rows of one statement
    share: rows with the same one go into separate statements, in their order. PostgreSQL refuses an upsert
    that changes a row twice, and a row sees only those of earlier statements. ``query`` reads what was
    written, with the ids for ``{ids}``.
    """

    table: str
    before: str
    row: str
    after: str = ""
    key: int = 0
    query: str = ""

    def over(self, rows: Sequence[Values]) -> Iterator[tuple[list[Statement], list[int]]]:
        """Yield statements that write the rows and query them, each with the positions of their rows."""
        layers: list[list[int]] = []
        seen: dict[object, int] = {}
        for position, values in enumerate(rows):
            key = values[self.key]
            layer = seen.get(key, 0)
            seen[key] = layer + 1
            if layer == len(layers):
                layers.append([])
            layers[layer].append(position)
        for layer_positions in layers:
            at = 0
            for count in _ROWS_PER_STATEMENT:
                while len(layer_positions) - at >= count:
                    some = layer_positions[at : at + count]
                    at += count
                    yield self._statements([rows[position] for position in some]), some

    def one(self, values: Values) -> list[Statement]:
        """Return the statements that write and query one row."""
        return self._statements([values])

    def _statements(self, rows: Sequence[Values]) -> list[Statement]:
        sql = f"{self.before}{', '.join([self.row] * len(rows))}{self.after}"
        written = Statement(sql, tuple(chain.from_iterable(rows)))
        if not self.query:
            return [written]
        ids = tuple(each[0] for each in rows)
        return [written, Statement(self.query.replace("{ids}", placeholders(len(ids))), ids)]


def placeholders(count: int) -> str:
    """Return ``?, ?, …`` for an ``IN`` list."""
    return ", ".join("?" * count)
