"""Which install a click was given to: durable before the answer leaves, and one install's alone."""

import sqlite3
from collections.abc import Callable, Mapping, Sequence

from service.store.database import Database

CLAIMS_SCHEMA = """
CREATE TABLE IF NOT EXISTS claims (
    click_id TEXT PRIMARY KEY,
    device TEXT NOT NULL,  -- 16 hex characters, a keyed hash of app and install
    at REAL NOT NULL       -- Unix seconds
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS claims_by_device ON claims (device);
CREATE INDEX IF NOT EXISTS claims_by_age ON claims (at);
"""

_FORGOTTEN_AT_A_TIME = 1000
_CLAIM = "INSERT INTO claims (click_id, device, at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_OWNER = "SELECT device FROM claims WHERE click_id = ?"


class SqliteClaims:
    """Fills ``resolve.ports.Claims``; its methods raise ``StoreFailed``. ``wall`` is Unix seconds."""

    def __init__(self, database: Database, wall: Callable[[], float]) -> None:
        self._database = database
        self._wall = wall

    async def owners(self, click_ids: Sequence[str]) -> Mapping[str, str]:
        """Return the installs that have claimed any of these clicks, by click."""

        def find(connection: sqlite3.Connection) -> dict[str, str]:
            places = ", ".join("?" * len(click_ids))
            query = f"SELECT click_id, device FROM claims WHERE click_id IN ({places})"  # noqa: S608  placeholders only
            return dict(connection.execute(query, tuple(click_ids)).fetchall())

        return await self._database.read(find, behind=False)

    async def claim(self, click_id: str, install: str) -> bool:
        """Give a click to an install, durably, if it is free or its own; return whether it is its own now."""
        row = (click_id, install, self._wall())

        def claim(connection: sqlite3.Connection) -> bool:
            connection.execute(_CLAIM, row)
            return bool(connection.execute(_OWNER, (click_id,)).fetchone()[0] == install)

        return await self._database.write(claim)

    async def release(self, click_id: str, install: str) -> None:
        """Free a click, if it is the install's own."""

        def release(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM claims WHERE click_id = ? AND device = ?", (click_id, install))

        await self._database.write(release)

    async def forget_before(self, at: float) -> int:
        """Forget some claims from before ``at`` (Unix seconds); return how many."""
        oldest = "SELECT click_id FROM claims WHERE at < ? LIMIT ?"
        query = f"DELETE FROM claims WHERE click_id IN ({oldest})"  # noqa: S608  a constant

        def forget(connection: sqlite3.Connection) -> int:
            return connection.execute(query, (at, _FORGOTTEN_AT_A_TIME)).rowcount

        return await self._database.write(forget)

    async def forget(self, devices: Sequence[str]) -> int:
        """Forget a device's claims; return how many."""
        places = ", ".join("?" * len(devices))
        query = f"DELETE FROM claims WHERE device IN ({places})"  # noqa: S608  placeholders only

        def forget(connection: sqlite3.Connection) -> int:
            return connection.execute(query, tuple(devices)).rowcount

        return await self._database.write(forget)
