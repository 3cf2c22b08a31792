"""Pages of events for many callers, out of a budget that replicas share."""

import asyncio
from urllib.parse import urlencode

import pytest

from service.domain.errors import OverBudget
from service.dub.event_feed import CallBudget, EventFeed
from tests.fake_events import APP, FakeEvents, iso
from tests.support import FakeClock, background


class Shared:
    """A budget that takes a moment to answer."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    async def spend(self, _workspace: str, _per_s: int) -> None:
        await asyncio.sleep(0)
        self.calls -= 1
        if self.calls < 0:
            raise OverBudget(0.5)


async def test_a_page_that_many_ask_for_is_asked_for_once() -> None:
    """Also while the shared budget is asked: it is spent once, and so is Dub's patience."""
    clock = FakeClock()
    dub, shared = FakeEvents(clock), Shared(1)
    feed = EventFeed(dub, CallBudget(clock), background(), shared)
    query = urlencode({"start": iso(0), "end": iso(dub.now), "page": 1, "limit": 10})
    pages = await asyncio.gather(*(feed.page(APP, query) for _ in range(5)))
    assert len(dub.queries) == 1
    assert len(set(map(id, pages))) == 1
    assert shared.calls == 0
    await feed.close()


async def test_all_who_ask_hear_of_a_shared_budget_that_is_spent() -> None:
    """With the time after which there is a call again; Dub is not asked, and is when there is one."""
    clock = FakeClock()
    dub, shared = FakeEvents(clock), Shared(0)
    feed = EventFeed(dub, CallBudget(clock), background(), shared)
    query = urlencode({"start": iso(0), "end": iso(dub.now), "page": 1, "limit": 10})
    refused = await asyncio.gather(*(feed.page(APP, query) for _ in range(3)), return_exceptions=True)
    assert [str(each) for each in refused] == [str(OverBudget(0.5))] * 3
    assert dub.queries == []
    shared.calls = 1
    clock.advance(1)
    await feed.page(APP, query)
    assert len(dub.queries) == 1
    with pytest.raises(OverBudget):
        await feed.page(APP, query + "&page=2")
    await feed.close()
