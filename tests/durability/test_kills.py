"""``kill -9`` at any moment loses nothing that was acknowledged, and counts nothing twice."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.durability.conftest import ACKNOWLEDGED, KILLS, ONCE
from tests.durability.processes import AS_APP, AS_SERVER, FB_PROMO, Killable, Sandbox, beside_a_sandbox

KILLED = 12
LEADS = 1_200
CLIENTS = 24
INSTALLS = 20
RETRY_S = 0.1
DRAINED_S = 40
BAD_DAY: list[dict[str, Any]] = [
    {"route": "/track/lead", "reset": "before", "handled": True, "probability": 0.04, "seed": 1},
    {"route": "/track/lead", "reset": "midBody", "handled": True, "probability": 0.04, "seed": 2},
    {"route": "/track/lead", "status": 503, "probability": 0.03, "seed": 3},
    {
        "route": "/track/lead",
        "throttle": True,
        "retryAfterS": 0.2,
        "times": 3,
        "probability": 0.01,
        "seed": 4,
    },
    {"route": "/track/lead", "delayMs": 400, "probability": 0.02, "seed": 5},
]


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[tuple[Killable, Sandbox]]:
    with beside_a_sandbox(tmp_path) as both:
        yield both


@asynccontextmanager
async def client(service: Killable) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=service.url, headers=AS_APP, timeout=20, limits=limits) as http:
        yield http


async def insist(http: httpx.AsyncClient, method: str, path: str, **given: Any) -> httpx.Response:
    """Ask until somebody answers."""
    while True:
        try:
            return await http.request(method, path, **given)
        except httpx.TransportError:
            await asyncio.sleep(RETRY_S)


async def opened(http: httpx.AsyncClient, install: str, budget_ms: int = 5_000) -> dict[str, Any]:
    body = {"deepLink": FB_PROMO, "installId": install, "budgetMs": budget_ms}
    reply = await insist(http, "POST", "/v1/opens", json=body)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


class Crowd:
    """Clients that report leads, each of another customer, by every way there is."""

    def __init__(self, http: httpx.AsyncClient, opens: list[dict[str, Any]]) -> None:
        self._http = http
        self._opens = opens
        self._todo = iter(range(LEADS))
        self.acknowledged: dict[str, str] = {}
        self.statuses: Counter[int] = Counter()
        self.refused: list[str] = []
        self._milestone = LEADS
        self._reached = asyncio.Event()

    async def reaches(self, count: int) -> None:
        """Wait until so many leads are acknowledged."""
        self._milestone = count
        self._reached.clear()
        if len(self.acknowledged) < count:
            await self._reached.wait()

    async def client(self) -> None:
        for number in self._todo:
            customer, which = f"customer-{number}", number % INSTALLS
            open_ = self._opens[which]
            path, subject, headers = [
                ("/v1/leads", {"clickId": open_["clickId"]}, AS_APP),
                ("/v1/leads", {"openId": open_["openId"]}, AS_APP),
                ("/v1/leads", {"installId": f"install-{which}"}, AS_APP),
                ("/track/lead", {"clickId": open_["clickId"]}, AS_SERVER),
            ][number % 4]
            body = {"eventName": "Sign up", "customerExternalId": customer, **subject}
            reply = await insist(self._http, "POST", path, json=body, headers=headers)
            self.statuses[reply.status_code] += 1
            if reply.status_code in (200, 202):
                self.acknowledged[customer] = open_["clickId"]
                if len(self.acknowledged) >= self._milestone:
                    self._reached.set()
            else:
                self.refused.append(f"{reply.status_code} {reply.text}")


async def kill_as_it_goes(service: Killable, crowd: Crowd) -> None:
    """Kill the service each time that another part of the leads is acknowledged, at a moment by chance."""
    chance = random.Random(20)
    for number in range(1, KILLED + 1):
        await crowd.reaches(number * LEADS // (KILLED + 1))
        await asyncio.sleep(chance.uniform(0, 0.05))
        await asyncio.to_thread(service.kill)
        await asyncio.to_thread(service.start)


async def drained(service: Killable) -> None:
    """Wait until nothing is queued; nothing may have been buried."""
    deadline = time.monotonic() + DRAINED_S
    found: dict[str, int] = {}
    while time.monotonic() < deadline:
        found = await service.left_over()
        if not found:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(found)


async def test_kills_lose_no_acknowledged_lead(
    ours: tuple[Killable, Sandbox], record_property: Callable[[str, object], None]
) -> None:
    """Twelve kills while 1,200 leads are sent, on a bad day of Dub's: each is at Dub exactly once."""
    service, sandbox = ours
    async with client(service) as http:
        opens = [await opened(http, f"install-{number}") for number in range(INSTALLS)]
        assert all(open_["clickId"] for open_ in opens)
        lead = {"eventName": "Sign up", "customerExternalId": "first", "installId": "install-0"}
        assert (await http.post("/v1/leads", json=lead)).status_code == 200  # and so the opens are on disk
        for fault in BAD_DAY:
            sandbox.fault(**fault)
        crowd = Crowd(http, opens)
        await asyncio.gather(kill_as_it_goes(service, crowd), *(crowd.client() for _ in range(CLIENTS)))
        assert not crowd.refused
        await asyncio.to_thread(sandbox.clear)
        await drained(service)
    events = await asyncio.to_thread(sandbox.events, "leads")
    recorded = Counter(
        event["customer"]["externalId"] for event in events if event["customer"]["externalId"] != "first"
    )
    once = [customer for customer, times in recorded.items() if times == 1]
    assert len(crowd.acknowledged) == LEADS
    assert recorded == Counter(crowd.acknowledged.keys())
    clicks = {event["customer"]["externalId"]: event["click"]["id"] for event in events}
    assert {customer: clicks[customer] for customer in once} == crowd.acknowledged
    assert len(service.processes) == KILLED + 1
    record_property(KILLS, KILLED)
    record_property(ACKNOWLEDGED, len(crowd.acknowledged))
    record_property(ONCE, len(once))


async def test_pending_opens_outlive_kills(ours: tuple[Killable, Sandbox]) -> None:
    """Opens that were answered without Dub get their clicks after kills and restarts, also those of an
    install that asked again in between; so do the leads that wait for them. Dub counts each device once.
    """
    service, sandbox = ours
    sandbox.fault(route="/track/open", stall=True)
    answers: list[tuple[str, dict[str, Any]]] = []
    leads: list[str] = []
    async with client(service) as http:
        for round_ in range(4):
            installs = [f"install-{number}" for number in range(round_ * 10, round_ * 10 + 20)]
            found = await asyncio.gather(*(opened(http, install, 100) for install in installs))
            assert all(answer["pending"] and answer["clickId"] is None for answer in found)
            answers += zip(installs, found, strict=True)
            body = {"eventName": "Sign up", "customerExternalId": f"customer-{round_}"}
            reply = await http.post("/v1/leads", json={**body, "openId": found[0]["openId"]})
            assert reply.status_code == 202
            leads.append(reply.json()["leadId"])
            await asyncio.to_thread(service.kill)  # the lead is on disk, and so is what came before it
            await asyncio.to_thread(service.start)
        ids = {answer["openId"] for _, answer in answers}
        assert await service.left_over() == {"open queued": len(ids), "lead queued": len(leads)}
        await asyncio.to_thread(sandbox.clear)
        await drained(service)
        clicks: dict[str, set[str]] = {}
        for install, answer in answers:
            now = (await http.get(f"/v1/opens/{answer['openId']}")).json()
            assert (now["pending"], len(now["clickId"])) == (False, 16)
            clicks.setdefault(install, set()).add(now["clickId"])
        statuses = [(await http.get(f"/v1/leads/{lead}")).json()["status"] for lead in leads]
    assert {len(found) for found in clicks.values()} == {1}
    at_dub = Counter(event["click"]["id"] for event in await asyncio.to_thread(sandbox.events, "clicks"))
    assert at_dub == Counter(click for found in clicks.values() for click in found)
    assert statuses == ["delivered"] * len(leads)
    assert len(await asyncio.to_thread(sandbox.events, "leads")) == len(leads)


async def test_leads_before_their_opens_outlive_kills(ours: tuple[Killable, Sandbox]) -> None:
    """Leads that are accepted before the open of their install are credited to it once it arrives.

    The service is killed after they were accepted, and again while the opens arrive. Phones report an open
    again at their next launch, so each install ends with one click, and Dub has each lead once.
    """
    service, sandbox = ours
    installs = [f"install-{number}" for number in range(60)]
    chance = random.Random(6)
    async with client(service) as http:

        async def sign_up(install: str) -> str:
            body = {"eventName": "Sign up", "customerExternalId": install, "installId": install}
            reply = await insist(http, "POST", "/v1/leads", json=body)
            assert reply.status_code == 202, reply.text
            return str(reply.json()["leadId"])

        leads = await asyncio.gather(*(sign_up(install) for install in installs))
        await asyncio.to_thread(service.kill)
        assert await service.left_over() == {"lead queued": len(installs)}
        await asyncio.to_thread(service.start)
        for _ in range(4):
            arriving = [asyncio.create_task(opened(http, install)) for install in installs]
            await asyncio.wait(arriving, timeout=chance.uniform(0.05, 0.4))
            await asyncio.to_thread(service.kill)
            await asyncio.to_thread(service.start)
            await asyncio.gather(*arriving)
        answers = await asyncio.gather(*(opened(http, install) for install in installs))
        await drained(service)
        statuses = [(await http.get(f"/v1/leads/{lead}")).json()["status"] for lead in leads]
    assert statuses == ["delivered"] * len(installs)
    events = await asyncio.to_thread(sandbox.events, "leads")
    assert sorted((event["customer"]["externalId"], event["click"]["id"]) for event in events) == sorted(
        (install, answer["clickId"]) for install, answer in zip(installs, answers, strict=True)
    )


async def test_kills_while_it_drains(ours: tuple[Killable, Sandbox]) -> None:
    """A service that is killed again and again while it catches up after an outage sends nothing twice."""
    service, sandbox = ours
    async with client(service) as http:
        open_ = await opened(http, "install-anna")
        sandbox.fault(route="/track/*", status=503)

        async def buy(number: int) -> None:
            subject = {"clickId": open_["clickId"], "customerExternalId": f"customer-{number}"}
            reply = await http.post("/v1/leads", json={"eventName": "Sign up", **subject})
            assert reply.status_code == 202
            sale = {"customerExternalId": f"customer-{number}", "amount": 100}
            assert (await http.post("/track/sale", json=sale, headers=AS_SERVER)).status_code == 200

        await asyncio.gather(*(buy(number) for number in range(150)))
        sandbox.clear()
        for pause_s in (0.0, 0.05, 0.1, 0.2):
            await asyncio.sleep(pause_s)
            await asyncio.to_thread(service.kill)
            await asyncio.to_thread(service.start)
        await drained(service)
    for kind in ("leads", "sales"):
        events = await asyncio.to_thread(sandbox.events, kind)
        counts = Counter(event["customer"]["externalId"] for event in events)
        assert counts == Counter(f"customer-{number}" for number in range(150))
