"""A database that answers slowly: an open waits for it 50 ms, a lead or a match by address 250 ms."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from service.app import create_app
from service.config.settings import parse
from service.storage import claims, network_activity, opens, outbox
from service.storage.engines.sqlite import SqliteEngine
from tests.support import ANNA, BEN, CONFIG, ENV, FB_PROMO, FakeDub, running

SLOW_S = 2.0
NOISE_S = 0.5  # of this machine, when it is busy
LEAD = {"eventName": "Sign up", "customerExternalId": "anna"}


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch, unhurried: None) -> None:  # noqa: ARG001  which is undone here
    """Wait for the database as in production."""
    monkeypatch.setattr(opens, "LOOKUP_TIMEOUT_S", 0.05)
    monkeypatch.setattr(claims, "CLAIM_TIMEOUT_S", 0.25)
    monkeypatch.setattr(network_activity, "_TIMEOUT_S", 0.25)
    monkeypatch.setattr(outbox, "WRITE_TIMEOUT_S", 0.25)


async def test_a_slow_database_costs_an_open_and_a_lead_little(
    dub: FakeDub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opens are answered by Dub all the same; a lead that cannot be committed in time is refused, not kept
    waiting; once the database is quick again, so is everything, without a restart.
    """
    slow = asyncio.Event()
    fetch, commit = SqliteEngine.fetch, SqliteEngine.commit

    async def slowly_fetched(engine: SqliteEngine, queries: Sequence[Any]) -> Any:
        if slow.is_set():
            await asyncio.sleep(SLOW_S)
        return await fetch(engine, queries)

    async def slowly_committed(engine: SqliteEngine, units: Sequence[Any]) -> Any:
        if slow.is_set():
            await asyncio.sleep(SLOW_S)
        return await commit(engine, units)

    monkeypatch.setattr(SqliteEngine, "fetch", slowly_fetched)
    monkeypatch.setattr(SqliteEngine, "commit", slowly_committed)
    loop = asyncio.get_running_loop()
    async with running(create_app(parse(CONFIG, ENV), transport=dub)) as service:
        await service.open(install_id=ANNA)  # the database has an open of this device: it is looked up
        slow.set()
        began = loop.time()
        opened = await service.open(FB_PROMO, install_id=ANNA, budget_ms=10_000)
        assert loop.time() - began < 0.05 + NOISE_S
        assert opened.click_id
        assert not opened.pending
        began = loop.time()
        first = await service.open(install_id=BEN, budget_ms=10_000)
        assert loop.time() - began < 0.05 + 2 * 0.25 + NOISE_S
        assert first.click_id is None
        began = loop.time()
        lead = {**LEAD, "clickId": opened.click_id}
        refused = await service.post("/v1/leads", json=lead)
        assert loop.time() - began < 0.25 + NOISE_S
        assert refused.status_code == 503
        slow.clear()
        for _ in range(200):
            reply = await service.post("/v1/leads", json=lead)
            if reply.status_code == 202:
                break
            await asyncio.sleep(0.05)
        assert reply.status_code == 202  # this Dub takes no leads
        assert (await service.open(FB_PROMO, install_id=ANNA)).repeat
