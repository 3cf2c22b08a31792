"""Store the clicks of the matching window, and coordinate which replica syncs them from Dub.

What can go wrong: two replicas sync at the same time (one has a lease, which it renews); a replica dies
during a sync (its lease expires, and another takes over); an open misses its click because of a sync that
began before the open arrived (sync rounds are numbered, and a caller waits for one that begins after its
call); a replica with another configuration syncs, and omits clicks that this one needs (``scope``).
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

import msgspec
from msgspec import Struct

from service.aio.tasks import cancel_all
from service.domain.clicks import Fault, SyncRound
from service.domain.device_traits import Traits
from service.domain.errors import StoreFailed
from service.domain.match_odds import NO_SIGNALS, Signals
from service.domain.match_rules import Click
from service.domain.models import Link
from service.domain.touches import join_touches
from service.storage.database import Database
from service.storage.encryption import Cipher, Undecryptable
from service.storage.hashes import device_name, to_signed
from service.storage.statements import Row, RowStatement, Statement, Values

LEASE_MS = 4000  # after this, another replica takes over from one that died

_RENEW_S = 1.0
_POLL_S = 0.025
_GIVE_UP_S = 1.0  # for releasing the lease after a failed sync; otherwise the lease expires
_WRITTEN_EVERY_MS = 10_000  # with SQLite; after a restart, so much is synced again
_ENCRYPTED_AT_A_TIME = 100  # without yielding to the event loop
_EXPIRED_AT_A_TIME = 1000

_ADD = RowStatement(
    table="clicks",
    before="INSERT INTO clicks (click_id, app, network, clicked_at, record) VALUES ",
    row="(?, ?, ?, ?, ?)",
    after=""" ON CONFLICT (app, click_id) DO UPDATE SET network = excluded.network, record = excluded.record
    WHERE clicks.network <> excluded.network""",  # after a change of FIRSTOPEN_SECRET
)
_ON_NETWORK = """SELECT c.click_id, c.clicked_at, c.record, c.is_touch, k.device FROM clicks AS c
    LEFT JOIN claims AS k ON k.click_id = c.click_id
    WHERE c.network = ? AND c.clicked_at >= ? AND c.app = ? ORDER BY c.clicked_at DESC LIMIT ?"""
_CREATE_SYNC = """INSERT INTO click_syncs
    (app, turn, finished_turn, synced_to, unread, scope, owner, lease_until)
    VALUES (?, 0, 0, ?, ?, ?, NULL, 0) ON CONFLICT (app) DO """
_CREATE = f"{_CREATE_SYNC} NOTHING"
_SYNC = """SELECT turn, finished_turn, synced_to, unread, scope, owner IS NULL OR lease_until < {now_ms}
    FROM click_syncs WHERE app = ?"""
_TAKE_TURN = """UPDATE click_syncs SET owner = ?, lease_until = {now_ms} + ?, turn = turn + 1
    WHERE app = ? AND (finished_turn < ? OR scope <> ?)
    AND (owner IS NULL OR owner = ? OR lease_until < {now_ms}) RETURNING turn"""
_RENEW = "UPDATE click_syncs SET lease_until = {now_ms} + ? WHERE app = ? AND owner = ?"
_FINISH = """UPDATE click_syncs SET owner = NULL, finished_turn = ?, synced_to = ?, unread = ?, scope = ?
    WHERE app = ? AND owner = ?"""
_GIVE_UP = "UPDATE click_syncs SET owner = NULL WHERE app = ? AND owner = ?"
_NOTE = f"""{_CREATE_SYNC} UPDATE SET synced_to = excluded.synced_to, unread = excluded.unread,
    scope = excluded.scope"""
_EXPIRE = """DELETE FROM clicks WHERE (app, click_id) IN
    (SELECT app, click_id FROM clicks WHERE clicked_at < ? LIMIT ?) RETURNING 1"""
_ANY_ROUND = 2**62


class _Record(Struct, frozen=True, gc=False):
    link: Link
    query: str
    device: Traits
    opened_app: bool
    signals: Signals = NO_SIGNALS


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Record).decode
_encode_unread = msgspec.json.Encoder().encode
_decode_unread = msgspec.json.Decoder(dict[Fault, int]).decode


class _Sync(Struct, frozen=True):
    """The state of an app's syncs: how many rounds there were, and up to which time clicks are known."""

    sync_round: int
    finished_round: int
    synced_to_ms: int
    unread: Mapping[Fault, int]
    is_free: bool  # no replica syncs at the moment


class ClickStore:
    """Stores the clicks of one app: implements ``ports.WindowClicks``. Every method raises ``StoreFailed``.

    ``scope`` identifies the configuration that decides which clicks a sync stores, and how. Syncs with
    another ``scope`` are ignored.
    """

    def __init__(self, database: Database, cipher: Cipher, app: str, scope: str) -> None:
        self._database = database
        self._cipher = cipher
        self._app = app
        self._scope = scope
        self._owner = secrets.token_hex(8)
        self._own: _Sync | None = None  # the last sync, if no other process uses the database
        self._written_to_ms = 0

    async def add(self, clicks: Sequence[tuple[int, Click]]) -> None:
        """Store clicks, each with its hashed network; clicks that are already stored are not changed."""
        if clicks:
            await self._database.write(*await self._add(clicks))

    def on_network(self, network: int, since_ms: int, limit: int) -> Statement:
        """Return the query for a network's newest clicks since a time, with the claiming installs."""
        return Statement(_ON_NETWORK, (to_signed(network), since_ms, self._app, limit))

    def clicks(self, rows: Iterable[Row]) -> tuple[tuple[Click, ...], Mapping[str, str]]:
        """Decode the rows of ``on_network``: candidates, and by their ids the claiming installs."""
        clicks, owners = [], {}
        for click_id, clicked_at, encrypted, is_touch, owner in rows:
            click = self._click(click_id, clicked_at, encrypted, is_touch=bool(is_touch))
            if click is not None:
                clicks.append(click)
                if owner is not None:
                    owners[click_id] = device_name(owner)
        return join_touches(clicks, owners)

    @asynccontextmanager
    async def sync_round(self) -> AsyncIterator[SyncRound]:
        """Begin a sync under a lease, or wait until another replica has finished one.

        That other sync begins after this call. On exit, the clicks of a sync of our own are committed.
        """
        sync_round = await (self._begin_round() if self._database.is_shared else self._resume())
        if not sync_round.mine:
            yield sync_round
            return
        try:
            async with self._renewed():
                yield sync_round
        except BaseException:
            with contextlib.suppress(StoreFailed):
                await self._give_up()
            raise
        await self._finish(sync_round)

    async def _begin_round(self) -> SyncRound:
        wanted: int | None = None
        while True:
            take = Statement(
                _TAKE_TURN,
                (self._owner, LEASE_MS, self._app, wanted or _ANY_ROUND, self._scope, self._owner),
            )
            taken, found = await self._database.write(take, Statement(_SYNC, (self._app,)))
            if not found:
                await self._database.write(Statement(_CREATE, (self._app, 0, "{}", self._scope)))
                continue
            sync = self._sync(found[0])
            if taken:
                return SyncRound(
                    mine=True, number=sync.sync_round, synced_to_ms=sync.synced_to_ms, unread=sync.unread
                )
            wanted = wanted or sync.sync_round + 1
            while not sync.is_free and sync.finished_round < wanted:
                await asyncio.sleep(_POLL_S)
                (row,) = await self._database.read(_SYNC, self._app)
                sync = self._sync(row)
            if sync.finished_round >= wanted:
                return SyncRound(
                    mine=False, number=wanted, synced_to_ms=sync.synced_to_ms, unread=sync.unread
                )

    async def _resume(self) -> SyncRound:
        """Continue where the last sync ended, also after a restart: no other process syncs here."""
        if self._own is None:
            found = await self._database.read(_SYNC, self._app)
            self._own = self._sync(found[0]) if found else _Sync(0, 0, 0, {}, is_free=True)
        return SyncRound(mine=True, number=0, synced_to_ms=self._own.synced_to_ms, unread=self._own.unread)

    @asynccontextmanager
    async def _renewed(self) -> AsyncIterator[None]:
        """Renew the lease until the sync ends."""
        if not self._database.is_shared:
            yield
            return
        renewing = asyncio.create_task(self._renew())
        try:
            yield
        finally:
            await cancel_all([renewing])

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(_RENEW_S)
            with contextlib.suppress(StoreFailed):
                await self._database.write(Statement(_RENEW, (LEASE_MS, self._app, self._owner)))

    async def _finish(self, sync_round: SyncRound) -> None:
        """Commit the last clicks of a sync, and the time up to which it is complete."""
        unit = await self._add(sync_round.clicks)
        unread = _encode_unread(sync_round.unread).decode()
        if self._database.is_shared:
            state = (sync_round.number, sync_round.synced_to_ms, unread, self._scope)
            unit.append(Statement(_FINISH, (*state, self._app, self._owner)))
        elif unit or sync_round.synced_to_ms >= self._written_to_ms + _WRITTEN_EVERY_MS:
            unit.append(Statement(_NOTE, (self._app, sync_round.synced_to_ms, unread, self._scope)))
        if unit:
            await self._database.write(*unit)
            self._written_to_ms = sync_round.synced_to_ms
        self._own = _Sync(0, 0, sync_round.synced_to_ms, sync_round.unread, is_free=True)

    async def _give_up(self) -> None:
        if self._database.is_shared:
            end = Statement(_GIVE_UP, (self._app, self._owner))
            await self._database.write(end, timeout_s=_GIVE_UP_S)

    async def _add(self, clicks: Sequence[tuple[int, Click]]) -> list[Statement]:
        rows: list[Values] = []
        for number, (network, click) in enumerate(clicks, 1):
            record = encode_click(click, self._cipher)
            rows.append((click.id, self._app, to_signed(network), click.at_ms, record))
            if number % _ENCRYPTED_AT_A_TIME == 0:
                await asyncio.sleep(0)
        return [each for unit, _ in _ADD.over(rows) for each in unit]

    def _sync(self, row: Row) -> _Sync:
        sync_round, finished_round, synced_to_ms, unread, scope, is_free = row
        if scope != self._scope:
            return _Sync(sync_round, 0, 0, {}, is_free=bool(is_free))
        return _Sync(sync_round, finished_round, synced_to_ms, _decode_unread(unread), is_free=bool(is_free))

    def _click(self, click_id: str, clicked_at: int, encrypted: bytes, *, is_touch: bool) -> Click | None:
        try:
            record = _decode(self._cipher.decrypt(bytes(encrypted)))
        except (Undecryptable, msgspec.DecodeError):
            return None  # encrypted with a secret that is no longer listed
        return Click(
            click_id,
            clicked_at,
            record.link,
            record.query,
            record.device,
            record.signals,
            record.opened_app,
            click_id if is_touch else "",
        )


async def expire_clicks(database: Database, before_ms: int) -> int:
    """Delete a batch of clicks of all apps from before a time (Unix milliseconds); return how many.

    Raises ``StoreFailed``.
    """
    (rows,) = await database.write(Statement(_EXPIRE, (before_ms, _EXPIRED_AT_A_TIME)))
    return len(rows)


def encode_click(click: Click, cipher: Cipher) -> bytes:
    """Return what is stored of a click beside its id, time and network."""
    record = _Record(click.link, click.query, click.device, click.opened_app, click.signals)
    return cipher.encrypt(_encode(record))
