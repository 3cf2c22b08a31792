"""Claims: a click is one install's, whatever happens at the same time."""

import asyncio
import time

import structlog

from service.storage.claims import ClaimStore
from service.storage.database import Database
from tests.storage.conftest import MakeEngine

ANNA, BEN = "00000000000000aa", "ffffffffffffffbb"


def claims_of(database: Database) -> ClaimStore:
    return ClaimStore(database, time.time)


async def test_a_raced_click_has_one_owner(make_engine: MakeEngine) -> None:
    """200 installs on two replicas race for one click: one of them gets it, and everybody agrees who."""
    databases = [Database(make_engine(), structlog.get_logger()) for _ in range(2)]
    for each in databases:
        await each.open()
    stores = [claims_of(each) for each in databases]
    installs = [f"{number:016x}" for number in range(200)]
    won = await asyncio.gather(
        *(stores[at % 2].claim(["click"], install, "ip") for at, install in enumerate(installs))
    )
    winners = [install for install, clicks in zip(installs, won, strict=True) if clicks]
    assert len(winners) == 1
    for store in stores:
        assert await store.owners(["click", "other"]) == {"click": winners[0]}
    for each in databases:
        await each.close()


async def test_clicks_are_claimed_together_and_released(database: Database) -> None:
    store = claims_of(database)
    assert await store.claim(["a", "b"], ANNA, "ip") == {"a", "b"}
    assert await store.claim(["b", "c"], BEN, "ip") == {"c"}
    assert await store.claim(["a"], ANNA, "ip") == {"a"}
    assert await store.release(["a", "b", "c"], ANNA) == {"a", "b"}
    assert await store.owners(["a", "b", "c"]) == {"c": BEN}
    assert await store.claim(["a", "b"], BEN, "ip") == {"a", "b"}


async def test_old_claims_expire(database: Database) -> None:
    store = claims_of(database)
    await store.claim([f"{number}" for number in range(1200)], ANNA, "ip")
    later_ms = int((time.time() + 60) * 1000)
    assert [await store.expire(later_ms), await store.expire(later_ms)] == [1000, 200]
