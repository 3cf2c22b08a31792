"""Store test sessions, and which opens of theirs were repeated."""

from collections.abc import Callable

from service.domain.device_sessions import DeviceSession
from service.domain.live_opens import Repeated
from service.storage.database import Database
from service.storage.hashes import device_name
from service.storage.statements import RowStatement, Statement

LOAD_TIMEOUT_S = 0.25  # while an open waits

_REPEATS_TIMEOUT_S = 5.0
_REPEATS_KEPT_S = 86_400.0
_COLUMNS = "app, name, started_at, expires_at"
_ADD = f"INSERT INTO test_sessions ({_COLUMNS}) VALUES (?, ?, ?, ?)"  # noqa: S608  constants
_ACTIVE = f"SELECT {_COLUMNS} FROM test_sessions WHERE expires_at > ? ORDER BY started_at DESC"  # noqa: S608
_END = "DELETE FROM test_sessions WHERE app = ? AND name = ? RETURNING 1"
# Also the install of an open from before the session that was reported again with its name.
_DEVICES = """SELECT device FROM opens WHERE app = ? AND test_device = ?
    UNION SELECT device FROM opens WHERE open_id IN
    (SELECT open_id FROM test_repeats WHERE app = ? AND test_device = ?)"""
_REPEATS = "SELECT open_id, repeated_at, test_device FROM test_repeats WHERE repeated_at >= ? AND app = ?"
_FORGET_REPEATS = "DELETE FROM test_repeats WHERE app = ? AND test_device = ?"
_REPEATED = RowStatement(
    table="test_repeats",
    before="INSERT INTO test_repeats (open_id, repeated_at, app, test_device) VALUES ",
    row="(?, ?, ?, ?)",
    after=" ON CONFLICT (open_id, repeated_at) DO NOTHING",
)
_EXPIRE = "DELETE FROM test_sessions WHERE expires_at <= ?"
_EXPIRE_REPEATS = "DELETE FROM test_repeats WHERE repeated_at <= ?"


class DeviceSessionStore:
    """Implements ``ports.KeptSessions``. All times, also of ``unix_time``, are Unix seconds."""

    def __init__(self, database: Database, unix_time: Callable[[], float]) -> None:
        self._database = database
        self._unix_time = unix_time

    async def add(self, session: DeviceSession) -> None:
        """Commit a new session."""
        times = (_ms(session.started_at), _ms(session.expires_at))
        await self._database.write(Statement(_ADD, (session.app, session.name, *times)))

    async def active(self) -> list[DeviceSession]:
        """Return the sessions of all apps that have not expired, newest first."""
        rows = await self._database.read(_ACTIVE, _ms(self._unix_time()), timeout_s=LOAD_TIMEOUT_S)
        return [DeviceSession(app, name, began / 1000, ends / 1000) for app, name, began, ends in rows]

    async def end(self, app: str, name: str) -> bool:
        """Delete a session; return False if there is none with this name."""
        (rows,) = await self._database.write(Statement(_END, (app, name)))
        return bool(rows)

    async def devices(self, app: str, name: str) -> list[str]:
        """Return the devices whose opens reported this name."""
        rows = await self._database.read_written(_DEVICES, app, name, app, name)
        return [device_name(device) for (device,) in rows]

    def repeated(self, app: str, name: str, open_id: str) -> None:
        """Queue a record that an open was reported again. Never raises."""
        values = (bytes.fromhex(open_id), _ms(self._unix_time()), app, name)
        self._database.write_row_behind(_REPEATED, values)

    async def repeats(self, app: str, since_ms: int) -> list[Repeated]:
        """Return when opens of an app's test devices were reported again, from a time on."""
        rows = await self._database.read(_REPEATS, since_ms, app, timeout_s=_REPEATS_TIMEOUT_S)
        return [Repeated(bytes(open_id).hex(), at_ms, name) for open_id, at_ms, name in rows]

    async def forget_repeats(self, app: str, name: str) -> None:
        """Delete the records of repeated opens of a session."""
        await self._database.write(Statement(_FORGET_REPEATS, (app, name)))

    async def expire(self) -> int:
        """Delete expired sessions and old repeats. Return 0, because nothing is left to delete."""
        now = self._unix_time()
        old = Statement(_EXPIRE_REPEATS, (_ms(now - _REPEATS_KEPT_S),))
        await self._database.write(Statement(_EXPIRE, (_ms(now),)), old)
        return 0


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
