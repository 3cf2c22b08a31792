"""Stored clicks by network, and turns to sync them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import structlog

from service.domain.device_traits import Traits
from service.domain.errors import StoreFailed
from service.domain.match_rules import Click
from service.domain.models import Link
from service.storage import clicks
from service.storage.claims import ClaimStore
from service.storage.clicks import ClickStore, expire_clicks
from service.storage.database import Database
from service.storage.encryption import Cipher
from tests.storage.conftest import MakeEngine

LINK = Link("link_1", "acme.link", "fb-promo", "https://acme.com/product/123")
HOME, OFFICE = 7, 2**64 - 1
ANNA = "00000000000000aa"


def click(click_id: str, at_ms: int) -> Click:
    return Click(click_id, at_ms, LINK, "utm_source=ig", Traits("ios"))


def clicks_of(
    database: Database, app: str = "acme", secret: str = "one", scope: str = "an hour"
) -> ClickStore:
    return ClickStore(database, Cipher([secret]), app, scope)


async def on_network(database: Database, store: ClickStore, network: int, limit: int = 9) -> list[Click]:
    query = store.on_network(network, 2, limit)
    found, _ = store.clicks(await database.read(query.sql, *query.values))
    return list(found)


@pytest.fixture
async def databases(make_engine: MakeEngine) -> AsyncIterator[list[Database]]:
    """Return what four replicas would have: connections to one database."""
    found = [Database(make_engine(), structlog.get_logger()) for _ in range(4)]
    for each in found:
        await each.open()
    yield found
    for each in found:
        await each.close()


async def test_a_network_has_its_newest_clicks(database: Database) -> None:
    store = clicks_of(database)
    await store.add(
        [(HOME, click("a", 1)), (HOME, click("b", 4)), (OFFICE, click("c", 2)), (HOME, click("d", 3))]
    )
    await store.add([(HOME, click("b", 99))])  # known already
    assert await on_network(database, store, HOME) == [click("b", 4), click("d", 3)]
    assert await on_network(database, store, HOME, limit=1) == [click("b", 4)]
    assert await on_network(database, store, OFFICE) == [click("c", 2)]
    assert await on_network(database, clicks_of(database, app="other"), HOME) == []


async def test_clicks_come_with_their_owners(database: Database) -> None:
    store = clicks_of(database)
    await store.add([(HOME, click("a", 5)), (HOME, click("b", 4))])
    assert await ClaimStore(database, lambda: 0).claim("b", ANNA)
    query = store.on_network(HOME, 2, 9)
    _, owners = store.clicks(await database.read(query.sql, *query.values))
    assert owners == {"b": ANNA}


async def test_clicks_of_an_unlisted_secret_are_none(database: Database) -> None:
    await clicks_of(database).add([(HOME, click("a", 2))])
    assert await on_network(database, clicks_of(database, secret="another"), HOME) == []


async def test_a_click_moves_to_its_network_under_another_secret(database: Database) -> None:
    """Networks are keyed hashes: the same click is on another one after FIRSTOPEN_SECRET has changed."""
    await clicks_of(database).add([(HOME, click("a", 2))])
    changed = clicks_of(database, secret="another")
    await changed.add([(OFFICE, click("a", 2))])
    assert await on_network(database, changed, OFFICE) == [click("a", 2)]
    assert await on_network(database, changed, HOME) == []


async def test_old_clicks_expire(database: Database) -> None:
    await clicks_of(database).add([(HOME, click(f"{number}", number)) for number in range(1500)])
    deleted = [await expire_clicks(database, 1400) for _ in range(3)]
    assert deleted == [1000, 400, 0]


async def test_one_replica_syncs_for_all(databases: list[Database]) -> None:
    """Callers that ask while a sync runs wait for one that began after they asked; one of them makes it."""
    mine = 0

    async def sync(store: ClickStore) -> int:
        nonlocal mine
        async with store.sync_round() as sync_round:
            if sync_round.mine:
                mine += 1
                await asyncio.sleep(0.05)  # the others ask meanwhile
                sync_round.clicks = [(HOME, click(f"{mine}", 10 + mine))]
                sync_round.synced_to_ms = 10 + mine
                sync_round.unread = {"timestamp": mine}
        return sync_round.unread["timestamp"]

    unread = await asyncio.gather(*(sync(clicks_of(each)) for each in databases))
    if not databases[0].is_shared:  # a SQLite file has one process
        return
    assert mine in (1, 2)
    assert set(unread) <= {1, 2}
    assert len(await on_network(databases[3], clicks_of(databases[3]), HOME)) == mine


async def test_a_turn_knows_what_the_last_one_knew(database: Database) -> None:
    """Also after a restart, where nothing has changed that decides which clicks are stored."""
    async with clicks_of(database).sync_round() as sync_round:
        assert (sync_round.mine, sync_round.synced_to_ms, sync_round.unread) == (True, 0, {})
        sync_round.synced_to_ms, sync_round.unread = 77_000, {"malformed": 1}
    async with clicks_of(database).sync_round() as sync_round:
        assert (sync_round.mine, sync_round.synced_to_ms, sync_round.unread) == (
            True,
            77_000,
            {"malformed": 1},
        )
    async with clicks_of(database, scope="three days").sync_round() as sync_round:
        assert (sync_round.mine, sync_round.synced_to_ms, sync_round.unread) == (True, 0, {})


async def test_a_turn_that_failed_is_free_at_once(databases: list[Database]) -> None:
    """What it read is not known, and nobody waits for its lease to end."""
    with contextlib.suppress(StoreFailed):
        async with clicks_of(databases[0]).sync_round() as sync_round:
            sync_round.synced_to_ms = 77_000
            raise StoreFailed("the page could not be stored")
    async with asyncio.timeout(clicks.LEASE_MS / 2000):
        async with clicks_of(databases[1]).sync_round() as sync_round:
            assert (sync_round.mine, sync_round.synced_to_ms) == (True, 0)


async def test_a_turn_whose_reply_was_lost_is_taken_again(databases: list[Database]) -> None:
    """A replica that never heard that it is its turn does not wait for itself."""
    store = clicks_of(databases[0])
    if databases[0].is_shared:
        assert (await store._begin_round()).mine
    async with asyncio.timeout(clicks.LEASE_MS / 2000):
        async with store.sync_round() as sync_round:
            assert sync_round.mine


async def test_a_turn_of_a_replica_that_is_gone_is_taken_over(
    databases: list[Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease ends; what it commits afterwards says nothing about what is known."""
    if not databases[0].is_shared:
        return
    monkeypatch.setattr(clicks, "LEASE_MS", 300)
    monkeypatch.setattr(clicks, "_RENEW_S", 60)
    async with clicks_of(databases[0]).sync_round() as stalled:
        async with clicks_of(databases[1]).sync_round() as sync_round:
            assert sync_round.mine
            sync_round.synced_to_ms = 1000
        stalled.synced_to_ms = 5
    async with clicks_of(databases[2]).sync_round() as sync_round:
        assert sync_round.synced_to_ms == 1000


async def test_who_waits_gets_a_sync_that_began_later(databases: list[Database]) -> None:
    """A sync under way does not count: it may have missed what Dub shows by now."""
    if not databases[0].is_shared:
        return
    async with clicks_of(databases[0]).sync_round() as first:
        waiting = asyncio.create_task(_numbered(clicks_of(databases[1])))
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        assert not done
    assert await waiting > first.number


async def _numbered(store: ClickStore) -> int:
    async with store.sync_round() as sync_round:
        return sync_round.number
