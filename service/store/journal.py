"""Opens, durable: who asks for an openId tomorrow, or reports a sign-up after a restart, finds them.

Written behind: an open does not wait for the disk. Devices are keyed hashes already; nothing else in a
record says whose it is.
"""

import sqlite3
from collections.abc import Callable, Sequence

import msgspec
from msgspec import structs

from service.resolve.model import Open
from service.store.batch import Rows
from service.store.database import Database

JOURNAL_SCHEMA = """
CREATE TABLE IF NOT EXISTS opens (
    seq INTEGER PRIMARY KEY,
    open_id TEXT NOT NULL UNIQUE,
    device TEXT NOT NULL,  -- 16 hex characters, a keyed hash of app and install
    at REAL NOT NULL,      -- Unix seconds
    record BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS opens_by_device ON opens (device, at);
"""

_LATEST_MAX = 20
_FORGOTTEN_AT_A_TIME = 1000
_KEEP = Rows(
    table="opens",
    before="INSERT INTO opens (open_id, device, at, record) VALUES ",
    row="(?, ?, ?, ?)",
    after=" ON CONFLICT (open_id) DO UPDATE SET record = excluded.record",
)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Open).decode


class SqliteJournal:
    """Fills ``resolve.ports.Journal``. ``clock`` is monotonic, ``wall`` Unix time, both in seconds."""

    def __init__(self, database: Database, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._wall = wall

    def keep(self, device: str, opened: Open) -> None:
        """Write an open behind; the same openId again replaces it."""
        self._database.write_row_behind(_KEEP, (opened.open_id, device, self._wall(), _encode(opened)))

    async def opened(self, open_id: str) -> Open | None:
        """Recall an open by its id; raises ``StoreFailed``."""

        def find(connection: sqlite3.Connection) -> tuple[bytes] | None:
            found = connection.execute("SELECT record FROM opens WHERE open_id = ?", (open_id,))
            row: tuple[bytes] | None = found.fetchone()
            return row

        row = await self._database.read(find)
        return None if row is None else self._revived(row[0])

    async def of_device(self, devices: Sequence[str], *, behind: bool = True) -> list[Open]:
        """Recall a device's newest opens (under any of its names), newest first; raises ``StoreFailed``.

        Without ``behind``, what was kept in the last moment may be missing, and no commit is waited for.
        """

        def find(connection: sqlite3.Connection) -> list[tuple[bytes]]:
            places = ", ".join("?" * len(devices))
            query = f"SELECT record FROM opens WHERE device IN ({places}) ORDER BY at DESC, seq DESC LIMIT ?"  # noqa: S608  placeholders only
            return connection.execute(query, (*devices, _LATEST_MAX)).fetchall()

        return [self._revived(record) for (record,) in await self._database.read(find, behind=behind)]

    async def forget_before(self, at: float) -> int:
        """Forget some opens from before ``at`` (Unix seconds), oldest first; return how many."""

        def forget(connection: sqlite3.Connection) -> int:
            oldest = "SELECT seq FROM opens ORDER BY seq LIMIT ?"
            query = f"DELETE FROM opens WHERE at < ? AND seq IN ({oldest})"  # noqa: S608  a constant
            return connection.execute(query, (at, _FORGOTTEN_AT_A_TIME)).rowcount

        return await self._database.write(forget)

    def _revived(self, record: bytes) -> Open:
        """Decode; another process's monotonic clock means nothing here: the answer is no repeat any more."""
        return structs.replace(_decode(record), repeat_until=self._clock())
