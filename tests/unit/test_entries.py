"""The outbox's entries on disk."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import structlog
from msgspec import structs
from service.store.entries import ENTRIES_SCHEMA, SqliteEntries

from service.resolve.owed import Entry, Kind, LeadKeys, install_name
from service.store.database import Database
from service.store.sealing import Seal

NOW = 1_700_000_000.0
LEAD = Entry(
    id="lead", app="acme", kind="lead", lane="lane", created=NOW, next_try=NOW, payload=b'{"a": "lead"}'
)
OPEN = structs.replace(LEAD, kind="open")
KINDS: tuple[Kind, ...] = ("open", "lead", "sale")
STEPS = 10  # of SQLite's virtual machine, between two counts


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(tmp_path, ENTRIES_SCHEMA, structlog.get_logger())
    await database.open()
    yield database
    await database.close()


@pytest.fixture
def entries(database: Database) -> SqliteEntries:
    return SqliteEntries(database, Seal(["a secret for tests of 32 characters or more"]))


def numbered(entry: Entry, number: int, waits_for: str = "") -> Entry:
    name = f"{entry.kind}-{number}"
    return structs.replace(entry, id=name, lane=name, created=NOW + number / 1000, waits_for=waits_for)


def keyed(entry: Entry, number: int) -> Entry:
    return structs.replace(numbered(entry, number), keys=LeadKeys(f"event {number}", f"key {number}", "body"))


def dead(number: int) -> Entry:
    return numbered(structs.replace(LEAD, app="dead"), number)


async def fill(entries: SqliteEntries, first: int, last: int) -> None:
    """Queue opens, leads and leads that wait for an open; and as many that are delivered or dead."""
    for number in range(first, last, 5):
        entries.owe(numbered(OPEN, number))
        await entries.add(keyed(LEAD, number + 1))
        await entries.add(numbered(LEAD, number + 2, waits_for=f"open-{number}"))
        await entries.add(numbered(LEAD, number + 3))
        entries.finish(numbered(LEAD, number + 3), "delivered", "", NOW)
        await entries.add(dead(number + 4))
        entries.finish(dead(number + 4), "dead", "refused", NOW)


async def steps_of(work: Callable[[], object], database: Database) -> int:
    """Count the steps that SQLite takes for some work, and for what it leaves to be written behind."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    database._connected().set_progress_handler(count, STEPS)
    try:
        awaited = work()
        if isinstance(awaited, Awaitable):
            await awaited
        await database.read(lambda _: None)
    finally:
        database._connected().set_progress_handler(None, STEPS)
    return steps


QUESTIONS: dict[str, Callable[[SqliteEntries, int], object]] = {
    "add": lambda entries, new: entries.add(numbered(LEAD, new)),
    "add what is reported again": lambda entries, _: entries.add(keyed(LEAD, 6)),
    "waits in a lane": lambda entries, _: entries.waits_in("lead-6"),
    "owe": lambda entries, new: entries.owe(numbered(OPEN, new)),
    "drop": lambda entries, _: entries.drop("open-5"),
    "put_off": lambda entries, _: entries.put_off("open-5", NOW + 1, "a reason"),
    "finish an open": lambda entries, _: entries.finish(numbered(OPEN, 5), "delivered", "", NOW),
    "finish a lead": lambda entries, _: entries.finish(numbered(LEAD, 6), "delivered", "", NOW),
    "remove": lambda entries, _: entries.remove("lead-6"),
    "due": lambda entries, _: entries.due(["open", "lead"], NOW, 10, []),
    "hasten": lambda entries, _: entries.hasten(NOW),
    "release": lambda entries, _: entries.release("open-5", NOW),
    "expire": lambda entries, _: entries.expire(NOW - 1, NOW),
    "status": lambda entries, _: entries.status("lead-6"),
    "oldest": lambda entries, _: entries.oldest(),
    "listed": lambda entries, _: entries.listed("dead", 10),
}


@pytest.mark.parametrize("name", QUESTIONS)
async def test_no_question_walks_over_all_entries(
    name: str, database: Database, entries: SqliteEntries
) -> None:
    """What is asked for every open and lead costs the same, however much is queued, delivered or dead."""
    few, many = 50, 2000
    ask = QUESTIONS[name]
    await fill(entries, 0, few)
    before = await steps_of(lambda: ask(entries, many + 1), database)
    await fill(entries, few, many)
    after = await steps_of(lambda: ask(entries, many + 2), database)
    assert after < before + few


async def test_the_same_open_is_queued_once(entries: SqliteEntries) -> None:
    """Two opens of one openId are one entry, also in one commit; leads of a lane are all kept."""
    for number in range(100):
        entries.owe(structs.replace(OPEN, id=f"open-{number % 10}", lane=f"lane-{number % 10}"))
    await entries.add(structs.replace(LEAD, id="lead-1"))
    await entries.add(structs.replace(LEAD, id="lead-2"))
    assert await entries.depths("queued") == {("open", "queued"): 10, ("lead", "queued"): 2}


async def test_leads_of_a_lane_go_one_after_another(entries: SqliteEntries) -> None:
    """Only the first entry of a customer is due, whatever its kind."""
    assert not await entries.add(LEAD)
    assert await entries.add(structs.replace(LEAD, id="sale", kind="sale"))
    kinds: list[Kind] = ["open", "lead", "sale"]
    assert [entry.id for entry in await entries.due(kinds, NOW, 10, [])] == ["lead"]
    entries.finish(LEAD, "delivered", "", NOW)
    assert [entry.id for entry in await entries.due(kinds, NOW, 10, [])] == ["sale"]


async def test_what_waits_for_an_open_holds_nobody_back(entries: SqliteEntries) -> None:
    """The next entry of the customer is due; let go, the first one has its turn again."""
    assert not await entries.add(structs.replace(LEAD, waits_for=install_name("anna"), next_try=NOW + 30))
    assert not await entries.add(structs.replace(LEAD, id="sale", kind="sale"))
    assert [entry.id for entry in await entries.due(KINDS, NOW, 10, [])] == ["sale"]
    await entries.release(install_name("anna"), NOW)
    assert [entry.id for entry in await entries.due(KINDS, NOW, 10, [])] == ["lead"]


async def test_what_waits_for_an_install_is_counted_by_app(entries: SqliteEntries) -> None:
    """Leads that wait for an open, or for nothing, are not; and what waits is not what Dub is late with."""
    installs = [
        ("acme", install_name("anna")),
        ("acme", install_name("ben")),
        ("globex", install_name("carl")),
    ]
    for number, (app, waits_for) in enumerate([*installs, ("acme", "an-open"), ("acme", "")]):
        lead = structs.replace(LEAD, id=f"{number}", app=app, waits_for=waits_for, created=NOW + number)
        await entries.add(lead)
    assert [await entries.waiting(app) for app in ("acme", "globex", "hooli")] == [2, 1, 0]
    assert await entries.oldest() == NOW + 4


async def test_an_attempt_that_ends_after_its_entry_has_expired_changes_nothing(
    entries: SqliteEntries,
) -> None:
    """The dead letter keeps the reason that it died of."""
    await entries.add(structs.replace(LEAD, waits_for=install_name("anna")))
    assert await entries.expire(NOW + 1, NOW + 2) == 1
    entries.put_off(LEAD.id, NOW + 60, "NoOpen: not yet")
    (letter,) = await entries.listed("dead", 10)
    assert (letter.reason, letter.attempts) == ("no open arrived", 0)


async def test_what_is_held_is_not_due(entries: SqliteEntries) -> None:
    """An app that Dub holds back has nothing due of that kind, and nobody else is held back with it."""
    await entries.add(LEAD)
    await entries.add(structs.replace(LEAD, id="globex", app="globex", lane="another"))
    await entries.add(structs.replace(LEAD, id="sale", kind="sale", lane="a third"))
    due = await entries.due(["lead", "sale"], NOW, 10, [("acme", "lead")])
    assert [entry.id for entry in due] == ["globex", "sale"]
    assert [entry.id for entry in await entries.due(["sale"], NOW, 10, [])] == ["sale"]


async def test_forgetting_needs_no_journal(entries: SqliteEntries) -> None:
    """What a device owes goes by its name, dead or queued, also once nobody knows its openIds any more."""
    for number, (kind, whose) in enumerate((kind, whose) for kind in KINDS for whose in ("anna", "ben")):
        for offset in (0, 10):
            entry = structs.replace(
                OPEN, kind=kind, whose=whose, id=f"{kind}-{number + offset}", lane=f"{number + offset}"
            )
            await entries.add(entry)
            if offset:
                entries.finish(entry, "dead", "too old", NOW)
    assert await entries.forget(["anna", "carl"]) == 6
    assert set((await entries.depths("queued", "dead")).values()) == {1}
    assert await entries.forget(["open-1", "ben"]) == 6
    assert await entries.depths("queued", "dead") == {}


async def test_an_entry_of_an_unlisted_secret_stays_queued(
    entries: SqliteEntries, database: Database
) -> None:
    """It is looked at again later, counted and logged: an operator may list its secret again."""
    counted: list[int] = []
    other = SqliteEntries(
        database, Seal(["another secret of 32 characters or more"]), lambda: counted.append(1)
    )
    await entries.add(LEAD)
    assert await other.due(KINDS, NOW, 10, ()) == []
    status = await entries.status("lead")
    assert status is not None
    assert (status.state, len(counted)) == ("queued", 1)
    (found,) = await entries.due(KINDS, NOW + 1000, 10, ())
    assert found.payload == LEAD.payload


async def test_a_clock_that_is_set_back_delays_no_entry(entries: SqliteEntries) -> None:
    """A time further ahead than any delay was set by a clock that was wrong."""
    await entries.add(structs.replace(LEAD, next_try=NOW + 60))
    assert await entries.due(KINDS, NOW, 10, ()) == []
    assert len(await entries.due(KINDS, NOW - 3600, 10, ())) == 1
