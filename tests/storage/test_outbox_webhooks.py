"""Webhooks in the outbox: once for each event, in order, and together with what they report."""

import pytest

from service.domain.outbox_entries import Entry, State, install_name, settling_name
from service.storage.database import Database
from service.storage.erasures import ErasureStore
from service.storage.outbox import SqlOutboxStore
from service.storage.statements import Statement
from tests.storage.conftest import MakeEngine
from tests.storage.test_outbox import (
    DAY_S,
    NOW,
    add,
    end_leases,
    entry,
    letter,
    replicas,
    state,
    store,
    store_of,
    taken,
)

__all__ = ["store"]  # the fixture

DEVICE = "00000000000000a1"


def hook(name: str, key: str = "webhook:anna", **more: object) -> Entry:
    return entry(name, key, "webhook", **more)


async def queued(store: SqlOutboxStore) -> dict[str, Entry]:
    """Take every webhook that may be sent."""
    found = await store.take_due("webhook", ("acme",), 100, written=True)
    return {each.id: each.entry for each in found if each.entry is not None}


async def test_an_event_is_queued_once(store: SqlOutboxStore, database: Database) -> None:
    """Written again, by another replica say, it is the same row; in one batch or in two."""
    for name in ("a", "b", "a"):
        store.enqueue_webhook(hook(name, key=name))
    await database.write()
    await store.add_webhook(hook("b", key="b", payload=b"again"))
    found = await queued(store)
    assert {name: each.payload for name, each in found.items()} == {"a": b"a", "b": b"b"}


async def test_an_install_s_events_are_taken_in_order(store: SqlOutboxStore, database: Database) -> None:
    """The next when the one before is delivered, which deletes it; other installs do not wait."""
    for name in ("first", "second", "third"):
        store.enqueue_webhook(hook(name))
    store.enqueue_webhook(hook("ben's", key="webhook:ben"))
    assert sorted(await queued(store)) == ["ben's", "first"]
    store.finish(hook("first"), "delivered", "")
    assert list(await queued(store)) == ["second"]
    store.finish(hook("second"), "dead", "410")
    assert list(await queued(store)) == ["third"]
    await database.write()
    assert await store.found("first") is None
    assert await state(store, "second") == "dead"


async def test_replicas_agree_about_the_order(make_engine: MakeEngine) -> None:
    """An event that is written after another of its install comes after it, whatever the clocks say."""
    async with replicas(make_engine) as databases:
        ahead, behind = store_of(databases[0]), store_of(databases[1], unix_time=lambda: NOW - 30)
        await ahead.add_webhook(hook("first"))
        await behind.add_webhook(hook("second", created=NOW - 30, next_try=NOW - 30))
        assert list(await queued(ahead)) == ["first"]
        assert list(await queued(behind)) == []


async def test_a_waiting_event_is_completed(store: SqlOutboxStore, database: Database) -> None:
    """An open settles: the row that waited for it becomes due, with its content, at its new place."""
    waiting = settling_name("open")
    store.enqueue_webhook(hook("settled", depends_on_open=waiting, next_try=NOW + 65, payload=b"open"))
    store.enqueue_webhook(hook("matched"))
    store.enqueue_webhook(hook("settled", depends_on_open=waiting, next_try=NOW + 65))  # pending again
    assert list(await queued(store)) == ["matched"]
    store.enqueue_webhook(hook("settled", payload=b"content"))
    store.finish(hook("matched"), "delivered", "")
    found = await queued(store)
    assert {name: each.payload for name, each in found.items()} == {"settled": b"content"}
    store.enqueue_webhook(hook("settled", payload=b"another"))  # it is complete: nothing changes any more
    await end_leases(database)
    assert (await queued(store))["settled"].payload == b"content"


async def test_an_event_that_died_waiting_is_completed(store: SqlOutboxStore, database: Database) -> None:
    """Dub was down for a week: the open settles all the same, and that is an event."""
    waiting = settling_name("open")
    store.enqueue_webhook(hook("settled", depends_on_open=waiting, created=NOW - 7 * DAY_S))
    await database.write()
    assert await store.expire(NOW - 6 * DAY_S, webhooks_before=NOW - 3 * DAY_S) == 1
    assert await state(store, "settled") == "dead"
    store.enqueue_webhook(hook("settled", payload=b"content"))
    assert (await queued(store))["settled"].payload == b"content"
    assert (await letter(store, "settled")).created == NOW


async def test_a_release_of_leads_does_not_complete_it(store: SqlOutboxStore) -> None:
    """Leads wait for the click of an open, this event for its final answer."""
    await add(store, "lead", depends_on_open="open", next_try=NOW + 60)
    store.enqueue_webhook(hook("settled", depends_on_open=settling_name("open"), next_try=NOW + 65))
    store.release_dependents("open", NOW)
    assert await taken(store) == ["lead"]
    assert await queued(store) == {}


async def test_a_lead_s_end_is_committed_with_its_event(
    store: SqlOutboxStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Delivered or dead: both rows change in one unit."""
    states: dict[str, State] = {"delivered": "delivered", "refused": "dead"}
    units: list[tuple[Statement, ...]] = []
    behind = database.write_behind

    def watched(*unit: Statement) -> None:
        units.append(unit)
        behind(*unit)

    monkeypatch.setattr(database, "write_behind", watched)
    for name, end in states.items():
        await add(store, name)
        (found,) = await store.take_due("lead", ("acme",), 1, written=True)
        assert found.entry is not None
        store.finish(found.entry, end, "", hook(f"about {name}", key=name))
    assert [len(unit) for unit in units] == [2, 2]
    assert sorted(await queued(store)) == ["about delivered", "about refused"]


async def test_a_lead_that_is_gone_has_no_event(store: SqlOutboxStore) -> None:
    """Erased while it was sent: nothing is reported of it. Decided differently: neither."""
    for name in ("erased", "expired"):
        await add(store, name, subject="anna")
    leads = {each.id: each.entry for each in await store.take_due("lead", ("acme",), 2, written=True)}
    await store.remove("erased")
    await store.expire(NOW + 1, webhooks_before=NOW + 1)
    for name in ("erased", "expired"):
        lead = leads[name]
        assert lead is not None
        store.finish(lead, "delivered", "", hook(f"about {name}", key=name))
    assert sorted(await queued(store)) == ["about expired"]  # a delivery counts, however late
    assert await state(store, "expired") == "delivered"


async def test_leads_that_expire_are_reported(store: SqlOutboxStore) -> None:
    """Each with the reason that it is kept with; what cannot be decrypted expires without."""
    await add(store, "old", created=NOW - 7 * DAY_S)
    await add(store, "no open", created=NOW - 7 * DAY_S, depends_on_open=install_name("anna"))
    await add(store, "young")
    await add(store_of(store._database, "another secret"), "unreadable", created=NOW - 7 * DAY_S)
    reported: dict[str, str] = {}

    def report(lead: Entry, reason: str) -> Entry:
        reported[lead.id] = reason
        return hook(f"about {lead.id}", key=lead.id)

    before, webhooks_before = NOW - 6 * DAY_S, NOW - 3 * DAY_S
    assert await store.expire(before, webhooks_before=webhooks_before, report=report) == 3
    assert reported == {"old": "expired: ", "no open": "no open arrived"}
    assert {name: (await letter(store, name)).reason for name in reported} == reported
    assert sorted(await queued(store)) == ["about no open", "about old"]
    assert await store.expire(before, webhooks_before=webhooks_before, report=report) == 0


async def test_webhooks_expire_after_their_own_time(store: SqlOutboxStore) -> None:
    """Three days; but not those that wait for an open, which Dub may answer after five."""
    old = NOW - 4 * DAY_S
    await store.add_webhook(hook("old", created=old))
    await store.add_webhook(hook("waits", created=old, depends_on_open=settling_name("open")))
    await store.add_webhook(hook("young"))
    await add(store, "lead", created=old)
    assert await store.expire(NOW - 6 * DAY_S, webhooks_before=NOW - 3 * DAY_S) == 1
    assert (await letter(store, "old")).state == "dead"
    assert (
        await letter(store, "old")
    ).reason == "expired: never sent: the endpoint failed, or there was none"
    assert [await state(store, name) for name in ("waits", "young", "lead")] == ["queued"] * 3
    assert await store.retry_now("old") == 1
    assert list(await queued(store)) == ["old"]  # in its old place: before the young one


async def test_an_erasure_deletes_queued_webhooks(store: SqlOutboxStore, database: Database) -> None:
    """By the device; also those that another replica wrote before it knew of the erasure."""
    store.enqueue_webhook(hook("anna's", subject=DEVICE))
    store.enqueue_webhook(hook("ben's", key="webhook:ben", subject="00000000000000b1"))
    await database.write()
    assert await store.forget([DEVICE]) == 1
    store.enqueue_webhook(hook("late", subject=DEVICE, created=NOW - 1))
    store.enqueue_webhook(hook("afterwards", key="webhook:new", subject=DEVICE, created=NOW + 1))
    await database.write()
    erasures = ErasureStore(database, lambda: NOW)
    await erasures.add([DEVICE], NOW)
    await erasures._delete_late_entries({DEVICE: NOW})
    assert sorted(await queued(store)) == ["afterwards", "ben's"]


async def test_counts_and_ages_are_by_kind(store: SqlOutboxStore, database: Database) -> None:
    """A backend that is away is not Dub's lateness."""
    await add(store, "lead", created=NOW - 5)
    store.enqueue_webhook(hook("webhook", created=NOW - 500))
    store.enqueue_webhook(hook("waits", created=NOW - 900, depends_on_open=settling_name("open")))
    await database.write()
    assert await store.oldest() == {"lead": NOW - 5, "webhook": NOW - 500}
    assert await store.depths("queued") == {("lead", "queued"): 1, ("webhook", "queued"): 2}
