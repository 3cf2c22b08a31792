"""The clicks of the matching window, and whose turn it is to fetch more of them from Dub.

What can go wrong: two replicas sync at the same time (one takes the turn, under a lease that it renews); a
replica dies in its turn (the lease ends, and another takes over); a "none" from a sync that began before the
open arrived (turns are numbered: a caller waits for one that begins after its question).
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
from msgspec import Struct

from service.resolve.errors import StoreFailed
from service.resolve.matching import Click
from service.resolve.model import Link
from service.resolve.traits import Traits
from service.storage.database import Database
from service.storage.encryption import Cipher, Undecryptable
from service.storage.statements import RowStatement, Statement

LEASE_MS = 4000  # a dead replica's turn is taken over after this

_RENEW_S = 1.0
_POLL_S = 0.025
_READ_S = 1.0
_EXPIRED_AT_A_TIME = 1000

_ADD = RowStatement(
    table="clicks",
    before="INSERT INTO clicks (click_id, app, network, clicked_at, record) VALUES ",
    row="(?, ?, ?, ?, ?)",
    after=" ON CONFLICT (app, click_id) DO NOTHING",
)
_BY_NETWORK = """SELECT click_id, clicked_at, record FROM clicks
    WHERE network = ? AND clicked_at >= ? AND app = ? ORDER BY clicked_at DESC, click_id LIMIT ?"""
_CREATE_SYNC = """INSERT INTO click_syncs (app, turn, finished_turn, synced_to, owner, lease_until)
    VALUES (?, 0, 0, 0, NULL, 0) ON CONFLICT (app) DO NOTHING"""
_SYNC = "SELECT turn, finished_turn, synced_to FROM click_syncs WHERE app = ?"
_TAKE_TURN = """UPDATE click_syncs SET owner = ?, lease_until = {now_ms} + ?, turn = turn + 1
    WHERE app = ? AND finished_turn < ? AND (owner IS NULL OR lease_until < {now_ms}) RETURNING turn"""
_RENEW = "UPDATE click_syncs SET lease_until = {now_ms} + ? WHERE app = ? AND owner = ?"
_FINISH = """UPDATE click_syncs SET owner = NULL,
    finished_turn = CASE WHEN finished_turn < ? THEN ? ELSE finished_turn END,
    synced_to = CASE WHEN synced_to < ? THEN ? ELSE synced_to END WHERE app = ? AND owner = ?"""
_GIVE_UP = "UPDATE click_syncs SET owner = NULL WHERE app = ? AND owner = ?"
_EXPIRE = """DELETE FROM clicks WHERE (app, click_id) IN
    (SELECT app, click_id FROM clicks WHERE clicked_at < ? LIMIT ?)"""


class _Record(Struct, frozen=True, gc=False):
    link: Link
    query: str
    device: Traits
    opened_app: bool


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Record).decode


class Turn(Struct):
    """A sync that this process makes, or (``mine`` false) that another one has finished.

    ``synced_to_ms``: every click before then is known. Set it further when the sync has read everything.
    """

    mine: bool
    number: int
    synced_to_ms: int
    finished: bool = False


class ClickStore:
    """The clicks of one app. Every method raises ``StoreFailed``."""

    def __init__(self, database: Database, cipher: Cipher, app: str, window_s: int) -> None:
        self.window_s = window_s
        self._database = database
        self._cipher = cipher
        self._app = app
        self._owner = secrets.token_hex(8)

    async def add(self, clicks: Sequence[tuple[int, Click]]) -> None:
        """Keep clicks, each with its network's hash; one that is known already is left as it is."""
        rows = [
            (click.id, self._app, network, click.at_ms, self._cipher.encrypt(_encode(_record(click))))
            for network, click in clicks
        ]
        await self._database.write(*(statement for statement, _ in _ADD.over(rows)))

    async def on_network(self, network: int, since_ms: int, limit: int) -> list[Click]:
        """Return a network's newest clicks since a time, newest first."""
        rows = await self._database.read(_BY_NETWORK, network, since_ms, self._app, limit, timeout_s=_READ_S)
        return [click for row in rows if (click := self._click(*row)) is not None]

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Turn]:
        """Take the turn to sync, or wait until a sync that begins after this call is finished elsewhere."""
        turn = await self._take_turn()
        if not turn.mine or not self._database.is_shared:
            yield turn
            return
        renewing = asyncio.create_task(self._renew())
        try:
            yield turn
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            await self._end(turn)

    async def expire(self, before_ms: int) -> int:
        """Delete some clicks from before a time; return how many."""
        deleted = await self._database.write(
            Statement(f"{_EXPIRE} RETURNING 1", (before_ms, _EXPIRED_AT_A_TIME))
        )
        return len(deleted[0])

    async def _take_turn(self) -> Turn:
        if not self._database.is_shared:
            return Turn(mine=True, number=0, synced_to_ms=0)
        found = await self._database.read(_SYNC, self._app)
        if not found:
            await self._database.write(Statement(_CREATE_SYNC, (self._app,)))
            found = await self._database.read(_SYNC, self._app)
        (began, finished, synced_to_ms) = found[0]
        wanted = began + 1
        while finished < wanted:
            take = Statement(_TAKE_TURN, (self._owner, LEASE_MS, self._app, wanted))
            (taken, found) = await self._database.write(take, Statement(_SYNC, (self._app,)))
            (_, finished, synced_to_ms) = found[0]
            if taken:
                return Turn(mine=True, number=taken[0][0], synced_to_ms=synced_to_ms)
            if finished < wanted:
                await asyncio.sleep(_POLL_S)
        return Turn(mine=False, number=finished, synced_to_ms=synced_to_ms)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(_RENEW_S)
            with contextlib.suppress(StoreFailed):
                await self._database.write(Statement(_RENEW, (LEASE_MS, self._app, self._owner)))

    async def _end(self, turn: Turn) -> None:
        end = Statement(_GIVE_UP, (self._app, self._owner))
        if turn.finished:
            values = (turn.number, turn.number, turn.synced_to_ms, turn.synced_to_ms, self._app, self._owner)
            end = Statement(_FINISH, values)
        await self._database.write(end)

    def _click(self, click_id: str, clicked_at: int, record: bytes) -> Click | None:
        try:
            held = _decode(self._cipher.decrypt(record))
        except (Undecryptable, msgspec.DecodeError):
            return None  # written under a secret that is not listed any more
        return Click(click_id, clicked_at, held.link, held.query, held.device, held.opened_app)


def _record(click: Click) -> _Record:
    return _Record(click.link, click.query, click.device, click.opened_app)
