"""Store the outbox: what Dub or a backend must still get, which workers take under a lease.

What can go wrong: two replicas send the same entry (a lease prevents it, which a replica renews while it
works on the entry); a replica dies with leased entries (the leases expire, and another replica takes them);
an entry overtakes an earlier one of its ordering key (only the first entry of a key is taken, and none while
another of the key is being sent; two that reach two replicas during one commit have no order); a lead is
reported to two replicas at the same time (a unique index keeps one of them); an entry that waits for its
open, or that cannot be decrypted, blocks other entries of its customer (it does not); the clock is set back,
or a database is restored (an attempt that is scheduled further ahead than any delay is due now); a
webhook is missing for what was committed (it is written in the same commit, or before it).

Leases use the database's clock, everything else uses ``unix_time``.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from service.domain.errors import NoOpen, StoreFailed
from service.domain.outbox_entries import (
    DELAY_MAX_S,
    INSTALL,
    NO_OPEN,
    REPEAT_S,
    UNDECRYPTABLE,
    Added,
    Entry,
    Kind,
    Repeat,
    ReportDeath,
    State,
    Status,
    Summary,
    TakenEntry,
)
from service.storage.database import Database
from service.storage.encryption import Cipher, Undecryptable
from service.storage.statements import Row, RowStatement, Statement, Values, placeholders

LEASE_S = 10.0
DEAD_KEPT_S = 90 * 86_400  # after an entry became a dead letter
WRITE_TIMEOUT_S = 0.25  # a lead is refused if the database is slower
READ_TIMEOUT_S = 2.0  # for the status of a lead, and how many wait

_AHEAD_MAX_MS = int((DELAY_MAX_S + 60) * 1000)  # an entry that is due later was scheduled by a wrong clock
_LEASE_MAX_MS = 60_000  # a longer lease was taken when the database's clock was wrong
_AT_A_TIME = 500  # rows per bulk change, so that commits stay short
_ADD_TRIES = 3
_WAITED_FOR_MAX = 100_000  # names in memory; with more, every open is looked for in the database
_QUEUE_S = 2.0  # a lead may wait for those that came before it, while they are committed
_TAKEN = "id, app, kind, ordering_key, depends_on, subject, created_at, next_attempt_at, attempts, payload"
_SUMMARY = "id, app, kind, state, created_at, next_attempt_at, attempts, depends_on, reason"

_ENQUEUE_OPEN = RowStatement(
    table="outbox",
    before="""INSERT INTO outbox (id, app, kind, state, ordering_key, sequence, depends_on, subject,
        created_at, next_attempt_at, attempts, reason, lease_until, payload) VALUES """,
    row="(?, ?, 'open', 'queued', ?, ?, '', ?, ?, ?, 0, '', 0, ?)",
    after=" ON CONFLICT (id) DO NOTHING",
)
# A webhook's id is derived from what it reports, so a repeated report finds the row. It completes a row that
# waits for its open to be final, even one that became a dead letter while it waited.
_WEBHOOK_COLUMNS = """INSERT INTO outbox (id, app, kind, state, ordering_key, sequence, depends_on, subject,
    created_at, next_attempt_at, attempts, reason, lease_until, payload) """
_WEBHOOK_ROW = """?, ?, 'webhook', 'queued', ?,
    (SELECT CASE WHEN max(sequence) >= ? THEN max(sequence) + 1 ELSE ? END FROM outbox
        WHERE ordering_key = ? AND state = 'queued' AND kind <> 'open'), ?, ?, ?, ?, 0, '', 0, ?"""
_COMPLETE = """ ON CONFLICT (id) DO UPDATE SET state = 'queued', sequence = excluded.sequence,
    depends_on = '', created_at = excluded.created_at, next_attempt_at = excluded.next_attempt_at,
    attempts = 0, reason = '', payload = excluded.payload
    WHERE outbox.depends_on <> '' AND excluded.depends_on = ''"""
_ENQUEUE_WEBHOOK = RowStatement(
    table="outbox webhooks",  # their order relative to rows of opens does not matter
    before=f"{_WEBHOOK_COLUMNS} VALUES ",
    row=f"({_WEBHOOK_ROW})",
    after=_COMPLETE,
)
# Unless the entry that it reports has been erased, or another replica has decided it differently.
_ENQUEUE_REPORT = f"""{_WEBHOOK_COLUMNS} SELECT {_WEBHOOK_ROW}
    WHERE EXISTS (SELECT 1 FROM outbox WHERE id = ? AND state = ?){_COMPLETE}"""  # noqa: S608
# For rows selected by id: SQLite has no statistics here, so with ``state = 'queued'`` it would use an index
# that begins with the state instead of the primary key, and scan the whole queue.
_STILL_QUEUED = "state NOT IN ('delivered', 'dead', 'discarded')"
_REMOVE_OPEN = RowStatement(
    table="outbox",
    before=f"DELETE FROM outbox WHERE {_STILL_QUEUED} AND kind = 'open' AND id IN (",  # noqa: S608
    row="?",
    after=")",
)
_REMOVE_WEBHOOK = RowStatement(
    table="outbox webhooks",
    before=f"DELETE FROM outbox WHERE {_STILL_QUEUED} AND kind = 'webhook' AND id IN (",  # noqa: S608
    row="?",
    after=")",
)
_CONVERSIONS = "outbox conversions"  # leads and sales: their order relative to opens does not matter
_RELEASE = RowStatement(
    table=_CONVERSIONS,
    before="UPDATE outbox SET depends_on = '', next_attempt_at = released.column2 FROM (VALUES ",
    row="(?, ?)",
    after=""") AS released WHERE outbox.state = 'queued' AND outbox.depends_on <> ''
        AND outbox.depends_on = released.column1""",
)
_BLOCKS = f"""other.state = 'queued' AND other.kind <> 'open' AND (other.lease_until > {{now_ms}}
    OR other.depends_on = '' AND other.reason <> '{UNDECRYPTABLE}'"""
_ADD = RowStatement(
    table=_CONVERSIONS,
    before="""INSERT INTO outbox (id, ordering_key, sequence, app, kind, state, depends_on, subject,
        created_at, next_attempt_at, attempts, reason, owner, lease_until, event_key, idempotency_key,
        body_key, payload)
        SELECT column1, column2, (SELECT CASE WHEN max(sequence) >= column3 THEN max(sequence) + 1
            ELSE column3 END FROM outbox
            WHERE ordering_key = column2 AND state = 'queued' AND kind <> 'open'),
        column4, column5, 'queued', column6, column7, column8, column9, 0, '', column10, {now_ms} + column11,
        column12, column13, column14, column15 FROM (VALUES """,
    row="(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    after=") AS new WHERE true ON CONFLICT DO NOTHING RETURNING id",
    key=1,
    query=f"""SELECT this.id FROM outbox AS this WHERE this.id IN ({{ids}}) AND EXISTS (SELECT 1
        FROM outbox AS other WHERE other.ordering_key = this.ordering_key AND other.id <> this.id
        AND {_BLOCKS}))""",  # noqa: S608  constants, as are all
)
_IS_DUE = f"""this.state = 'queued' AND this.next_attempt_at <= ?
    AND (this.lease_until <= {{now_ms}} OR this.lease_until > {{now_ms}} + {_LEASE_MAX_MS})
    AND (this.kind = 'open' OR NOT EXISTS (SELECT 1 FROM outbox AS other
        WHERE other.ordering_key = this.ordering_key AND other.id <> this.id
        AND {_BLOCKS} AND other.sequence < this.sequence)))"""  # noqa: S608
_HAS_DUE = f"""SELECT EXISTS (SELECT 1 FROM outbox AS this WHERE this.kind = ? AND this.app IN (%s)
    AND {_IS_DUE}), EXISTS (SELECT 1 FROM outbox AS this WHERE this.kind = ? AND this.app IN (%s)
    AND this.state = 'queued' AND this.next_attempt_at > ?)"""  # noqa: S608
_TAKE = f"""WITH due AS (SELECT this.id FROM outbox AS this
    WHERE this.kind = ? AND this.app = ? AND {_IS_DUE}
    ORDER BY this.next_attempt_at, this.sequence LIMIT ? {{skip_locked}})
    UPDATE outbox SET owner = ?, lease_until = {{now_ms}} + ? WHERE id IN (SELECT id FROM due)
    RETURNING sequence, {_TAKEN}"""  # noqa: S608
_BRING_BACK = """UPDATE outbox SET next_attempt_at = ?
    WHERE state = 'queued' AND kind = ? AND app = ? AND next_attempt_at > ?"""
_RENEW = f"""UPDATE outbox SET lease_until = {{now_ms}} + ?
    WHERE {_STILL_QUEUED} AND owner = ? AND lease_until > 0 AND id IN (%s)"""  # noqa: S608
_END_LEASES = "UPDATE outbox SET lease_until = 0 WHERE state = 'queued' AND lease_until > 0"
_GIVE_BACK = RowStatement(
    table=_CONVERSIONS,
    before="UPDATE outbox SET lease_until = 0, next_attempt_at = new.column2 FROM (VALUES ",
    row="(?, ?, ?)",
    after=f") AS new WHERE id = new.column1 AND {_STILL_QUEUED} AND owner = new.column3",
)
_RESCHEDULE = RowStatement(
    table=_CONVERSIONS,
    before="""UPDATE outbox SET lease_until = 0, next_attempt_at = new.column2,
        attempts = attempts + new.column3, reason = new.column4 FROM (VALUES """,
    row="(?, ?, ?, ?, ?)",
    after=f") AS new WHERE id = new.column1 AND {_STILL_QUEUED} AND owner = new.column5",
)
_DELIVERED = RowStatement(
    table=_CONVERSIONS,
    before="""UPDATE outbox SET state = 'delivered', reason = '', next_attempt_at = new.column2,
        lease_until = 0, payload = NULL FROM (VALUES """,
    row="(?, ?)",
    after=") AS new WHERE id = new.column1",
)
_DIED = RowStatement(
    table=_CONVERSIONS,
    before="""UPDATE outbox SET state = 'dead', next_attempt_at = new.column2, reason = new.column3,
        lease_until = 0 FROM (VALUES """,
    row="(?, ?, ?)",
    after=f") AS new WHERE id = new.column1 AND {_STILL_QUEUED}",
)
_WAITED_FOR = """SELECT DISTINCT depends_on FROM outbox
    WHERE state = 'queued' AND depends_on <> '' AND kind <> 'webhook' LIMIT ?"""
_REMOVE = RowStatement(table=_CONVERSIONS, before="DELETE FROM outbox WHERE id IN (", row="?", after=")")
_FAILED_BEFORE = """SELECT id, next_attempt_at FROM outbox WHERE state = 'queued' AND kind = ? AND app = ?
    AND next_attempt_at > ? AND attempts > 0 AND depends_on = ''
    AND reason NOT LIKE 'DubThrottled%' ORDER BY next_attempt_at LIMIT ?"""  # Dub chose their time
_DUE_SOON = f"""UPDATE outbox SET next_attempt_at = ? + sequence % ?
    WHERE {_STILL_QUEUED} AND next_attempt_at > ? AND id IN ({{ids}})"""  # noqa: S608
_REPORTED = """SELECT id, state, created_at, depends_on, body_key FROM outbox
    WHERE {key} = ? AND {key} IS NOT NULL AND state <> 'dead'"""
_FORGET_KEYS = """UPDATE outbox SET event_key = NULL, idempotency_key = NULL, body_key = NULL
    WHERE id = ? AND created_at < ?"""
_TAKE_OVER = f"""UPDATE outbox SET depends_on = '', next_attempt_at = ?, payload = ?,
    subject = CASE WHEN ? = '' THEN subject ELSE ? END
    WHERE id = ? AND state = 'queued' AND depends_on LIKE '{INSTALL}%'"""  # noqa: S608
_OLD_LEADS = f"""SELECT sequence, {_TAKEN}, reason FROM outbox
    WHERE state = 'queued' AND kind = 'lead' AND created_at < ? LIMIT ?"""  # noqa: S608
_BURY_WEBHOOKS = """WITH old AS (SELECT id FROM outbox
    WHERE state = 'queued' AND kind = 'webhook' AND depends_on = '' AND created_at < ? LIMIT ? {skip_locked})
    UPDATE outbox SET state = 'dead', next_attempt_at = ?, lease_until = 0, reason = 'expired: ' ||
        CASE reason WHEN '' THEN 'never sent: the endpoint failed, or there was none' ELSE reason END
    WHERE id IN (SELECT id FROM old) RETURNING 1"""
_BURY = f"""WITH old AS
    (SELECT id FROM outbox WHERE state = 'queued' AND created_at < ? LIMIT ? {{skip_locked}})
    UPDATE outbox SET state = 'dead', next_attempt_at = ?, lease_until = 0,
    reason = CASE WHEN depends_on LIKE '{INSTALL}%' AND (reason = '' OR reason LIKE '{NoOpen.__name__}:%')
        THEN '{NO_OPEN}' ELSE 'expired: ' || reason END
    WHERE id IN (SELECT id FROM old) RETURNING 1"""  # noqa: S608
_DELETE_OLD = """WITH old AS (SELECT id FROM outbox WHERE state = ? AND created_at < ? LIMIT ? {skip_locked})
    DELETE FROM outbox WHERE id IN (SELECT id FROM old) RETURNING 1"""
_WAITING = f"""SELECT count(*) FROM outbox WHERE state = 'queued' AND depends_on <> '' AND app = ?
    AND depends_on LIKE '{INSTALL}%'"""  # noqa: S608
_WAITS_IN = """SELECT 1 FROM outbox WHERE ordering_key = ? AND state = 'queued' AND kind <> 'open'
    AND depends_on <> '' LIMIT 1"""
_WRITE_AGAIN = "UPDATE outbox SET state = state WHERE id = ?"
_STATUS = "SELECT app, kind, state, reason FROM outbox WHERE id = ?"
_OLDEST = "SELECT kind, min(created_at) FROM outbox WHERE state = 'queued' AND depends_on = '' GROUP BY kind"
_DEPTHS = "SELECT kind, state, count(*) FROM outbox WHERE state IN ({states}) GROUP BY kind, state"
_DEAD = "SELECT id FROM outbox WHERE state = 'dead' AND payload IS NOT NULL{which} ORDER BY created_at"
_APP_DEPTHS = "SELECT kind, state, count(*) FROM outbox WHERE app = ? GROUP BY kind, state"
# An entry's keys are removed, so that the lead may be reported again.
_DISCARD = """UPDATE outbox SET state = 'discarded', reason = ?, next_attempt_at = ?, payload = NULL,
    event_key = NULL, idempotency_key = NULL, body_key = NULL
    WHERE state = 'dead' AND id = ? AND (app = ? OR ? = '') RETURNING 1"""
# If the lead was reported again since, the keys belong to the new entry.
_REVIVE = f"""UPDATE outbox SET state = 'queued', attempts = 0, reason = '', created_at = ?,
    next_attempt_at = ?, depends_on = CASE WHEN depends_on LIKE '{INSTALL}%' THEN depends_on ELSE '' END,
    event_key = CASE WHEN EXISTS (SELECT 1 FROM outbox AS other WHERE other.event_key = outbox.event_key
        AND other.event_key IS NOT NULL AND other.state <> 'dead') THEN NULL ELSE event_key END,
    idempotency_key = CASE WHEN EXISTS (SELECT 1 FROM outbox AS other
        WHERE other.idempotency_key = outbox.idempotency_key AND other.idempotency_key IS NOT NULL
        AND other.state <> 'dead') THEN NULL ELSE idempotency_key END
    WHERE state = 'dead' AND payload IS NOT NULL AND id = ? RETURNING 1"""  # noqa: S608


class SqlOutboxStore:
    """Implements ``ports.OutboxStore``. ``unix_time`` returns Unix seconds.

    Methods that are awaited raise ``StoreFailed``. The others write behind: their rows are committed soon
    after they return.
    """

    def __init__(self, database: Database, cipher: Cipher, unix_time: Callable[[], float]) -> None:
        self._database = database
        self._cipher = cipher
        self._unix_time = unix_time
        self._owner = secrets.token_hex(8)
        self._sequence = 0
        # The opens and installs that entries wait for, so that an open which no entry waits for costs no
        # write. None: unknown, because other processes write to the database, or because there are too many.
        self._waited_for: set[str] | None = None

    @property
    def is_failing(self) -> bool:
        """Return True while the database cannot be written to."""
        return self._database.failing is not None

    async def add(self, entry: Entry, *, leased: bool) -> Added | Repeat:
        """Commit an entry; ``leased`` if this replica sends it now.

        A lead with the keys of an earlier entry (see ``Entry.keys``) of the last ``REPEAT_S`` seconds, unless
        that is a dead letter, is not stored, and this returns a ``Repeat``. If the earlier entry waits for an
        install and this one does not, the earlier entry gets this one's payload, and becomes due.
        """
        row = self._row(entry, leased=leased)
        self._expect(entry.depends_on_open)
        for _ in range(_ADD_TRIES):
            try:
                added, behind = await self._database.write_row(
                    _ADD, row, timeout_s=WRITE_TIMEOUT_S, queue_s=_QUEUE_S
                )
            except StoreFailed:
                if not (entry.keys.event or entry.keys.idempotency):
                    # The caller gets an error, so an entry that was committed all the same must not be sent.
                    # An entry with keys may be sent: it is recognised when the caller reports it again.
                    self._database.write_row_behind(_REMOVE, (entry.id,))
                raise
            if added:
                self._expect(entry.depends_on_open)  # it may have been released before it was committed
                return Added(behind_another=bool(behind))
            repeat = await self._reported(entry)
            if repeat is not None:
                return repeat
        raise StoreFailed("the earlier report of this lead changes at the moment")

    def enqueue_open(self, entry: Entry) -> None:
        """Queue an open, to be reported later; an openId is queued only once."""
        self._database.write_row_behind(
            _ENQUEUE_OPEN,
            (
                *(entry.id, entry.app, entry.ordering_key, self._next_sequence(), entry.subject),
                *(_ms(entry.created), _ms(entry.next_try), self._cipher.encrypt(entry.payload)),
            ),
        )

    def enqueue_webhook(self, entry: Entry) -> None:
        """Queue a webhook, once for each id; one without ``depends_on_open`` completes one that waits."""
        self._database.write_row_behind(_ENQUEUE_WEBHOOK, self._webhook(entry))

    async def add_webhook(self, entry: Entry) -> None:
        """Commit a webhook, as ``enqueue_webhook`` does."""
        await self._database.write(*_ENQUEUE_WEBHOOK.one(self._webhook(entry)))

    def confirm_open(self, open_id: str) -> None:
        """Delete an open's entry, because Dub has recorded the open."""
        self._database.write_row_behind(_REMOVE_OPEN, (open_id,))

    def release_dependents(self, name: str, at: float) -> None:
        """Make the entries that wait for this open or install due at a time (Unix seconds)."""
        if self._waited_for is None or name in self._waited_for:
            self._database.write_row_behind(_RELEASE, (name, _ms(at)))
        if self._waited_for is not None:
            self._waited_for.discard(name)

    def _expect(self, name: str) -> None:
        """Note that an entry waits for an open or install; "" stands for none."""
        if not name or self._waited_for is None:
            return
        self._waited_for.add(name)
        if len(self._waited_for) > _WAITED_FOR_MAX:
            self._waited_for = None

    async def take_due(
        self, kind: Kind, apps: Sequence[str], limit: int, *, written: bool = False
    ) -> list[TakenEntry]:
        """Lease due entries of these apps, each the first of its ordering key.

        Every app first gets the same share of ``limit``; unused shares go to other apps. If nothing is due,
        nothing is committed, unless ``written``: then rows that were written behind are committed and found.
        """
        first = [] if written else await self._before_taking(kind, apps)
        if first is None:
            return []
        share = -(-limit // len(apps))
        found = await self._take(kind, [(app, share) for app in apps[:limit]], first, written=written)
        counts = Counter(each[2] for each in found)
        have_more = [app for app in apps if counts[app] == share]
        left = limit - len(found)
        if have_more and len(apps) > 1 and left > 0:
            found += await self._take(kind, [(have_more[0], left)])
        return [self._taken(row) for row in sorted(found, key=_by_time)]

    async def _before_taking(self, kind: Kind, apps: Sequence[str]) -> list[Statement] | None:
        """Return the statements to run before entries are taken; None if no entry is due."""
        now_ms = self._now_ms()
        sql = _HAS_DUE.replace("%s", placeholders(len(apps)))
        far_ms = now_ms + _AHEAD_MAX_MS
        ((due, ahead),) = await self._database.read(sql, kind, *apps, now_ms, kind, *apps, far_ms)
        if not ahead:
            return [] if due else None
        return [Statement(_BRING_BACK, (now_ms, kind, app, far_ms)) for app in apps]

    async def _take(
        self,
        kind: Kind,
        wanted: Sequence[tuple[str, int]],
        first: Sequence[Statement] = (),
        *,
        written: bool = False,
    ) -> list[Row]:
        now_ms, lease_ms = self._now_ms(), _ms(LEASE_S)
        unit = [Statement(_TAKE, (kind, app, now_ms, limit, self._owner, lease_ms)) for app, limit in wanted]
        results = await self._database.write(*first, *unit, in_order=written)
        return [row for rows in results[len(first) :] for row in rows]

    async def due_soon(self, kind: Kind, apps: Sequence[str], spread_s: float) -> None:
        """Make entries that failed before due at different times within ``spread_s`` seconds."""
        spread_ms = _ms(spread_s)
        for app in apps:
            after_ms = self._now_ms() + spread_ms
            while rows := await self._database.read(_FAILED_BEFORE, kind, app, after_ms, _AT_A_TIME):
                now_ms = self._now_ms()
                sql = _DUE_SOON.format(ids=placeholders(len(rows)))
                ids = [entry_id for entry_id, _ in rows]
                await self._database.write(Statement(sql, (now_ms, spread_ms, now_ms + spread_ms, *ids)))
                after_ms = rows[-1][1]

    async def renew(self, entry_ids: Sequence[str]) -> None:
        """Renew the leases of entries that this replica works on."""
        unit = []
        for start in range(0, len(entry_ids), _AT_A_TIME):
            ids = entry_ids[start : start + _AT_A_TIME]
            sql = _RENEW.replace("%s", placeholders(len(ids)))
            unit.append(Statement(sql, (_ms(LEASE_S), self._owner, *ids)))
        if unit:
            await self._database.write(*unit)

    async def take_over(self) -> None:
        """End the leases of an earlier process, and learn which opens are waited for.

        Does nothing if other processes use the database. Call it before entries are added.
        """
        if self._database.is_shared:
            return
        await self._database.write(Statement(_END_LEASES))
        rows = await self._database.read(_WAITED_FOR, _WAITED_FOR_MAX + 1)
        if len(rows) <= _WAITED_FOR_MAX:
            self._waited_for = {name for (name,) in rows}

    def give_back(self, entry_id: str, next_attempt_at: float) -> None:
        """End the lease of an entry that was not attempted, and schedule it (Unix seconds)."""
        values = (entry_id, _ms(next_attempt_at), self._owner)
        self._database.write_row_behind(_GIVE_BACK, values)

    def reschedule(
        self, entry_id: str, next_attempt_at: float, reason: str, *, attempted: bool = True
    ) -> None:
        """Schedule the next attempt of an entry (Unix seconds), with the reason why the last one failed.

        An entry that has expired since remains a dead letter.
        """
        at_ms = min(_ms(next_attempt_at), self._now_ms() + _ms(DELAY_MAX_S))
        self._database.write_row_behind(_RESCHEDULE, (entry_id, at_ms, int(attempted), reason, self._owner))

    def finish(self, entry: Entry, state: State, reason: str, event: Entry | None = None) -> None:
        """Mark an entry as delivered, which deletes its payload, or as dead, which keeps it encrypted.

        A delivered open or webhook is deleted. ``event`` is a webhook that reports the entry's new state: it
        is committed together with that.
        """
        if state == "delivered" and entry.kind == "open":
            self.confirm_open(entry.id)
        elif state == "delivered" and entry.kind == "webhook":
            self._database.write_row_behind(_REMOVE_WEBHOOK, (entry.id,))
        elif state == "delivered":
            self._settle(entry, state, event, _DELIVERED, (entry.id, self._now_ms()))
        else:
            self._settle(entry, state, event, _DIED, (entry.id, self._now_ms(), reason))

    def _settle(
        self, entry: Entry, state: State, event: Entry | None, rows: RowStatement, values: Values
    ) -> None:
        """Write an entry's new state, together with the webhook that reports it."""
        if event is None:
            self._database.write_row_behind(rows, values)
        else:
            self._database.write_behind(*rows.one(values), *self._reports(entry, state, event))

    async def remove(self, entry_id: str) -> None:
        """Delete an entry."""
        await self._database.write(Statement("DELETE FROM outbox WHERE id = ?", (entry_id,)))

    async def forget(self, subjects: Collection[str]) -> int:
        """Delete all entries of these devices and openIds, in any state; return how many."""
        names, forgotten = list(subjects), 0
        for start in range(0, len(names), _AT_A_TIME):
            some = names[start : start + _AT_A_TIME]
            ids = placeholders(len(some))
            by_subject = f"DELETE FROM outbox WHERE subject <> '' AND subject IN ({ids}) RETURNING 1"  # noqa: S608
            by_id = f"DELETE FROM outbox WHERE kind = 'open' AND id IN ({ids}) RETURNING 1"  # noqa: S608
            values = tuple(some)
            results = await self._database.write(Statement(by_subject, values), Statement(by_id, values))
            forgotten += sum(map(len, results))
        return forgotten

    async def expire(
        self, before: float, *, webhooks_before: float, report: ReportDeath | None = None
    ) -> int:
        """Turn entries that were queued before a time (Unix seconds) into dead letters; return how many.

        Webhooks have a time of their own, unless they wait for an open. ``report`` builds the webhook that
        reports a lead. Also deletes entries that were delivered more than ``REPEAT_S`` seconds ago, and old
        dead letters.
        """
        now_ms, before_ms, died = self._now_ms(), _ms(before), 0
        if report is not None:
            died += await self._expire_leads(before_ms, report)
        webhooks = Statement(_BURY_WEBHOOKS, (_ms(webhooks_before), _AT_A_TIME, now_ms))
        old = (
            ("delivered", now_ms - _ms(REPEAT_S), _AT_A_TIME),
            ("dead", before_ms - DEAD_KEPT_S * 1000, _AT_A_TIME),
            ("discarded", before_ms - DEAD_KEPT_S * 1000, _AT_A_TIME),
        )
        while True:
            bury = Statement(_BURY, (before_ms, _AT_A_TIME, now_ms))
            delete = (Statement(_DELETE_OLD, values) for values in old)
            results = await self._database.write(bury, webhooks, *delete)
            died += len(results[0]) + len(results[1])
            if max(map(len, results)) < _AT_A_TIME:
                return died

    async def _expire_leads(self, before_ms: int, report: ReportDeath) -> int:
        """Turn leads that can be decrypted into dead letters, each in one commit with its webhook."""
        rows = await self._database.read(_OLD_LEADS, before_ms, _AT_A_TIME)
        unit: list[Statement] = []
        died = 0
        for *row, reason in rows:
            entry = self._taken(tuple(row)).entry
            if entry is None:
                continue
            why = _why_expired(entry, reason)
            unit += _DIED.one((entry.id, self._now_ms(), why))
            unit += self._reports(entry, "dead", report(entry, why))
            died += 1
        if unit:
            await self._database.write(*unit)
        return died

    async def status(self, entry_id: str) -> Status | None:
        """Return the status of an entry, or None if it is unknown."""
        rows = await self._database.read(_STATUS, entry_id, timeout_s=READ_TIMEOUT_S)
        if not rows or rows[0][2] == "queued":  # a later state may be waiting to be written
            rows = await self._database.read_written(_STATUS, entry_id, timeout_s=READ_TIMEOUT_S)
        return Status(*rows[0]) if rows else None

    async def waiting(self, app: str) -> int:
        """Count an app's entries that wait for an install."""
        rows = await self._database.read(_WAITING, app, timeout_s=READ_TIMEOUT_S)
        count: int = rows[0][0]
        return count

    async def has_waiting_in(self, ordering_key: str) -> bool:
        """Return True if an entry of this key waits for an open or install."""
        return bool(await self._database.read(_WAITS_IN, ordering_key))

    async def depths(self, *states: State) -> dict[tuple[Kind, State], int]:
        """Count the entries in these states, by kind and state."""
        rows = await self._database.read(_DEPTHS.format(states=placeholders(len(states))), *states)
        return {(kind, state): count for kind, state, count in rows}

    async def oldest(self) -> dict[Kind, float]:
        """Return when the oldest queued entry of each kind was made (Unix seconds).

        Entries that wait for an open do not count.
        """
        return {kind: created_ms / 1000 for kind, created_ms in await self._database.read(_OLDEST)}

    async def app_depths(self, app: str) -> dict[tuple[Kind, State], int]:
        """Count an app's entries, by kind and state."""
        rows = await self._database.read(_APP_DEPTHS, app, timeout_s=READ_TIMEOUT_S)
        return {(kind, state): count for kind, state, count in rows}

    async def listed(self, state: State, limit: int, app: str | None = None) -> list[Summary]:
        """Return entries of a state, oldest first."""
        sql = f"""SELECT {_SUMMARY} FROM outbox WHERE state = ? AND (app = ? OR ? = '')
            ORDER BY created_at, sequence LIMIT ?"""  # noqa: S608
        rows = await self._database.read(sql, state, app or "", app or "", limit, timeout_s=READ_TIMEOUT_S)
        return [_summary(row) for row in rows]

    async def concerning(self, app: str, names: Sequence[str]) -> list[Summary]:
        """Return the entries of these openIds and devices, and those that wait for them, oldest first.

        Entries that were delivered are included for as long as they are kept, those of opens are not kept.
        """
        ids = placeholders(len(names))
        columns = ("id", "subject <> '' AND subject", "state = 'queued' AND depends_on <> '' AND depends_on")
        union = " UNION ".join(
            f"SELECT {_SUMMARY} FROM outbox WHERE app = ? AND {column} IN ({ids})"  # noqa: S608
            for column in columns
        )
        rows = await self._database.read(union, *([app, *names] * 3), timeout_s=READ_TIMEOUT_S)
        return sorted(map(_summary, rows), key=lambda entry: entry.created)

    async def found(self, entry_id: str) -> tuple[Summary, bytes | None] | None:
        """Return an entry with its encrypted payload, which is None after delivery; None if it is unknown."""
        sql = f"SELECT {_SUMMARY}, payload FROM outbox WHERE id = ?"  # noqa: S608
        rows = await self._database.read(sql, entry_id)
        if not rows:
            return None
        *summary, payload = rows[0]
        return _summary(tuple(summary)), payload

    def reveal(self, payload: bytes) -> bytes:
        """Decrypt an entry's payload; raises ``Undecryptable``."""
        return self._cipher.decrypt(payload)

    async def retry_now(self, entry_id: str | None, app: str | None = None) -> int:
        """Queue a dead letter again, or all (of an app) if ``entry_id`` is None; return how many."""
        wanted = {"id": entry_id, "app": app}
        which = "".join(f" AND {name} = ?" for name, value in wanted.items() if value is not None)
        values = [value for value in wanted.values() if value is not None]
        dead = await self._database.read(_DEAD.format(which=which), *values)
        now_ms, revived = self._now_ms(), 0
        for start in range(0, len(dead), _AT_A_TIME):
            some = dead[start : start + _AT_A_TIME]
            unit = [Statement(_REVIVE, (now_ms, now_ms, each)) for (each,) in some]
            revived += sum(map(len, await self._database.write(*unit)))
        return revived

    async def discard(self, entry_id: str, reason: str, app: str | None = None) -> bool:
        """Give up a dead letter: delete its content, keep the reason. Return False if there is none."""
        values = (f"discarded: {reason}", self._now_ms(), entry_id, app or "", app or "")
        (discarded,) = await self._database.write(Statement(_DISCARD, values))
        return bool(discarded)

    def _row(self, entry: Entry, *, leased: bool) -> Values:
        keys = entry.keys
        return (
            *(entry.id, entry.ordering_key, self._next_sequence(), entry.app, entry.kind),
            *(entry.depends_on_open, entry.subject, _ms(entry.created), _ms(entry.next_try)),
            *(self._owner if leased else None, _ms(LEASE_S) if leased else -1),
            *(keys.event or None, keys.idempotency or None, keys.body or None),
            self._cipher.encrypt(entry.payload),
        )

    def _webhook(self, entry: Entry) -> Values:
        """Return the values of a webhook's row."""
        sequence = self._next_sequence()
        return (
            *(entry.id, entry.app, entry.ordering_key, sequence, sequence, entry.ordering_key),
            *(entry.depends_on_open, entry.subject, _ms(entry.created), _ms(entry.next_try)),
            self._cipher.encrypt(entry.payload),
        )

    def _reports(self, entry: Entry, state: State, event: Entry | None) -> list[Statement]:
        """Return the statement that queues the webhook about an entry's new state, if there is one."""
        if event is None:
            return []
        return [Statement(_ENQUEUE_REPORT, (*self._webhook(event), entry.id, state))]

    async def _reported(self, entry: Entry) -> Repeat | None:
        """Return the earlier entry with the same keys as a ``Repeat``; None if it is deleted or too old."""
        keys, since_ms = entry.keys, _ms(entry.created - REPEAT_S)
        by_key, by_event = await asyncio.gather(
            self._database.read(_REPORTED.format(key="idempotency_key"), keys.idempotency),
            self._database.read(_REPORTED.format(key="event_key"), keys.event),
        )
        for rows, is_event in ((by_key, False), (by_event, True)):
            if not rows:
                continue
            entry_id, state, created_ms, depends_on, body_key = rows[0]
            if created_ms < since_ms:
                await self._database.write(Statement(_FORGET_KEYS, (entry_id, since_ms)))
                continue
            repeat = Repeat(entry_id, state, same_body=is_event or body_key == keys.body)
            if self._database.is_shared:
                # It may be a commit that no standby has yet (see ``claims``): acknowledge it by another one.
                await self._database.write(Statement(_WRITE_AGAIN, (entry_id,)), timeout_s=WRITE_TIMEOUT_S)
            if repeat.same_body and depends_on.startswith(INSTALL) and not entry.depends_on_open:
                payload = self._cipher.encrypt(entry.payload)
                values = (_ms(entry.next_try), payload, entry.subject, entry.subject, entry_id)
                await self._database.write(Statement(_TAKE_OVER, values), timeout_s=WRITE_TIMEOUT_S)
            return repeat
        return None

    def _taken(self, row: Row) -> TakenEntry:
        _, entry_id, app, kind, ordering_key, depends_on, subject, *times, attempts, payload = row
        if kind != "webhook":
            self._expect(depends_on)  # perhaps a dead letter that the CLI, another process, has queued again
        try:
            clear = self._cipher.decrypt(payload)
        except Undecryptable:
            return TakenEntry(entry_id, None)
        entry = Entry(
            id=entry_id,
            app=app,
            kind=kind,
            ordering_key=ordering_key,
            depends_on_open=depends_on,
            subject=subject,
            created=times[0] / 1000,
            next_try=times[1] / 1000,
            attempts=attempts,
            payload=clear,
        )
        return TakenEntry(entry_id, entry)

    def _next_sequence(self) -> int:
        """Return a number that grows with time and with every entry of this process."""
        self._sequence = max(self._sequence + 1, int(self._unix_time() * 1_000_000))
        return self._sequence

    def _now_ms(self) -> int:
        return _ms(self._unix_time())


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _by_time(row: Row) -> tuple[int, int]:
    """Return a taken row's next attempt and sequence."""
    return row[8], row[0]


def _why_expired(entry: Entry, reason: str) -> str:
    """Return why an expired entry is dead, given why its last attempt failed; as ``_BURY`` does."""
    if entry.depends_on_open.startswith(INSTALL) and (not reason or reason.startswith(f"{NoOpen.__name__}:")):
        return NO_OPEN
    return f"expired: {reason}"


def _summary(row: Row) -> Summary:
    entry_id, app, kind, state, created_at, next_at, attempts, depends_on, reason = row
    return Summary(
        entry_id, app, kind, state, created_at / 1000, next_at / 1000, attempts, depends_on, reason
    )
