"""Pages of events for many callers, out of a budget that replicas share."""

import asyncio
from itertools import pairwise
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


@pytest.mark.parametrize("per_s", [2, 4, 16, 100])
def test_calls_of_many_opens_are_spread_over_the_second(per_s: int) -> None:
    """The first two are made at once; then none waits for much longer than an even share of the second."""
    clock = FakeClock()
    budget = CallBudget(clock)
    made: list[float] = []
    while clock() < 1004:
        try:
            budget.spend("dub_x", per_s, spread=True)
        except OverBudget as exc:
            clock.advance(max(exc.retry_after_s, 1e-6))
        else:
            made.append(clock())
    gaps = [later - earlier for earlier, later in pairwise(made)]
    assert gaps[0] == 0
    assert max(gaps) <= (1 if per_s == 2 else 1.5 / per_s)
    assert len(made) >= 4 * per_s
    assert all(later - earlier >= 1 - 1e-6 for earlier, later in zip(made, made[per_s:], strict=False))


def test_further_pages_are_not_spread() -> None:
    """A sync that has begun ends as soon as the budget allows; then the next one waits for its share."""
    clock = FakeClock()
    budget = CallBudget(clock)
    budget.spend("dub_x", 4, spread=True)
    budget.spend("dub_x", 4)
    budget.spend("dub_x", 4)
    with pytest.raises(OverBudget) as refused:
        budget.spend("dub_x", 4, spread=True)
    assert refused.value.retry_after_s == 0.5
    budget.spend("dub_x", 4)
    with pytest.raises(OverBudget) as refused:
        budget.spend("dub_x", 4)
    assert refused.value.retry_after_s == 1


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
