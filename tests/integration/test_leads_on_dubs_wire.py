"""Leads and sales on Dub's own wire, over the embedded Dub: through the same outbox, in Dub's shape."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.sandboxed import SandboxedDub, left_over, serving
from tests.support import ANNA, FB_PROMO, SERVER_KEY, FakeClock, LogLines, Service, until

LEAD, SALE, OPEN = "/track/lead", "/track/sale", "/track/open"
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
    async with serving(dub, clock, env={"FIRSTOPEN_BUDGET_MS": "300"}) as service:
        yield service


async def click_of(service: Service) -> str:
    click_id = (await service.open(FB_PROMO, install_id=ANNA)).click_id
    assert click_id
    return click_id


async def track(service: Service, click_id: str, customer: str = "anna", **fields: Any) -> httpx.Response:
    body = {"clickId": click_id, "eventName": "Sign up", "customerExternalId": customer, **fields}
    return await service.post(LEAD, json=body, headers=AS_SERVER)


async def sell(service: Service, customer: str = "anna", **fields: Any) -> httpx.Response:
    body = {"customerExternalId": customer, "amount": 500, **fields}
    return await service.post(SALE, json=body, headers=AS_SERVER)


async def all_gone(*, but: dict[str, int]) -> None:
    """Wait until the outbox holds nothing but this."""
    found: dict[str, int] = {}
    for _ in range(400):
        found = await left_over()
        if found == but:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(found)


async def test_a_lead_that_is_queued_says_so(service: Service, dub: SandboxedDub, clock: FakeClock) -> None:
    """200 in Dub's shape with a null link and a header, while Dub is away; recorded once afterwards."""
    click_id = await click_of(service)
    dub.away = {LEAD}
    reply = await track(service, click_id, customerName="Anna")
    assert (reply.status_code, reply.headers["firstopen-queued"]) == (200, "true")
    assert reply.json() == {
        "click": {"id": click_id},
        "link": None,
        "customer": {"name": "Anna", "email": None, "avatar": None, "externalId": "anna"},
    }
    dub.away.clear()
    clock.advance(11)
    await all_gone(but={"lead delivered": 1})
    assert await dub.leads() == [("anna", click_id)]


async def test_a_lead_that_is_delivered_says_nothing_of_it(service: Service) -> None:
    """Dub's answer as it came, without our header."""
    reply = await track(service, await click_of(service))
    assert reply.json()["link"]["key"] == "fb-promo"
    assert "firstopen-queued" not in reply.headers


@pytest.mark.parametrize("mode", ["async", "wait", "deferred"])
async def test_an_unknown_click_is_404_at_once(service: Service, dub: SandboxedDub, mode: str) -> None:
    """Dub's own 404, nothing is queued, and no key is burned."""
    reply = await track(service, "nobodysclick0000", mode=mode)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")
    await all_gone(but={})
    assert set(dub.modes("anna")) == {"deferred"}
    assert (await track(service, await click_of(service))).json()["link"] is not None


async def test_who_waits_is_told_and_nothing_is_queued(
    service: Service, dub: SandboxedDub, clock: FakeClock
) -> None:
    """mode "wait" gets the upstream error; the lead is not sent behind its caller's back afterwards."""
    click_id = await click_of(service)
    dub.away = {LEAD}
    reply = await track(service, click_id, mode="wait")
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "service_unavailable")
    await all_gone(but={})
    dub.away.clear()
    clock.advance(60)
    assert (await track(service, click_id, "ben", mode="wait")).status_code == 200
    assert await dub.leads() == [("ben", click_id)]


async def test_what_was_answered_as_queued_is_kept(
    service: Service, dub: SandboxedDub, clock: FakeClock
) -> None:
    """A 404 that comes after the budget, when its caller has its 200, is asked again, and ends as a dead
    letter that an operator sees: never as nothing.
    """
    dub.blocked = asyncio.Event()
    reply = await track(service, "nobodysclick0000")
    assert (reply.status_code, reply.headers["firstopen-queued"]) == (200, "true")
    dub.blocked.set()
    await until(lambda: dub.calls)
    await all_gone(but={"lead queued": 1})
    clock.advance(61)
    await all_gone(but={"lead dead": 1})


async def test_a_lead_for_a_known_customer_needs_no_click(service: Service, dub: SandboxedDub) -> None:
    """A backend may leave the clickId empty once Dub knows the customer; before, Dub's 400 comes back."""
    reply = await track(service, "")
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "bad_request")
    click_id = await click_of(service)
    await track(service, click_id)
    assert (await track(service, "", eventName="Trial")).status_code == 200
    assert await dub.leads() == [("anna", click_id)] * 2


async def test_a_sale_sent_twice_counts_once(service: Service, dub: SandboxedDub, clock: FakeClock) -> None:
    """Without an invoiceId, a sale whose answer was lost is sent again under its entry's own: one sale."""
    await track(service, await click_of(service))
    dub.loses = {SALE}
    reply = await sell(service)
    assert (reply.status_code, reply.headers["firstopen-queued"]) == (200, "true")
    assert reply.json() == {"eventName": "Purchase", "customer": None, "sale": None}
    dub.loses.clear()
    clock.advance(11)
    await until(lambda: sum(path == SALE for path, _ in dub.calls) > 1)
    assert len({body["invoiceId"] for path, body in dub.calls if path == SALE}) == 1
    assert len(await dub.events("sales")) == 1


async def test_a_sale_whose_answer_was_lost_is_delivered(
    service: Service, dub: SandboxedDub, clock: FakeClock
) -> None:
    """Sent again, Dub answers it as it did the first time (dub-api.md, POST /track/sale): it is done."""
    await track(service, await click_of(service))
    dub.loses = {SALE}
    await sell(service, invoiceId="in_1")
    dub.loses.clear()
    clock.advance(61)
    await all_gone(but={"lead delivered": 1, "sale delivered": 1})
    assert len(await dub.events("sales")) == 1


async def test_a_sale_of_nothing_holds_up_no_other(service: Service, dub: SandboxedDub) -> None:
    """Dub answers an amount of 0 with nulls and records nothing (dub-api.md, POST /track/sale).

    Such a sale is done: the customer's next one is sent, and answered, at once.
    """
    await track(service, await click_of(service))
    free = await sell(service, amount=0, invoiceId="in_0")
    assert (free.status_code, "firstopen-queued" in free.headers) == (200, False)
    assert free.json() == {"eventName": "Purchase", "customer": None, "sale": None}
    confirm_open = await sell(service, amount=1000)
    assert confirm_open.json()["sale"]["amount"] == 1000
    assert "firstopen-queued" not in confirm_open.headers
    await all_gone(but={"lead delivered": 1, "sale delivered": 2})
    assert [event["sale"]["amount"] for event in await dub.events("sales")] == [1000]


async def test_a_sale_of_nothing_to_a_stranger_is_done_too(service: Service) -> None:
    """It waits for no customer: Dub would record nothing once they are known, either."""
    reply = await sell(service, "stranger", amount=0)
    assert (reply.json()["customer"], "firstopen-queued" in reply.headers) == (None, False)
    await all_gone(but={"sale delivered": 1})


async def test_a_repeated_invoice_gets_the_first_answer(service: Service, dub: SandboxedDub) -> None:
    """Whatever the repeat says, the answer is the first one, and one sale is recorded."""
    await track(service, await click_of(service))
    first = await sell(service, invoiceId="in_1")
    again = await sell(service, invoiceId="in_1", amount=900, eventName="Renewal")
    assert again.json() == first.json()
    assert len(await dub.events("sales")) == 1


async def test_a_sale_before_any_lead_is_dubs_404(service: Service, dub: SandboxedDub) -> None:
    """A customer who has only a deferred lead cannot buy yet: 404 (dub-api.md, POST /track/sale).

    Whoever waits for the answer gets it, and nothing is kept; after the lead the sale is taken.
    """
    click_id = await click_of(service)
    await track(service, click_id, mode="deferred")
    reply = await sell(service, invoiceId="in_1")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")
    await all_gone(but={"lead delivered": 1})
    await track(service, click_id)
    assert (await sell(service, invoiceId="in_1")).json()["sale"]["amount"] == 500
    assert len(await dub.events("sales")) == 1


async def queued_before_its_lead(service: Service, dub: SandboxedDub) -> str:
    """Let a sale of a customer without a lead be answered as queued; return the customer's click."""
    click_id = await click_of(service)
    await track(service, click_id, mode="deferred")
    dub.blocked = asyncio.Event()
    assert (await sell(service)).headers["firstopen-queued"] == "true"
    dub.blocked.set()
    await until(lambda: any(path == SALE for path, _ in dub.calls))
    return click_id


async def test_a_queued_sale_waits_for_its_lead(
    service: Service, dub: SandboxedDub, clock: FakeClock
) -> None:
    """Answered 404 behind its caller's back, it is sent again, and counts once the lead is there.

    Sales of other customers are not held up meanwhile.
    """
    click_id = await queued_before_its_lead(service, dub)
    await track(service, click_id, "ben")
    assert (await sell(service, "ben")).json()["sale"] is not None
    lead = {"clickId": click_id, "eventName": "Sign up", "customerExternalId": "anna"}
    await dub.http.post(LEAD, json=lead, headers={"Authorization": "Bearer dub_secret_of_acme"})
    clock.advance(3)
    await all_gone(but={"lead delivered": 2, "sale delivered": 2})


async def test_a_queued_sale_waits_a_minute_for_its_lead(
    service: Service, dub: SandboxedDub, clock: FakeClock
) -> None:
    """Without a lead it ends as a dead letter after a minute, and has cost few calls."""
    await queued_before_its_lead(service, dub)
    for _ in range(400):
        if await left_over() == {"lead delivered": 1, "sale dead": 1}:
            break
        clock.advance(0.5)
    else:
        raise AssertionError(await left_over())
    assert 2 <= sum(path == SALE for path, _ in dub.calls) <= 5


async def test_a_sale_shows_no_invoice_of_ours(service: Service, dub: SandboxedDub) -> None:
    """The invoiceId that we made up for Dub does not come back; the caller's own does."""
    await track(service, await click_of(service))
    assert (await sell(service)).json()["sale"]["invoiceId"] is None
    assert (await sell(service, invoiceId="in_1")).json()["sale"]["invoiceId"] == "in_1"
    assert len(await dub.events("sales")) == 2


async def test_a_sale_of_nobody_waits_for_its_customer(
    service: Service, dub: SandboxedDub, clock: FakeClock
) -> None:
    """Dub's 200 with nulls passes on, the sale stays queued for a minute, and counts once they sign up."""
    reply = await sell(service, "anna")
    assert (reply.status_code, reply.json()["customer"]) == (200, None)
    assert reply.headers["firstopen-queued"] == "true"
    assert await left_over() == {"sale queued": 1}
    click_id = await click_of(service)
    await dub.http.post(
        LEAD,
        json={"clickId": click_id, "eventName": "Sign up", "customerExternalId": "anna"},
        headers={"Authorization": "Bearer dub_secret_of_acme"},
    )
    clock.advance(3)
    await all_gone(but={"sale delivered": 1})
    assert len(await dub.events("sales")) == 1


async def test_a_sale_of_nobody_ends_as_a_dead_letter(
    service: Service, dub: SandboxedDub, clock: FakeClock
) -> None:
    """After a minute it says that Dub knows no such customer; nothing was recorded."""
    await sell(service, "anna")
    clock.advance(61)
    await all_gone(but={"sale dead": 1})
    assert await dub.events("sales") == []


async def test_a_pending_open_says_so(service: Service, dub: SandboxedDub, clock: FakeClock) -> None:
    """While Dub is away an open answers nulls and its id; the click is found under that id later."""
    dub.away = {OPEN}
    reply = await service.post(OPEN, json={"deepLink": FB_PROMO})
    assert (reply.status_code, reply.json()["clickId"]) == (200, None)
    open_id = reply.headers["firstopen-open-id"]
    dub.away.clear()
    clock.advance(11)
    for _ in range(400):
        if not (answer := await service.recall(open_id)).pending:
            break
        await asyncio.sleep(0.01)
    assert [event["click"]["id"] for event in await dub.events("clicks")] == [answer.click_id]
