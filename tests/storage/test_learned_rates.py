"""Counters of first opens: added up over replicas and days, and deleted when they are old."""

import asyncio

import structlog

from service.domain.learned_rates import LEARNED_DAYS
from service.storage.database import Database
from service.storage.learned_rates import RateStore
from tests.storage.conftest import MakeEngine
from tests.support import FakeClock

DAY_S = 86_400


async def test_replicas_add_to_the_same_counters(make_engine: MakeEngine, clock: FakeClock) -> None:
    """Several replicas count at once, and nothing is lost."""

    async def replica() -> None:
        database = Database(make_engine(), structlog.get_logger())
        await database.open()
        store = RateStore(database, clock.unix_time)
        for _ in range(10):
            store.add("acme", {"ios_of": 2, "ios": 1})
            await asyncio.sleep(0)
        store.add("globex", {"ios_of": 1})
        await database.close()

    await replica()  # migrates the database
    await asyncio.gather(*(replica() for _ in range(3)))
    database = Database(make_engine(), structlog.get_logger())
    await database.open()
    found = await RateStore(database, clock.unix_time).read()
    await database.close()
    assert found == {"acme": {"ios_of": 80, "ios": 40}, "globex": {"ios_of": 4}}


async def test_old_days_are_left_out_and_deleted(database: Database, clock: FakeClock) -> None:
    """After 90 days a count is gone."""
    store = RateStore(database, clock.unix_time)
    store.add("acme", {"ios_of": 1})
    await database.flush()
    clock.advance((LEARNED_DAYS - 1) * DAY_S)
    assert await store.read() == {"acme": {"ios_of": 1}}
    await store.expire()
    clock.advance(DAY_S)
    assert await store.read() == {}
    assert await database.read("SELECT total FROM learned_counts", timeout_s=5) == [(1,)]
    await store.expire()
    assert await database.read("SELECT total FROM learned_counts", timeout_s=5) == []
