"""The outbox's entries in a real Valkey: what two replicas may and may not do at the same time."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from service.resolve.errors import StoreFailed
from service.resolve.owed import Entry, Kind
from service.store.sealing import Seal
from service.store.shared_entries import KEY, SharedEntries
from service.store.valkey import Valkey
from service.telemetry import Metrics, configure_logs
from tests.shared.server import Server

NOW = 1_785_585_600.0
KINDS: tuple[Kind, ...] = ("open", "lead", "sale")
SECRETS = ("a secret for tests of 32 characters or more",)


@asynccontextmanager
async def replica(server: Server, abandoned_s: float = 15) -> AsyncIterator[SharedEntries]:
    log = configure_logs("critical")
    valkey = Valkey(server.url, Metrics().valkey_faults, log, time.monotonic)
    entries = SharedEntries(valkey, Seal(SECRETS), time.monotonic, abandoned_s)
    entries.start()
    try:
        yield entries
    finally:
        await entries.close()
        await valkey.close()


@pytest.fixture
async def here(server: Server) -> AsyncIterator[SharedEntries]:
    async with replica(server) as entries:
        yield entries


@pytest.fixture
async def there(server: Server) -> AsyncIterator[SharedEntries]:
    async with replica(server) as entries:
        yield entries


def entry(entry_id: str, lane: str = "anna", kind: Kind = "lead", **fields: object) -> Entry:
    known = {"app": "acme", "created": NOW, "next_try": NOW, "payload": b'{"who": "anna@acme.com"}'}
    return Entry(**{"id": entry_id, "lane": lane, "kind": kind, **known, **fields})  # type: ignore[arg-type]


async def due(entries: SharedEntries, now: float = NOW, held: tuple[tuple[str, Kind], ...] = ()) -> list[str]:
    return [each.id for each in await entries.due(KINDS, now, 100, held)]


async def test_what_one_replica_accepts_is_its_own_to_send(here: SharedEntries, there: SharedEntries) -> None:
    """An entry is in one replica's hands only; delivered, it is nobody's, and its contents are gone."""
    assert await here.add(entry("lead-1")) is False
    assert await due(there) == []
    assert await due(here) == ["lead-1"]
    here.finish(entry("lead-1"), "delivered", "", NOW)
    assert await due(here) == await due(there) == []
    status = await here.status("lead-1")
    assert status is not None
    assert status.state == "delivered"
    found = await here.found("lead-1")
    assert found is not None
    assert found[1] is None


async def test_one_customers_entries_go_one_after_the_other(
    here: SharedEntries, there: SharedEntries
) -> None:
    """Across replicas, the second waits for the first to be delivered, however often that fails."""
    await here.add(entry("lead-1"))
    assert await there.add(entry("lead-2")) is True
    await there.add(entry("other", lane="ben"))
    assert await due(there) == ["other"]
    here.put_off("lead-1", NOW + 5, "DubFailed: status 500")
    assert await due(here) == []
    assert await due(there, NOW + 4) == ["other"]
    assert await due(there, NOW + 5) == ["other", "lead-1"]
    (_, again) = await there.due(KINDS, NOW + 5, 100, ())
    assert (again.attempts, again.payload) == (1, b'{"who": "anna@acme.com"}')
    there.finish(again, "delivered", "", NOW + 5)
    assert await due(there, NOW + 5) == ["other", "lead-2"]
    assert await due(here, NOW + 5) == []


async def test_a_dead_replicas_entries_are_taken_over(server: Server, there: SharedEntries) -> None:
    """What a killed replica had in hand goes to another one after a while, and to one only."""
    async with replica(server, 15) as killed:
        await killed.add(entry("lead-1"))
        killed._beating.cancel()  # type: ignore[union-attr]
        killed._beating = None  # it leaves nothing in order
    async with replica(server, 0.2) as third:
        assert await due(there) == []
        await until(third, ["lead-1"])
        assert await due(there) == []
        third.finish(entry("lead-1"), "delivered", "", NOW)
        assert await due(third) == []
    with server.client as client:
        assert client.xlen(f"{KEY}:stream") == 0
        assert client.xpending(f"{KEY}:stream", "firstopen")["pending"] == 0


async def test_a_replica_that_stood_still_asks_what_is_its_own(server: Server) -> None:
    """After a pause longer than the others waited, an entry that was taken over is not sent again."""
    async with replica(server, 0.2) as stalled, replica(server, 0.2) as other:
        await stalled.add(entry("lead-1"))
        stalled._beating.cancel()  # type: ignore[union-attr]
        await until(other, ["lead-1"])
        assert await due(stalled) == []


async def test_a_stopped_replica_leaves_at_once(server: Server, there: SharedEntries) -> None:
    """A replica that is told to stop hands over what it has not sent; nobody waits for it."""
    async with replica(server) as stopping:
        await stopping.add(entry("lead-1"))
        assert await due(there) == []
    assert await due(there) == ["lead-1"]


async def test_an_open_is_owed_once(here: SharedEntries, there: SharedEntries) -> None:
    """Two replicas that owe the same open keep one entry; once Dub has it, there is none."""
    here.owe(entry("open-1", lane="key", kind="open"))
    assert await here.depths("queued") == {("open", "queued"): 1}
    there.owe(entry("open-1", lane="key", kind="open"))
    assert await there.depths("queued") == {("open", "queued"): 1}
    there.drop("open-1")
    assert await there.depths("queued") == {}
    assert await due(here) == []


async def test_a_lead_waits_for_its_open_on_any_replica(here: SharedEntries, there: SharedEntries) -> None:
    """Whoever settles the open lets go what another replica accepted for it."""
    await here.add(entry("lead-1", waits_for="open-1", next_try=NOW + 30))
    assert await due(here) == await due(there) == []
    await there.release("open-1", NOW)
    assert await due(there) == ["lead-1"]


async def test_held_kinds_stay(here: SharedEntries) -> None:
    """What a circuit breaker holds back is not returned, and does not stand in the way of the rest."""
    for number in range(200):
        here.owe(entry(f"open-{number}", lane=f"key-{number}", kind="open"))
    here.owe(entry("sale-1", lane="ben", kind="sale"))
    await written(here)
    assert await due(here, held=(("acme", "open"),)) == ["sale-1"]
    assert len(await due(here)) == 100 + 1


async def test_dead_letters_are_kept_and_revived(here: SharedEntries, server: Server) -> None:
    """A dead letter is in a stream of its own, sealed; revived, it is due again, and no dead letter."""
    await here.add(entry("lead-1"))
    here.finish(entry("lead-1"), "dead", "Dub refused it: 422", NOW)
    assert [(each.id, each.reason) for each in await here.listed("dead", 10)] == [
        ("lead-1", "Dub refused it: 422")
    ]
    with server.client as client:
        assert client.xlen(f"{KEY}:dead") == 1
        assert b"anna@" not in client.hget(f"{KEY}:e:lead-1", "sealed")
    assert await here.revive(None, NOW + 1) == 1
    assert await due(here, NOW + 1) == ["lead-1"]
    assert await here.depths("dead", "queued") == {("lead", "queued"): 1}
    with server.client as client:
        assert client.xlen(f"{KEY}:dead") == 0


async def test_what_is_too_old_dies(here: SharedEntries) -> None:
    """Expired entries become dead letters, delivered ones of that age are forgotten."""
    await here.add(entry("lead-1"))
    await here.add(entry("lead-2"))
    await here.add(entry("lead-3", lane="ben"))
    here.finish(entry("lead-3", lane="ben"), "delivered", "", NOW)
    assert await here.oldest() == NOW
    assert await here.expire(NOW + 1, NOW + 2) == 2
    assert await here.depths("queued", "delivered", "dead") == {("lead", "dead"): 2}
    assert await here.status("lead-3") is None
    assert await here.oldest() is None


async def test_all_that_is_too_old_dies_at_once(server: Server, here: SharedEntries) -> None:
    """However many there are; and a dead letter lasts as long as it is listed, however old it was."""
    for number in range(600):
        here.owe(entry(f"open-{number}", lane=f"key-{number}", kind="open"))
    await written(here)
    with server.client as client:
        client.expire(f"{KEY}:e:open-7", 60)
        assert await here.expire(NOW + 1, NOW + 2) == 600
        assert client.ttl(f"{KEY}:e:open-7") > 80 * 86_400
    assert await here.depths("queued", "dead") == {("open", "dead"): 600}


async def test_every_queued_entry_can_be_hastened(here: SharedEntries) -> None:
    """When Dub is back, what was put off is due at once, but for what waits or what Dub gave a time."""
    here.owe(entry("open-1", lane="key", kind="open", next_try=NOW + 60))
    here.owe(entry("open-2", lane="key-2", kind="open", next_try=NOW + 30))
    here.owe(entry("open-3", lane="key-3", kind="open"))
    await here.add(entry("lead-1", waits_for="open-9", next_try=NOW + 30))
    assert await due(here) == ["open-3"]
    here.put_off("open-3", NOW + 20, "DubThrottled: status 429")
    await here.hasten(NOW)
    assert sorted(await due(here)) == ["open-1", "open-2"]
    assert sorted(await due(here, NOW + 20)) == ["open-1", "open-2", "open-3"]
    assert "lead-1" in await due(here, NOW + 30)  # whatever lets it go may be missed


async def test_each_kind_has_its_share(here: SharedEntries) -> None:
    """Entries of one kind do not stand in the way of another; a kind that is not asked for stays."""
    for number in range(150):
        here.owe(entry(f"open-{number}", lane=f"key-{number}", kind="open"))
    here.owe(entry("sale-1", lane="ben", kind="sale"))
    await written(here)
    assert [each.id for each in await here.due(["sale"], NOW, 100, ())] == ["sale-1"]
    found = await here.due(["open", "sale"], NOW, 100, ())
    assert len(found) == 100 + 1


async def test_what_is_to_be_forgotten_is(here: SharedEntries, there: SharedEntries) -> None:
    """Entries of an install go whatever became of them, and nobody else's do."""
    await here.add(entry("lead-1", whose="device-anna"))
    await here.add(entry("lead-2", lane="anna-2", whose="open-1"))
    await here.add(entry("lead-3", lane="ben", whose="device-ben"))
    here.finish(entry("lead-2", lane="anna-2", whose="open-1"), "dead", "x", NOW)
    assert await here.depths("dead") == {("lead", "dead"): 1}
    assert await there.forget(["device-anna", "open-1", "nobody"]) == 2
    assert await there.depths("queued", "dead") == {("lead", "queued"): 1}
    assert await there.forget(["device-anna", "open-1"]) == 0


async def test_nothing_is_acknowledged_while_the_server_is_away(server: Server, here: SharedEntries) -> None:
    """An entry is refused without a server; what is owed waits, and is there when the server is back."""
    server.stop()
    with pytest.raises(StoreFailed):
        await here.add(entry("lead-1"))
    here.owe(entry("open-1", lane="key", kind="open"))
    server.start()
    await until(here, ["open-1"])
    assert await here.status("lead-1") is None


async def test_an_entry_that_arrives_after_its_refusal_is_not_sent(
    server: Server, here: SharedEntries
) -> None:
    """A stalled server that takes an entry late, after its caller heard of a failure, does not keep it."""
    await here.depths("queued")
    server.signal(signal.SIGSTOP)
    with pytest.raises(StoreFailed):
        await here.add(entry("lead-1"))
    server.signal(signal.SIGCONT)
    assert await here.add(entry("lead-2", lane="ben")) is False
    assert await due(here) == ["lead-2"]
    assert await here.depths("queued") == {("lead", "queued"): 1}


async def test_every_key_has_a_version_a_shard_and_an_end(server: Server, here: SharedEntries) -> None:
    """Keys of the outbox are on one shard of a Cluster, and none of them stays for ever."""
    await here.add(entry("lead-1", waits_for="open-1", whose="device", next_try=NOW + 30))
    here.owe(entry("open-2", lane="key", kind="open"))
    assert await due(here) == ["open-2"]
    here.finish(entry("open-2", lane="key", kind="open"), "dead", "x", NOW)
    await here.depths("dead")
    with server.client as client:
        keys = list(client.scan_iter())
        assert keys
        for key in keys:
            assert key.startswith(b"fo1:{outbox}:")
            assert client.ttl(key) > 0, key


async def test_what_is_set_down_is_anybodys(here: SharedEntries, there: SharedEntries) -> None:
    """What a replica accepts while Dub is held back does not stay in its hands, and is no attempt."""
    await here.add(entry("lead-1"))
    await here.add(entry("lead-2"))
    here.set_down("lead-1")
    assert here._mine == {}
    assert await due(here, held=(("acme", "lead"),)) == []
    (taken,) = await there.due(KINDS, NOW, 100, ())
    assert (taken.id, taken.attempts) == ("lead-1", 0)
    here.set_down("lead-1")  # not its own any more
    assert await due(here) == []


async def test_thousands_in_hand_are_beaten_and_left(server: Server) -> None:
    """However much a replica has in hand, it says so in time, and leaves all of it at a stop."""
    many = 9_000  # more than a script takes as arguments
    async with replica(server) as here:
        for start in range(0, many, 50):
            adding = (here.add(entry(f"lead-{at}", lane=f"lane-{at}")) for at in range(start, start + 50))
            assert not any(await asyncio.gather(*adding))
        await here._beat()
        assert len(here._mine) == many
    with server.client as client:
        assert client.xpending(f"{KEY}:stream", "firstopen")["pending"] == 0
        assert client.zcard(f"{KEY}:due:lead:acme") == many


async def written(entries: SharedEntries) -> None:
    """Wait for what is written behind, on however busy a machine."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(StoreFailed):
            return await entries._behind.flush()
        await asyncio.sleep(0.02)
    raise AssertionError("it was never written")


async def until(entries: SharedEntries, ids: list[str], moment: Callable[[], float] = time.monotonic) -> None:
    deadline = moment() + 10
    while moment() < deadline:
        try:
            found = await due(entries)
        except StoreFailed:
            found = []
        if found == ids:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it never came to that")
