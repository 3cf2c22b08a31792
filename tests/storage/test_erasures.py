"""What a replica wrote before it knew of an erasure is deleted."""

import time

import structlog

from service.domain.outbox_entries import Entry
from service.storage.database import Database
from service.storage.encryption import Cipher
from service.storage.engines.postgres import PostgresEngine
from service.storage.erasures import ErasureStore
from service.storage.outbox import SqlOutboxStore
from service.telemetry import Metrics
from service.telemetry.background import Background
from tests.postgres import Postgres
from tests.support import until

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
