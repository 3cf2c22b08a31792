"""Pages of events for many callers, out of a budget that replicas share."""

import asyncio
import contextlib
from itertools import pairwise
from random import Random
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


def spend_or_wait(budget: CallBudget, clock: FakeClock, per_s: int, sync_of: str | None) -> float:
    """Spend a call as soon as there is one; return when."""
    while True:
        try:
            budget.spend("dub_x", per_s, sync_of=sync_of)
        except OverBudget as exc:
            clock.advance(exc.retry_after_s + 1e-6)
        else:
            return clock()


@pytest.mark.parametrize("per_s", [1, 2, 3, 4, 8, 16, 100])
def test_syncs_are_paced(per_s: int) -> None:
    """The first half of a second's calls (at least 2) are made at once, the others at even intervals.

    No second has more calls than the plan allows (dub-api.md, "GET /events": analytics calls per second).
    """
    clock = FakeClock()
    budget = CallBudget(clock)
    began = clock()
    made = [spend_or_wait(budget, clock, per_s, "acme") for _ in range(6 * per_s)]
    gaps = [later - earlier for earlier, later in pairwise(made)]
    at_once = max(per_s // 2, 2)
    assert made[min(at_once, per_s) - 1] == began
    if per_s > 2:
        assert max(gaps) <= 2 / per_s
        assert max(gaps[3 * per_s :]) <= 1.1 / per_s
    assert all(later - earlier >= 1 for earlier, later in zip(made, made[per_s:], strict=False))
    assert made[-1] - began < 6.1


def test_apps_of_a_workspace_are_paced_together() -> None:
    """Three apps that sync all the time each begin a sync about every second or sooner."""
    clock = FakeClock()
    budget = CallBudget(clock)
    waiting = {"acme": clock(), "globex": clock(), "initech": clock()}
    waits: list[float] = []
    while clock() < 1020:
        for app, since in waiting.items():
            with contextlib.suppress(OverBudget):
                budget.spend("dub_x", 4, sync_of=app)
                waits.append(clock() - since)
                waiting[app] = clock()
        clock.advance(0.01)
    assert max(waits) < 1.1
    assert len(waits) > 4 * 19


@pytest.mark.parametrize("order", [("acme", None), (None, "acme")])
def test_a_sync_begins_beside_one_of_many_pages(order: tuple[str | None, str | None]) -> None:
    """A sync begins within about a second, although another sync takes every call that is free."""
    clock, random = FakeClock(), Random(1)
    budget = CallBudget(clock)
    waiting_since, waits = clock(), list[float]()
    while clock() < 1060:
        for sync_of in order:
            with contextlib.suppress(OverBudget):
                budget.spend("dub_x", 4, sync_of=sync_of)
                if sync_of is not None:
                    waits.append(clock() - waiting_since)
                    waiting_since = clock()
        clock.advance(random.uniform(0.01, 0.1))  # how long a page takes
    assert max(waits) < 1.2
    assert len(waits) > 50


def test_a_sync_keeps_its_scheduled_time() -> None:
    """Also if other calls, which are not paced, have used up the calls of that time."""
    clock = FakeClock()
    budget = CallBudget(clock)
    for _ in range(4):
        budget.spend("dub_x", 4)
    for app in ("acme", "globex"):
        with pytest.raises(OverBudget):
            budget.spend("dub_x", 4, sync_of=app)
    clock.advance(1.1)
    for _ in range(4):
        budget.spend("dub_x", 4)
    clock.advance(1.1)
    for _ in range(2):
        budget.spend("dub_x", 4)
    for app in ("acme", "globex"):
        budget.spend("dub_x", 4, sync_of=app)


def test_a_scheduled_sync_that_never_begins_delays_no_other() -> None:
    clock = FakeClock()
    budget = CallBudget(clock)
    for _ in range(2):
        budget.spend("dub_x", 4, sync_of="acme")
    with pytest.raises(OverBudget):
        budget.spend("dub_x", 4, sync_of="globex")
    clock.advance(60)
    for _ in range(2):
        budget.spend("dub_x", 4, sync_of="acme")


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
