"""Dub's calls per second, which replicas share."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import structlog

from service.domain.errors import OverBudget
from service.storage import call_budgets
from service.storage.call_budgets import SharedCallBudget
from service.storage.database import Database
from service.storage.statements import Statement
from tests.storage.conftest import MakeEngine

PER_S = 5


@pytest.fixture
async def databases(make_engine: MakeEngine) -> AsyncIterator[list[Database]]:
    """Return what three replicas would have: connections to one database."""
    found = [Database(make_engine(), structlog.get_logger()) for _ in range(3)]
    for each in found:
        await each.open()
    yield found
    for each in found:
        await each.close()


@pytest.fixture
def budgets(databases: list[Database], monkeypatch: pytest.MonkeyPatch) -> list[SharedCallBudget]:
    """Return the budgets of three replicas, in which a second lasts a minute: a busy machine is no excuse."""
    monkeypatch.setattr(call_budgets, "_WINDOW_MS", 60_000)
    monkeypatch.setattr(call_budgets, "_TIMEOUT_S", 30)
    return [SharedCallBudget(each, "a secret") for each in databases]


async def spent(budget: SharedCallBudget, workspace: str = "dub_x", per_s: int = PER_S) -> bool:
    try:
        await budget.spend(workspace, per_s)
    except OverBudget:
        return False
    return True


async def test_no_second_has_more_calls(databases: list[Database], budgets: list[SharedCallBudget]) -> None:
    """However many replicas ask at the same moment. A call is free again a second after it was made."""
    for _ in range(2):
        calls = await asyncio.gather(*(spent(budgets[number % 3]) for number in range(30)))
        assert sum(calls) == PER_S
        await databases[0].write(Statement("UPDATE call_budgets SET free_at = free_at - 60000"))


async def test_a_refusal_says_when_there_is_a_call_again(
    databases: list[Database], budgets: list[SharedCallBudget]
) -> None:
    await asyncio.gather(*(spent(budgets[0]) for _ in range(PER_S)))
    await databases[0].write(Statement("UPDATE call_budgets SET free_at = {now_ms} + 50000 WHERE slot = 3"))
    with pytest.raises(OverBudget) as refused:
        await budgets[1].spend("dub_x", PER_S)
    assert 20 < refused.value.retry_after_s < 51


async def test_workspaces_and_plans_have_budgets_of_their_own(budgets: list[SharedCallBudget]) -> None:
    """A plan that allows more is used at once; one that allows less, too."""
    assert [await spent(budgets[0]) for _ in range(PER_S + 1)] == [*[True] * PER_S, False]
    assert await spent(budgets[1], "dub_y")
    assert await spent(budgets[1], per_s=PER_S + 1)
    assert not await spent(budgets[2], per_s=PER_S + 1)
    assert not await spent(budgets[2], per_s=1)


async def test_a_database_that_fails_stops_no_call(make_engine: MakeEngine) -> None:
    """Each replica counts for itself then."""
    database = Database(make_engine(), structlog.get_logger())
    await database.open()
    budget = SharedCallBudget(database, "a secret")
    await database.close()
    assert [await spent(budget) for _ in range(PER_S + 1)] == [True] * (PER_S + 1)
