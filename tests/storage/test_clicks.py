"""Clicks of the window by network, and turns to sync them."""

import asyncio

import structlog

from service.resolve.matching import Click
from service.resolve.model import Link
from service.resolve.traits import Traits
from service.storage.clicks import ClickStore
from service.storage.database import Database
from service.storage.encryption import Cipher
from tests.storage.conftest import MakeEngine

LINK = Link("link_1", "acme.link", "fb-promo", "https://acme.com/product/123")
HOME, OFFICE = 7, 2**62


def click(click_id: str, at_ms: int) -> Click:
    return Click(click_id, at_ms, LINK, "utm_source=ig", Traits("ios"))


def clicks_of(database: Database, app: str = "acme", secret: str = "one") -> ClickStore:
    return ClickStore(database, Cipher([secret]), app, window_s=3600)


async def test_a_network_has_its_newest_clicks(database: Database) -> None:
    store = clicks_of(database)
    await store.add(
        [(HOME, click("a", 1)), (HOME, click("b", 3)), (OFFICE, click("c", 2)), (HOME, click("d", 2))]
    )
    await store.add([(HOME, click("b", 99))])  # known already
    assert [each.id for each in await store.on_network(HOME, since_ms=2, limit=9)] == ["b", "d"]
    assert await store.on_network(HOME, since_ms=0, limit=1) == [click("b", 3)]
    assert await clicks_of(database, app="other").on_network(HOME, 0, 9) == []


async def test_clicks_of_an_unlisted_secret_are_none(database: Database) -> None:
    await clicks_of(database).add([(HOME, click("a", 1))])
    assert await clicks_of(database, secret="another").on_network(HOME, 0, 9) == []


async def test_old_clicks_expire(database: Database) -> None:
    store = clicks_of(database)
    await store.add([(HOME, click(f"{number}", number)) for number in range(1500)])
    deleted = [await store.expire(1400), await store.expire(1400), await store.expire(1400)]
    assert deleted == [1000, 400, 0]


async def test_one_replica_syncs_for_all(make_engine: MakeEngine) -> None:
    """Callers that ask while a sync runs wait for one that began after they asked; one of them makes it."""
    databases = [Database(make_engine(), structlog.get_logger()) for _ in range(4)]
    for each in databases:
        await each.open()
    stores = [clicks_of(each) for each in databases]
    mine = 0

    async def sync(store: ClickStore) -> int:
        nonlocal mine
        async with store.turn() as turn:
            if turn.mine:
                mine += 1
                await store.add([(HOME, click(f"{mine}", mine))])
                turn.synced_to_ms = mine
                turn.finished = True
        return turn.synced_to_ms

    await asyncio.gather(*(sync(store) for store in stores))
    assert 1 <= mine <= (2 if databases[0].is_shared else 4)  # a SQLite file has one process
    assert len(await stores[3].on_network(HOME, 0, 9)) == mine
    for each in databases:
        await each.close()
