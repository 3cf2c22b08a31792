"""``kill -9`` loses no webhook of what was stored, and a backend that fails gets each once and in order."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.durability.processes import AS_APP, CONFIG, Killable, Sandbox, beside_a_sandbox
from tests.receiver import HOOK, SECRET, Receiver, Reports, bad_day, receiver

INSTALLS = 240
CLIENTS = 12
KILLED = 4
HEARD_WITHIN_S = 60


@pytest.fixture
async def backend() -> AsyncIterator[Receiver]:
    async with receiver() as each:
        yield each


@pytest.fixture
def ours(tmp_path: Path, backend: Receiver) -> Iterator[tuple[Killable, Sandbox]]:
    env = {"ACME_WEBHOOK_URL": backend.url, "ACME_WEBHOOK_SECRET": SECRET}
    with beside_a_sandbox(tmp_path, CONFIG.replace("[dub]", f"{HOOK}\n[dub]"), **env) as both:
        yield both


async def test_no_webhook_is_lost_by_kills(ours: tuple[Killable, Sandbox], backend: Receiver) -> None:
    """Killed four times, with a backend that fails, redirects, resets, is slow, and restarts."""
    service, _ = ours
    backend.script = bad_day(backend, seed=6)
    reports, chance = Reports(), random.Random(6)
    installs = iter(range(INSTALLS))

    async def kill() -> None:
        for number in range(1, KILLED + 1):
            await reports.reach(number * INSTALLS // (KILLED + 1))
            await asyncio.sleep(chance.uniform(0, 0.05))
            await asyncio.to_thread(service.kill)
            await backend.down()
            await asyncio.to_thread(service.start)
            await asyncio.to_thread(service.ready)
            await backend.up()

    async with httpx.AsyncClient(headers=AS_APP, timeout=20) as http:

        async def client() -> None:
            for number in installs:
                await reports.report(http, lambda: service.url, f"install-{number}")

        await asyncio.gather(kill(), *(client() for _ in range(CLIENTS)))
    assert len(reports.leads) >= INSTALLS
    await reports.heard(backend, HEARD_WITHIN_S)
    reports.check(backend)
    assert set(backend.paths) == {"/hooks"}
    await asyncio.to_thread(service.stop)
    assert {name: count for name, count in (await service.left_over()).items() if "webhook" in name} == {}
