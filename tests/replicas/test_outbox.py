"""A replica that dies with leads in hand: another one sends them, each once, within 15 seconds."""

import asyncio
import signal
import time
from collections import Counter
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.process import finished
from tests.replicas.processes import IPHONE, KEY, LIMITS, Replica, Sandbox, World, until

LEADS = 2_000
KILLED_AFTER = 1_200
AT_A_TIME = 64
TAKEN_OVER_S = 15.0


async def test_a_killed_replica_s_leads_are_sent_by_the_other(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two thousand leads over both, and kill -9 for one of them: each acknowledged lead arrives once."""
    opened = world.here.open(deepLink="https://acme.link/fb-promo", installId="install-anna", budgetMs=10_000)
    world.dub.fault(route="/track/lead", delayMs=300)
    acknowledged: set[str] = set()
    turns, enough = asyncio.Semaphore(AT_A_TIME), asyncio.Event()
    headers = {"Authorization": f"Bearer {KEY}", "User-Agent": IPHONE}
    async with httpx.AsyncClient(headers=headers, timeout=30, limits=LIMITS) as http:

        async def lead(number: int) -> None:
            base = (world.here, world.there)[number % 2].base
            who = f"customer-{number}"
            body = {"clickId": opened["clickId"], "eventName": "Sign up", "customerExternalId": who}
            async with turns:
                try:
                    reply = await http.post(f"{base}/v1/leads", json=body)
                except httpx.HTTPError:
                    return  # nobody has acknowledged it
            if reply.status_code in (200, 202):
                acknowledged.add(who)
            if len(acknowledged) >= KILLED_AFTER:
                enough.set()

        async def kill() -> None:
            await enough.wait()
            world.here.process.popen.send_signal(signal.SIGKILL)

        await asyncio.gather(kill(), *map(lead, range(LEADS)))
    world.dub.well()
    left, began = queued(world), time.monotonic()
    await asyncio.to_thread(until, lambda: queued(world) == 0, TAKEN_OVER_S)
    took_s = time.monotonic() - began
    recorded = await asyncio.to_thread(customers, world.dub)
    with capsys.disabled():
        print(  # noqa: T201  what the run has shown
            f"\nkill -9: {len(acknowledged)} leads acknowledged, {left} left behind, sent in {took_s:.1f} s,"
            f" {sum(recorded.values())} recorded"
        )
    assert acknowledged <= recorded.keys()
    assert max(recorded.values()) == 1


def test_a_stop_hands_over_at_once(world: World) -> None:
    """A replica that is told to stop leaves what it could not send to the other, which need not wait."""
    lead = refused_for_now(world)
    assert world.here.process.stop() == 0
    world.dub.well()
    until(lambda: state_of(world.there, lead) == "delivered", 14)


def test_the_command_line_sees_what_replicas_share(world: World, tmp_path: Path) -> None:
    """`firstopen outbox` lists what is queued in PostgreSQL, shows an entry, and revives dead letters."""
    lead = refused_for_now(world)
    world.dub.well()
    world.dub.fault(route="/track/lead", status=422)
    env = {
        "FIRSTOPEN_CONFIG": str(tmp_path / "firstopen.toml"),
        "FIRSTOPEN_SECRET": "a secret for tests of 32 characters or more",
        "FIRSTOPEN_DATABASE_URL": world.database_url,
    }
    until(lambda: "Dub refused it" in finished(["outbox"], tmp_path, env)[1])
    code, text = finished(["outbox", "show", lead, "--reveal"], tmp_path, env)
    assert code == 0
    assert '"customerExternalId": "anna"' in text
    world.dub.well()
    assert finished(["outbox", "retry", "--all"], tmp_path, env) == (0, "1 queued again")
    until(lambda: len(world.dub.events("leads")) == 1)


def refused_for_now(world: World) -> str:
    """Report a lead to a Dub that does not take it now; return its id."""
    click = world.here.open(deepLink="https://acme.link/fb-promo", installId="install-anna")["clickId"]
    world.dub.fault(route="/track/lead", status=503)
    body = {"clickId": click, "eventName": "Sign up", "customerExternalId": "anna"}
    reply = world.here.http.post("/v1/leads", json=body)
    assert reply.status_code == 202, reply.text
    return str(reply.json()["leadId"])


def state_of(replica: Replica, lead: str) -> str:
    return str(replica.http.get(f"/v1/leads/{lead}").json()["status"])


def queued(world: World) -> int:
    with psycopg.connect(world.database_url) as connection:
        found = connection.execute("SELECT count(*) FROM outbox WHERE state = 'queued'").fetchone()
    assert found
    return int(found[0])


def customers(dub: Sandbox) -> Counter[str]:
    """Count the leads that the sandbox has recorded, by customer."""
    found: Counter[str] = Counter()
    page = 1
    while True:
        query: dict[str, str | int] = {"event": "leads", "domain": "acme.link", "limit": 1000, "page": page}
        events = dub.http.get("/events", params=query, headers={"Authorization": "Bearer dub_x"}).json()
        if not events:
            return found
        found.update(event["customer"]["externalId"] for event in events)
        page += 1
