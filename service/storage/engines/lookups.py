"""Send the lookups of several keys as one statement, because PostgreSQL plans each statement anew.

To plan a lookup takes ten times as long as to run it, and statements are not prepared: PgBouncer may run each
over another connection. What can go wrong: a key with very many rows makes the others wait (each key has the
query's own ``LIMIT``).
"""

from collections.abc import Sequence
from functools import lru_cache

from service.storage.statements import Row, Statement


def joined(queries: Sequence[Statement]) -> list[tuple[Statement, list[int]]]:
    """Return the statements to send for these queries, each with the positions of those that it answers."""
    sent: list[tuple[Statement, list[int]]] = []
    lookups: dict[tuple[object, ...], list[int]] = {}
    for position, query in enumerate(queries):
        if query.key_at is None:
            sent.append((query, [position]))
        else:
            lookups.setdefault((query.sql, *query.values[1:]), []).append(position)
    for (_, *others), positions in lookups.items():
        first = queries[positions[0]]
        keys = list({queries[position].values[0] for position in positions})
        lookup = first if len(keys) == 1 else Statement(_of_many(first.sql), (keys, *others))
        sent.append((lookup, positions))
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
def _of_many(sql: str) -> str:
    """Return a query that runs another one for each of many keys; its first value is their list."""
    one = sql.replace("?", "wanted.key", 1)
    return f"SELECT found.* FROM unnest(?::bigint[]) AS wanted(key) CROSS JOIN LATERAL ({one}) AS found"  # noqa: S608
