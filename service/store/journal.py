"""Opens, durable: who asks for an openId tomorrow, or reports a sign-up after a restart, finds them.

Written behind: an open does not wait for the disk. Devices are keyed hashes already. What else could say
whose it is, is sealed: a URL that Dub did not describe (through an SDK it may be somebody's clipboard),
or the query that came with a link.
"""

import sqlite3
from collections.abc import Callable, Sequence

import msgspec
from msgspec import structs

from service.resolve.model import Open
from service.store.database import Database
from service.store.sealing import Seal, Unsealable

JOURNAL_SCHEMA = """
CREATE TABLE IF NOT EXISTS opens (
    seq INTEGER PRIMARY KEY,
    open_id TEXT NOT NULL UNIQUE,
    device TEXT NOT NULL,  -- 16 hex characters, a keyed hash of app and install
    at REAL NOT NULL,      -- Unix seconds
    record BLOB NOT NULL   -- MessagePack, or sealed MessagePack
);
CREATE INDEX IF NOT EXISTS opens_by_device ON opens (device, at);
"""

_LATEST_MAX = 20
_FORGOTTEN_AT_A_TIME = 1000
_KEEP = """INSERT INTO opens (open_id, device, at, record) VALUES (?, ?, ?, ?)
    ON CONFLICT (open_id) DO UPDATE SET record = excluded.record"""

_SEALED = b"g"  # how a sealed text begins, and a MessagePack map does not

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Open).decode


class SqliteJournal:
    """Fills ``resolve.ports.Journal``. ``clock`` is monotonic, ``wall`` Unix time, both in seconds."""

    def __init__(
        self, database: Database, seal: Seal, clock: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self._database = database
        self._seal = seal
        self._clock = clock
        self._wall = wall

    def keep(self, device: str, opened: Open) -> None:
        """Write an open behind; the same openId again replaces it."""
        at = self._wall()

        def keep(connection: sqlite3.Connection) -> object:
            return connection.execute(_KEEP, (opened.open_id, device, at, self._record(opened)))

        self._database.write_behind(keep)

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

        revived = (self._revived(record) for (record,) in await self._database.read(find, behind=behind))
        return [opened for opened in revived if opened is not None]

    async def forget_before(self, at: float) -> int:
        """Forget some opens from before ``at`` (Unix seconds), oldest first; return how many."""

        def forget(connection: sqlite3.Connection) -> int:
            oldest = "SELECT seq FROM opens ORDER BY seq LIMIT ?"
            query = f"DELETE FROM opens WHERE at < ? AND seq IN ({oldest})"  # noqa: S608  a constant
            return connection.execute(query, (at, _FORGOTTEN_AT_A_TIME)).rowcount

        return await self._database.write(forget)

    def _record(self, opened: Open) -> bytes:
        record = _encode(opened)
        tells = opened.query or (opened.link is None and opened.destination is not None)
        return self._seal.seal(record) if tells else record

    def _revived(self, record: bytes) -> Open | None:
        """Decode; another process's monotonic clock means nothing here: the answer is no repeat any more.

        What was sealed under a secret that is not listed any more is forgotten.
        """
        try:
            plain = self._seal.open(record) if record.startswith(_SEALED) else record
        except Unsealable:
            return None
        return structs.replace(_decode(plain), repeat_until=self._clock())
