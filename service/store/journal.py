"""Opens, durable: who asks for an openId tomorrow, or reports a sign-up after a restart, finds them.

Written behind: an open does not wait for the disk. Devices are keyed hashes already; ``records`` seals what
else could say whose it is.
"""

import sqlite3
from collections.abc import Callable, Sequence

from service.resolve.errors import StoreFailed
from service.resolve.model import Open
from service.store.batch import Rows
from service.store.database import Database
from service.store.records import Records, tells
from service.store.sealing import Seal

JOURNAL_SCHEMA = """
CREATE TABLE IF NOT EXISTS opens (
    seq INTEGER PRIMARY KEY,
    open_id BLOB NOT NULL UNIQUE, -- 16 bytes
    app TEXT NOT NULL,
    device INTEGER NOT NULL,-- a keyed hash of app and install
    at REAL NOT NULL,       -- Unix seconds
    seen REAL NOT NULL,     -- when it was last reported, Unix seconds
    network INTEGER,        -- a keyed hash of the address's network, for how crowded it is
    tells INTEGER NOT NULL, -- 2: how the install came; 1: a click, or one to come; 0: neither
    record BLOB NOT NULL    -- MessagePack, or sealed MessagePack
);
CREATE INDEX IF NOT EXISTS opens_by_device ON opens (device, tells, at);
"""

_LATEST = ((2, 10), (1, 5), (0, 1))  # of an install, so many that tell so much
_OF_DEVICE = """SELECT * FROM (SELECT at, seq, record FROM opens WHERE device = ? AND tells = ?
    ORDER BY at DESC, seq DESC LIMIT ?)"""
_FORGOTTEN_AT_A_TIME = 1000
_SHIFT = 2**63  # networks and devices are unsigned, SQLite's integers are not
_SIGHTINGS_MAX = 200_000
_KEEP = Rows(
    table="opens",
    before="INSERT INTO opens (open_id, app, device, at, seen, network, tells, record) VALUES ",
    row="(?, ?, ?, ?, ?, ?, ?, ?)",
    after=""" ON CONFLICT (open_id) DO UPDATE SET seen = excluded.seen,
    network = coalesce(excluded.network, network), tells = excluded.tells, record = excluded.record""",
)


class SqliteJournal:
    """Fills ``resolve.ports.Journal``. ``clock`` is monotonic, ``wall`` Unix time, both in seconds."""

    def __init__(
        self, database: Database, seal: Seal, clock: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self._database = database
        self._records = Records(seal, clock, wall)
        self._wall = wall

    def keep(self, device: str, opened: Open, network: int | None) -> None:
        """Write an open behind; the same openId again replaces it."""
        at, shifted = self._wall(), None if network is None else network - _SHIFT
        short, number, record = _short(opened.open_id), _number(device), self._records.of(opened)
        row = (short, opened.app, number, at, at, shifted, tells(opened), record)
        self._database.write_row_behind(_KEEP, row)

    async def opened(self, open_id: str) -> Open | None:
        """Recall an open by its id; raises ``StoreFailed``."""

        def find(connection: sqlite3.Connection) -> tuple[float, bytes] | None:
            found = connection.execute("SELECT at, record FROM opens WHERE open_id = ?", (_short(open_id),))
            row: tuple[float, bytes] | None = found.fetchone()
            return row

        row = await self._database.read(find)
        if row is None:
            self._doubt()
            return None
        return self._records.revived(*row)

    async def of_device(self, devices: Sequence[str], *, behind: bool = True) -> list[Open]:
        """Recall a device's newest telling opens (under any of its names), newest first.

        Those that say how the install came, those with a click, and the newest of all. Without ``behind``,
        what was kept in the last moment may be missing, and no commit is waited for. Raises ``StoreFailed``.
        """
        query = " UNION ALL ".join([_OF_DEVICE] * (len(devices) * len(_LATEST)))
        values = [
            value
            for device in map(_number, devices)
            for tells, limit in _LATEST
            for value in (device, tells, limit)
        ]

        def find(connection: sqlite3.Connection) -> list[tuple[float, int, bytes]]:
            return connection.execute(query, values).fetchall()

        rows = sorted(await self._database.read(find, behind=behind), reverse=True)
        if not rows:
            self._doubt()
        revived = (self._records.revived(at, record) for at, _, record in rows)
        return [opened for opened in revived if opened is not None]

    async def sightings(self, app: str, since: float) -> list[tuple[int, str, float]]:
        """Return which networks an app's installs opened from, with the time: the newest of ``since``."""
        query = """SELECT network, device, seen FROM opens
            WHERE seq > (SELECT coalesce(max(seq), 0) FROM opens) - ? AND app = ? AND seen >= ?
            AND network IS NOT NULL ORDER BY seen"""

        def find(connection: sqlite3.Connection) -> list[tuple[int, int, float]]:
            return connection.execute(query, (_SIGHTINGS_MAX, app, since)).fetchall()

        found = await self._database.read(find)
        return [(network + _SHIFT, f"{device + _SHIFT:016x}", at) for network, device, at in found]

    async def ids(self, devices: Sequence[str]) -> list[str]:
        """Return the ids of a device's opens; raises ``StoreFailed``."""
        places = ", ".join("?" * len(devices))
        query = f"SELECT open_id FROM opens WHERE device IN ({places})"  # noqa: S608  placeholders only

        def find(connection: sqlite3.Connection) -> list[str]:
            found = connection.execute(query, tuple(map(_number, devices)))
            return [short.hex() for (short,) in found.fetchall()]

        return await self._database.read(find)

    async def forget(self, devices: Sequence[str]) -> int:
        """Forget a device's opens; return how many. Raises ``StoreFailed``."""
        places = ", ".join("?" * len(devices))
        query = f"DELETE FROM opens WHERE device IN ({places})"  # noqa: S608  placeholders only

        def forget(connection: sqlite3.Connection) -> int:
            return connection.execute(query, tuple(map(_number, devices))).rowcount

        return await self._database.write(forget)

    async def forget_before(self, at: float) -> int:
        """Forget some opens from before ``at`` (Unix seconds), oldest first; return how many."""

        def forget(connection: sqlite3.Connection) -> int:
            oldest = "SELECT seq FROM opens ORDER BY seq LIMIT ?"
            query = f"DELETE FROM opens WHERE at < ? AND seq IN ({oldest})"  # noqa: S608  a constant
            return connection.execute(query, (at, _FORGOTTEN_AT_A_TIME)).rowcount

        return await self._database.write(forget)

    def _doubt(self) -> None:
        """Raise ``StoreFailed`` while the disk fails: what is not on it may be waiting to be written."""
        if self._database.failing is not None:
            raise StoreFailed(self._database.failing)


def _short(open_id: str) -> bytes:
    """Return an id's 16 bytes; what is none of ours finds nothing."""
    try:
        return bytes.fromhex(open_id)
    except ValueError:
        return b""


def _number(device: str) -> int:
    """Return a device's 16 hex characters as SQLite keeps them: an index of half the pages to write."""
    return int(device, 16) - _SHIFT
