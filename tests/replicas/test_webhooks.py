"""Webhooks of two replicas on one database: one that dies leaves its own to the other."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.postgres import Postgres
from tests.receiver import HOOK, SECRET, Receiver, Reports, bad_day, receiver
from tests.replicas.processes import CONFIG, IPHONE, KEY, World, two_replicas

INSTALLS = 200
CLIENTS = 10
KILLED_AFTER = 80
HEARD_WITHIN_S = 60


@pytest.fixture
async def backend() -> AsyncIterator[Receiver]:
    async with receiver() as each:
        yield each


@pytest.fixture
def world(tmp_path: Path, postgres: Postgres, backend: Receiver) -> Iterator[World]:
    config = CONFIG.replace("[server]", f"{HOOK}\n[server]")
    env = {"ACME_WEBHOOK_URL": backend.url, "ACME_WEBHOOK_SECRET": SECRET}
    with two_replicas(tmp_path, postgres.database(), config=config, **env) as found:
        yield found


async def test_a_killed_replica_s_webhooks_are_sent_by_the_other(world: World, backend: Receiver) -> None:
    """Every stored open and acknowledged lead is reported once, in order, by whichever replica is left."""
    backend.script = bad_day(backend, seed=7)
    reports, installs, bases = Reports(), iter(range(INSTALLS)), [world.here.base, world.there.base]

    async def kill() -> None:
        await reports.reach(KILLED_AFTER)
        bases[:] = [world.there.base]
        world.here.process.popen.send_signal(signal.SIGKILL)

    headers = {"Authorization": f"Bearer {KEY}", "User-Agent": IPHONE}
    async with httpx.AsyncClient(headers=headers, timeout=20) as http:

        async def client() -> None:
            for number in installs:
                await reports.report(
                    http, lambda: bases[len(reports.leads) % len(bases)], f"install-{number}"
                )

        await asyncio.gather(kill(), *(client() for _ in range(CLIENTS)))
    assert len(reports.leads) >= INSTALLS
    await reports.heard(backend, HEARD_WITHIN_S)
    reports.check(backend)


async def test_replicas_report_an_install_once(world: World, backend: Receiver) -> None:
    """The same first launch reported to both at once is one open, and one event."""
    body = {"deepLink": "https://acme.link/fb-promo", "budgetMs": 5000}
    headers = {"Authorization": f"Bearer {KEY}", "User-Agent": IPHONE}
    async with httpx.AsyncClient(headers=headers, timeout=20) as http:
        for number in range(20):
            opened = {**body, "installId": f"install-{number}"}
            await asyncio.gather(
                *(http.post(f"{each.base}/v1/opens", json=opened) for each in (world.here, world.there))
            )
    await backend.has(20, within_s=HEARD_WITHIN_S)
    clicks = [each.event["data"]["clickId"] for each in backend.events]
    assert len(set(clicks)) == len(clicks) == 20
