"""Sign-ups over HTTP, with the embedded Dub underneath: credited to their click, once, whatever happens."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.process import finished, free_ports, started
from tests.sandboxed import SandboxedDub, eventually, lead, serving
from tests.support import (
    ANNA,
    BEN,
    CONFIG,
    FB_PROMO,
    OTHER_KEY,
    SERVER_KEY,
    FakeClock,
    LogLines,
    Service,
    until,
)

TRACK_LEAD = "/track/lead"
TRACK_OPEN = "/track/open"
AS_SERVER = {"Authorization": f"Bearer {SERVER_KEY}"}
AS_GLOBEX = {"Authorization": f"Bearer {OTHER_KEY}"}
UNKNOWN_CLICK = "nobodysclick0000"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the outbox look at the (fake) clock often."""
    monkeypatch.setattr("service.outbox.drain.POLL_S", 0.01)


@pytest.fixture
def dub(clock: FakeClock) -> SandboxedDub:
    return SandboxedDub(clock)


@pytest.fixture
async def service(dub: SandboxedDub, clock: FakeClock, logs: LogLines) -> AsyncIterator[Service]:  # noqa: ARG001
    async with serving(dub, clock) as service:
        yield service


@pytest.fixture
async def hasty(dub: SandboxedDub, clock: FakeClock, logs: LogLines) -> AsyncIterator[Service]:  # noqa: ARG001
    """Serve with a budget of 100 ms."""
    async with serving(dub, clock, env={"FIRSTOPEN_BUDGET_MS": "100"}) as service:
        yield service


def reached(dub: SandboxedDub, calls: int) -> bool:
    return len(dub.calls) >= calls


async def click_of(service: Service, install: str = ANNA) -> str:
    click_id = (await service.open(FB_PROMO, install_id=install)).click_id
    assert click_id
    return click_id


@pytest.mark.parametrize("by", ["clickId", "openId", "installId"])
async def test_a_lead_is_credited_to_its_click(service: Service, dub: SandboxedDub, by: str) -> None:
    """Named by click, open or install, it reaches Dub inside the budget, with Dub's answer in ours."""
    opened = await service.open(FB_PROMO, install_id=ANNA)
    subject = {"clickId": opened.click_id, "openId": opened.open_id, "installId": ANNA}[by]
    reply = await lead(
        service, "anna", **{by: subject}, customerName="Anna", customerEmail="anna@example.com"
    )
    assert reply.status_code == 200
    body = reply.json()
    assert body["status"] == "delivered"
    assert body["click"] == {"id": opened.click_id}
    assert (body["link"]["key"], body["customer"]["email"]) == ("fb-promo", "anna@example.com")
    assert await dub.leads() == [("anna", opened.click_id)]
    status = await service.get(f"/v1/leads/{body['leadId']}")
    assert status.json() == {"leadId": body["leadId"], "status": "delivered", "reason": None}


async def test_a_lead_waits_out_an_outage(service: Service, dub: SandboxedDub, clock: FakeClock) -> None:
    """202 while Dub is away; recorded once after it is back, and its status says so."""
    click_id = await click_of(service)
    dub.away = {TRACK_LEAD}
    reply = await lead(service, "anna", clickId=click_id)
    assert (reply.status_code, reply.json()["status"]) == (202, "queued")
    lead_id = reply.json()["leadId"]
    assert set(reply.json()) == {"leadId", "status"}
    assert (await service.get(f"/v1/leads/{lead_id}")).json()["status"] == "queued"
    dub.away.clear()
    clock.advance(60)
    await eventually(service, lead_id, "delivered")
    assert await dub.leads() == [("anna", click_id)]


async def test_a_slow_dub_costs_a_lead_its_budget_and_no_more(dub: SandboxedDub, clock: FakeClock) -> None:
    """Accepted with 202 when the budget is over; what Dub answers later counts."""
    async with serving(dub, clock, env={"FIRSTOPEN_BUDGET_MS": "100"}) as service:
        click_id = await click_of(service)
        dub.blocked = asyncio.Event()
        began = asyncio.get_running_loop().time()
        reply = await lead(service, "anna", clickId=click_id)
        assert asyncio.get_running_loop().time() - began < 0.6
        assert reply.status_code == 202
        dub.blocked.set()
        await eventually(service, reply.json()["leadId"], "delivered")
    assert await dub.leads() == [("anna", click_id)]


@pytest.mark.parametrize(
    "fields", [{"dub_domain": "acme.link"}, {"deep_link": "https://acme.com/product/1"}], ids=str
)
async def test_an_install_without_a_click_is_organic(
    service: Service, dub: SandboxedDub, fields: dict[str, str]
) -> None:
    """An install and an open that we know to have come from no click: 200, and nothing is sent."""
    opened = await service.open(**fields, install_id=ANNA)  # type: ignore[arg-type]  # names are fields
    for subject in ({"installId": ANNA}, {"openId": opened.open_id}):
        reply = await lead(service, "anna", **subject)
        assert (reply.status_code, reply.json()) == (200, {"leadId": None, "status": "organic"})
    assert dub.calls == []


async def test_an_installs_click_outlives_a_later_organic_open(service: Service, dub: SandboxedDub) -> None:
    """A sign-up is credited to the link that the install opened, though the app was opened since without."""
    click_id = await click_of(service)
    await service.open(dub_domain="acme.link", install_id=ANNA)
    assert (await lead(service, "anna", installId=ANNA)).status_code == 200
    assert await dub.leads() == [("anna", click_id)]


@pytest.mark.parametrize("open_id", ["0" * 32, "é"])
async def test_an_unknown_open_is_404(service: Service, dub: SandboxedDub, open_id: str) -> None:
    """An openId is ours, so one that we never gave is a mistake; nothing is sent."""
    await click_of(service)
    reply = await lead(service, "anna", openId=open_id)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")
    assert reply.json()["error"]["message"].startswith("openId")
    assert (await service.get("/v1/leads/nobodys")).status_code == 404
    assert dub.modes("anna") == []


async def test_another_apps_opens_and_leads_are_404(service: Service, dub: SandboxedDub) -> None:
    """globex can neither credit acme's opens nor see its leads; an openId is no leadId either."""
    opened = await service.open(FB_PROMO, install_id=ANNA)
    accepted = await lead(service, "anna", openId=opened.open_id)
    body = {"eventName": "Sign up", "customerExternalId": "mallory", "openId": opened.open_id}
    assert (await service.post("/v1/leads", json=body, headers=AS_GLOBEX)).status_code == 404
    lead_id = accepted.json()["leadId"]
    assert (await service.get(f"/v1/leads/{lead_id}", headers=AS_GLOBEX)).status_code == 404
    assert (await service.get(f"/v1/leads/{opened.open_id}")).status_code == 404
    assert dub.modes("mallory") == []


async def test_who_may_report_leads(dub: SandboxedDub, clock: FakeClock) -> None:
    """Backends, and apps only with leads = "client"; no key and strange keys are 401."""
    statuses = {}
    for name, config in (("client", CONFIG), ("server", CONFIG.replace('leads = "client"\n', ""))):
        async with serving(dub, clock, config=config) as service:
            click_id = await click_of(service)
            body = {"eventName": "Sign up", "customerExternalId": name, "clickId": click_id}
            given: list[dict[str, str]] = [
                {},
                AS_SERVER,
                {"Authorization": ""},
                {"Authorization": "Bearer x"},
            ]
            replies = [await service.post("/v1/leads", json=body, headers=headers) for headers in given]
            lead_id = replies[1].json()["leadId"]
            asked = [await service.get(f"/v1/leads/{lead_id}", headers=headers) for headers in given]
            statuses[name] = [reply.status_code for reply in (*replies, *asked)]
    assert statuses == {"client": [200, 200, 401, 401] * 2, "server": [403, 200, 401, 401] * 2}


LONG = "x" * 10_001


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"eventName": None}, "eventName"),
        ({"eventName": "  "}, "eventName"),
        ({"eventName": "x" * 256}, "eventName"),
        ({"customerExternalId": None}, "customerExternalId"),
        ({"customerExternalId": ""}, "customerExternalId"),
        ({"customerExternalId": "x" * 101}, "customerExternalId"),
        ({"customerName": "x" * 101}, "customerName"),
        ({"customerAvatar": "x" * 32_001}, "customerAvatar"),
        ({"eventQuantity": 0}, "eventQuantity"),
        ({"eventQuantity": 101}, "eventQuantity"),
        ({"eventQuantity": 1.5}, "eventQuantity"),
        ({"metadata": {"x": LONG}}, "metadata"),
        ({"metadata": "text"}, "metadata"),
        ({"mode": "later"}, "mode"),
        ({"clickId": ""}, "clickId"),
        ({"clickId": "x" * 257}, "clickId"),
        ({"clickId": None}, "clickId"),
        ({"clickId": None, "openId": ""}, "openId"),
        ({"clickId": None, "openId": "x" * 129}, "openId"),
        ({"clickId": None, "installId": "short"}, "installId"),
        ({"clickId": None, "installId": "x" * 129}, "installId"),
        ({"openId": "x"}, "clickId"),
        ({"installId": ANNA}, "clickId"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_wrong_field_is_422(
    service: Service, dub: SandboxedDub, wrong: dict[str, Any], field: str
) -> None:
    """Dub's limits and ours; the message names the field, and nothing is sent."""
    reply = await lead(service, **{"customer": "anna", "clickId": UNKNOWN_CLICK, **_renamed(wrong)})
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "unprocessable_entity")
    assert reply.json()["error"]["message"].startswith(field)
    assert dub.calls == []


def _renamed(fields: dict[str, Any]) -> dict[str, Any]:
    if "customerExternalId" not in fields:
        return fields
    return {"customer": fields["customerExternalId"]}


async def test_everything_at_its_limit_is_taken(service: Service, dub: SandboxedDub) -> None:
    """The largest of each field goes through, and unknown fields are ignored."""
    reply = await lead(
        service,
        "x" * 100,
        clickId=await click_of(service),
        customerName="x" * 100,
        customerEmail="a" * 90 + "@b.example",
        customerAvatar="https://acme.com/" + "x" * 30_000,
        eventQuantity=3,
        metadata={"x": "y" * 9_990},
        surprise=True,
    )
    assert reply.status_code == 200, reply.text
    assert len(await dub.events("leads")) == 3


async def test_one_step_where_the_click_is_known(
    service: Service, dub: SandboxedDub, clock: FakeClock
) -> None:
    """A click that an open of ours got less than five minutes ago: one call. Older, or not ours: two."""
    click_id = await click_of(service)
    await lead(service, "one", clickId=click_id)
    clock.advance(5 * 60)
    await lead(service, "two", clickId=click_id)
    await lead(service, "three", clickId=await dub.web_click())
    assert [dub.modes(customer) for customer in ("one", "two", "three")] == [
        ["async"],
        ["deferred", "async"],
        ["deferred", "async"],
    ]
    assert len(await dub.leads()) == 3


async def test_a_second_attempt_is_never_one_step(
    service: Service, dub: SandboxedDub, clock: FakeClock
) -> None:
    """A lead whose first answer was lost is asked for as deferred before it is sent again: counted once."""
    click_id = await click_of(service)
    dub.loses = {TRACK_LEAD}
    reply = await lead(service, "anna", clickId=click_id)
    assert reply.status_code == 202
    dub.loses.clear()
    clock.advance(60)
    await eventually(service, reply.json()["leadId"], "delivered")
    assert dub.modes("anna")[-2:] == ["deferred", "async"]
    assert await dub.leads() == [("anna", click_id)]


async def test_a_click_that_dub_knows_later_is_credited(
    service: Service, dub: SandboxedDub, clock: FakeClock
) -> None:
    """A web click takes seconds to be found: until then only deferred calls go, which burn no key.

    (dub-api.md, "POST /track/lead": a lead sets its key before its click is looked up, a deferred one never.)
    """
    await dub.set(leadLookupDelayS=10)
    click_id = await dub.web_click()
    reply = await lead(service, "anna", clickId=click_id)
    assert reply.status_code == 202
    for asked, after_s in ((2, 2.1), (3, 5)):
        clock.advance(after_s)
        await until(partial(reached, dub, asked))
    assert dub.modes("anna") == ["deferred"] * 3
    clock.advance(15)
    await eventually(service, reply.json()["leadId"], "delivered")
    assert dub.modes("anna") == ["deferred"] * 4 + ["async"]
    assert await dub.leads() == [("anna", click_id)]


async def test_a_click_that_nobody_knows_is_a_dead_letter(
    service: Service, dub: SandboxedDub, clock: FakeClock, logs: LogLines
) -> None:
    """Four calls within 22 s, all of them deferred: its key is not burned. Then it says why."""
    reply = await lead(service, "anna", clickId=UNKNOWN_CLICK)
    lead_id = reply.json()["leadId"]
    assert reply.status_code == 202
    for asked, after_s in ((2, 2.1), (3, 5)):
        clock.advance(after_s)
        await until(partial(reached, dub, asked))
    assert (await service.get(f"/v1/leads/{lead_id}")).json()["status"] == "queued"
    clock.advance(15)
    seen = await eventually(service, lead_id, "dead")
    assert "404" in seen["reason"]
    clock.advance(3600)
    assert dub.modes("anna") == ["deferred"] * 4
    assert [line["id"] for line in logs.events("outbox.dead")] == [lead_id]
    assert (await lead(service, "anna", clickId=await click_of(service))).json()["link"] is not None


async def test_an_unknown_click_after_an_outage_is_final_at_once(
    service: Service, dub: SandboxedDub, clock: FakeClock
) -> None:
    """What was reported minutes ago is not too new for Dub to know."""
    dub.away = {TRACK_LEAD}
    reply = await lead(service, "anna", clickId=UNKNOWN_CLICK)
    clock.advance(23)
    dub.away.clear()
    clock.advance(60)
    await eventually(service, reply.json()["leadId"], "dead")
    assert dub.modes("anna") == ["deferred"]


@pytest.mark.parametrize("by", ["openId", "installId"])
async def test_a_lead_on_a_pending_open_waits_for_its_click(
    hasty: Service, dub: SandboxedDub, clock: FakeClock, by: str
) -> None:
    """Reported while Dub is away, it is credited to the click that the open gets afterwards."""
    dub.away = {TRACK_OPEN, TRACK_LEAD}
    opened = await hasty.open(FB_PROMO, install_id=ANNA)
    assert opened.pending
    reply = await lead(hasty, "anna", **{by: {"openId": opened.open_id, "installId": ANNA}[by]})
    assert (reply.status_code, reply.json()["status"]) == (202, "queued")
    dub.away.clear()
    clock.advance(11)
    await eventually(hasty, reply.json()["leadId"], "delivered")
    click_id = (await hasty.recall(opened.open_id)).click_id
    assert click_id
    assert await dub.leads() == [("anna", click_id)]


async def test_an_open_reported_again_after_a_restart_keeps_its_leads(
    dub: SandboxedDub, clock: FakeClock
) -> None:
    """It is the same open before and after a restart: each lead on it gets its click."""
    dub.away = {TRACK_OPEN, TRACK_LEAD}
    accepted, opens = [], []
    for customer in ("before", "after"):
        async with serving(dub, clock, env={"FIRSTOPEN_BUDGET_MS": "100"}) as service:
            opens.append(await service.open(FB_PROMO, install_id=ANNA))
            reply = await lead(service, customer, openId=opens[-1].open_id)
            assert reply.status_code == 202
            accepted.append(reply.json()["leadId"])
    assert opens[0].open_id == opens[1].open_id
    dub.away.clear()
    async with serving(dub, clock) as service:
        clock.advance(11)
        for lead_id in accepted:
            await eventually(service, lead_id, "delivered")
        clicks = [(await service.recall(opened.open_id)).click_id for opened in opens]
    assert clicks[0] == clicks[1]
    assert await dub.leads() == [("after", clicks[0]), ("before", clicks[0])]
    assert len(await dub.events("clicks")) == 1


async def test_a_pending_open_that_turns_out_to_be_no_link(
    hasty: Service, dub: SandboxedDub, clock: FakeClock
) -> None:
    """Its lead is not sent, and says that it was organic."""
    dub.away = {TRACK_OPEN}
    opened = await hasty.open("https://acme.link/no-such-link", install_id=ANNA)
    reply = await lead(hasty, "anna", openId=opened.open_id)
    dub.away.clear()
    clock.advance(11)
    seen = await eventually(hasty, reply.json()["leadId"], "dead")
    assert "organic" in seen["reason"]
    assert dub.modes("anna") == []


async def test_a_restart_forgets_nobody(dub: SandboxedDub, clock: FakeClock) -> None:
    """An install that opened a link, a restart, two hours, and a sign-up by its installId: credited."""
    async with serving(dub, clock) as service:
        click_id = await click_of(service)
    clock.advance(7200)
    async with serving(dub, clock) as service:
        assert (await lead(service, "anna", installId=ANNA)).status_code == 200
    assert await dub.leads() == [("anna", click_id)]


async def test_rotating_the_secret_loses_nothing(dub: SandboxedDub, clock: FakeClock) -> None:
    """What was sealed under an older secret is sent, and who was hashed under it is found."""
    before, after = "the secret of yesterday and quite long", "the secret of today and quite long enough"
    async with serving(dub, clock, env={"FIRSTOPEN_SECRET": before}) as service:
        click_id = await click_of(service)
        dub.away = {TRACK_OPEN, TRACK_LEAD}
        queued = await lead(service, "anna", clickId=click_id)
        pending = await service.open("https://acme.link/gift?from=anna", install_id=BEN)
    dub.away.clear()
    async with serving(dub, clock, env={"FIRSTOPEN_SECRET": f"{after},{before}"}) as service:
        clock.advance(60)
        await eventually(service, queued.json()["leadId"], "delivered")
        assert (await lead(service, "anna-again", installId=ANNA)).status_code == 200
        reply = await lead(service, "ben", installId=BEN)
        await eventually(service, reply.json()["leadId"], "delivered")
        bens = await service.recall(pending.open_id)
    assert bens.route.url == "https://acme.com/gift/7?from=anna"
    assert await dub.leads() == [("anna", click_id), ("anna-again", click_id), ("ben", bens.click_id)]


def test_two_processes_on_one_directory_are_refused(tmp_path: Path) -> None:
    """The second says which setting is taken, and the first goes on."""
    first, second = free_ports(2), free_ports(2)
    data = {"FIRSTOPEN_DATA_DIR": str(tmp_path / "data")}
    with started("serve", env={"FIRSTOPEN_PORT": str(first), **data}, cwd=tmp_path) as process:
        process.ready(first)
        status, said = finished(["serve"], tmp_path, {"FIRSTOPEN_PORT": str(second), **data})
        assert status == 2
        assert "FIRSTOPEN_DATA_DIR" in said
        assert "Traceback" not in said
        process.ready(first)
