"""SQL statements as data, which every engine can run.

Statements use ``?`` only for values. ``{now_ms}`` is the database's own clock in Unix milliseconds, so that
replicas with different clocks agree about leases; ``{skip_locked}`` skips rows that another replica has
locked, if the engine has such locks.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, TypeAlias

from msgspec import Struct

Values: TypeAlias = tuple[Any, ...]
Row: TypeAlias = tuple[Any, ...]

_ROWS_PER_STATEMENT = (64, 16, 4, 1)  # few sizes, so that there are few distinct statements


class Statement(Struct, frozen=True, gc=False):
    """One SQL statement with its values.

    With ``key_at``, it is a query whose first value is a key that each of its rows has at this position:
    queries of one SQL with different keys may be sent as one statement (``joined``), in which their rows have
    no order.
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


def joined(queries: Sequence[Statement]) -> list[tuple[Statement, list[int]]]:
    """Return the statements to send for these queries, each with the positions of those that it answers."""
    sent: list[tuple[Statement, list[int]]] = []
    by_sql: dict[str, list[int]] = {}
    for position, query in enumerate(queries):
        if query.key_at is None:
            sent.append((query, [position]))
        else:
            by_sql.setdefault(query.sql, []).append(position)
    for sql, positions in by_sql.items():
        by_key = {queries[position].values[0]: queries[position].values for position in positions}
        values = tuple(chain.from_iterable(by_key.values()))
        sent.append((Statement(_union_all(sql, len(by_key)), values), positions))
    return sent


def rows_of_each(
    queries: Sequence[Statement], sent: Sequence[tuple[Statement, list[int]]], found: Sequence[list[Row]]
) -> list[list[Row]]:
    """Return the rows of each query, of what its ``joined`` statement has found."""
    answers: list[list[Row]] = [[] for _ in queries]
    for (_, positions), rows in zip(sent, found, strict=True):
        key_at = queries[positions[0]].key_at
        if key_at is None or len(positions) == 1:
            answers[positions[0]] = rows
            continue
        by_key: dict[object, list[Row]] = {}
        for row in rows:
            by_key.setdefault(row[key_at], []).append(row)
        for position in positions:
            answers[position] = [*by_key.get(queries[position].values[0], ())]
    return answers


@lru_cache(256)
def _union_all(sql: str, count: int) -> str:
    return " UNION ALL ".join([sql] * count)


def placeholders(count: int) -> str:
    """Return ``?, ?, …`` for an ``IN`` list."""
    return ", ".join("?" * count)
