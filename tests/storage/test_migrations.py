"""Schema migrations: applied once, by one replica, and never on top of a newer schema."""

import asyncio

import pytest
import structlog

from service.storage.database import Database
from service.storage.engines.postgres import PostgresEngine
from service.storage.errors import MigrationFailed, SchemaTooNew
from service.storage.fingerprints import SecretCheck
from service.storage.migrate import LATEST, applied, migrate
from service.storage.statements import Statement
from tests.postgres import Postgres
from tests.storage.conftest import MakeEngine


async def test_replicas_that_start_together_migrate_once(make_engine: MakeEngine) -> None:
    engines = [make_engine() for _ in range(4)]
    done = await asyncio.gather(*(migrate(engine) for engine in engines))
    assert sorted(each.number for applied_here in done for each in applied_here) == list(range(1, LATEST + 1))
    assert [each.number for each in await applied(engines[0])] == list(range(1, LATEST + 1))
    for engine in engines:
        await engine.close()


async def test_a_newer_schema_is_refused(make_engine: MakeEngine) -> None:
    engine = make_engine()
    await migrate(engine)
    newer = LATEST + 1
    await engine.commit_alone([Statement("INSERT INTO schema_migrations VALUES (?, 'newer', 0)", (newer,))])
    with pytest.raises(SchemaTooNew, match=f"schema {newer}.*up to {LATEST}"):
        await Database(make_engine(), structlog.get_logger()).open()
    await engine.close()


async def test_a_user_who_may_not_create_tables_serves_what_is_migrated(postgres: Postgres) -> None:
    """Nothing is created where nothing is missing; where something is, the refusal says what to do."""
    url = postgres.database()
    name = url.rpartition("/")[2]
    user = f"serving_{name}"
    postgres.query(f"CREATE ROLE {user} LOGIN")
    postgres.query("REVOKE CREATE ON SCHEMA public FROM PUBLIC", name)
    as_user = url.replace("firstopen@", f"{user}@")
    serving = PostgresEngine(as_user)
    with pytest.raises(MigrationFailed, match="firstopen db migrate"):
        await migrate(serving)
    owner = PostgresEngine(url)
    await migrate(owner)
    postgres.query(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {user}", name)
    assert await migrate(serving) == []
    await SecretCheck(["a secret"], 1).verify(serving)
    for engine in (serving, owner):
        await engine.close()
