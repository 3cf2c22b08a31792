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
        *(stores[at % 2].claim("click", install) for at, install in enumerate(installs))
    )
    winners = [install for install, is_own in zip(installs, won, strict=True) if is_own]
    assert len(winners) == 1
    for store in stores:
        assert await store.owners(["click", "other"]) == {"click": winners[0]}
    for each in databases:
        await each.close()


async def test_a_claim_is_an_install_s_own_until_it_is_released(database: Database) -> None:
    store = claims_of(database)
    assert [await store.claim("a", install) for install in (ANNA, BEN, ANNA)] == [True, False, True]
    await store.release("a", BEN)
    assert await store.owners(["a", "b"]) == {"a": ANNA}
    await store.release("a", ANNA)
    assert await store.owners(["a", "b"]) == {}
    assert await store.claim("a", BEN)


async def test_an_erased_install_s_claims_go(database: Database) -> None:
    store = claims_of(database)
    for click_id, install in (("a", ANNA), ("b", ANNA), ("c", BEN)):
        await store.claim(click_id, install)
    assert await store.forget([ANNA]) == 2
    assert await store.owners(["a", "b", "c"]) == {"c": BEN}


async def test_old_claims_expire(database: Database) -> None:
    store = claims_of(database)
    for begin in range(0, 1200, 20):  # a claim waits for 250 ms only
        await asyncio.gather(*(store.claim(f"{begin + number}", ANNA) for number in range(20)))
    later_ms = int((time.time() + 60) * 1000)
    assert [await store.expire(later_ms), await store.expire(later_ms)] == [1000, 200]
