"""The outbox's entries: taken once, in the order of their keys, and by another when a replica dies."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable

import msgspec
import pytest
import structlog

from service.resolve.owed import Entry, Kind
from service.storage import outbox
from service.storage.database import Database
from service.storage.encryption import Cipher
from service.storage.outbox import OutboxStore
from service.storage.statements import Statement
from tests.storage.conftest import MakeEngine

NOW = 1_800_000_000.0


def store_of(
    database: Database, secret: str = "one", unix_time: Callable[[], float] = lambda: NOW
) -> OutboxStore:
    return OutboxStore(database, Cipher([secret]), unix_time)


def entry(name: str, key: str = "", kind: Kind = "lead", **more: object) -> Entry:
    fields: dict[str, object] = {
        "lane": key or name,
        "created": NOW,
        "next_try": NOW,
        "payload": name.encode(),
    }
    return Entry(id=name, app="acme", kind=kind, **(fields | more))  # type: ignore[arg-type]


async def taken(store: OutboxStore, kind: Kind = "lead", limit: int = 10) -> list[str]:
    return [each.id for each in await store.take_due(kind, ["acme"], limit)]


async def end_leases(database: Database) -> None:
    """Let time pass: every lease is over."""
    await database.write(Statement("UPDATE outbox SET lease_until = 1 WHERE lease_until > 0"))


async def test_an_entry_is_taken_by_one(make_engine: MakeEngine) -> None:
    databases = [Database(make_engine(), structlog.get_logger()) for _ in range(3)]
    for each in databases:
        await each.open()
    writer, *others = [store_of(each) for each in databases]
    for number in range(100):
        writer.enqueue_open(entry(f"{number:03}", kind="open"))
    await databases[0].write()
    await asyncio.sleep(0)
    assert await writer.status("000") is not None
    found = await asyncio.gather(*(taken(store, "open", 20) for store in others * 5))
    names = [name for names in found for name in names]
    assert len(names) == len(set(names))
    assert sorted([*names, *await taken(writer, "open", 100)]) == [f"{number:03}" for number in range(100)]
    for each in databases:
        await each.close()


async def test_an_added_entry_is_its_adder_s(database: Database) -> None:
    store = store_of(database)
    assert await store.add(entry("a")) is False
    assert await taken(store) == []
    await end_leases(database)
    assert await taken(store) == ["a"]


async def test_entries_of_a_key_go_one_after_another(database: Database) -> None:
    store = store_of(database)
    assert await store.add(entry("first", "anna")) is False
    assert await store.add(entry("second", "anna")) is True
    assert await store.add(entry("other", "ben")) is False
    await end_leases(database)
    assert sorted(await taken(store)) == ["first", "other"]
    assert await taken(store) == []
    store.finish(entry("first", "anna"), "delivered", "")
    await database.write()
    assert await store.status("first") is not None
    await end_leases(database)
    assert sorted(await taken(store)) == ["other", "second"]


async def test_apps_share_what_is_taken(database: Database) -> None:
    """One app's storm leaves the others their share; what they do not need goes to it."""
    store = store_of(database)
    for number in range(50):
        store.enqueue_open(entry(f"storm {number:02}", kind="open"))
    for number in range(3):
        store.enqueue_open(msgspec.structs.replace(entry(f"calm {number}", kind="open"), app="globex"))
    await store.status("calm 2")
    found = await store.take_due("open", ["acme", "globex"], 10)
    assert Counter(each.app for each in found) == {"acme": 7, "globex": 3}


async def test_what_waits_for_an_open_is_released(database: Database) -> None:
    store = store_of(database)
    await store.add(entry("lead", waits_for="open-1", next_try=NOW + 30))
    await end_leases(database)
    assert await taken(store) == []
    store.release_dependents("open-2", "open-1")
    await store.status("lead")  # reads what was written behind
    (found,) = await store.take_due("lead", ["acme"], 10)
    assert found.entry is not None
    assert found.entry.waits_for == ""


async def test_a_failed_attempt_is_due_later(database: Database) -> None:
    now = NOW
    store = store_of(database, unix_time=lambda: now)
    await store.add(entry("a"))
    store.reschedule("a", NOW + 60, "DubTimedOut")
    await store.status("a")
    assert await taken(store) == []
    now += 61
    (found,) = await store.take_due("lead", ["acme"], 10)
    assert found.entry is not None
    assert found.entry.attempts == 1


async def test_a_clock_that_is_set_back_delays_nothing(database: Database) -> None:
    """An attempt further ahead than any delay was scheduled by a wrong clock: it is due."""
    now = NOW
    store = store_of(database, unix_time=lambda: now)
    await store.add(entry("a"))
    store.reschedule("a", NOW + 60, "DubTimedOut")
    await store.status("a")
    now -= 3600
    assert await taken(store) == ["a"]


async def test_an_entry_of_an_unlisted_secret_is_kept(database: Database) -> None:
    await store_of(database).add(entry("a"))
    await end_leases(database)
    (found,) = await store_of(database, secret="another").take_due("lead", ["acme"], 10)
    assert found.entry is None
    await end_leases(database)
    (found,) = await store_of(database).take_due("lead", ["acme"], 10)
    assert found.entry is not None


async def test_dead_letters_are_revived(database: Database) -> None:
    store = store_of(database)
    await store.add(entry("a"))
    store.finish(entry("a"), "dead", "404 not_found")
    status = await store.status("a")
    assert status is not None
    assert (status.state, status.reason) == ("dead", "404 not_found")
    assert await store.depths("queued", "dead") == {("lead", "dead"): 1}
    assert [each.id for each in await store.listed("dead", 10)] == ["a"]
    assert await store.revive(None) == 1
    assert await taken(store) == ["a"]


async def test_old_entries_die_and_older_ones_go(database: Database) -> None:
    store = store_of(database)
    await store.add(entry("queued", created=NOW - 10 * 86_400))
    await store.add(entry("delivered", created=NOW - 10 * 86_400))
    store.finish(entry("delivered"), "delivered", "")
    await store.status("delivered")
    assert await store.expire(NOW - 6 * 86_400) == 1
    assert await store.status("delivered") is None
    status = await store.status("queued")
    assert status is not None
    assert status.state == "dead"


async def test_a_delivered_open_leaves_nothing(database: Database) -> None:
    store = store_of(database)
    opened = entry("open-1", kind="open")
    store.enqueue_open(opened)
    store.enqueue_open(opened)
    assert await store.status("open-1") is not None
    store.finish(opened, "delivered", "")
    assert await store.status("open-1") is None


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "LEASE_S", 5.0)


async def test_leases_are_renewed(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "LEASE_S", 0.2)
    store = store_of(database)
    await store.add(entry("a"))
    began = time.monotonic()
    while time.monotonic() < began + 0.5:
        await store.renew(["a"])
        assert await taken(store) == []
    await end_leases(database)
    assert await taken(store) == ["a"]
