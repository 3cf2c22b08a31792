"""A lead that is reported again is the same lead: by its customer and event, or by its Idempotency-Key."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.sandboxed import SandboxedDub, eventually, lead, serving
from tests.support import ANNA, BEN, FB_PROMO, OTHER_KEY, SERVER_KEY, FakeClock, LogLines, Service

DAY_S = 86_400
TRACK_LEAD = "/track/lead"
AS_SERVER = {"Authorization": f"Bearer {SERVER_KEY}"}


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


async def click_of(service: Service, install: str = ANNA) -> str:
    click_id = (await service.open(FB_PROMO, install_id=install)).click_id
    assert click_id
    return click_id


async def keyed(service: Service, key: str, customer: str = "anna", **fields: Any) -> httpx.Response:
    body = {"eventName": "Sign up", "customerExternalId": customer, **fields}
    return await service.post("/v1/leads", json=body, headers={"Idempotency-Key": key})


def first_again(reply: httpx.Response, first: httpx.Response, status: str = "delivered") -> bool:
    return bool(reply.json() == {"leadId": first.json()["leadId"], "status": status})


@pytest.mark.parametrize("event_name", ["Sign up", "sign up", " SIGN UP ", "sign-up", "Sign-Up"])
async def test_the_same_customer_and_event_is_the_same_lead(
    service: Service, dub: SandboxedDub, event_name: str
) -> None:
    """Events are folded as Dub does it: lower-cased, spaces as hyphens (dub-api.md, "POST /track/lead").

    The answer is the first leadId and where it stands, whatever else the repeat says.
    """
    click_id = await click_of(service)
    first = await lead(service, "anna", clickId=click_id)
    again = await lead(service, "anna", clickId=click_id, eventName=event_name, customerName="Anna")
    assert (first.status_code, again.status_code) == (200, 200)
    assert first_again(again, first)
    assert dub.modes("anna") == ["async"]


async def test_other_customers_events_and_apps_are_other_leads(service: Service) -> None:
    """Nobody's lead is taken for somebody else's; customers' ids keep their case."""
    click_id = await click_of(service)
    leads = [
        await lead(service, "anna", clickId=click_id),
        await lead(service, "Anna", clickId=click_id),
        await lead(service, "anna", clickId=click_id, eventName="Trial"),
        await lead(service, "anna-sign", clickId=click_id, eventName="up"),
        await lead(service, "anna", clickId=click_id, eventName="sign up", mode="deferred"),
    ]
    assert len({reply.json()["leadId"] for reply in leads}) == len(leads)
    assert [reply.json()["status"] for reply in leads] == ["delivered"] * len(leads)
    foreign = await service.post(
        "/v1/leads",
        json={"eventName": "Sign up", "customerExternalId": "anna", "clickId": click_id},
        headers={"Authorization": f"Bearer {OTHER_KEY}"},
    )
    assert foreign.status_code == 503  # globex has no Dub key: it is a lead of its own, and cannot be sent


async def test_a_deferred_lead_is_no_event_yet(service: Service, dub: SandboxedDub) -> None:
    """Dub records no event for it and sets no deduplication key: the real lead that follows is sent."""
    click_id = await click_of(service)
    await lead(service, "anna", clickId=click_id, mode="deferred")
    real = await lead(service, "anna", clickId=click_id)
    assert real.json()["link"] is not None
    assert await dub.leads() == [("anna", click_id)]


async def test_a_repeat_says_where_the_first_stands(
    service: Service, dub: SandboxedDub, clock: FakeClock
) -> None:
    """202 while it is queued, also through a restart; 200 once it is delivered. Dub counts it once."""
    click_id = await click_of(service)
    dub.away = {TRACK_LEAD}
    first = await lead(service, "anna", clickId=click_id)
    again = await lead(service, "anna", clickId=click_id)
    assert (again.status_code, first_again(again, first, "queued")) == (202, True)
    dub.away.clear()
    clock.advance(11)
    await eventually(service, first.json()["leadId"], "delivered")
    assert first_again(await lead(service, "anna", clickId=click_id), first)
    assert await dub.leads() == [("anna", click_id)]


async def test_a_restart_forgets_no_lead(dub: SandboxedDub, clock: FakeClock) -> None:
    """A repeat is recognised for seven days, as at Dub; after that it is a new lead, which Dub counts."""
    async with serving(dub, clock) as service:
        click_id = await click_of(service)
        first = await keyed(service, "key-1", clickId=click_id)
    clock.advance(7 * DAY_S - 60)
    async with serving(dub, clock) as service:
        assert first_again(await lead(service, "anna", clickId=click_id), first)
        assert first_again(await keyed(service, "key-1", clickId=click_id), first)
        clock.advance(120)
        again = await lead(service, "anna", clickId=click_id)
        assert again.json()["leadId"] != first.json()["leadId"]
        assert again.json()["link"] is not None
    assert await dub.leads() == [("anna", click_id)] * 2


async def test_many_at_once_are_one(service: Service, dub: SandboxedDub) -> None:
    """A double tap, or a retry while the first is under way: one leadId, one call."""
    click_id = await click_of(service)
    dub.blocked = asyncio.Event()
    taps = [asyncio.create_task(lead(service, "anna", clickId=click_id)) for _ in range(10)]
    await asyncio.wait(taps, return_when=asyncio.FIRST_COMPLETED)
    dub.blocked.set()
    replies = await asyncio.gather(*taps)
    assert len({reply.json()["leadId"] for reply in replies}) == 1
    assert all(reply.status_code in (200, 202) for reply in replies)
    assert dub.modes("anna") == ["async"]


async def test_a_dead_lead_may_be_reported_anew(
    service: Service, dub: SandboxedDub, clock: FakeClock
) -> None:
    """A sign-up with a wrong click, corrected: the second is no repeat of what was never recorded."""
    wrong = await keyed(service, "key-1", clickId="nobodysclick0000")
    clock.advance(61)
    await eventually(service, wrong.json()["leadId"], "dead")
    click_id = await click_of(service)
    right = await keyed(service, "key-1", clickId=click_id)
    assert right.json()["status"] == "delivered"
    assert await dub.leads() == [("anna", click_id)]


async def test_a_report_that_knows_the_click_ends_the_wait(service: Service, dub: SandboxedDub) -> None:
    """The first report waits for an install that has not opened; the second names the click: same lead."""
    first = await lead(service, "anna", installId=BEN)
    assert (first.status_code, first.json()["status"]) == (202, "queued")
    click_id = await click_of(service)
    again = await lead(service, "anna", clickId=click_id)
    assert first_again(again, first, "queued")
    await eventually(service, first.json()["leadId"], "delivered")
    assert await dub.leads() == [("anna", click_id)]
    await service.open(FB_PROMO, install_id=BEN)
    assert await dub.leads() == [("anna", click_id)]


async def test_the_same_key_and_body_get_the_same_answer(service: Service, dub: SandboxedDub) -> None:
    """In whatever order and spelling the fields come."""
    click_id = await click_of(service)
    first = await keyed(service, "key-1", clickId=click_id, metadata={"a": 1, "b": 2})
    again = await service.post(
        "/v1/leads",
        content=b'{"metadata": {"b": 2, "a": 1}, "clickId": "%s", "customerExternalId": "anna",'
        b' "eventName":"Sign up"}' % click_id.encode(),
        headers={"Idempotency-Key": " key-1 ", "Content-Type": "application/json"},
    )
    assert first.json()["status"] == "delivered"
    assert first_again(again, first)
    assert dub.modes("anna") == ["async"]


@pytest.mark.parametrize(
    "other",
    [{"customer": "ben"}, {"eventName": "Trial"}, {"metadata": {"a": 2}}, {"mode": "deferred"}],
    ids=lambda each: next(iter(each)),
)
async def test_the_same_key_with_another_body_is_422(
    service: Service, dub: SandboxedDub, other: dict[str, Any]
) -> None:
    """It is a mistake of the caller's, and says so; nothing is sent."""
    click_id = await click_of(service)
    await keyed(service, "key-1", clickId=click_id)
    calls = len(dub.calls)
    reply = await keyed(service, "key-1", **{"clickId": click_id, **other})
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "unprocessable_entity")
    assert reply.json()["error"]["message"].startswith("Idempotency-Key: ")
    assert len(dub.calls) == calls
    assert (await keyed(service, "key-2", **{"clickId": click_id, **other})).status_code == 200


async def test_keys_are_each_apps_own(service: Service, dub: SandboxedDub) -> None:
    """Another app's key of the same name is another key, with another body."""
    await keyed(service, "key-1", clickId=await click_of(service))
    body = {"eventName": "Sign up", "customerExternalId": "mallory", "clickId": "nobodysclick0000"}
    headers = {"Authorization": f"Bearer {OTHER_KEY}", "Idempotency-Key": "key-1"}
    assert (await service.post("/v1/leads", json=body, headers=headers)).status_code == 503
    assert dub.modes("mallory") == []


@pytest.mark.parametrize(("key", "status"), [("", 200), ("  ", 200), ("k" * 255, 200), ("k" * 256, 422)])
async def test_a_key_is_bounded(service: Service, key: str, status: int) -> None:
    """A blank one is none."""
    reply = await keyed(service, key, clickId=await click_of(service))
    assert reply.status_code == status, reply.text


async def test_a_blank_key_matches_nothing(service: Service) -> None:
    """Two reports with an empty header are two leads."""
    click_id = await click_of(service)
    leads = [await keyed(service, "", customer, clickId=click_id) for customer in ("anna", "ben")]
    assert len({reply.json()["leadId"] for reply in leads}) == 2


async def test_an_erased_install_is_not_recognised(service: Service, dub: SandboxedDub) -> None:
    """What the first report was recognised by is erased with it."""
    click_id = await click_of(service)
    first = await lead(service, "anna", installId=ANNA)
    forget = await service.post("/v1/installs/forget", json={"installId": ANNA}, headers=AS_SERVER)
    assert forget.json()["outbox"] == 1
    again = await lead(service, "anna", clickId=click_id)
    assert again.json()["leadId"] != first.json()["leadId"]
    assert dub.modes("anna")[-1] == "async"


async def test_dubs_own_wire_repeats_as_dub_does(service: Service, dub: SandboxedDub) -> None:
    """A repeat on /track/lead is Dub's to answer: 200 with a null link."""
    body = {"clickId": await click_of(service), "eventName": "Sign up", "customerExternalId": "anna"}
    replies = [await service.post(TRACK_LEAD, json=body, headers=AS_SERVER) for _ in range(2)]
    assert [reply.json()["link"] is None for reply in replies] == [False, True]
    assert len(await dub.leads()) == 1
