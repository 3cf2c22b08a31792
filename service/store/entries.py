"""The outbox's entries in SQLite; what they carry is sealed."""

import json
import sqlite3
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

from msgspec import structs

from service.resolve.errors import NoOpen
from service.resolve.owed import (
    DELAY_MAX_S,
    INSTALL,
    NO_OPEN,
    REPEAT_S,
    Entry,
    Kind,
    Repeat,
    State,
    Status,
    Summary,
)
from service.store.batch import Rows
from service.store.database import Database
from service.store.sealing import Seal, Unsealable
from service.telemetry import Event, Log

# An index for each state: beside one of all states, SQLite would take that one for every question below, and
# walk over all that is queued for each open. So questions name their state; none of them binds it.
ENTRIES_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    app TEXT NOT NULL,
    kind TEXT NOT NULL,
    lane TEXT NOT NULL,
    waits_for TEXT NOT NULL,
    created REAL NOT NULL,   -- Unix seconds, as are all times
    next_try REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL DEFAULT 'queued',
    reason TEXT NOT NULL DEFAULT '',
    whose TEXT NOT NULL DEFAULT '', -- a keyed hash of app and install, or an openId, where either is known
    event_key TEXT NOT NULL DEFAULT '', -- a lead's customer and event, as a keyed hash
    idempotency_key TEXT NOT NULL DEFAULT '', -- of its caller, and the body that came with it, both hashed
    body_key TEXT NOT NULL DEFAULT '',
    sealed BLOB
);
CREATE INDEX IF NOT EXISTS entries_due ON entries (kind, next_try, seq) WHERE state = 'queued';
CREATE INDEX IF NOT EXISTS entries_by_name ON entries (whose) WHERE whose != '' AND kind != 'open';
DROP INDEX IF EXISTS entries_by_whose; -- what it was, when it held opens, too
CREATE INDEX IF NOT EXISTS entries_by_lane ON entries (lane, seq) WHERE state = 'queued' AND kind != 'open';
CREATE INDEX IF NOT EXISTS entries_waiting ON entries (waits_for) WHERE state = 'queued' AND waits_for != '';
CREATE INDEX IF NOT EXISTS entries_queued ON entries (created, kind, waits_for) WHERE state = 'queued';
CREATE INDEX IF NOT EXISTS entries_delivered ON entries (created, kind) WHERE state = 'delivered';
CREATE INDEX IF NOT EXISTS entries_dead ON entries (created, kind) WHERE state = 'dead';
CREATE INDEX IF NOT EXISTS entries_by_event ON entries (event_key) WHERE event_key != '';
CREATE INDEX IF NOT EXISTS entries_by_idempotency ON entries (idempotency_key) WHERE idempotency_key != '';
"""

UNREADABLE = "encrypted under a FIRSTOPEN_SECRET that is not listed"  # such an entry blocks no other
_DELAY_MAX_S = DELAY_MAX_S + 60  # no retry waits longer: one that is further ahead was set by a wrong clock
_DEAD_S = 90 * 86_400.0  # for which dead letters are kept
_BURY = "DELETE FROM entries WHERE state = 'dead' AND created < ?"
_KNOWN = ("id", "app", "kind", "lane", "waits_for", "created", "next_try", "attempts", "whose")
_OPENS_OF = "SELECT id FROM entries WHERE kind = 'open' AND whose IN (SELECT value FROM json_each(?))"
_FORGET = (
    "DELETE FROM entries WHERE whose != '' AND kind != 'open' AND whose IN (SELECT value FROM json_each(?))",
    "DELETE FROM entries WHERE kind = 'open' AND id IN (SELECT value FROM json_each(?))",
)
_SUMMARY = "id, app, kind, state, created, next_try, attempts, waits_for, reason"
_INSERT = """INSERT INTO entries
    (id, app, kind, lane, waits_for, created, next_try, attempts, whose, sealed) VALUES """
_ROW = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ADD = """INSERT INTO entries (id, app, kind, lane, waits_for, created, next_try, attempts, whose, sealed,
    event_key, idempotency_key, body_key) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_REPORTED = """SELECT id, state, body_key FROM entries
    WHERE {key} != '' AND {key} = ? AND state != 'dead' AND created >= ? ORDER BY seq LIMIT 1"""
_TAKE_OVER = f"""UPDATE entries SET waits_for = '', next_try = ?, sealed = ?,
    whose = CASE WHEN ? = '' THEN whose ELSE ? END
    WHERE id = ? AND state = 'queued' AND waits_for GLOB '{INSTALL}*'"""  # noqa: S608  a constant
_OWE = Rows(table="entries", before=_INSERT, row=_ROW, after=" ON CONFLICT (id) DO NOTHING")
_PAID = Rows(
    table="entries",
    before="DELETE FROM entries WHERE state = 'queued' AND kind = 'open' AND id IN (",
    row="?",
    after=")",
)
_EARLIER = """SELECT EXISTS (SELECT 1 FROM entries
    WHERE lane = ? AND state = 'queued' AND kind != 'open' AND waits_for = '' AND seq < ?)"""
_DUE = """SELECT * FROM (
    SELECT id, app, kind, lane, waits_for, created, next_try, attempts, whose, sealed FROM entries AS this
    WHERE state = 'queued' AND kind = ? AND (next_try <= ? OR next_try > ?) {held} {first}
    ORDER BY next_try, seq LIMIT ?)"""
_FIRST = f"""AND NOT EXISTS (SELECT 1 FROM entries AS other WHERE other.lane = this.lane
    AND other.state = 'queued' AND other.kind != 'open' AND other.waits_for = '' AND other.seq < this.seq
    AND other.reason != '{UNREADABLE}')"""  # noqa: S608  a constant
_HASTEN = """UPDATE entries SET next_try = ?
    WHERE state = 'queued' AND waits_for = '' AND kind IN ('open', 'lead', 'sale') AND next_try > ?
    AND reason NOT LIKE 'DubThrottled%'"""  # Dub's own time is kept
_WAITING = f"""SELECT count(*) FROM entries
    WHERE state = 'queued' AND waits_for != '' AND waits_for GLOB '{INSTALL}*' AND app = ?"""  # noqa: S608
_EXPIRE = f"""UPDATE entries SET state = 'dead', next_try = ?,
    reason = CASE WHEN waits_for GLOB '{INSTALL}*' AND (reason = '' OR reason GLOB '{NoOpen.__name__}:*')
        THEN '{NO_OPEN}' ELSE 'expired: ' || reason END
    WHERE state = 'queued' AND created < ?"""  # noqa: S608  constants
_REVIVE = f"""UPDATE entries SET state = 'queued', attempts = 0, reason = '', created = ?, next_try = ?,
    waits_for = CASE WHEN waits_for GLOB '{INSTALL}*' THEN waits_for ELSE '' END
    WHERE state = 'dead' AND sealed IS NOT NULL"""  # noqa: S608  constants
_DEPTHS = "SELECT kind, state, count(*) FROM entries WHERE state = '{state}' GROUP BY kind"
_LISTED = f"SELECT {_SUMMARY} FROM entries WHERE state = '{{state}}' ORDER BY created, seq LIMIT ?"  # noqa: S608


class SqliteEntries:
    """Fills ``resolve.owed.Entries``."""

    is_shared = False

    def __init__(
        self,
        database: Database,
        seal: Seal,
        undecryptable: Callable[[], None] = lambda: None,
        log: Log | None = None,
    ) -> None:
        self._database = database
        self._seal = seal
        self._undecryptable = undecryptable
        self._log = log

    async def add(self, entry: Entry) -> bool | Repeat:
        """Keep an entry, durably; return whether an earlier one of its lane is still queued.

        A lead that was reported before is a ``Repeat``.
        """
        row = self._row(entry)

        def add(connection: sqlite3.Connection) -> bool | Repeat:
            repeat = _reported(connection, entry)
            if repeat is not None:
                if repeat.same_body and not entry.waits_for:
                    sealed = row[-1]
                    values = (entry.next_try, sealed, entry.whose, entry.whose, repeat.entry_id)
                    connection.execute(_TAKE_OVER, values)
                return repeat
            added = connection.execute(_ADD, (*row, *structs.astuple(entry.keys)))
            return bool(connection.execute(_EARLIER, (entry.lane, added.lastrowid)).fetchone()[0])

        return await self._database.write(add)

    def owe(self, entry: Entry) -> None:
        """Keep an open soon, unless it is here already."""
        self._database.write_row_behind(_OWE, self._row(entry))

    def drop(self, entry_id: str) -> None:
        """Forget, soon, an open."""
        self._database.write_row_behind(_PAID, (entry_id,))

    async def due(
        self, kinds: Collection[Kind], now: float, limit: int, held: Collection[tuple[str, Kind]]
    ) -> Sequence[Entry]:
        """Return queued entries that may be tried; what cannot be decrypted stays queued, for later."""
        parts: list[str] = []
        values: list[object] = []
        for kind in kinds:
            apps = [app for app, its_kind in held if its_kind == kind]
            first = "" if kind == "open" else _FIRST  # opens of one lane are the same to Dub, in any order
            parts.append(_DUE.format(held="AND app != ? " * len(apps), first=first))
            values += [kind, now, now + _DELAY_MAX_S, *apps, limit]
        query = " UNION ALL ".join(parts)
        rows = await self._ask(
            query, *values, surely=True
        )  # what is delivered must not look as if it were not
        entries, unreadable = [], []
        for row in sorted(rows, key=_by_next_try):
            try:
                entries.append(self._entry(row))
            except Unsealable:
                unreadable.append(row[0])
        self._put_off_unreadable(unreadable, now)
        return entries

    def _put_off_unreadable(self, entry_ids: Sequence[str], now: float) -> None:
        """Look again later: an operator may list the secret under which these were encrypted."""
        for entry_id in entry_ids:
            self._undecryptable()
            query = "UPDATE entries SET next_try = ?, reason = ? WHERE id = ?"
            self._behind(query, now + DELAY_MAX_S, UNREADABLE, entry_id)
        if entry_ids and self._log is not None:
            self._log.error(Event.ENTRY_UNDECRYPTABLE, entries=len(entry_ids))

    async def hasten(self, now: float) -> None:
        """Make every queued entry due that waits for nothing but Dub."""
        await self._do(_HASTEN, now, now)

    async def release(self, name: str, now: float) -> None:
        """Make due what waited for this open or install."""
        await self._do(
            """UPDATE entries SET waits_for = '', next_try = ?
            WHERE state = 'queued' AND waits_for != '' AND waits_for = ?""",  # which its index is for
            now,
            name,
        )

    async def awaited(self) -> set[str]:
        """Return what entries wait for."""
        query = "SELECT DISTINCT waits_for FROM entries WHERE state = 'queued' AND waits_for != ''"

        def ask(connection: sqlite3.Connection) -> set[str]:
            return {name for (name,) in connection.execute(query)}

        return await self._database.read(ask)

    async def waiting(self, app: str) -> int:
        """Count an app's entries that wait for an install."""
        count: int = (await self._ask(_WAITING, app))[0][0]
        return count

    async def waits_in(self, lane: str) -> bool:
        """Return True if an entry of this lane waits for an open or install."""
        query = (
            "SELECT 1 FROM entries WHERE lane = ? AND state = 'queued' AND kind != 'open' AND waits_for != ''"
        )
        return bool(await self._ask(query, lane))

    def put_off(self, entry_id: str, next_try: float, reason: str) -> None:
        """Note, soon, a failed attempt, unless the entry has expired while it was under way."""
        query = """UPDATE entries SET attempts = attempts + 1, next_try = ?, reason = ?
            WHERE id = ? AND state = 'queued'"""
        self._behind(query, next_try, reason, entry_id)

    def set_down(self, entry_id: str) -> None:
        """Do nothing: nobody else looks."""

    def finish(self, entry: Entry, state: State, reason: str, now: float) -> None:
        """Note, soon, that an entry is delivered (its contents go) or dead (they stay sealed)."""
        if state == "delivered" and entry.kind == "open":
            self.drop(entry.id)
        elif state == "delivered":
            query = "UPDATE entries SET state = ?, reason = ?, next_try = ?, sealed = NULL WHERE id = ?"
            self._behind(query, state, reason, now, entry.id)
        else:
            query = "UPDATE entries SET state = ?, reason = ?, next_try = ? WHERE id = ?"
            self._behind(query, state, reason, now, entry.id)

    async def remove(self, entry_id: str) -> None:
        """Forget an entry."""
        await self._do("DELETE FROM entries WHERE id = ?", entry_id)

    async def expire(self, before: float, now: float) -> int:
        """Move what was queued before to the dead letters; forget what nobody reports again any more."""

        def expire(connection: sqlite3.Connection) -> int:
            connection.execute(
                "DELETE FROM entries WHERE state = 'delivered' AND created < ?", (now - REPEAT_S,)
            )
            connection.execute(_BURY, (before - _DEAD_S,))
            return connection.execute(_EXPIRE, (now, before)).rowcount

        return await self._database.write(expire)

    async def status(self, entry_id: str) -> Status | None:
        """Say where an entry stands."""
        rows = await self._ask("SELECT app, kind, state, reason FROM entries WHERE id = ?", entry_id)
        return Status(*rows[0]) if rows else None

    async def depths(self, *states: State) -> dict[tuple[Kind, State], int]:
        """Count the entries in these states, by kind and state."""
        query = " UNION ALL ".join(_DEPTHS.format(state=state) for state in states)
        return {(kind, state): count for kind, state, count in await self._ask(query)}

    async def oldest(self) -> float | None:
        """Return when the oldest queued entry was made, of those that wait for no open."""
        rows = await self._ask("SELECT min(created) FROM entries WHERE state = 'queued' AND waits_for = ''")
        return cast("float | None", rows[0][0])

    async def listed(self, state: State, limit: int) -> list[Summary]:
        """List entries of a state, oldest first."""
        return [Summary(*row) for row in await self._ask(_LISTED.format(state=state), limit)]

    async def found(self, entry_id: str) -> tuple[Summary, bytes | None] | None:
        """Find one entry, with what it carries sealed (``None`` if that is gone)."""
        rows = await self._ask(f"SELECT {_SUMMARY}, sealed FROM entries WHERE id = ?", entry_id)  # noqa: S608
        if not rows:
            return None
        *summary, sealed = rows[0]
        return Summary(*summary), sealed

    def reveal(self, sealed: bytes) -> bytes:
        """Open what an entry carries; raises ``Unsealable``."""
        return self._seal.open(sealed)

    async def forget(self, whose: Collection[str]) -> int:
        """Forget what is kept for these devices and openIds, whatever its state; return how many.

        Opens have no index by device, which each open of an outage would pay for: they are looked through.
        """
        names = list(whose)

        def look_through(connection: sqlite3.Connection) -> list[tuple[str]]:
            return connection.execute(_OPENS_OF, (json.dumps(names),)).fetchall()

        found = await self._database.read(look_through, behind=False)
        ids = json.dumps([*names, *(entry_id for (entry_id,) in found)])

        def forget(connection: sqlite3.Connection) -> int:
            return sum(connection.execute(query, (ids,)).rowcount for query in _FORGET)

        return await self._database.write(forget)

    async def revive(self, entry_id: str | None, now: float) -> int:
        """Queue a dead letter again, or all of them; return how many."""
        which, values = ("", ()) if entry_id is None else (" AND id = ?", (entry_id,))
        query = _REVIVE + which

        def revive(connection: sqlite3.Connection) -> int:
            return connection.execute(query, (now, now, *values)).rowcount

        return await self._database.write(revive)

    def _row(self, entry: Entry) -> tuple[Any, ...]:
        sealed = self._seal.seal(entry.payload)
        return (
            entry.id,
            entry.app,
            entry.kind,
            entry.lane,
            entry.waits_for,
            entry.created,
            entry.next_try,
            entry.attempts,
            entry.whose,
            sealed,
        )

    def _entry(self, row: tuple[Any, ...]) -> Entry:
        *known, sealed = row
        return Entry(**dict(zip(_KNOWN, known, strict=True)), payload=self._seal.open(sealed))

    def _behind(self, query: str, *values: object) -> None:
        self._database.write_behind(lambda connection: connection.execute(query, values))

    async def _do(self, query: str, *values: object) -> None:
        await self._database.write(lambda connection: connection.execute(query, values).rowcount)

    async def _ask(self, query: str, *values: object, surely: bool = False) -> list[tuple[Any, ...]]:
        def ask(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
            return connection.execute(query, values).fetchall()

        return await self._database.read(ask, surely=surely)


def _reported(connection: sqlite3.Connection, entry: Entry) -> Repeat | None:
    """Find the entry as which this lead was reported before."""
    keys, since = entry.keys, entry.created - REPEAT_S
    for column, key in (("idempotency_key", keys.idempotency), ("event_key", keys.event)):
        found = key and connection.execute(_REPORTED.format(key=column), (key, since)).fetchone()
        if found:
            entry_id, state, body = found
            return Repeat(entry_id, state, same_body=column == "event_key" or body == keys.body)
    return None


def _by_next_try(row: tuple[Any, ...]) -> float:
    next_try: float = row[_KNOWN.index("next_try")]
    return next_try
