"""What must still reach Dub: entries that workers take under a lease.

What can go wrong: an entry is sent by two replicas (a lease, renewed while one works on it); a replica dies
with entries in hand (the lease ends, and another takes them); an entry overtakes an earlier one of its
ordering key (only the first of a key is ever taken); the clock is set back, or a database is restored (an
attempt that is due further ahead than any delay is due now).
"""

import secrets
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from msgspec import Struct

from service.resolve.owed import Entry, Kind, State, Status, Summary
from service.storage.database import Database
from service.storage.encryption import Cipher, Undecryptable
from service.storage.statements import Row, RowStatement, Statement, placeholders

LEASE_S = 10.0
RENEW_EVERY_S = 3.0
DELAY_MAX_S = 900.0  # no retry is ever put off for longer
DEAD_KEPT_S = 90 * 86_400  # after they died
WRITE_TIMEOUT_S = 0.25  # a lead is refused, not kept waiting, while the database is this slow

_EXPIRED_AT_A_TIME = 1000
_COLUMNS = """id, app, kind, state, ordering_key, sequence, depends_on, subject, created_at, next_attempt_at,
    attempts, reason, owner, lease_until, payload"""
_TAKEN = "id, app, kind, ordering_key, depends_on, subject, created_at, next_attempt_at, attempts, payload"
_SUMMARY = "id, app, kind, state, created_at, next_attempt_at, attempts, depends_on, reason"
_INSERT = RowStatement(
    table="outbox",
    before=f"INSERT INTO outbox ({_COLUMNS}) VALUES ",  # noqa: S608  a constant
    row="(?, ?, ?, 'queued', ?, ?, ?, ?, ?, ?, 0, '', ?, {now_ms} + ?, ?)",
    after=" ON CONFLICT (id) DO NOTHING",
)
_REMOVE_OPEN = RowStatement(
    table="outbox",
    before="DELETE FROM outbox WHERE state = 'queued' AND kind = 'open' AND id IN (",
    row="?",
    after=")",
)
_RELEASE = RowStatement(
    table="outbox",
    before="""UPDATE outbox SET depends_on = '', next_attempt_at = 0
        WHERE state = 'queued' AND depends_on <> '' AND depends_on IN (""",
    row="?",
    after=")",
)
_BEHIND_ANOTHER = """SELECT EXISTS (SELECT 1 FROM outbox AS other WHERE other.ordering_key = ?
    AND other.state = 'queued' AND other.sequence < ? AND other.kind <> 'open')"""
_HAS_DUE = """SELECT 1 FROM outbox WHERE state = 'queued' AND kind = ?
    AND (next_attempt_at <= ? OR next_attempt_at > ?) LIMIT 1"""
_TAKE = f"""UPDATE outbox SET owner = ?, lease_until = {{now_ms}} + ? WHERE id IN (
    SELECT id FROM outbox AS this WHERE this.state = 'queued'
    AND (this.next_attempt_at <= ? OR this.next_attempt_at > ?)
    AND (this.lease_until < {{now_ms}} OR this.lease_until > {{now_ms}} + ?)
    AND this.kind = ? AND this.app = ?
    AND (this.kind = 'open' OR NOT EXISTS (SELECT 1 FROM outbox AS other
        WHERE other.ordering_key = this.ordering_key AND other.state = 'queued'
        AND other.sequence < this.sequence AND other.kind <> 'open'))
    ORDER BY this.next_attempt_at, this.sequence LIMIT ? {{skip_locked}}) RETURNING {_TAKEN}"""  # noqa: S608
_RENEW = """UPDATE outbox SET lease_until = {now_ms} + ?
    WHERE state = 'queued' AND owner = ? AND id IN (%s)"""
_RESCHEDULE = """UPDATE outbox SET attempts = attempts + ?, next_attempt_at = ?, reason = ?, lease_until = 0
    WHERE id = ?"""
_FINISH = """UPDATE outbox SET state = ?, reason = ?, next_attempt_at = ?, lease_until = 0,
    payload = CASE WHEN ? = 'delivered' THEN NULL ELSE payload END WHERE id = ?"""
_DUE_SOON = """UPDATE outbox SET next_attempt_at = ? + sequence % ?
    WHERE state = 'queued' AND depends_on = '' AND attempts > 0 AND next_attempt_at > ? AND kind = ?"""
_BURY = """UPDATE outbox SET state = 'dead', reason = 'expired: ' || reason, lease_until = 0
    WHERE id IN (SELECT id FROM outbox WHERE state = 'queued' AND created_at < ? LIMIT ?) RETURNING 1"""
_DELETE_OLD = """DELETE FROM outbox WHERE id IN
    (SELECT id FROM outbox WHERE state = ? AND created_at < ? LIMIT ?) RETURNING 1"""
_DEPTHS = "SELECT kind, state, count(*) FROM outbox WHERE state IN (%s) GROUP BY kind, state"
_REVIVE = """UPDATE outbox SET state = 'queued', attempts = 0, depends_on = '', reason = '', created_at = ?,
    next_attempt_at = ? WHERE state = 'dead' AND payload IS NOT NULL%s RETURNING 1"""


class TakenEntry(Struct, frozen=True):
    """An entry under this replica's lease; ``entry`` is None if its payload cannot be decrypted."""

    id: str
    app: str
    kind: Kind
    entry: Entry | None


class OutboxStore:
    """The outbox's entries. ``unix_time`` is wall clock seconds. What is awaited raises ``StoreFailed``."""

    def __init__(self, database: Database, cipher: Cipher, unix_time: Callable[[], float]) -> None:
        self._database = database
        self._cipher = cipher
        self._unix_time = unix_time
        self._owner = secrets.token_hex(8)
        self._sequence = 0

    async def add(self, entry: Entry) -> bool:
        """Commit an entry under this replica's lease; return whether an earlier one of its key is queued.

        That one goes first: then the lease is worth nothing, and the entry is taken in its turn.
        """
        sequence = self._next_sequence()
        insert = Statement(_INSERT.one(self._row(entry, sequence, leased=True)).sql)
        row = self._row(entry, sequence, leased=True)
        earlier = Statement(_BEHIND_ANOTHER, (entry.lane, sequence))
        (_, found) = await self._database.write(
            Statement(insert.sql, row), earlier, timeout_s=WRITE_TIMEOUT_S
        )
        return bool(found[0][0])

    def enqueue_open(self, entry: Entry) -> None:
        """Keep an open, soon, to be reported later; an openId is queued once."""
        self._database.write_row_behind(_INSERT, self._row(entry, self._next_sequence(), leased=False))

    def confirm_open(self, open_id: str) -> None:
        """Forget, soon, an open's entry: Dub has it."""
        self._database.write_row_behind(_REMOVE_OPEN, (open_id,))

    def release_dependents(self, *names: str) -> None:
        """Make due, soon, what waits for these opens or installs."""
        for name in names:
            self._database.write_row_behind(_RELEASE, (name,))

    async def has_due(self, kind: Kind) -> bool:
        """Return whether any entry of this kind may be due: a look that finds nothing costs no commit."""
        now_ms = self._now_ms()
        return bool(await self._database.read(_HAS_DUE, kind, now_ms, now_ms + _ms(DELAY_MAX_S)))

    async def take_due(self, kind: Kind, apps: Sequence[str], limit: int) -> list[TakenEntry]:
        """Lease entries of these apps that may be tried now, each the first of its ordering key.

        Every app gets the same share of ``limit`` first, and what some do not need goes to the others.
        """
        share = -(-limit // len(apps))
        taken = await self._take(kind, [(app, share) for app in apps[:limit]])
        found = Counter(each.app for each in taken)
        hungry = [app for app in apps if found[app] == share]
        left = limit - len(taken)
        if hungry and len(apps) > 1 and left > 0:
            taken += await self._take(kind, [(hungry[0], left)])
        return sorted(taken, key=lambda each: 0 if each.entry is None else each.entry.next_try)

    async def _take(self, kind: Kind, wanted: Sequence[tuple[str, int]]) -> list[TakenEntry]:
        now_ms = self._now_ms()
        lease_ms = _ms(LEASE_S)
        before = (self._owner, lease_ms, now_ms, now_ms + _ms(DELAY_MAX_S), 2 * lease_ms, kind)
        unit = [Statement(_TAKE, (*before, app, limit)) for app, limit in wanted]
        return [self._taken(row) for rows in await self._database.write(*unit) for row in rows]

    def due_soon(self, kind: Kind, spread_s: float) -> None:
        """Make what failed before due within ``spread_s`` seconds, soon: not all of it at once."""
        now_ms = self._now_ms()
        values = (now_ms, _ms(spread_s), now_ms + _ms(spread_s), kind)
        self._database.write_behind(Statement(_DUE_SOON, values))

    async def renew(self, entry_ids: Collection[str]) -> None:
        """Keep the leases of entries that are being worked on."""
        if entry_ids:
            sql = _RENEW % placeholders(len(entry_ids))
            await self._database.write(Statement(sql, (_ms(LEASE_S), self._owner, *entry_ids)))

    async def take_over(self) -> None:
        """End the leases that an earlier process left in a file which this one has locked."""
        if not self._database.is_shared:
            await self._database.write(Statement("UPDATE outbox SET lease_until = 0 WHERE lease_until > 0"))

    def reschedule(
        self, entry_id: str, next_attempt_at: float, reason: str, *, attempted: bool = True
    ) -> None:
        """Note, soon, when an entry is tried again (Unix seconds), and why not before."""
        at_ms = min(_ms(next_attempt_at), self._now_ms() + _ms(DELAY_MAX_S))
        self._database.write_behind(Statement(_RESCHEDULE, (int(attempted), at_ms, reason, entry_id)))

    def finish(self, entry: Entry, state: State, reason: str) -> None:
        """Note, soon, that an entry is delivered (its payload goes) or dead (it stays, encrypted)."""
        if state == "delivered" and entry.kind == "open":
            self.confirm_open(entry.id)
        else:
            values = (state, reason, self._now_ms(), state, entry.id)
            self._database.write_behind(Statement(_FINISH, values))

    async def remove(self, entry_id: str) -> None:
        """Forget an entry."""
        await self._database.write(Statement("DELETE FROM outbox WHERE id = ?", (entry_id,)))

    async def expire(self, before: float) -> int:
        """Make dead letters of what was queued before a time (Unix seconds), and delete what is older still.

        Returns how many died; there may be more.
        """
        before_ms = _ms(before)
        old = Statement(_DELETE_OLD, ("delivered", before_ms, _EXPIRED_AT_A_TIME))
        very_old = Statement(_DELETE_OLD, ("dead", before_ms - DEAD_KEPT_S * 1000, _EXPIRED_AT_A_TIME))
        buried = await self._database.write(Statement(_BURY, (before_ms, _EXPIRED_AT_A_TIME)), old, very_old)
        return len(buried[0])

    async def status(self, entry_id: str) -> Status | None:
        """Say where an entry stands."""
        sql = "SELECT app, kind, state, reason FROM outbox WHERE id = ?"
        rows = await self._database.read_written(sql, entry_id, timeout_s=WRITE_TIMEOUT_S)
        return Status(*rows[0]) if rows else None

    async def depths(self, *states: State) -> Mapping[tuple[Kind, State], int]:
        """Count the entries in these states, by kind and state."""
        rows = await self._database.read(_DEPTHS % placeholders(len(states)), *states)
        return {(kind, state): count for kind, state, count in rows}

    async def oldest(self) -> float | None:
        """Return when the oldest queued entry was made, in Unix seconds."""
        rows = await self._database.read("SELECT min(created_at) FROM outbox WHERE state = 'queued'")
        oldest = rows[0][0]
        return None if oldest is None else oldest / 1000

    async def listed(self, state: State, limit: int) -> list[Summary]:
        """List entries of a state, oldest first."""
        sql = f"SELECT {_SUMMARY} FROM outbox WHERE state = ? ORDER BY created_at, sequence LIMIT ?"  # noqa: S608
        return [_summary(row) for row in await self._database.read(sql, state, limit)]

    async def found(self, entry_id: str) -> tuple[Summary, bytes | None] | None:
        """Return an entry with its payload, still encrypted (None if that is gone)."""
        sql = f"SELECT {_SUMMARY}, payload FROM outbox WHERE id = ?"  # noqa: S608
        rows = await self._database.read(sql, entry_id)
        if not rows:
            return None
        *summary, payload = rows[0]
        return _summary(tuple(summary)), payload

    def reveal(self, payload: bytes) -> bytes:
        """Decrypt an entry's payload; raises ``Undecryptable``."""
        return self._cipher.decrypt(payload)

    async def revive(self, entry_id: str | None) -> int:
        """Queue a dead letter again, or all of them; return how many."""
        which, values = ("", ()) if entry_id is None else (" AND id = ?", (entry_id,))
        now_ms = self._now_ms()
        (rows,) = await self._database.write(Statement(_REVIVE % which, (now_ms, now_ms, *values)))
        return len(rows)

    def _row(self, entry: Entry, sequence: int, *, leased: bool) -> Row:
        return (
            *(entry.id, entry.app, entry.kind, entry.lane, sequence, entry.waits_for, entry.whose),
            *(_ms(entry.created), _ms(entry.next_try), self._owner if leased else None),
            *(_ms(LEASE_S) if leased else -1, self._cipher.encrypt(entry.payload)),
        )

    def _taken(self, row: Row) -> TakenEntry:
        entry_id, app, kind, ordering_key, depends_on, subject, created_at, next_at, attempts, payload = row
        try:
            clear = self._cipher.decrypt(payload)
        except Undecryptable:
            return TakenEntry(entry_id, app, kind, None)
        entry = Entry(
            id=entry_id,
            app=app,
            kind=kind,
            lane=ordering_key,
            waits_for=depends_on,
            whose=subject,
            created=created_at / 1000,
            next_try=next_at / 1000,
            attempts=attempts,
            payload=clear,
        )
        return TakenEntry(entry_id, app, kind, entry)

    def _next_sequence(self) -> int:
        """Return a number that grows with time, and with every entry of this process."""
        self._sequence = max(self._sequence + 1, int(self._unix_time() * 1_000_000))
        return self._sequence

    def _now_ms(self) -> int:
        return _ms(self._unix_time())


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _summary(row: Row) -> Summary:
    entry_id, app, kind, state, created_at, next_at, attempts, depends_on, reason = row
    return Summary(
        entry_id, app, kind, state, created_at / 1000, next_at / 1000, attempts, depends_on, reason
    )
