"""Store every open with how it was decided, for later requests by openId and for leads.

Opens are written behind: an answer does not wait for the database. What can go wrong: an open that was
decided during its install's erasure is written after the erasure (no query returns it, and it is deleted
later); two replicas decide the same open, and the one without Dub's answer is written last (it never replaces
a final answer); a URL or a query contains personal data (it is encrypted; columns that SQL can read contain
no personal data).
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain
from math import floor
from typing import Literal, get_args

import msgspec
from msgspec import Struct

from service.domain.device_identity import Platform
from service.domain.device_traits import Traits
from service.domain.errors import StoreFailed
from service.domain.evidence import EVIDENCE_PRIORITY, FIRST_LAUNCH
from service.domain.live_opens import Arrival
from service.domain.models import Link, Match, Open, Source
from service.domain.open_listing import Position
from service.storage.database import WRITE_BEHIND_S, Database
from service.storage.encryption import ENCRYPTED, Cipher, Undecryptable
from service.storage.hashes import device_name, device_number, to_signed
from service.storage.known_devices import KnownDevices
from service.storage.network_activity import encode_traits
from service.storage.statements import Row, RowStatement, Statement, placeholders

LOOKUP_TIMEOUT_S = 0.05  # for the earlier opens of a device, while an open is answered

_EXPIRED_AT_A_TIME = 1000
_LOOKED_FOR_S = 60.0  # after this time, no match attempt is made for a first launch
_REPORTED_S = 7 * 86_400.0  # after this time, no open is reported to Dub

Role = Literal["first_launch", "click", "other"]  # what an open says about its install
_NEWEST: dict[Role, int] = {"first_launch": 10, "click": 10, "other": 10}  # how many are read per install

_COLUMNS = """open_id, app, device, answer_key, network, opened_at, updated_at, match_type, match_reason,
    guaranteed, confidence, source, pending, role, click_id, link_id, link_domain, link_key, app_version,
    device_traits, record, test_device"""
_READ = """o.open_id, o.app, o.device, o.answer_key, o.opened_at, o.updated_at, o.match_type, o.match_reason,
    o.guaranteed, o.confidence, o.source, o.pending, o.click_id, o.link_id, o.link_domain, o.link_key,
    o.app_version, o.test_device, o.record"""
_NOT_ERASED = """NOT EXISTS (SELECT 1 FROM erasures AS e
    WHERE e.device = o.device AND e.erased_at >= o.opened_at)"""
_KEEP = RowStatement(
    table="opens",
    before=f"INSERT INTO opens ({_COLUMNS}) VALUES ",  # noqa: S608  a constant, as are all of these
    row="(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    after=""" ON CONFLICT (open_id) DO UPDATE SET updated_at = excluded.updated_at,
    network = coalesce(CASE WHEN opens.device_traits IS NULL THEN excluded.network END, opens.network),
    match_type = excluded.match_type,
    match_reason = excluded.match_reason, guaranteed = excluded.guaranteed, confidence = excluded.confidence,
    source = excluded.source, pending = excluded.pending, role = excluded.role, click_id = excluded.click_id,
    link_id = excluded.link_id, link_domain = excluded.link_domain, link_key = excluded.link_key,
    app_version = excluded.app_version,
    device_traits = coalesce(excluded.device_traits, opens.device_traits), record = excluded.record,
    test_device = coalesce(excluded.test_device, opens.test_device)
    WHERE opens.pending
    OR (NOT excluded.pending AND (opens.click_id IS NULL OR excluded.click_id IS NOT NULL))""",
)
_REVISE = """UPDATE opens SET updated_at = ?, match_type = ?, match_reason = ?, guaranteed = ?,
    confidence = ?, source = ?, pending = ?, role = ?, click_id = ?, link_id = ?, link_domain = ?,
    link_key = ?, app_version = ?, record = ? WHERE open_id = ?"""
_BY_ID = f"SELECT {_READ} FROM opens AS o WHERE o.open_id = ? AND {_NOT_ERASED}"  # noqa: S608
_OF_DEVICE = f"""SELECT * FROM (SELECT {_READ} FROM opens AS o WHERE o.device = ? AND o.role = ?
    AND {_NOT_ERASED} ORDER BY o.opened_at DESC LIMIT ?) AS found"""  # noqa: S608
# Nearly every install has few opens: then all of them are read, by a query that PostgreSQL plans and runs
# in 40 % of the time. It reads the index backwards, and no further than one row more.
_FEW = 30
_FEW_OF_DEVICE = f"""SELECT {_READ} FROM opens AS o WHERE o.device = ?
    AND {_NOT_ERASED} ORDER BY o.role DESC, o.opened_at DESC LIMIT ?"""  # noqa: S608
_LATEST = f"""SELECT {_READ} FROM opens AS o WHERE (o.opened_at, o.open_id) < (?, ?)
    AND (o.opened_at, o.open_id) >= (?, ?) AND o.app = ? AND (o.match_type = ? OR ? = '')
    AND {_NOT_ERASED} ORDER BY o.opened_at DESC, o.open_id DESC LIMIT ?"""  # noqa: S608
_LOOK_NO_FURTHER_BACK = """SELECT opened_at, open_id FROM opens WHERE (opened_at, open_id) < (?, ?)
    ORDER BY opened_at DESC, open_id DESC LIMIT 1 OFFSET ?"""
_LOOKED_AT_MAX = 10_000  # opens of all apps that are read for one page of one app
_LATEST_TIMEOUT_S = 5.0
_ARRIVALS = f"""SELECT o.open_id, o.opened_at, o.match_type, o.test_device FROM opens AS o
    WHERE o.opened_at >= ? AND o.app = ? AND {_NOT_ERASED}
    ORDER BY o.opened_at DESC, o.open_id DESC LIMIT ?"""  # noqa: S608
_OF_TEST_DEVICES = f"""SELECT {_READ} FROM opens AS o WHERE o.app = ? AND o.test_device IS NOT NULL
    AND (o.test_device = ? OR ? = '') AND {_NOT_ERASED} ORDER BY o.opened_at DESC LIMIT ?"""  # noqa: S608
_DEVICES = "SELECT DISTINCT device FROM opens WHERE device > ? ORDER BY device LIMIT ?"
_DEVICES_AT_A_TIME = 1000  # takes 2 ms of the event loop
_EXPIRE = """DELETE FROM opens WHERE open_id IN
    (SELECT open_id FROM opens WHERE opened_at < ? AND (device_traits IS NULL OR opened_at < ?)
    ORDER BY opened_at LIMIT ?) RETURNING 1"""

_SOURCES: dict[str, Source] = {source: source for source in get_args(Source)}
_PLATFORMS: dict[str, Platform] = {platform: platform for platform in get_args(Platform)}
_EVIDENCE = {priority: name for name, priority in EVIDENCE_PRIORITY.items()}
_DEVICE_AT, _KEY_AT, _OPENED_AT = 2, 3, 4  # in ``_READ``
_NEVER_MS = 253_402_300_800_000  # the year 10000


class _Record(Struct, frozen=True, gc=False, omit_defaults=True):
    """The fields without a column. Evidence is stored by name, as ``EVIDENCE_PRIORITY`` may change."""

    link_url: str | None = None
    url: str | None = None
    carried: str = ""
    candidates: int | None = None
    age_s: int | None = None
    provisional: bool = False
    looking: bool = False
    credited_to: str | None = None
    offered: str = "none"
    evidence: tuple[str, ...] = ()
    platform: str | None = None
    repeat_until: float = 0  # Unix seconds


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Record).decode


class Recalled(Struct, frozen=True):
    """The stored opens of a device, newest first, and the one that answers a given key."""

    answer: Open | None
    opens: list[Open]


class SqlOpenStore:
    """Implements ``ports.OpenStore``. ``clock`` returns monotonic seconds, ``unix_time`` Unix seconds.

    Methods that are awaited raise ``StoreFailed``.
    """

    def __init__(
        self,
        database: Database,
        cipher: Cipher,
        *,
        clock: Callable[[], float],
        unix_time: Callable[[], float],
    ) -> None:
        self.is_shared = database.is_shared
        self._database = database
        self._cipher = cipher
        self._clock = clock
        self._unix_time = unix_time
        self._devices = None if database.is_shared else KnownDevices()
        self._devices_are_read = False

    async def read_devices(self) -> None:
        """Load the devices with stored opens, if no other process writes to the database.

        After that, new devices are not looked up in the database. Raises ``StoreFailed``.
        """
        known = self._devices
        if known is None:
            return
        last = to_signed(0)
        known.add(last)  # the first query begins after this number
        while rows := await self._database.read(_DEVICES, last, _DEVICES_AT_A_TIME):
            for (last,) in rows:
                known.add(last)
        self._devices_are_read = True

    def keep(self, key: bytes, opened: Open, network: int | None, traits: Traits | None) -> None:
        """Queue an open to be written, with the key of its answer; the same openId replaces it. Never raises.

        ``network`` is the hashed network of its address. ``traits`` are those of its device, if its click
        must not be matched to another install on that network.
        """
        device = device_number(opened.device)
        if self._devices is not None:
            self._devices.add(device)
        row = (
            *(bytes.fromhex(opened.open_id), opened.app, device, _answer_number(key)),
            *(None if network is None else to_signed(network), _ms(opened.opened_at), _ms(self._unix_time())),
            *_decision(opened),
            *(None if network is None or traits is None else encode_traits(traits), self._record(opened)),
            opened.test_device,
        )
        self._database.write_row_behind(_KEEP, row)

    def revise(self, opened: Open) -> None:
        """Queue a new version of a stored open, which replaces the stored one in any case. Never raises."""
        values = (
            *(_ms(self._unix_time()), *_decision(opened), self._record(opened)),
            bytes.fromhex(opened.open_id),
        )
        self._database.write_behind(Statement(_REVISE, values))

    async def opened(self, open_id: str) -> Open | None:
        """Return an open by its id, or None."""
        try:
            short = bytes.fromhex(open_id)
        except ValueError:
            return None
        rows = await self._database.read_written(_BY_ID, short)
        if not rows and self._database.is_shared:
            await asyncio.sleep(2 * WRITE_BEHIND_S)  # another replica may be about to write it
            rows = await self._database.read(_BY_ID, short)
        if not rows:
            self._doubt()
            return None
        return self._opened(rows[0])

    async def recall(self, devices: Sequence[str], key: bytes) -> Recalled:
        """Return the opens of a device under any of its names, and the one that answers this key.

        Opens that are not written yet may be missing. Raises ``StoreFailed``, also after
        ``LOOKUP_TIMEOUT_S``.
        """
        numbers = self._maybe_known(devices)
        if not numbers:
            return Recalled(None, [])
        rows = await self._newest(numbers, LOOKUP_TIMEOUT_S)
        rows.sort(key=_newest_first)
        number = _answer_number(key)
        answer = next((row for row in rows if row[_KEY_AT] == number), None)
        opens = [(row, self._opened(row)) for row in rows]
        return Recalled(
            next((opened for row, opened in opens if row is answer), None),
            [opened for _, opened in opens if opened is not None],
        )

    async def _newest(self, devices: Sequence[int], timeout_s: float | None = None) -> list[Row]:
        """Read all opens of devices, or of one that has many the newest of each role."""
        few = [Statement(_FEW_OF_DEVICE, (device, _FEW + 1), _DEVICE_AT) for device in devices]
        began = self._clock()
        rows = [*chain.from_iterable(await self._database.read_all(*few, timeout_s=timeout_s))]
        if len(rows) <= _FEW:
            return rows
        left_s = None if timeout_s is None else max(began + timeout_s - self._clock(), 0)
        return await self._database.read(*_of_device(devices), timeout_s=left_s)

    async def of_device(self, devices: Sequence[str]) -> list[Open]:
        """Return a device's relevant opens, under any of its names, newest first.

        These are the newest of those decided by first-launch evidence, of those with a click, and of others.
        """
        await self._database.flush()
        rows = await self._newest([device_number(each) for each in devices])
        if not rows:
            self._doubt()
        opens = [self._opened(row) for row in sorted(rows, key=_newest_first)]
        return [opened for opened in opens if opened is not None]

    async def before(
        self, app: str, before: Position | None, match_type: str | None, limit: int
    ) -> tuple[list[Open], Position | None]:
        """Return an app's opens before a position, newest first, and where the rest continues.

        It may return fewer opens than there are, or none: it reads at most ``_LOOKED_AT_MAX`` rows.
        """
        start = (_NEVER_MS, b"") if before is None else (before.opened_at_ms, before.open_id)
        further = (_LOOK_NO_FURTHER_BACK, *start, _LOOKED_AT_MAX - 1)
        found = await self._database.read(*further, timeout_s=_LATEST_TIMEOUT_S)
        bound = Position(found[0][0], bytes(found[0][1])) if found else None
        last = (0, b"") if bound is None else (bound.opened_at_ms, bound.open_id)
        wanted = match_type or ""
        values = (*start, *last, app, wanted, wanted, limit)
        rows = await self._database.read_written(_LATEST, *values, timeout_s=_LATEST_TIMEOUT_S)
        opens = [opened for opened in map(self._opened, rows) if opened is not None]
        if len(rows) == limit:
            return opens, Position(rows[-1][_OPENED_AT], bytes(rows[-1][0]))
        return opens, bound

    async def arrivals(self, app: str, since_ms: int, limit: int) -> list[Arrival]:
        """Return an app's opens from a time on, newest first, with little of each."""
        rows = await self._database.read(_ARRIVALS, since_ms, app, limit, timeout_s=_LATEST_TIMEOUT_S)
        return [Arrival(bytes(open_id).hex(), at_ms, match, device) for open_id, at_ms, match, device in rows]

    async def several(self, open_ids: Sequence[str]) -> list[Open]:
        """Return opens by their ids, in any order; those that cannot be read are missing."""
        if not open_ids:
            return []
        found = f"o.open_id IN ({placeholders(len(open_ids))})"
        sql = f"SELECT {_READ} FROM opens AS o WHERE {found} AND {_NOT_ERASED}"  # noqa: S608
        rows = await self._database.read(sql, *map(bytes.fromhex, open_ids), timeout_s=_LATEST_TIMEOUT_S)
        return [opened for opened in map(self._opened, rows) if opened is not None]

    async def of_test_devices(self, app: str, name: str, limit: int) -> list[Open]:
        """Return the latest opens of one test session, or of all if the name is empty, newest first."""
        values = (app, name, name, limit)
        rows = await self._database.read(_OF_TEST_DEVICES, *values, timeout_s=_LATEST_TIMEOUT_S)
        return [opened for opened in map(self._opened, rows) if opened is not None]

    async def ids(self, devices: Sequence[str]) -> list[str]:
        """Return the ids of a device's opens."""
        sql = f"SELECT open_id FROM opens WHERE device IN ({placeholders(len(devices))})"  # noqa: S608
        rows = await self._database.read_written(sql, *map(device_number, devices))
        return [bytes(open_id).hex() for (open_id,) in rows]

    async def forget(self, devices: Sequence[str]) -> int:
        """Delete the opens of these devices; return how many."""
        sql = f"DELETE FROM opens WHERE device IN ({placeholders(len(devices))}) RETURNING 1"  # noqa: S608
        (rows,) = await self._database.write(Statement(sql, tuple(map(device_number, devices))))
        return len(rows)

    async def expire(self, before_ms: int, unmatchable_ms: int) -> int:
        """Delete a batch of opens from before a time, oldest first; return how many.

        Clicks from before ``unmatchable_ms`` cannot be matched any more. An open that uses up clicks of its
        network is stored at least until then.
        """
        values = (before_ms, unmatchable_ms, _EXPIRED_AT_A_TIME)
        (rows,) = await self._database.write(Statement(_EXPIRE, values))
        return len(rows)

    def _maybe_known(self, devices: Sequence[str]) -> list[int]:
        """Return the devices that may have stored opens."""
        known = self._devices if self._devices_are_read else None
        numbers = map(device_number, devices)
        return [number for number in numbers if known is None or number in known]

    def _doubt(self) -> None:
        """Raise ``StoreFailed`` while the database fails, because the open may be waiting to be written."""
        if self._database.failing is not None:
            raise StoreFailed(self._database.failing)

    def _record(self, opened: Open) -> bytes:
        record = _encode(self._recorded(opened))
        return self._cipher.encrypt(record) if opened.carried or opened.url is not None else record

    def _recorded(self, opened: Open) -> _Record:
        match = opened.match
        return _Record(
            link_url=None if opened.link is None else opened.link.url,
            url=opened.url,
            carried=opened.carried,
            candidates=match.candidates if isinstance(match.candidates, int) else None,
            age_s=match.age_s if isinstance(match.age_s, int) else None,
            provisional=opened.provisional,
            looking=opened.looking,
            credited_to=opened.credited_to,
            offered=_EVIDENCE.get(opened.offered, "none"),
            evidence=_names_of(opened.evidence),
            platform=opened.platform,
            # A whole number takes half the bytes of a fraction; rounded up, it would be a second too many.
            repeat_until=floor(self._unix_time() + opened.repeat_until - self._clock()),
        )

    def _opened(self, row: Row) -> Open | None:
        """Decode a row; None if its secret is no longer listed, or if it is damaged.

        An open is returned as final when the time for completing it is over.
        """
        (open_id, app, device, _, opened_at, updated_at) = row[:6]
        (match_type, reason, guaranteed, confidence, source, pending) = row[6:12]
        (click_id, link_id, domain, link_key, app_version, test_device, encoded) = row[12:]
        record = self._read(bytes(encoded))
        if record is None:
            return None
        now = self._unix_time()
        offered = EVIDENCE_PRIORITY.get(record.offered, 0)
        age_s = now - updated_at / 1000
        queue_timeout_s = _LOOKED_FOR_S if offered <= EVIDENCE_PRIORITY["touch"] else _REPORTED_S
        return Open(
            app=app,
            open_id=bytes(open_id).hex(),
            device=device_name(device),
            click_id=click_id,
            link=None if link_id is None else Link(link_id, domain, link_key, record.link_url),
            url=record.url,
            carried=record.carried,
            match=_match(match_type, reason, confidence, record, guaranteed=bool(guaranteed)),
            source=_SOURCES[source],
            provisional=bool(pending) and record.provisional and age_s < queue_timeout_s,
            looking=bool(pending) and record.looking and age_s < _LOOKED_FOR_S,
            credited_to=record.credited_to,
            app_version=app_version,
            platform=_PLATFORMS.get(record.platform or ""),
            test_device=test_device,
            offered=offered,
            evidence=sum(
                1 << EVIDENCE_PRIORITY[name] for name in record.evidence if name in EVIDENCE_PRIORITY
            ),
            opened_at=opened_at / 1000,
            repeat_until=self._clock() + record.repeat_until - now,
        )

    def _read(self, encoded: bytes) -> _Record | None:
        try:
            return _decode(self._cipher.decrypt(encoded) if encoded.startswith(ENCRYPTED) else encoded)
        except (Undecryptable, msgspec.DecodeError):
            return None


def _of_device(devices: Sequence[int]) -> tuple[str, *tuple[object, ...]]:
    sql = " UNION ALL ".join([_OF_DEVICE] * (len(devices) * len(_NEWEST)))
    values = [
        value for device in devices for role, limit in _NEWEST.items() for value in (device, role, limit)
    ]
    return sql, *values


@lru_cache
def _names_of(evidence: int) -> tuple[str, ...]:
    """Return the names of the evidence types in a bit mask, see ``evidence_mask``."""
    return tuple(name for name, priority in EVIDENCE_PRIORITY.items() if evidence & 1 << priority)


def _role(opened: Open) -> Role:
    """Return what an open says about its install: its first launch, a click (perhaps pending), or neither."""
    if opened.offered in FIRST_LAUNCH:
        return "first_launch"
    return "click" if opened.click_id is not None or opened.pending else "other"


def _decision(opened: Open) -> tuple[object, ...]:
    """Return the values of the columns about how an open was decided, in their order."""
    match, link = opened.match, opened.link
    return (
        *(match.type, _text(match.reason), match.guaranteed, _number(match.confidence), opened.source),
        *(opened.pending, _role(opened), opened.click_id),
        *((None, None, None) if link is None else (link.id, link.domain, link.key)),
        opened.app_version,
    )


def _match(
    match_type: str, reason: str | None, confidence: float | None, record: _Record, *, guaranteed: bool
) -> Match:
    return msgspec.convert(
        {
            "type": match_type,
            "guaranteed": guaranteed,
            **({} if record.candidates is None else {"candidates": record.candidates}),
            **({} if record.age_s is None else {"ageS": record.age_s}),
            **({} if confidence is None else {"confidence": confidence}),
            **({} if reason is None else {"reason": reason}),
        },
        Match,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, float | int) else None


def _answer_number(key: bytes) -> int:
    return int.from_bytes(key[:8], "big", signed=True)


def _newest_first(row: Row) -> int:
    opened_at: int = row[_OPENED_AT]
    return -opened_at


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
