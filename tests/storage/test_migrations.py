"""Schema migrations: applied once, by one replica, and never on top of a newer schema."""

import asyncio

import pytest
import structlog

from service.storage.database import Database
from service.storage.errors import SchemaTooNew
from service.storage.migrate import LATEST, applied, migrate
from service.storage.statements import Statement
from tests.storage.conftest import MakeEngine


async def test_replicas_that_start_together_migrate_once(make_engine: MakeEngine) -> None:
    engines = [make_engine() for _ in range(4)]
    done = await asyncio.gather(*(migrate(engine, structlog.get_logger()) for engine in engines))
    assert sorted(number for numbers in done for number in numbers) == list(range(1, LATEST + 1))
    assert [each.number for each in await applied(engines[0])] == list(range(1, LATEST + 1))
    for engine in engines:
        await engine.close()


async def test_a_newer_schema_is_refused(make_engine: MakeEngine) -> None:
    engine = make_engine()
    await migrate(engine, structlog.get_logger())
    newer = LATEST + 1
    await engine.commit_alone([Statement("INSERT INTO schema_migrations VALUES (?, 'newer', 0)", (newer,))])
    with pytest.raises(SchemaTooNew, match=f"schema {newer}.*up to {LATEST}"):
        await Database(make_engine(), structlog.get_logger()).open()
    await engine.close()
