"""Which installs were erased, on disk: what is replayed after a restart is compared with it."""

import sqlite3
from collections.abc import Mapping, Sequence

from service.store.database import Database

ERASURES_SCHEMA = """
CREATE TABLE IF NOT EXISTS erasures (
    device TEXT PRIMARY KEY,  -- 16 hex characters, a keyed hash of app and install
    at REAL NOT NULL          -- Unix seconds
) WITHOUT ROWID;
"""

KEPT_S = 8 * 86_400.0  # longer than anything is under way: an entry of the outbox

_ADD = "INSERT INTO erasures (device, at) VALUES (?, ?) ON CONFLICT (device) DO UPDATE SET at = excluded.at"


class SqliteErasures:
    """Fills ``resolve.erasures.KeptErasures``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> Mapping[str, float]:
        """Return when each device was erased, in Unix seconds; raises ``StoreFailed``."""

        def load(connection: sqlite3.Connection) -> dict[str, float]:
            return dict(connection.execute("SELECT device, at FROM erasures").fetchall())

        return await self._database.read(load)

    async def add(self, devices: Sequence[str], at: float) -> None:
        """Note that devices were erased at a time (Unix seconds); raises ``StoreFailed``."""

        def add(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM erasures WHERE at < ?", (at - KEPT_S,))
            connection.executemany(_ADD, [(device, at) for device in devices])

        await self._database.write(add)
