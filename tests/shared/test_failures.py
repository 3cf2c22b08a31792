"""The server away, stalled or back, under load: no open fails, no lead is lost, no click is given twice."""

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.shared import conftest
from tests.shared.replicas import IPHONE, KEY, LIMITS, Replica, Sandbox, replica, sandbox
from tests.shared.server import Server

PROMO = "https://acme.link/fb-promo"
OPEN_MAX_S = 1.5  # the default budget, which none of these may spend
CLICKS = 200
CLIENTS = 8

Fault = Callable[[Server], Awaitable[None]]


class Load:
    """Opens and leads, one after the other from each of some clients, over both replicas."""

    def __init__(self, http: httpx.AsyncClient, bases: list[str]) -> None:
        self.http = http
        self.bases = bases
        self.failed: list[str] = []
        self.pending = self.opens = 0
        self.leads: list[tuple[str, str]] = []
        self.refused = 0
        self.clicks: Counter[str] = Counter()
        self.stopping = False

    async def client(self, name: int) -> None:
        number = 0
        while not self.stopping:
            number += 1
            await self.once(self.bases[(name + number) % 2], f"{name}-{number}", name)

    async def once(self, base: str, who: str, name: int) -> None:
        """Open with a link, which uses up clicks of its network, and without one, elsewhere."""
        loop = asyncio.get_running_loop()
        for ip, body in (
            (f"203.0.113.{name}", {"deepLink": PROMO, "installId": f"install-{who}"}),
            (f"198.51.100.{name}", {"dubDomain": "acme.link", "installId": f"first-{who}"}),
        ):
            began = loop.time()
            reply = await self.http.post(f"{base}/v1/opens", json=body, headers={"X-Forwarded-For": ip})
            self.opens += 1
            if reply.status_code != 200 or loop.time() - began > OPEN_MAX_S + 0.5:
                self.failed.append(f"{reply.status_code} after {loop.time() - began:.2f} s")
                continue
            answer = reply.json()
            self.pending += answer["pending"]
            if answer["match"]["type"] == "ip":
                self.clicks[answer["clickId"]] += 1
            if "deepLink" in body and answer["clickId"]:
                await self.lead(base, answer["clickId"], who)

    async def lead(self, base: str, click: str, who: str) -> None:
        body = {"clickId": click, "eventName": "Sign up", "customerExternalId": who}
        reply = await self.http.post(f"{base}/v1/leads", json=body)
        if reply.status_code in (200, 202):
            self.leads.append((reply.json()["leadId"], who))
        else:
            assert reply.status_code == 503, reply.text
            self.refused += 1


@asynccontextmanager
async def loaded(replicas: list[Replica]) -> AsyncIterator[Load]:
    headers = {"Authorization": f"Bearer {KEY}", "User-Agent": IPHONE}
    async with httpx.AsyncClient(headers=headers, timeout=30, limits=LIMITS) as http:
        load = Load(http, [each.base for each in replicas])
        async with asyncio.TaskGroup() as group:
            for name in range(CLIENTS):
                group.create_task(load.client(name))
            try:
                yield load
            finally:
                load.stopping = True


@pytest.fixture
def world(tmp_path: Path, server: Server) -> Iterator[tuple[Sandbox, list[Replica]]]:
    with ExitStack() as stack:
        dub = stack.enter_context(sandbox(tmp_path))
        yield dub, [stack.enter_context(replica(tmp_path, dub, server.url)) for _ in range(2)]


async def crashed(server: Server) -> None:
    await asyncio.to_thread(server.stop)


async def stalled(server: Server) -> None:
    server.signal(signal.SIGSTOP)


@pytest.mark.parametrize("fault", [crashed, stalled])
async def test_a_bad_minute_of_the_server(
    world: tuple[Sandbox, list[Replica]],
    server: Server,
    fault: Fault,
    record_property: Callable[[str, object], None],
) -> None:
    """Before, during and after: every open is answered in time, every accepted lead arrives once."""
    dub, replicas = world
    for number in range(CLICKS):
        await asyncio.to_thread(dub.click, f"198.51.100.{number % CLIENTS}")
    async with loaded(replicas) as load:
        await until(lambda: len(load.leads) > 20)
        await fault(server)
        opens = load.opens
        await until(lambda: all("Valkey" in "".join(each.degraded()) for each in replicas))
        await until(lambda: load.opens > opens + 200 and load.refused)
        await recovered(server, fault)
        await until(lambda: not any("Valkey" in "".join(each.degraded()) for each in replicas))
        leads = len(load.leads)
        await until(lambda: len(load.leads) > leads + 20)
    assert load.failed == []
    assert load.clicks
    assert not [click for click, count in load.clicks.items() if count > 1]
    assert all(each.metric("firstopen_valkey_faults_total") > 0 for each in replicas)
    for lead, _ in load.leads:
        await until(lambda lead=lead: delivered(replicas[0], lead))  # type: ignore[misc]
    events = Counter(event["customer"]["externalId"] for event in dub.events("leads"))
    assert not [who for who, count in events.items() if count > 1]
    assert {who for _, who in load.leads} <= events.keys()
    record_property(conftest.FAULTS, 1)
    record_property(conftest.OPENS, load.opens)
    record_property(conftest.PENDING, load.pending)
    record_property(conftest.LEADS, len(load.leads))
    record_property(conftest.CLICKS, len(load.clicks))


async def recovered(server: Server, fault: Fault) -> None:
    if fault is stalled:
        server.signal(signal.SIGCONT)
    else:
        await asyncio.to_thread(server.start)


def delivered(on: Replica, lead_id: str) -> bool:
    return bool(on.http.get(f"/v1/leads/{lead_id}").json().get("status") == "delivered")


async def until(condition: Callable[[], Any], within_s: float = 60) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while loop.time() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if await asyncio.to_thread(condition):
                return
        await asyncio.sleep(0.05)
    raise AssertionError("it never came to that")
