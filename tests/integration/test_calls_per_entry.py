"""An entry that always fails, and a sale of an unknown customer, cost few calls to Dub."""

import json
from collections import Counter
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.integration.test_conversions import LEAD_ANSWER
from tests.integration.world import AS_SERVER, World, build
from tests.support import FakeClock, FakeDub, LogLines, Service

LEAD = {"eventName": "Sign up", "clickId": "click00000000000"}
SALE = {"customerExternalId": "nobody", "amount": 500}
ATTEMPTS_MAX = 5  # in the minute for which a customer may still show up


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the outbox look at the (fake) clock often."""
    monkeypatch.setattr("service.outbox.drain.POLL_S", 0.01)


@pytest.fixture
async def world(clock: FakeClock, logs: LogLines) -> AsyncIterator[World]:  # noqa: ARG001
    async for each in build(clock):
        yield each


async def test_an_entry_that_always_fails_is_not_hastened_by_others(service: Service, dub: FakeDub) -> None:
    """Others that succeed beside it are no news that Dub is back: it keeps to its own time."""
    tries: Counter[str] = Counter()

    async def script(request: httpx.Request) -> httpx.Response:
        customer = json.loads(request.content)["customerExternalId"]
        tries[customer] += 1
        if customer == "poison":
            return httpx.Response(500)
        return httpx.Response(200, json=LEAD_ANSWER)

    dub.script = script
    for customer in ("poison", *(f"user-{number}" for number in range(30))):
        reply = await service.post("/v1/leads", json={**LEAD, "customerExternalId": customer})
        assert reply.status_code == (202 if customer == "poison" else 200)
    assert tries["poison"] == 1
    assert len(tries) == 31


async def test_a_sale_of_nobodys_costs_few_calls(world: World) -> None:
    """Most are organic: its customer is waited for, but hardly asked about; then it is dead."""
    reply = await world.service.post("/track/sale", json=SALE, headers=AS_SERVER)
    assert (reply.status_code, reply.headers["firstopen-queued"]) == (200, "true")

    async def dead() -> bool:
        metrics = (await world.service.get("/metrics")).text
        return 'firstopen_outbox_dead_entries{kind="sale"} 1.0' in metrics

    await world.eventually(dead, step_s=1)
    assert 2 <= await world.calls("/track/sale") <= ATTEMPTS_MAX
    assert await world.calls("/track/lead") == 0
