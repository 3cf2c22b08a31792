"""Counts of shadow matches: added up over replicas and days, and deleted when they are old."""

import asyncio

import structlog

from service.domain.calibration import SHADOW_KEPT_DAYS, ShadowMatch
from service.storage.calibration import CalibrationStore
from service.storage.database import Database
from tests.storage.conftest import MakeEngine
from tests.support import FakeClock

DAY_S = 86_400
AGREED, OTHER = ShadowMatch("agreed", 97, agrees=True), ShadowMatch("other_click", 91)
REFUSED, NONE = ShadowMatch("refused", 40, agrees=True), ShadowMatch("none")


async def test_replicas_add_to_the_same_counts(make_engine: MakeEngine, clock: FakeClock) -> None:
    """Several replicas count the same outcomes at once, and none is lost."""

    async def replica() -> None:
        database = Database(make_engine(), structlog.get_logger())
        await database.open()
        store = CalibrationStore(database, clock.unix_time)
        for _ in range(10):
            store.add("acme", [NONE, AGREED, REFUSED, AGREED, OTHER])
            await asyncio.sleep(0)
        store.add("globex", [NONE])
        await database.close()

    await replica()  # migrates the database
    await asyncio.gather(*(replica() for _ in range(3)))
    database = Database(make_engine(), structlog.get_logger())
    await database.open()
    found = await CalibrationStore(database, clock.unix_time).read("acme")
    await database.close()
    assert (found.app, found.opens) == ("acme", 200)
    assert (found.agreed, found.other_click, found.refused, found.none) == (80, 40, 40, 40)
    assert [(each.opens, each.stated) for each in found.curve] == [(40, 0.4), (40, 0.91), (80, 0.97)]


async def test_old_days_are_left_out_and_deleted(database: Database, clock: FakeClock) -> None:
    """``days`` includes today; after 90 days a count is gone."""
    store = CalibrationStore(database, clock.unix_time)
    store.add("acme", [AGREED])
    await database.flush()
    clock.advance(6 * DAY_S)
    assert (await store.read("acme", 7)).opens == 1
    clock.advance(DAY_S)
    assert (await store.read("acme", 7)).opens == 0
    assert (await store.read("acme")).opens == 1
    clock.advance((SHADOW_KEPT_DAYS - 8) * DAY_S)
    await store.expire()
    assert await database.read("SELECT opens FROM shadow_matches", timeout_s=5) == [(1,)]
    clock.advance(DAY_S)
    await store.expire()
    assert await database.read("SELECT opens FROM shadow_matches", timeout_s=5) == []
