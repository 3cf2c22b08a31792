"""Each storage test runs on SQLite and on PostgreSQL."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import structlog

from service.storage.database import Database
from service.storage.engines.port import Engine
from service.storage.engines.postgres import PostgresEngine
from service.storage.engines.sqlite import SqliteEngine

MakeEngine = Callable[[], Engine]


@pytest.fixture(params=["sqlite", "postgres"])
def make_engine(request: pytest.FixtureRequest, tmp_path: Path) -> MakeEngine:
    """Return what connects to one new database: several times, as several processes would."""
    if request.param == "sqlite":
        return lambda: SqliteEngine(tmp_path, exclusive=False)
    url = request.getfixturevalue("postgres").database()
    return lambda: PostgresEngine(url)


@pytest.fixture
async def database(make_engine: MakeEngine) -> AsyncIterator[Database]:
    database = Database(make_engine(), structlog.get_logger())
    await database.open()
    yield database
    await database.close()
