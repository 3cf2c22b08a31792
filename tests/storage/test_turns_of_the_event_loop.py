"""A burst of leads is written without holding the event loop: other requests are answered meanwhile."""

import asyncio
import gc
import time
from collections.abc import Callable, Iterator

import pytest

from service.domain.outbox_entries import Added, Entry, LeadKeys
from service.storage.database import Database
from service.storage.encryption import Cipher
from service.storage.outbox import SqlOutboxStore

LEADS = 2000
LONGEST_S = 0.02
TRIES = 3


def lead(name: str) -> Entry:
    return Entry(
        id=name,
        app="acme",
        kind="lead",
        ordering_key=f"customer {name}",
        created=time.time(),
        next_try=time.time(),
        keys=LeadKeys(event=f"event {name}"),
        payload=b'{"eventName":"Sign up"}' * 10,
    )


@pytest.fixture
def longest_turn(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], float]]:
    """Return what tells the longest turn since it was last asked, in CPU seconds of this thread."""
    run, longest = asyncio.Handle._run, 0.0

    def timed(self: asyncio.Handle) -> None:
        nonlocal longest
        began = time.thread_time()
        run(self)
        longest = max(longest, time.thread_time() - began)

    def ask() -> float:
        nonlocal longest
        found, longest = longest, 0.0
        return found

    monkeypatch.setattr(asyncio.Handle, "_run", timed)
    gc.disable()  # how long it takes depends on what other tests have left in memory
    yield ask
    gc.enable()


async def test_a_burst_is_written_in_short_turns(
    database: Database, longest_turn: Callable[[], float]
) -> None:
    """2,000 leads are added and marked as delivered."""
    store = SqlOutboxStore(database, Cipher(["one"]), time.time)
    longest = []
    for attempt in range(TRIES):
        leads = [lead(f"{attempt} {number}") for number in range(LEADS)]
        await asyncio.sleep(0)
        longest_turn()
        adding = []
        for number, each in enumerate(leads):
            adding.append(asyncio.create_task(store.add(each, leased=True)))
            if number % 64 == 0:
                await asyncio.sleep(0)
        for number, (each, task) in enumerate(zip(leads, adding, strict=True)):
            assert await task == Added(behind_another=False)
            store.finish(each, "delivered", "")
            if number % 64 == 0:
                await asyncio.sleep(0)
        await database.flush()
        longest.append(longest_turn())
    assert await store.depths("delivered") == {("lead", "delivered"): TRIES * LEADS}
    assert min(longest) < LONGEST_S, longest
