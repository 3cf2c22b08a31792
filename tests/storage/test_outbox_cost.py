"""What one entry costs in SQLite, however many others are queued.

SQLite chooses indexes by statistics that nobody collects here. Where its choice is to walk the queue, sending
10,000 entries takes minutes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog

from service.domain.outbox_entries import Entry
from service.storage.database import Database
from service.storage.encryption import Cipher
from service.storage.engines.sqlite import SqliteEngine
from service.storage.outbox import SqlOutboxStore

NOW = 1_800_000_000.0
SENT = 64  # entries that are sent, and so one statement's worth of rows
FEW, MANY = 100, 5_000  # others that are queued


def entry(name: str) -> Entry:
    return Entry(
        id=name, app="acme", kind="open", ordering_key=name, created=NOW, next_try=NOW, payload=b"{}"
    )


class TraceRecorder:
    """Counts the instructions of SQLite's virtual machine that write statements take."""

    def __init__(self, engine: SqliteEngine) -> None:
        self._engine = engine
        self._count = 0

    def _step(self) -> None:
        self._count += 1

    @contextmanager
    def counted(self, into: dict[str, int], name: str) -> Iterator[None]:
        connection = self._engine._writer
        assert connection is not None
        self._count = 0
        connection.set_progress_handler(self._step, 1)
        yield
        connection.set_progress_handler(None, 1)
        into[name] = self._count


async def steps_to_send(folder: Path, others: int) -> dict[str, int]:
    """Queue and send entries; return how many steps each part of that takes."""
    engine = SqliteEngine(folder)
    database = Database(engine, structlog.get_logger())
    await database.open()
    store = SqlOutboxStore(database, Cipher(["one"]), lambda: NOW)
    recorder = TraceRecorder(engine)
    found: dict[str, int] = {}
    for number in range(SENT + others):
        store.enqueue_open(entry(f"{number:05}"))
    while await store.depths("queued") != {("open", "queued"): SENT + others}:
        await database.write()
    with recorder.counted(found, "take"):
        names = [each.id for each in await store.take_due("open", ["acme"], SENT, written=True)]
    assert len(names) == SENT
    with recorder.counted(found, "renew"):
        await store.renew(names)
    with recorder.counted(found, "try later"):
        for name in names[:4]:
            store.reschedule(name, NOW + 600, "DubTimedOut")
        await database.write()
    with recorder.counted(found, "Dub is back"):
        await store.due_soon("open", ["acme"], 15)
    with recorder.counted(found, "release"):
        for name in names:
            store.release_dependents(name, NOW)
        await database.write()
    with recorder.counted(found, "confirm"):
        for name in names:
            store.confirm_open(name)
        await database.write()
    assert await store.depths("queued") == {("open", "queued"): others}
    await database.close()
    return found


async def test_the_length_of_the_queue_does_not_matter(tmp_path: Path) -> None:
    """Whatever is done with 64 entries takes as many steps with 5,000 others queued as with 100."""
    few, many = tmp_path / "few", tmp_path / "many"
    short, long = await steps_to_send(few, FEW), await steps_to_send(many, MANY)
    assert long == {part: pytest.approx(count, rel=0.1) for part, count in short.items()}
