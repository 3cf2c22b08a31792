"""What a replica wrote before it knew of an erasure is deleted."""

import time

import pytest
import structlog

from service.attribution.recent_erasures import RecentErasures
from service.domain.models import Open
from service.domain.outbox_entries import Entry
from service.storage.claims import ClaimStore
from service.storage.database import Database
from service.storage.encryption import Cipher
from service.storage.engines.postgres import PostgresEngine
from service.storage.erasures import KEPT_S, ErasureStore
from service.storage.hashes import device_number
from service.storage.opens import SqlOpenStore
from service.storage.outbox import SqlOutboxStore
from service.telemetry import Metrics
from service.telemetry.background import Background
from tests.postgres import Postgres
from tests.support import FakeClock, until

ERASED, OTHER = "00000000000000a1", "00000000000000b2"


async def test_an_open_that_was_queued_before_the_erasure_was_known_is_deleted(postgres: Postgres) -> None:
    """The other replica erases the install; this one deletes its queued open, and no other entry."""
    log = structlog.get_logger()
    database = Database(PostgresEngine(postgres.database()), log)
    await database.open()
    outbox = SqlOutboxStore(database, Cipher(["s" * 32]), time.time)
    erasures = ErasureStore(database, time.time)
    began = time.time()
    outbox.enqueue_open(queued("0a", ERASED, began))
    outbox.enqueue_open(queued("0b", OTHER, began))
    await database.read_written("SELECT 1")
    await erasures.add([ERASED], time.time())
    outbox.enqueue_open(queued("0c", ERASED, time.time() + 60))  # the install came back
    learned: dict[str, float] = {}
    erasures.follow(learned.update, Background(log, Metrics().background_failures))
    try:
        await until(lambda: ERASED in learned)
        await until(lambda: erasures._swept)
        rows = await database.read_written("SELECT id FROM outbox ORDER BY id")
        assert rows == [("0b",), ("0c",)]
    finally:
        await erasures.close()
        await database.close()


def queued(name: str, device: str, at: float) -> Entry:
    return Entry(
        id=name,
        app="acme",
        kind="open",
        ordering_key=name,
        created=at,
        next_try=at,
        subject=device,
        payload=b"{}",
    )


async def test_what_was_written_late_is_deleted_in_batches(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opens and claims from before the erasure of their install go; later ones stay."""
    monkeypatch.setattr("service.storage.erasures._ERASURES_AT_A_TIME", 2)
    monkeypatch.setattr("service.storage.erasures._ROWS_AT_A_TIME", 10)
    now = time.time()
    erasures = ErasureStore(database, lambda: now)
    claims = ClaimStore(database, lambda: now - 60)
    opens = SqlOpenStore(database, Cipher(["s" * 32]), clock=lambda: 0, unix_time=lambda: now)
    erased = [f"{number:016x}" for number in range(1, 6)]
    for device in [*erased, OTHER]:
        for number in range(25):
            late = opened(f"{device}{number:016x}", device, now - 60)
            opens.keep(b"a key of an answer", late, None, None)
            assert await claims.claim(f"{device} {number}", device)
        opens.keep(b"a key of an answer", opened(f"{device}{99:016x}", device, now + 1), None, None)
    await database.flush()
    await erasures.add(erased, now)
    assert await erasures.expire() == 0
    counts = "SELECT device, count(*) FROM {table} GROUP BY device"
    left = await database.read(counts.format(table="opens"))
    assert dict(left) == {device_number(device): 1 for device in erased} | {device_number(OTHER): 26}
    assert dict(await database.read(counts.format(table="claims"))) == {device_number(OTHER): 25}


async def test_old_erasures_are_deleted_in_batches(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.storage.erasures._ROWS_AT_A_TIME", 10)
    now = time.time()
    erasures = ErasureStore(database, lambda: now)
    await erasures.add([f"{number:016x}" for number in range(25)], now - KEPT_S - 1)
    await erasures.add([OTHER], now - KEPT_S + 60)
    assert [await erasures.expire() for _ in range(4)] == [10, 10, 5, 0]
    assert await database.read("SELECT device FROM erasures") == [(device_number(OTHER),)]


async def test_erasures_are_forgotten_when_nothing_older_can_come_back(database: Database) -> None:
    """A process that runs for months does not remember every erasure; the latest time of a device counts."""
    clock = FakeClock()
    recent = RecentErasures(
        ErasureStore(database, clock.unix_time),
        Background(structlog.get_logger(), Metrics().background_failures),
        clock.unix_time,
        kept_s=100,
    )
    await recent.add([ERASED, OTHER], clock.unix_time())
    clock.advance(60)
    await recent.add([ERASED], clock.unix_time())
    clock.advance(60)
    recent.learn({})
    assert not recent.covers(OTHER, 0)
    assert recent.covers(ERASED, 0)
    clock.advance(60)
    recent.learn({})
    assert recent._erased_at == {}


def opened(open_id: str, device: str, at: float) -> Open:
    return Open(app="acme", open_id=open_id, device=device, opened_at=at, repeat_until=0)
