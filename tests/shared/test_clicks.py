"""One window of clicks for all replicas, in a real server that stalls, fails and forgets."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from service.resolve.errors import StoreFailed
from service.resolve.matching import Click
from service.store.sealing import Seal
from service.store.shared_clicks import SharedClicks
from service.store.valkey import Valkey
from service.telemetry import Metrics, configure_logs
from tests.fake_events import World
from tests.shared.server import Server
from tests.support import until

SECRETS = ("a secret for tests of 32 characters or more",)
OLD_S = 1000.0  # beyond the overlap of two fetches, within the window


class Shared(SharedClicks):
    """A replica's share, which fails as often as it is told to."""

    def __init__(self, valkey: Valkey) -> None:
        super().__init__(valkey, Seal(SECRETS), "acme", 3600)
        self.failures = 0

    async def share(self, clicks: Sequence[tuple[int, Click]]) -> None:
        if self.failures:
            self.failures -= 1
            raise StoreFailed("Valkey: TimeoutError")
        await super().share(clicks)


@pytest.fixture
async def valkey(server: Server) -> AsyncIterator[Valkey]:
    found = Valkey(server.url, Metrics().valkey_faults, configure_logs("critical"), time.monotonic)
    yield found
    await found.close()


async def test_a_click_whose_sharing_failed_is_shared_later(valkey: Valkey) -> None:
    """What one replica found while the server did not take it, the others have after its next fetch."""
    shares = Shared(valkey)
    here = World(together=shares)
    there = World(together=Shared(valkey), beside=here)
    here.dub.click("one", OLD_S)
    shares.failures = 1
    assert await here.sync() == "unavailable"
    here.clock.advance(10)
    assert await here.sync() == "synced"
    here.clock.advance(10)
    assert await there.sync() == "synced"
    assert there.held == {"one"}


async def test_a_server_that_forgot_is_told_everything_again(server: Server, valkey: Valkey) -> None:
    """After a restart without its data, a new replica has the whole window, also what others knew before."""
    shares = Shared(valkey)
    here = World(together=shares)
    here.dub.click("one", OLD_S)
    assert await here.sync() == "synced"
    with server.client as client:
        client.flushall()
    shares.failures = 1
    here.clock.advance(10)
    assert await here.sync() == "unavailable"
    here.clock.advance(10)
    assert await here.sync() == "synced"
    here.clock.advance(10)
    there = World(together=Shared(valkey), beside=here)
    assert await there.sync() == "synced"
    assert there.held == {"one"}


async def test_a_turn_that_the_server_forgot_ends_nobody_elses_wait(server: Server, valkey: Valkey) -> None:
    """Who waits gets a fetch that began after its question, whatever the server lost meanwhile."""
    stopped, fetching, waiting = (Shared(valkey) for _ in range(3))
    for _ in range(5):
        assert (await stopped.turn())[0]
        await stopped.over(1, {})
    assert (await stopped.turn())[0]
    with server.client as client:
        client.flushall()
    await stopped.over(2, {})
    assert await fetching.turn() == (True, 0, {})
    wait = asyncio.create_task(waiting.turn())
    done, _ = await asyncio.wait([wait], timeout=0.3)
    assert not done
    await fetching.over(3, {"timestamp": 7})
    assert await wait == (True, 3, {"timestamp": 7})


async def test_a_turn_whose_reply_got_lost_is_taken_again(valkey: Valkey) -> None:
    """A replica that never heard that it is its turn does not keep everybody waiting for its end."""
    here = Shared(valkey)
    assert (await here._ask_for_turn(1))[0]
    assert await asyncio.wait_for(here.turn(), 5) == (True, 0, {})


async def test_what_one_replica_cannot_read_is_final_for_no_other(valkey: Valkey) -> None:
    """Who waits for another's fetch hears that some events could not be read, as if it had asked itself."""
    first = World(together=Shared(valkey))
    others = [World(together=Shared(valkey), beside=first) for _ in range(3)]
    first.dub.odd({"click": {}})
    first.dub.gate = asyncio.Event()
    syncs = [asyncio.create_task(first.sync())]
    await until(lambda: first.dub.queries)
    syncs += [asyncio.create_task(each.sync()) for each in others]
    first.dub.gate.set()
    assert set(await asyncio.gather(*syncs)) == {"unreadable"}
    assert [each.feed.unread for each in others] == [{"malformed": 1}] * 3
    assert len(first.dub.queries) < 4
