"""Every open, durable: whoever asks for an openId later, or reports a sign-up, finds how it was decided.

Opens are written behind: an answer does not wait for the database. What can go wrong: an open that was
decided while its install was being erased is written after the erasure (no query returns it, and it is
deleted later); a URL or a query that says who somebody is (encrypted; the columns that SQL can read hold
nothing personal).
"""

import asyncio
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct

from service.resolve.ladder import FIRST_LAUNCH, STRENGTH
from service.resolve.model import Link, Match, Open
from service.resolve.traits import Traits
from service.storage.database import WRITE_BEHIND_S, Database
from service.storage.encryption import ENCRYPTED, Cipher, Undecryptable
from service.storage.hashes import device_name, device_number, to_signed
from service.storage.statements import Row, RowStatement, Statement, placeholders

READ_TIMEOUT_S = 0.05  # an open waits no longer for what is remembered of it

_EXPIRED_AT_A_TIME = 1000
_OF_DEVICE_MAX = 20  # of each: with first-launch evidence, with a click, and any
_LOOKED_FOR_S = 60.0  # no look for a click of a first launch is later than this
_REPORTED_S = 7 * 86_400.0  # no open is reported to Dub later than this

_COLUMNS = """open_id, app, device, answer_key, network, opened_at, updated_at, match_type, match_reason,
    confidence, source, pending, first_launch, click_id, link_id, record"""
_READ = """o.open_id, o.app, o.device, o.opened_at, o.updated_at, o.match_type, o.match_reason, o.confidence,
    o.source, o.pending, o.click_id, o.link_id, o.record"""
_NOT_ERASED = """NOT EXISTS (SELECT 1 FROM erasures AS e
    WHERE e.device = o.device AND e.erased_at >= o.opened_at)"""
_KEEP = RowStatement(
    table="opens",
    before=f"INSERT INTO opens ({_COLUMNS}) VALUES ",  # noqa: S608  a constant, as are all of these
    row="(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    after=""" ON CONFLICT (open_id) DO UPDATE SET updated_at = excluded.updated_at,
    network = coalesce(excluded.network, opens.network), match_type = excluded.match_type,
    match_reason = excluded.match_reason, confidence = excluded.confidence, source = excluded.source,
    pending = excluded.pending, first_launch = excluded.first_launch, click_id = excluded.click_id,
    link_id = excluded.link_id, record = excluded.record""",
)
_BY_ID = f"SELECT {_READ} FROM opens AS o WHERE o.open_id = ? AND {_NOT_ERASED}"  # noqa: S608
_BY_ANSWER = f"""SELECT {_READ} FROM opens AS o WHERE o.answer_key = ? AND {_NOT_ERASED}
    ORDER BY o.opened_at DESC LIMIT 1"""  # noqa: S608
_OF_DEVICE = f"""SELECT * FROM (SELECT {_READ} FROM opens AS o WHERE o.device = ? AND {{which}}
    AND {_NOT_ERASED} ORDER BY o.opened_at DESC LIMIT {_OF_DEVICE_MAX}) AS found"""  # noqa: S608
_WHICH = ("o.first_launch", "o.click_id IS NOT NULL", "1 = 1")
_ON_NETWORK = f"""SELECT o.device, o.opened_at, o.link_id, o.match_type, o.record FROM opens AS o
    WHERE o.network = ? AND o.opened_at >= ? AND o.app = ? AND {_NOT_ERASED}
    ORDER BY o.opened_at DESC LIMIT ?"""  # noqa: S608
_PAGE = f"""SELECT {_READ} FROM opens AS o WHERE o.app = ?
    AND (o.opened_at > ? OR (o.opened_at = ? AND o.open_id > ?)) AND {_NOT_ERASED}
    ORDER BY o.opened_at, o.open_id LIMIT ?"""  # noqa: S608
_EXPIRE = """DELETE FROM opens WHERE open_id IN
    (SELECT open_id FROM opens WHERE opened_at < ? ORDER BY opened_at LIMIT ?) RETURNING 1"""

_EVIDENCE = {strength: name for name, strength in STRENGTH.items()}


class _Record(Struct, frozen=True, gc=False, omit_defaults=True):
    """What SQL does not read. Evidence is named: ``STRENGTH`` and masks are this process's."""

    link: Link | None = None
    url: str | None = None
    query: str = ""
    guaranteed: bool = False
    candidates: int | None = None
    age_s: int | None = None
    looked_for: bool = False
    app_version: str | None = None
    offered: str = "none"
    evidence: tuple[str, ...] = ()
    traits: Traits | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Record).decode


class NetworkOpen(Struct, frozen=True, gc=False):
    """An open as its network sees it: which install, when, and the link that brought it."""

    install: str
    at_ms: int
    link_id: str | None
    match_type: str
    traits: Traits | None


class OpenStore:
    """Fills ``OpenStore``'s port. ``clock`` is monotonic, ``unix_time`` wall clock seconds.

    What is awaited raises ``StoreFailed``.
    """

    def __init__(
        self,
        database: Database,
        cipher: Cipher,
        *,
        answer_ttl_s: float,
        clock: Callable[[], float],
        unix_time: Callable[[], float],
    ) -> None:
        self._database = database
        self._cipher = cipher
        self._answer_ttl_s = answer_ttl_s
        self._clock = clock
        self._unix_time = unix_time

    def keep(self, key: bytes, opened: Open, network: int | None, traits: Traits | None) -> None:
        """Write an open behind, under the key of its answer; the same openId replaces it. Never raises."""
        match = opened.match
        personal = bool(opened.query or opened.url)
        record = _encode(_record(opened, traits if network is not None else None))
        row = (
            *(bytes.fromhex(opened.open_id), opened.app, device_number(opened.device), _answer_number(key)),
            *(None if network is None else to_signed(network), _ms(opened.opened_at), _ms(self._unix_time())),
            *(match.type, _or_none(match.reason), _or_none(match.confidence), opened.source),
            *(opened.pending, opened.offered in FIRST_LAUNCH, opened.click_id),
            *(None if opened.link is None else opened.link.id,),
            *(self._cipher.encrypt(record) if personal else record,),
        )
        self._database.write_row_behind(_KEEP, row)

    async def by_id(self, open_id: str) -> Open | None:
        """Return an open by its id."""
        try:
            short = bytes.fromhex(open_id)
        except ValueError:
            return None
        rows = await self._database.read(_BY_ID, short)
        if not rows:
            rows = await self._written(_BY_ID, short)
        return self._opened(rows[0]) if rows else None

    async def by_answer(self, key: bytes, device: str) -> Open | None:
        """Return the open that was last answered under this key, to be repeated for as long as it is good."""
        rows = await self._database.read(_BY_ANSWER, _answer_number(key), timeout_s=READ_TIMEOUT_S)
        if not rows or rows[0][2] != device_number(device):
            return None
        opened = self._opened(rows[0])
        if opened is None or opened.pending:
            return opened
        age_s = self._unix_time() - opened.opened_at
        return msgspec.structs.replace(opened, repeat_until=self._clock() + self._answer_ttl_s - age_s)

    async def of_device(self, devices: Sequence[str], *, written: bool = False) -> list[Open]:
        """Return an install's opens, under any of its names, newest first.

        Those that first-launch evidence decided, those with a click, and the newest of all: a few of each.
        With ``written``, what was kept a moment ago is there, too.
        """
        sql = " UNION ".join(_OF_DEVICE.format(which=which) for _ in devices for which in _WHICH)
        values = [device_number(device) for device in devices for _ in _WHICH]
        read = self._database.read_written if written else self._database.read
        rows = await read(sql, *values, timeout_s=None if written else READ_TIMEOUT_S)
        opens = [self._opened(row) for row in sorted(rows, key=_newest_first)]
        return [opened for opened in opens if opened is not None]

    async def on_network(self, app: str, network: int, since_ms: int, limit: int) -> list[NetworkOpen]:
        """Return the newest opens of an app from a network since a time, newest first."""
        rows = await self._database.read(_ON_NETWORK, to_signed(network), since_ms, app, limit)
        return [self._network_open(*row) for row in rows]

    async def page(self, app: str, since_ms: int, after: str, limit: int) -> list[Open]:
        """Return opens in the order in which they came: those since a time, or after another of that time."""
        try:
            short = bytes.fromhex(after)
        except ValueError:
            short = b""
        rows = await self._database.read(_PAGE, app, since_ms, since_ms, short, limit)
        return [opened for row in rows if (opened := self._opened(row)) is not None]

    async def ids(self, devices: Sequence[str]) -> list[str]:
        """Return the ids of an install's opens."""
        sql = f"SELECT open_id FROM opens WHERE device IN ({placeholders(len(devices))})"  # noqa: S608
        rows = await self._database.read_written(sql, *map(device_number, devices))
        return [open_id.hex() for (open_id,) in rows]

    async def expire(self, before_ms: int) -> int:
        """Delete some opens from before a time, oldest first; return how many."""
        (rows,) = await self._database.write(Statement(_EXPIRE, (before_ms, _EXPIRED_AT_A_TIME)))
        return len(rows)

    async def _written(self, sql: str, *values: object) -> list[Row]:
        """Look again for what another replica, or this one, may have written a moment ago."""
        rows = await self._database.read_written(sql, *values)
        if not rows and self._database.is_shared:
            await asyncio.sleep(2 * WRITE_BEHIND_S)
            rows = await self._database.read(sql, *values)
        return rows

    def _opened(self, row: Row) -> Open | None:
        """Read a row. None if it was encrypted under a secret that is not listed any more, or is damaged.

        An open that was pending for longer than it is worked on is final.
        """
        (open_id, app, device, opened_at, updated_at, match_type, reason, confidence) = row[:8]
        (source, pending, click_id, _, encoded) = row[8:]
        record = self._read(encoded)
        if record is None:
            return None
        offered = STRENGTH.get(record.offered, 0)
        age_s = self._unix_time() - updated_at / 1000
        patience_s = _LOOKED_FOR_S if offered <= STRENGTH["ip"] else _REPORTED_S
        return Open(
            app=app,
            open_id=bytes(open_id).hex(),
            device=device_name(device),
            click_id=click_id,
            link=record.link,
            url=record.url,
            query=record.query,
            match=_match(match_type, reason, confidence, record),
            source=source,
            pending=bool(pending) and age_s < patience_s,
            looked_for=record.looked_for and age_s < _LOOKED_FOR_S,
            app_version=record.app_version,
            offered=offered,
            evidence=sum(1 << STRENGTH[name] for name in record.evidence if name in STRENGTH),
            opened_at=opened_at / 1000,
            repeat_until=self._clock(),
        )

    def _read(self, encoded: bytes) -> _Record | None:
        encoded = bytes(encoded)
        try:
            return _decode(self._cipher.decrypt(encoded) if encoded.startswith(ENCRYPTED) else encoded)
        except (Undecryptable, msgspec.DecodeError):
            return None

    def _network_open(
        self, device: int, opened_at: int, link_id: str | None, match_type: str, encoded: bytes
    ) -> NetworkOpen:
        record = self._read(encoded) if link_id is not None else None
        traits = None if record is None else record.traits
        return NetworkOpen(device_name(device), opened_at, link_id, match_type, traits)


def _record(opened: Open, traits: Traits | None) -> _Record:
    match = opened.match
    return _Record(
        link=opened.link,
        url=opened.url,
        query=opened.query,
        guaranteed=match.guaranteed,
        candidates=_or_none(match.candidates),
        age_s=_or_none(match.age_s),
        looked_for=opened.looked_for,
        app_version=opened.app_version,
        offered=_EVIDENCE.get(opened.offered, "none"),
        evidence=tuple(name for name, strength in STRENGTH.items() if opened.evidence & 1 << strength),
        traits=traits,
    )


def _match(match_type: str, reason: str | None, confidence: float | None, record: _Record) -> Match:
    return Match(
        match_type,  # type: ignore[arg-type]  one of ours
        guaranteed=record.guaranteed,
        candidates=msgspec.UNSET if record.candidates is None else record.candidates,
        age_s=msgspec.UNSET if record.age_s is None else record.age_s,
        confidence=msgspec.UNSET if confidence is None else confidence,
        reason=msgspec.UNSET if reason is None else reason,
    )


def _or_none(value: object) -> object:
    return None if value is msgspec.UNSET else value


def _answer_number(key: bytes) -> int:
    return int.from_bytes(key[:8], "big", signed=True)


def _newest_first(row: Row) -> int:
    opened_at: int = row[3]
    return -opened_at


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
