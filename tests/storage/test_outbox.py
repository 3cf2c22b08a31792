"""The outbox's entries: taken once, in the order of their keys, and by another when a replica dies."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
import structlog

from service.domain.errors import StoreFailed
from service.domain.outbox_entries import (
    REPEAT_S,
    UNDECRYPTABLE,
    Added,
    Entry,
    Kind,
    LeadKeys,
    Repeat,
    State,
    Summary,
    install_name,
)
from service.storage import outbox
from service.storage.database import Database
from service.storage.encryption import Cipher
from service.storage.outbox import SqlOutboxStore
from service.storage.statements import Statement
from tests.storage.conftest import MakeEngine

NOW = 1_800_000_000.0
DAY_S = 86_400
FIRST, BEHIND = Added(behind_another=False), Added(behind_another=True)
ANNA, BEN = install_name("anna"), install_name("ben")


def store_of(
    database: Database, secret: str = "one", unix_time: Callable[[], float] = lambda: NOW
) -> SqlOutboxStore:
    return SqlOutboxStore(database, Cipher([secret]), unix_time)


@pytest.fixture
def store(database: Database) -> SqlOutboxStore:
    return store_of(database)


@asynccontextmanager
async def replicas(make_engine: MakeEngine, count: int = 2) -> AsyncIterator[list[Database]]:
    databases = [Database(make_engine(), structlog.get_logger()) for _ in range(count)]
    for each in databases:
        await each.open()
    try:
        yield databases
    finally:
        for each in databases:
            await each.close()


def entry(name: str, key: str = "", kind: Kind = "lead", **more: object) -> Entry:
    fields: dict[str, object] = {
        "app": "acme",
        "ordering_key": key or name,
        "created": NOW,
        "next_try": NOW,
        "payload": name.encode(),
    }
    return Entry(id=name, kind=kind, **(fields | more))  # type: ignore[arg-type]


async def add(store: SqlOutboxStore, name: str, key: str = "", **more: object) -> Added | Repeat:
    return await store.add(entry(name, key, **more), leased=False)  # type: ignore[arg-type]


async def taken(
    store: SqlOutboxStore, kind: Kind = "lead", limit: int = 10, apps: tuple[str, ...] = ("acme",)
) -> list[str]:
    """Take what is due, having written what waits to be."""
    return [each.id for each in await store.take_due(kind, apps, limit, written=True)]


async def end_leases(database: Database) -> None:
    """Let time pass: every lease is over."""
    await database.write(Statement("UPDATE outbox SET lease_until = 1 WHERE lease_until > 0"))


async def state(store: SqlOutboxStore, name: str) -> State | None:
    status = await store.status(name)
    return None if status is None else status.state


async def letter(store: SqlOutboxStore, name: str) -> Summary:
    found = await store.found(name)
    assert found is not None
    return found[0]


async def test_an_entry_is_taken_by_one(make_engine: MakeEngine) -> None:
    """Whoever looks, and however often at once."""
    async with replicas(make_engine, 3) as databases:
        writer, *others = [store_of(each) for each in databases]
        names = [f"{number:03}" for number in range(100)]
        for name in names:
            writer.enqueue_open(entry(name, kind="open"))
        await databases[0].write()
        found = await asyncio.gather(*(taken(store, "open", 20) for store in others * 5))
        first = [name for some in found for name in some]
        assert len(first) == len(set(first))
        assert sorted([*first, *await taken(writer, "open", 100)]) == names


async def test_an_added_entry_is_its_adder_s(store: SqlOutboxStore, database: Database) -> None:
    """Nobody else takes it, until its lease has ended."""
    assert await store.add(entry("a"), leased=True) == FIRST
    assert await taken(store) == []
    await end_leases(database)
    assert await taken(store) == ["a"]


async def test_a_look_that_finds_nothing_writes_nothing(
    store: SqlOutboxStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replicas look once a second: what is leased, waits its turn or is not due yet costs no commit."""
    await store.add(entry("leased", "anna"), leased=True)
    await add(store, "behind", "anna")
    await add(store, "later", next_try=NOW + 60)
    await add(store, "elsewhere", app="globex")

    async def write(*_: object, **__: object) -> None:
        raise AssertionError("a write")

    monkeypatch.setattr(store._database, "write", write)
    assert await store.take_due("lead", ["acme"], 10) == []


async def test_entries_of_a_key_go_one_after_another(store: SqlOutboxStore, database: Database) -> None:
    """Leads and sales of one customer, in the order in which they were added; other customers pass by."""
    assert await add(store, "first", "anna") == FIRST
    assert await add(store, "second", "anna", kind="sale") == BEHIND
    assert await add(store, "other", "ben") == FIRST
    assert await taken(store, "sale") == []
    assert sorted(await taken(store)) == ["first", "other"]
    store.finish(entry("first", "anna"), "delivered", "")
    assert await taken(store, "sale") == ["second"]
    await end_leases(database)
    assert await taken(store) == ["other"]


async def test_order_survives_a_clock_that_is_set_back(database: Database) -> None:
    """Also that of another replica: what is added later goes later."""
    await add(store_of(database), "first", "anna")
    late = store_of(database, unix_time=lambda: NOW - 3600)
    assert await add(late, "second", "anna", created=NOW - 3600, next_try=NOW - 3600) == BEHIND
    assert await taken(store_of(database)) == ["first"]
    assert await taken(late) == []


async def test_none_of_a_key_is_taken_while_another_is_sent(store: SqlOutboxStore) -> None:
    """Nor an earlier one that waited for its open, once that has come, or a dead letter that is retried."""
    await add(store, "waits", "anna", depends_on_open=ANNA, next_try=NOW + 30)
    await add(store, "dead", "anna")
    store.finish(entry("dead", "anna"), "dead", "refused")
    await add(store, "sale", "anna", kind="sale")
    assert await taken(store, "sale") == ["sale"]
    store.release_dependents(ANNA, NOW)
    await store.retry_now("dead")
    assert await taken(store) == []
    store.finish(entry("sale", "anna", "sale"), "delivered", "")
    assert await taken(store) == ["waits"]


async def test_what_waits_holds_nobody_back(store: SqlOutboxStore) -> None:
    """The next entry of the customer is due; released, the first one has its turn again."""
    assert await add(store, "lead", "anna", depends_on_open=ANNA, next_try=NOW + 30) == FIRST
    assert await add(store, "sale", "anna", kind="sale") == FIRST
    assert await store.has_waiting_in("anna")
    assert not await store.has_waiting_in("ben")
    assert await taken(store, "sale") == ["sale"]
    store.finish(entry("sale", kind="sale"), "delivered", "")
    store.release_dependents(BEN, NOW)
    store.release_dependents(ANNA, NOW + 5)
    assert await taken(store) == []
    (found,) = await store_of(store._database, unix_time=lambda: NOW + 5).take_due("lead", ["acme"], 10)
    assert found.entry is not None
    assert found.entry.depends_on_open == ""
    assert not await store.has_waiting_in("anna")


async def test_a_waiting_lead_is_tried_now_and_then(database: Database) -> None:
    """In case nobody notes that its open is settled."""
    await add(store_of(database), "lead", depends_on_open=ANNA, next_try=NOW + 30)
    assert await taken(store_of(database, unix_time=lambda: NOW + 30)) == ["lead"]


async def test_what_waits_for_an_install_is_counted_by_app(store: SqlOutboxStore) -> None:
    """Not what waits for an open, or for nothing; and what waits is not what Dub is late with."""
    waits = [("acme", ANNA), ("acme", BEN), ("globex", ANNA), ("acme", "an open"), ("acme", "")]
    for number, (app, name) in enumerate(waits):
        await add(store, f"{number}", app=app, depends_on_open=name, created=NOW + number)
    assert [await store.waiting(app) for app in ("acme", "globex", "hooli")] == [2, 1, 0]
    assert await store.oldest() == {"lead": NOW + 4}


async def test_apps_share_what_is_taken(store: SqlOutboxStore) -> None:
    """One app's storm leaves the others their share; what they do not need goes to it. None is left out."""
    for number in range(50):
        store.enqueue_open(entry(f"storm {number:02}", kind="open"))
    for number in range(3):
        store.enqueue_open(entry(f"calm {number}", kind="open", app="globex"))
        store.enqueue_open(entry(f"held {number}", kind="open", app="hooli"))
    found = await store.take_due("open", ["acme", "globex"], 10, written=True)
    assert Counter(each.entry and each.entry.app for each in found) == {"acme": 7, "globex": 3}


async def test_a_failed_attempt_is_due_later(database: Database) -> None:
    """At its own time, with the attempt counted; what was not attempted is not counted."""
    now = NOW
    store = store_of(database, unix_time=lambda: now)
    await add(store, "a")
    assert await taken(store) == ["a"]
    store.reschedule("a", NOW + 60, "DubTimedOut")
    assert await taken(store) == []
    now += 61
    (found,) = await store.take_due("lead", ["acme"], 10)
    assert found.entry is not None
    assert found.entry.attempts == 1
    store.give_back("a", now)
    (again,) = await store.take_due("lead", ["acme"], 10, written=True)
    assert again.entry is not None
    assert again.entry.attempts == 1


async def test_a_replica_that_lost_its_lease_changes_nothing(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stood still for longer than its lease: the entry is another's by now, but a delivery is one."""
    async with replicas(make_engine) as (one, two):
        stalled, other = store_of(one), store_of(two)
        await add(stalled, "a")
        monkeypatch.setattr(outbox, "LEASE_S", 0.0)
        assert await taken(stalled) == ["a"]
        monkeypatch.setattr(outbox, "LEASE_S", 60.0)
        await asyncio.sleep(0.01)
        assert await taken(other) == ["a"]
        stalled.give_back("a", NOW)
        stalled.reschedule("a", NOW, "DubTimedOut")
        await stalled.renew(["a"])
        assert await taken(stalled) == []
        assert (await letter(stalled, "a")).attempts == 0
        stalled.finish(entry("a"), "delivered", "")
        await one.write()
        other.finish(entry("a"), "dead", "refused")
        await two.write()
        assert await state(other, "a") == "delivered"


async def test_leases_are_renewed(
    store: SqlOutboxStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For as long as somebody works on an entry, nobody else takes it."""
    monkeypatch.setattr(outbox, "LEASE_S", 0.5)
    await store.add(entry("a"), leased=True)
    began = time.monotonic()
    while time.monotonic() < began + 1.5:
        await store.renew(["a"])
        assert await taken(store) == []
    await end_leases(database)
    assert await taken(store) == ["a"]


async def test_many_leases_are_renewed_together(make_engine: MakeEngine) -> None:
    """More entries than one statement names: each lease is renewed, and no other."""
    async with replicas(make_engine) as databases:
        holder, other = (store_of(each) for each in databases)
        names = [f"{number:04}" for number in range(2 * outbox._AT_A_TIME + 100)]
        for name in names:
            holder.enqueue_open(entry(name, kind="open"))
        await databases[0].write()
        assert sorted(await taken(holder, "open", len(names))) == names
        await end_leases(databases[0])
        await holder.renew(names[:-1])
        assert await taken(other, "open", len(names)) == names[-1:]


async def test_a_clock_that_is_set_back_delays_nothing(database: Database) -> None:
    """An attempt further ahead than any delay was scheduled by a wrong clock: it is due."""
    now = NOW
    store = store_of(database, unix_time=lambda: now)
    await add(store, "a")
    await taken(store)
    store.reschedule("a", NOW + 60, "DubTimedOut")
    await database.write()
    now -= 3600
    assert [each.id for each in await store.take_due("lead", ["acme"], 10)] == ["a"]


async def test_what_failed_is_due_soon_once_dub_is_back(store: SqlOutboxStore) -> None:
    """FastHistogram over some seconds; Dub's own time is kept, and what waits for an open waits on."""
    for number in range(40):
        await add(store, f"{number:02}", next_try=NOW + 600)
    await add(store, "throttled", next_try=NOW + 600)
    await add(store, "waits", depends_on_open=ANNA, next_try=NOW + 600)
    await add(store, "new", next_try=NOW + 600)
    await store._database.write(
        Statement("UPDATE outbox SET attempts = 1, reason = 'DubFailed: 503' WHERE id <> 'new'"),
        Statement("UPDATE outbox SET reason = 'DubThrottled: 429' WHERE id = 'throttled'"),
    )
    await store.due_soon("lead", ["acme"], 2.0)
    due = {each.id: each.next_try - NOW for each in await store.listed("queued", 100)}
    assert {name for name, in_s in due.items() if in_s == 600} == {"throttled", "waits", "new"}
    assert {in_s for name, in_s in due.items() if in_s != 600 and not 0 <= in_s <= 2} == set()


async def test_an_entry_of_an_unlisted_secret_is_kept(database: Database, store: SqlOutboxStore) -> None:
    """It blocks no other of its key once it is known; listed again, its secret decrypts it."""
    other = store_of(database, secret="another")
    await add(store, "a", "anna")
    await add(other, "b", "anna")
    (found,) = await other.take_due("lead", ["acme"], 10)
    assert (found.id, found.entry) == ("a", None)
    other.reschedule("a", NOW + 900, UNDECRYPTABLE, attempted=False)
    assert await taken(other) == ["b"]
    other.finish(entry("b"), "delivered", "")
    await other._database.write()
    later = store_of(database, unix_time=lambda: NOW + 900)
    (again,) = await later.take_due("lead", ["acme"], 10)
    assert again.entry is not None
    assert (again.entry.payload, again.entry.attempts) == (b"a", 0)


async def test_a_delivered_open_leaves_nothing(store: SqlOutboxStore, database: Database) -> None:
    """An openId is queued once, however often it is owed."""
    opened = entry("open-1", kind="open")
    for _ in range(3):
        store.enqueue_open(opened)
    await database.write()
    assert await store.depths("queued") == {("open", "queued"): 1}
    store.finish(opened, "delivered", "")
    assert await state(store, "open-1") is None


async def test_dead_letters_are_retried(store: SqlOutboxStore) -> None:
    """One or all, and only those; with their payload, from the beginning."""
    for name in ("a", "b", "c"):
        await add(store, name, payload=b"anna")
    for name in ("a", "b"):
        store.finish(entry(name), "dead", "404 not_found")
    status = await store.status("a")
    assert status is not None
    assert (status.state, status.reason) == ("dead", "404 not_found")
    assert await store.depths("queued", "dead") == {("lead", "dead"): 2, ("lead", "queued"): 1}
    assert [each.id for each in await store.listed("dead", 10)] == ["a", "b"]
    assert [await store.retry_now(name) for name in ("a", "a", "c", "nobody")] == [1, 0, 0, 0]
    assert await store.retry_now(None) == 1
    assert sorted(await taken(store)) == ["a", "b", "c"]
    found = await store.found("a")
    assert found is not None
    assert found[1] is not None
    assert store.reveal(found[1]) == b"anna"


async def test_old_entries_die_and_older_ones_go(store: SqlOutboxStore) -> None:
    """Each with a reason; a delivered lead is known for as long as Dub knows it."""
    old = NOW - 6.5 * DAY_S
    await add(store, "queued", created=old)
    await add(store, "no open", depends_on_open=ANNA, created=old)
    await add(store, "looked for", depends_on_open=BEN, created=old)
    await add(store, "young", created=NOW - 5 * DAY_S)
    await taken(store)
    store.reschedule("looked for", NOW, "NoOpen: not yet")
    store.reschedule("queued", NOW, "DubFailed: status 503")
    for name, age_s in (("delivered", 6.5 * DAY_S), ("forgotten", REPEAT_S + 1)):
        await add(store, name, created=NOW - age_s)
        store.finish(entry(name), "delivered", "")
    for name, age_days in (("dead", 95), ("long dead", 97)):
        await add(store, name, created=NOW - age_days * DAY_S)
        store.finish(entry(name), "dead", "refused")
    assert await store.expire(NOW - 6 * DAY_S, webhooks_before=NOW - 3 * DAY_S) == 3
    names = ("queued", "no open", "looked for", "young", "delivered", "forgotten", "dead", "long dead")
    assert [await state(store, name) for name in names] == [
        *["dead"] * 3,
        *["queued", "delivered", None, "dead", None],
    ]
    reasons = [(await letter(store, name)).reason for name in names[:3]]
    assert reasons == ["expired: DubFailed: status 503", "no open arrived", "no open arrived"]
    assert await store.retry_now(None) == 4
    assert (await letter(store, "no open")).depends_on_open == ANNA  # it waits again


async def test_all_that_is_too_old_dies_at_once(
    store: SqlOutboxStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they are: a few in each statement."""
    monkeypatch.setattr(outbox, "_AT_A_TIME", 10)
    for number in range(35):
        store.enqueue_open(entry(f"{number}", kind="open"))
    await store._database.write()
    assert await store.expire(NOW + 1, webhooks_before=NOW + 1) == 35
    assert await store.retry_now(None) == 35


async def test_an_attempt_that_ends_after_its_entry_has_expired_changes_nothing(
    store: SqlOutboxStore,
) -> None:
    """The dead letter keeps the reason that it died of."""
    await add(store, "a", depends_on_open=ANNA)
    await taken(store)
    assert await store.expire(NOW + 1, webhooks_before=NOW + 1) == 1
    store.reschedule("a", NOW + 60, "NoOpen: not yet")
    store.finish(entry("a"), "dead", "refused")
    assert await state(store, "a") == "dead"
    found = await letter(store, "a")
    assert (found.reason, found.attempts) == ("no open arrived", 0)


async def test_forgetting_needs_nothing_else(store: SqlOutboxStore) -> None:
    """What is kept for a device or an openId goes, whatever its kind and state, and nothing of others'."""
    for kind in ("lead", "sale"):
        for name in ("anna", "ben", "open-3"):
            await add(store, f"{kind} {name}", kind=kind, subject=name)
    store.finish(entry("lead anna"), "dead", "refused")
    store.finish(entry("sale anna", kind="sale"), "delivered", "")
    for name, subject in (("open-1", "anna"), ("open-2", "ben"), ("open-3", "carl")):
        store.enqueue_open(entry(name, kind="open", subject=subject))
    await add(store, "nobody's")
    assert await store.forget(["anna", "open-3"]) == 6
    left = {each.id for each in await store.listed("queued", 10)}
    assert left == {"lead ben", "sale ben", "open-2", "nobody's"}
    assert await store.forget(["anna", "open-3"]) == 0


KEYS = LeadKeys(event="anna signs up", idempotency="key 1", body="body 1")


async def test_a_lead_that_is_reported_again_is_recognised(store: SqlOutboxStore) -> None:
    """By its event or its Idempotency-Key, queued or delivered; the key must come with the same body."""
    await add(store, "a", keys=KEYS)
    event, key = LeadKeys(event=KEYS.event), LeadKeys(idempotency="key 1", body="body 1")
    assert await add(store, "b", keys=event) == Repeat("a", "queued")
    assert await add(store, "c", keys=key) == Repeat("a", "queued")
    store.finish(entry("a"), "delivered", "")
    await store._database.write()
    assert await add(store, "d", keys=event) == Repeat("a", "delivered")
    other_body = LeadKeys(event=KEYS.event, idempotency="key 1", body="another")
    assert await add(store, "e", keys=other_body) == Repeat("a", "delivered", same_body=False)
    assert await add(store, "f", keys=LeadKeys(event="ben signs up")) == FIRST
    assert await add(store, "g") == FIRST
    assert await add(store, "h") == FIRST


async def test_the_same_lead_at_two_replicas_at_once_is_kept_once(make_engine: MakeEngine) -> None:
    """A retry overtakes the first report on its way to another replica: one of them is kept."""
    async with replicas(make_engine) as databases:
        stores = [store_of(each) for each in databases]
        for number in range(20):
            keys = LeadKeys(event=f"event {number}")
            reported = await asyncio.gather(
                *(add(stores[at % 2], f"{number} {at}", keys=keys) for at in range(6))
            )
            (first,) = [f"{number} {at}" for at, added in enumerate(reported) if isinstance(added, Added)]
            assert [each for each in reported if isinstance(each, Repeat)] == [Repeat(first, "queued")] * 5
        assert await stores[0].depths("queued") == {("lead", "queued"): 20}


async def test_a_lead_is_recognised_for_a_week(store: SqlOutboxStore, database: Database) -> None:
    """As at Dub, to the second, also before the old one is deleted."""
    old = NOW - REPEAT_S
    await add(store, "old", keys=KEYS, created=old)
    store.finish(entry("old"), "delivered", "")
    await database.write()
    assert await add(store, "in time", keys=KEYS) == Repeat("old", "delivered")
    assert await add(store, "late", keys=KEYS, created=NOW + 1) == FIRST
    assert await add(store, "again", keys=KEYS, created=NOW + 2) == Repeat("late", "queued")


async def test_a_dead_lead_may_be_reported_anew(store: SqlOutboxStore, database: Database) -> None:
    """Retried, the dead one is the first again, unless there is another by now."""
    await add(store, "dead", keys=KEYS)
    store.finish(entry("dead"), "dead", "refused")
    await database.write()
    assert await add(store, "new", keys=KEYS) == FIRST
    store.finish(entry("new"), "dead", "refused")
    await database.write()
    assert await store.retry_now(None) == 2
    repeat = await add(store, "again", keys=KEYS)
    assert isinstance(repeat, Repeat)
    assert repeat.entry_id in ("dead", "new")
    assert await store.depths("queued") == {("lead", "queued"): 2}


async def test_a_lead_that_waits_takes_over_a_click(store: SqlOutboxStore) -> None:
    """Reported again with what it waited for, the first entry is due with it; erased with its new subject."""
    await add(store, "waits", keys=KEYS, depends_on_open=ANNA, next_try=NOW + 30)
    assert await add(store, "waits too", keys=KEYS, depends_on_open=ANNA) == Repeat("waits", "queued")
    assert await taken(store) == []
    changed = msgspec.structs.replace(KEYS, idempotency="key 1", body="another")
    assert await add(store, "wrong", keys=changed) == Repeat("waits", "queued", same_body=False)
    assert await taken(store) == []
    assert await add(store, "knows", keys=KEYS, payload=b"click", subject="anna") == Repeat("waits", "queued")
    (found,) = await store.take_due("lead", ["acme"], 10)
    assert found.entry is not None
    assert (found.id, found.entry.payload, found.entry.depends_on_open) == ("waits", b"click", "")
    assert found.entry.subject == "anna"


@pytest.mark.parametrize(("keys", "kept"), [(LeadKeys(), False), (KEYS, True)])
async def test_a_refused_entry_that_arrives_after_all(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, keys: LeadKeys, *, kept: bool
) -> None:
    """Its caller was told that it failed: it is not sent, unless another report of it would be recognised.

    A sale without an invoiceId that is reported again would count twice.
    """
    async with replicas(make_engine, 1) as (database,):
        store = store_of(database)
        commit = database._engine.commit
        began, go_on = asyncio.Event(), asyncio.Event()

        async def slow(units: object) -> object:
            began.set()
            await go_on.wait()
            return await commit(units)  # type: ignore[arg-type]

        monkeypatch.setattr(database._engine, "commit", slow)
        monkeypatch.setattr(outbox, "WRITE_TIMEOUT_S", 0.05)
        with pytest.raises(StoreFailed):
            await add(store, "a", keys=keys)
        await began.wait()
        go_on.set()
        monkeypatch.setattr(outbox, "WRITE_TIMEOUT_S", 5.0)
        assert (await state(store, "a") == "queued") is kept


async def test_leases_of_a_file_s_last_process_end(database: Database, store: SqlOutboxStore) -> None:
    """SQLite has one process: what a killed one had in hand is sent as soon as another starts."""
    await store.add(entry("a"), leased=True)
    await store.take_over()
    assert await taken(store_of(database)) == ([] if database.is_shared else ["a"])


async def test_an_open_that_nothing_waits_for_costs_no_write(database: Database) -> None:
    """With SQLite: there, no other process adds entries. What waits is known after a restart, too."""
    await add(store_of(database), "before", depends_on_open=ANNA, next_try=NOW + 30)
    store = store_of(database)
    await store.take_over()
    await add(store, "now", depends_on_open=BEN, next_try=NOW + 30)
    store.release_dependents("another", NOW)
    assert bool(database._behind) is database.is_shared
    store.release_dependents(ANNA, NOW)
    store.release_dependents(BEN, NOW)
    assert sorted(await taken(store)) == ["before", "now"]


async def test_a_lead_that_is_committed_after_its_release_can_be_released_again(database: Database) -> None:
    """The open came while the lead was being stored: its report looks again, once the lead is stored."""
    store = store_of(database)
    await store.take_over()
    adding = asyncio.ensure_future(add(store, "lead", depends_on_open=ANNA, next_try=NOW + 30))
    await asyncio.sleep(0)  # its row waits for the writer
    store.release_dependents(ANNA, NOW)
    await adding
    store.release_dependents(ANNA, NOW)
    assert await taken(store) == ["lead"]


async def test_a_dead_letter_that_the_cli_queues_again_waits_for_its_open_again(database: Database) -> None:
    """Another process writes to the file then; the entry is known as soon as it is tried."""
    store = store_of(database)
    await store.take_over()
    await add(store, "lead", depends_on_open=ANNA)
    store.finish(entry("lead"), "dead", "expired")
    store.release_dependents(ANNA, NOW)
    await database.flush()
    assert await store_of(database).retry_now("lead") == 1
    assert await taken(store) == ["lead"]
    store.reschedule("lead", NOW + 30, "its open has not arrived")
    store.release_dependents(ANNA, NOW)
    assert await taken(store) == ["lead"]


async def test_with_very_many_names_every_open_is_looked_for(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names that fit into memory say nothing about the others, after a restart neither."""
    monkeypatch.setattr(outbox, "_WAITED_FOR_MAX", 1)
    await add(store_of(database), "before", depends_on_open=ANNA, next_try=NOW + 30)
    store = store_of(database)
    await store.take_over()
    await add(store, "now", depends_on_open=BEN, next_try=NOW + 30)
    store.release_dependents(ANNA, NOW)
    store.release_dependents(BEN, NOW)
    assert sorted(await taken(store)) == ["before", "now"]
    await add(store, "more", depends_on_open=ANNA, next_try=NOW + 30)
    await add(store, "most", depends_on_open=BEN, next_try=NOW + 30)
    again = store_of(database)
    await again.take_over()
    again.release_dependents(BEN, NOW)
    assert "most" in await taken(again)
