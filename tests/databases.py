"""Real stores over a SQLite file, for parts that are tested without the service around them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from service.domain.match_rules import Click, Rules
from service.storage.clicks import ClickStore
from service.storage.database import Database
from service.storage.encryption import Cipher
from service.storage.engines.sqlite import SqliteEngine
from service.storage.network_activity import NetworkActivity

SECRET = "a secret for tests"


@asynccontextmanager
async def sqlite(folder: Path) -> AsyncIterator[Database]:
    """Open a database in a folder; again, and it is a restart."""
    database = Database(SqliteEngine(folder), structlog.get_logger())
    await database.open()
    try:
        yield database
    finally:
        await database.close()


class Kept:
    """The clicks of one app and the activity of its networks."""

    def __init__(
        self, database: Database, app: str = "acme", rules: Rules | None = None, scope: str = "all"
    ) -> None:
        self.database = database
        self.store = ClickStore(database, Cipher([SECRET]), app, scope)
        self.activity = NetworkActivity(database, self.store, app, rules or Rules())

    async def clicks(self, network: int, since_ms: int = 0, limit: int = 1000) -> tuple[Click, ...]:
        """Return a network's stored clicks, newest first."""
        query = self.store.on_network(network, since_ms, limit)
        clicks, _ = self.store.clicks(await self.database.read(query.sql, *query.values))
        return clicks

    async def click_ids(self) -> set[str]:
        """Return the ids of all stored clicks."""
        return {click_id for (click_id,) in await self.database.read("SELECT click_id FROM clicks")}

    async def add(self, *clicks: tuple[int, Click]) -> None:
        await self.store.add(clicks)


def ids(clicks: Sequence[Click]) -> list[str]:
    return [click.id for click in clicks]
