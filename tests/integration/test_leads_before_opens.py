"""Sign-ups that arrive before the open of their install: launched offline, or uploaded in the background."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import httpx
import pytest

from service.attribution import leads
from service.domain.outbox_entries import Summary
from tests.integration.world import AS_SERVER, World, build, embedded_dub, started_over
from tests.sandboxed import in_the_outbox, left_over
from tests.support import ANNA, BEN, CONFIG, FB_PROMO, OTHER_KEY, FakeClock, LogLines, until

DAY_S = 86_400
OUTBOX = {"/track/open", "/track/lead"}
UNMATCHED = CONFIG  # without matching by IP, an open without a link is settled at once


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the outbox look at the (fake) clock often."""
    monkeypatch.setattr("service.outbox.drain.POLL_S", 0.01)


@pytest.fixture
def dub(clock: FakeClock) -> httpx.ASGITransport:
    """Embed a Dub that outlives the service."""
    return embedded_dub(clock)


@pytest.fixture
async def world(clock: FakeClock, logs: LogLines) -> AsyncIterator[World]:  # noqa: ARG001
    async for world in build(clock, UNMATCHED):
        yield world


async def queued(world: World, customer: str = "anna", **subject: str) -> str:
    """Report a lead that cannot be sent yet; return its leadId."""
    reply = await world.lead(customer, **(subject or {"installId": ANNA}))
    assert (reply.status_code, reply.json()["status"]) == (202, "queued"), reply.text
    return str(reply.json()["leadId"])


async def looked_after(lead_id: str, *, times: int) -> Summary:
    """Wait until an entry was tried so many times; return how it stands."""
    for _ in range(1000):
        found = await in_the_outbox(lambda entries: entries.found(lead_id))
        assert found is not None
        if found[0].attempts == times:
            return found[0]
        await asyncio.sleep(0.002)
    raise AssertionError(found)


async def the_outbox_has_looked(world: World) -> None:
    """Wait until the outbox has sent all that is due: what is let go after it was let go is delivered."""
    install = f"install-{world.clock.now}"
    lead_id = await queued(world, install, installId=install)
    await world.launch(install, deep_link=FB_PROMO)
    await stands(world, lead_id, "delivered")


async def stands(world: World, lead_id: str, status: str) -> dict[str, Any]:
    """Wait, without letting time pass, until a lead stands there."""
    for _ in range(1000):
        seen = await world.lead_status(lead_id)
        if seen["status"] == status:
            return seen
        await asyncio.sleep(0.002)
    raise AssertionError(seen)


async def credited(world: World) -> dict[str, str]:
    """Return the click that Dub has credited, by customer."""
    query = {"event": "leads", "interval": "all"}
    reply = await world.service.get("/events", params=query, headers=AS_SERVER)
    assert reply.status_code == 200, reply.text
    return {lead["customer"]["externalId"]: lead["click"]["id"] for lead in reply.json()}


async def test_a_lead_is_sent_as_soon_as_its_open_arrives(world: World) -> None:
    """It is kept, nothing is sent for it, and the open sends it at once: no time passes here."""
    lead_id = await queued(world)
    assert await world.lead_status(lead_id) == {"leadId": lead_id, "status": "queued", "reason": None}
    assert await world.calls("/track/lead") == 0
    opened = await world.launch(deep_link=FB_PROMO)
    await stands(world, lead_id, "delivered")
    assert await credited(world) == {"anna": opened.click_id}


async def test_each_install_gets_its_own_lead(world: World) -> None:
    """An open lets go the leads of its install, all of them, and nobody else's."""
    annas = [await queued(world, f"anna-{number}") for number in range(3)]
    bens = await queued(world, "ben", installId=BEN)
    opened = await world.launch(ANNA, deep_link=FB_PROMO)
    for lead_id in annas:
        await stands(world, lead_id, "delivered")
    assert (await world.lead_status(bens))["status"] == "queued"
    assert await credited(world) == {f"anna-{number}": opened.click_id for number in range(3)}


async def test_another_apps_open_lets_nothing_go(world: World) -> None:
    """Two apps may have an install of one name; each app's leads are about its own."""
    lead_id = await queued(world)
    body = {"deepLink": "https://globex.com/x", "installId": ANNA}
    assert (await world.service.report(body, Authorization=f"Bearer {OTHER_KEY}")).status_code == 200
    world.clock.advance(3600)
    assert (await world.lead_status(lead_id))["status"] == "queued"


async def test_a_first_open_without_a_click_is_organic(world: World, logs: LogLines) -> None:
    """Nothing is sent, and nothing went wrong. A lead that comes after the open is told at once."""
    lead_id = await queued(world)
    await world.launch()
    seen = await world.lead_is(lead_id, "dead")
    assert "organic" in seen["reason"]
    assert await world.calls("/track/lead") == 0
    assert [line["level"] for line in logs.events("outbox.dead")] == ["info"]
    assert (await world.lead("ben", installId=ANNA)).json() == {"leadId": None, "status": "organic"}


@pytest.mark.parametrize("opens", [("no link", "a link"), ("a link", "no link")], ids=", ".join)
async def test_the_order_of_a_cold_start_does_not_matter(world: World, opens: tuple[str, ...]) -> None:
    """A cold start may report twice within a second, once without its link: the sign-up is not organic."""
    lead_id = await queued(world)
    reports: dict[str, dict[str, str]] = {"no link": {}, "a link": {"deep_link": FB_PROMO}}
    clicks = []
    for each in opens:
        clicks.append((await world.launch(**reports[each])).click_id)
        world.clock.advance(0.3)
        await the_outbox_has_looked(world)
    await world.lead_is(lead_id, "delivered")
    assert (await credited(world))["anna"] in clicks


async def test_a_guess_does_not_take_the_lead_from_a_link_that_is_pending(
    clock: FakeClock, logs: LogLines
) -> None:
    """The install opened a link while Dub was away, and was matched by IP meanwhile: the link counts."""
    async for world in build(clock):
        lead_id = await queued(world)
        await world.click()
        await world.fail("/track/open")
        pending = await world.launch(deep_link="https://acme.link/invite")
        guessed = await world.launch()
        assert (pending.pending, guessed.match.type) == (True, "ip")
        await stands(world, lead_id, "queued")
        await world.mend()
        await world.lead_is(lead_id, "delivered")
        linked = await world.service.recall(pending.open_id)
        assert linked.click_id
        assert await credited(world) == {"anna": linked.click_id}
    assert not logs.events("outbox.dead")


async def test_an_open_that_is_pending_keeps_the_lead_waiting(
    dub: httpx.ASGITransport, clock: FakeClock
) -> None:
    """The open arrives while Dub is away: the lead goes when the open has its click, and no sooner."""
    async with started_over(dub, clock, UNMATCHED) as world:
        lead_id = await queued(world)
        await world.fail(*OUTBOX)
        opened = await world.launch(deep_link=FB_PROMO)
        assert opened.pending
        assert (await world.lead_status(lead_id))["status"] == "queued"
        await world.mend()
        await world.lead_is(lead_id, "delivered")
        assert await credited(world) == {"anna": (await world.service.recall(opened.open_id)).click_id}


async def test_a_click_that_dub_shows_late_is_credited(clock: FakeClock, logs: LogLines) -> None:
    """The open has no link and its click is looked for again: the lead waits for that, too."""
    async for world in build(clock, events_delay_s=5):
        lead_id = await queued(world)
        await world.click()
        opened = await world.launch()
        assert opened.click_id is None
        await world.lead_is(lead_id, "delivered")
        found = await world.service.recall(opened.open_id)
        world.clock.advance(5)  # until Dub shows its lead
        assert await credited(world) == {"anna": found.click_id}
    assert not logs.events("outbox.dead")


async def test_a_lead_waits_through_a_restart(dub: httpx.ASGITransport, clock: FakeClock) -> None:
    """Accepted before it, sent when the open arrives after it."""
    async with started_over(dub, clock, UNMATCHED) as world:
        lead_id = await queued(world)
    clock.advance(2 * DAY_S)
    async with started_over(dub, clock, UNMATCHED) as world:
        opened = await world.launch(deep_link=FB_PROMO)
        await stands(world, lead_id, "delivered")
        assert await credited(world) == {"anna": opened.click_id}


async def test_an_open_whose_word_was_lost_is_found(
    dub: httpx.ASGITransport, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies between writing an open down and letting its leads go: they look for it themselves."""
    async with started_over(dub, clock, UNMATCHED) as world:
        lead_id = await queued(world)
        with monkeypatch.context() as patch:
            patch.setattr("service.outbox.worker.OutboxWorker.release_dependents", lambda *_, **__: None)
            await world.launch(deep_link=FB_PROMO)
    async with started_over(dub, clock, UNMATCHED) as world:
        await world.lead_is(lead_id, "delivered")


async def test_a_new_secret_loses_no_waiting_lead(dub: httpx.ASGITransport, clock: FakeClock) -> None:
    """The install has another keyed hash under the new secret; the lead finds it all the same."""
    before, after = "the secret of yesterday and quite long", "the secret of today and quite long enough"
    async with started_over(dub, clock, UNMATCHED, {"FIRSTOPEN_SECRET": before}) as world:
        lead_id = await queued(world)
    async with started_over(dub, clock, UNMATCHED, {"FIRSTOPEN_SECRET": f"{after},{before}"}) as world:
        opened = await world.launch(deep_link=FB_PROMO)
        await world.lead_is(lead_id, "delivered")
        assert await credited(world) == {"anna": opened.click_id}


async def test_a_lead_whose_open_never_arrives_dies_after_six_days(world: World, logs: LogLines) -> None:
    """It says why; Dub was never asked. Sent again by an operator, it waits again."""
    lead_id = await queued(world)
    world.clock.advance(6 * DAY_S - 60)
    assert (await world.lead_status(lead_id))["status"] == "queued"
    world.clock.advance(120)
    seen = await stands(world, lead_id, "dead")
    assert seen["reason"] == "no open arrived"
    assert await world.calls("/track/lead") == 0
    await until(lambda: logs.events("outbox.expired"))
    assert await in_the_outbox(lambda entries: entries.retry_now(lead_id)) == 1
    await looked_after(lead_id, times=1)
    world.clock.advance(61)
    await the_outbox_has_looked(world)
    opened = await world.launch(deep_link=FB_PROMO)
    await stands(world, lead_id, "delivered")
    assert (await credited(world))["anna"] == opened.click_id


async def test_a_waiting_lead_is_looked_after_less_and_less_often(world: World) -> None:
    """Its open lets it go, so looks are for what that misses: after 30 s, doubled to a quarter of an hour."""
    lead_id = await queued(world)
    tries: list[float] = []
    made = world.clock.unix_time()
    for number in range(8):
        summary = await looked_after(lead_id, times=number)
        tries.append(summary.next_try - made)
        world.clock.advance(summary.next_try - world.clock.unix_time())
    waits = [round(after - before) for before, after in pairwise([0.0, *tries])]
    assert waits == [30, 30, 60, 120, 240, 480, 900, 900]
    assert await world.calls("/track/lead") == 0


async def test_a_waiting_lead_holds_nobody_back(world: World) -> None:
    """Another lead of the customer does not wait behind it for an install that may never open."""
    waiting = await queued(world)
    opened = await world.launch(BEN, deep_link=FB_PROMO)
    reply = await world.lead("anna", installId=BEN, eventName="Invite")
    assert reply.json()["status"] == "delivered"
    await world.fail("/track/lead")
    another = await queued(world, "anna", installId=BEN, eventName="Trial")
    await world.mend()
    await world.lead_is(another, "delivered")
    assert (await world.lead_status(waiting))["status"] == "queued"
    assert await credited(world) == {"anna": opened.click_id}


async def test_a_sale_waits_for_the_lead_of_its_customer(world: World) -> None:
    """Dub records no sale of a customer whom it does not know: it is kept while their lead waits."""
    waiting = await queued(world)
    sale = {"customerExternalId": "anna", "amount": 500, "eventName": "Purchase"}
    await world.service.post("/track/sale", json=sale, headers=AS_SERVER)
    nobodys = {**sale, "customerExternalId": "nobody"}
    await world.service.post("/track/sale", json=nobodys, headers=AS_SERVER)
    for _ in range(5):
        world.clock.advance(3600)
        await the_outbox_has_looked(world)
    assert (await left_over())["sale dead"] == 1
    await world.launch(deep_link=FB_PROMO)
    await world.lead_is(waiting, "delivered")

    async def sold() -> bool:
        return (await left_over()).get("sale delivered") == 1

    await world.eventually(sold, step_s=10)


async def test_erasure_takes_the_waiting_leads_of_an_install(world: World) -> None:
    """Dub hears of none of them when the install opens afterwards: it is a new one."""
    lead_id = await queued(world)
    reply = await world.service.post("/v1/installs/forget", json={"installId": ANNA}, headers=AS_SERVER)
    assert reply.json() == {"answers": 0, "claims": 0, "outbox": 1, "touches": 0}
    await world.launch(deep_link=FB_PROMO)
    world.clock.advance(3600)
    assert (await world.service.get(f"/v1/leads/{lead_id}")).status_code == 404
    assert await credited(world) == {}


async def test_waiting_leads_are_bounded_for_each_app(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leads for invented installs get 429 once there are too many; other leads are taken."""
    monkeypatch.setattr(leads, "WAITING_MAX", 3)
    await world.launch(BEN, deep_link=FB_PROMO)
    accepted = [await queued(world, f"c-{number}", installId=f"invented-{number}") for number in range(3)]
    refused = await world.lead("c-3", installId="invented-3")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert refused.json()["error"]["message"].startswith("installId: ")
    assert int(refused.headers["retry-after"]) >= 1
    assert (await world.lead("ben", installId=BEN)).json()["status"] == "delivered"
    await world.launch("invented-0", deep_link=FB_PROMO)
    await stands(world, accepted[0], "delivered")
    world.clock.advance(60)
    assert (await world.lead("c-3", installId="invented-3")).status_code == 202


@pytest.mark.parametrize("away", [set(), {"/track/lead"}], ids=["well", "away"])
async def test_a_lead_and_its_open_at_once(world: World, away: set[str]) -> None:
    """Reported side by side, in whatever order they get there: every lead is delivered."""
    if away:
        await world.fail(*away)
    subject = [f"install-{number}" for number in range(20)]
    replies = await asyncio.gather(
        *(world.lead(name, installId=name) for name in subject),
        *(world.launch(name, deep_link=FB_PROMO) for name in subject),
    )
    await world.mend()
    for reply in replies[: len(subject)]:
        assert isinstance(reply, httpx.Response)
        await world.lead_is(reply.json()["leadId"], "delivered")
    assert set(await credited(world)) == set(subject)
    assert len(set((await credited(world)).values())) == len(subject)


async def test_an_unknown_open_is_still_404(world: World) -> None:
    """An openId is ours: one that we never gave is a mistake, not an open that is late."""
    assert (await world.lead(openId="0" * 32)).status_code == 404
