"""Which open a lead is credited to: opens that are pending, restarts in between, an erased install."""

import json
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.integration.world import AS_SERVER, REFERRER, World, build, embedded_dub, started_over
from tests.support import ANNA, BEN, FB_PROMO, FakeClock, LogLines

OUTBOX = {"/track/open", "/track/lead"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the outbox look at the (fake) clock often."""
    monkeypatch.setattr("service.outbox.drain.POLL_S", 0.01)


@pytest.fixture
async def world(clock: FakeClock, logs: LogLines) -> AsyncIterator[World]:  # noqa: ARG001
    async for each in build(clock):
        yield each


@pytest.fixture
def dub(clock: FakeClock) -> httpx.ASGITransport:
    """Embed a Dub that outlives the service."""
    return embedded_dub(clock)


async def credited(world: World) -> dict[str, str]:
    """Return the click that Dub has credited, by customer."""
    query = {"event": "leads", "interval": "all"}
    reply = await world.service.get("/events", params=query, headers=AS_SERVER)
    assert reply.status_code == 200, reply.text
    return {lead["customer"]["externalId"]: lead["click"]["id"] for lead in reply.json()}


async def test_an_install_is_not_organic_after_twenty_opens_without_a_link(world: World) -> None:
    """How it came stands, whatever it has opened since: its sign-up is its click's."""
    opened = await world.launch(deep_link=FB_PROMO)
    assert opened.click_id
    for number in range(20):
        await world.launch(deep_link=f"https://acme.com/product/{number}")
    reply = await world.lead(installId=ANNA)
    assert reply.json()["status"] == "delivered"
    assert reply.json()["click"]["id"] == opened.click_id


async def test_a_pending_open_is_settled_once_after_a_restart(
    dub: httpx.ASGITransport, clock: FakeClock, logs: LogLines
) -> None:
    """Reported before and after a restart while Dub is away: it is one open, with one click for its leads."""
    opens, leads = [], []
    async with started_over(dub, clock) as world:
        await world.fail(*OUTBOX)
        opens.append(await world.launch(deep_link=FB_PROMO))
        leads.append((await world.lead("before", openId=opens[0].open_id)).json()["leadId"])
    async with started_over(dub, clock) as world:
        opens.append(await world.launch(deep_link=FB_PROMO))
        leads.append((await world.lead("after", installId=ANNA)).json()["leadId"])
        assert opens[0].open_id == opens[1].open_id
        assert opens[0].pending
        assert opens[1].pending
        await world.mend()
        clicks = {(await world.settled(opened)).click_id for opened in opens}
        assert len(clicks) == 1
        for lead_id in leads:
            await world.lead_is(lead_id, "delivered")
        assert set((await credited(world)).values()) == clicks
    assert not logs.events("outbox.dead")


async def test_a_second_look_that_a_restart_ends_lets_its_lead_end(
    dub: httpx.ASGITransport, clock: FakeClock, logs: LogLines
) -> None:
    """No click will come: the lead is organic, which is nobody's mistake and no error in the log."""
    async with started_over(dub, clock) as world:
        await world.fail("/events")
        opened = await world.launch()
        assert opened.pending
        lead_id = (await world.lead(openId=opened.open_id)).json()["leadId"]
        await world.mend()
    async with started_over(dub, clock) as world:
        seen = await world.lead_is(lead_id, "dead")
        assert "organic" in seen["reason"]
        assert await world.calls("/track/lead") == 0
    assert [line["level"] for line in logs.events("outbox.dead")] == ["info"]


@pytest.mark.parametrize("by", ["openId", "installId"])
async def test_a_lead_during_second_looks_waits_and_is_credited(
    clock: FakeClock, logs: LogLines, by: str
) -> None:
    """The click is not there yet, but still looked for: the sign-up is no organic one."""
    async for world in build(clock, events_delay_s=5):
        await world.click()
        opened = await world.launch()
        assert (opened.click_id, opened.pending) == (None, True)
        reply = await world.lead(**{by: {"openId": opened.open_id, "installId": ANNA}[by]})
        assert (reply.status_code, reply.json()["status"]) == (202, "queued")
        await world.lead_is(reply.json()["leadId"], "delivered")
        found = await world.service.recall(opened.open_id)
        assert found.click_id
        world.clock.advance(5)  # until Dub shows its lead
        assert await credited(world) == {"anna": found.click_id}
    assert not logs.events("outbox.dead")


async def test_a_lead_of_a_second_look_that_finds_nothing_is_organic(world: World, logs: LogLines) -> None:
    """It waits for the last look; nothing is sent, and nothing went wrong."""
    opened = await world.launch()
    lead_id = (await world.lead(openId=opened.open_id)).json()["leadId"]
    assert "organic" in (await world.lead_is(lead_id, "dead"))["reason"]
    assert await world.calls("/track/lead") == 0
    assert [line["level"] for line in logs.events("outbox.dead")] == ["info"]
    assert (await world.lead(openId=opened.open_id)).json()["status"] == "organic"


async def test_a_referrer_after_a_linkless_open_is_what_a_lead_is_credited_to(world: World) -> None:
    """Both opens are the install's; the one with a click counts."""
    await world.launch()
    referred = await world.launch(install_referrer=REFERRER)
    assert (await world.lead(installId=ANNA)).json()["click"]["id"] == referred.click_id


async def test_the_strongest_evidence_is_credited_not_the_last(world: World) -> None:
    """The link that the install opened counts more than the referrer that is reported after it."""
    linked = await world.launch(deep_link="https://acme.link/invite")
    referred = await world.launch(install_referrer=REFERRER)
    assert referred.click_id
    assert referred.click_id != linked.click_id
    assert (await world.lead(installId=ANNA)).json()["click"]["id"] == linked.click_id


async def test_an_install_with_a_queued_lead_is_forgotten(world: World, logs: LogLines) -> None:
    """Its answers, its claim, and what is owed for it, by any of its ids: Dub hears of none of it later."""
    await world.click()
    anna = await world.launch(ANNA)
    assert anna.click_id
    await world.fail(*OUTBOX)
    pending = await world.launch(ANNA, deep_link=FB_PROMO)
    leads = [
        await world.lead("one", installId=ANNA),
        await world.lead("two", openId=anna.open_id),
        await world.lead("three", openId=pending.open_id),
    ]
    assert [reply.json()["status"] for reply in leads] == ["queued"] * 3
    ben = await world.launch(BEN, deep_link=FB_PROMO)
    reply = await world.service.post("/v1/installs/forget", json={"installId": ANNA}, headers=AS_SERVER)
    assert reply.json() == {"answers": 2, "claims": 1, "outbox": 4, "touches": 0}
    await world.mend()
    assert (await world.settled(ben)).click_id
    for lead in leads:
        gone = await world.service.get(f"/v1/leads/{lead.json()['leadId']}")
        assert gone.status_code == 404
    assert await credited(world) == {}
    again = await world.service.post("/v1/installs/forget", json={"installId": ANNA}, headers=AS_SERVER)
    assert again.json() == {"answers": 0, "claims": 0, "outbox": 0, "touches": 0}
    assert (await world.lead(installId=ANNA)).json()["status"] == "queued"  # until it opens again
    assert json.dumps(ANNA) not in logs.text


async def test_a_forgotten_install_is_looked_for_no_more(clock: FakeClock, logs: LogLines) -> None:  # noqa: ARG001
    """A click that shows late is not claimed for it, and nothing of it comes back."""
    async for world in build(clock, events_delay_s=5):
        await world.click()
        opened = await world.launch()
        forget = {"installId": ANNA}
        reply = await world.service.post("/v1/installs/forget", json=forget, headers=AS_SERVER)
        assert reply.json() == {"answers": 1, "claims": 0, "outbox": 0, "touches": 0}
        for _ in range(40):
            world.clock.advance(1)
            await world.service.get("/v1/opens/unknown")  # lets looks and the disk have their turn
        assert (await world.service.get(f"/v1/opens/{opened.open_id}")).status_code == 404
        again = await world.service.post("/v1/installs/forget", json=forget, headers=AS_SERVER)
        assert again.json() == {"answers": 0, "claims": 0, "outbox": 0, "touches": 0}
        assert (await world.launch(BEN)).click_id
