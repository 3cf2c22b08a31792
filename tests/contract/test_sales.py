"""`POST /track/sale` and `/track/sale/client`: what is recorded, and what makes a sale the same sale."""

from typing import Any

import pytest

from tests.contract.targets import SALE_PATHS, Target, error_of
from tests.sandbox.support import FakeClock

DAY_S = 86_400
NOTHING = {"eventName": "Purchase", "customer": None, "sale": None}


async def sales(target: Target, **params: Any) -> list[dict[str, Any]]:
    return await target.events("sales", interval="all", **params)


async def anna_signs_up(target: Target) -> str:
    """Make a customer through a lead; return her click."""
    click_id = await target.click_id()
    await target.lead(click_id, customerName="Anna", customerEmail="anna@acme.com")
    return click_id


@pytest.mark.parametrize("path", SALE_PATHS)
async def test_a_sale_of_a_known_customer(target: Target, path: str) -> None:
    """The answer has exactly the documented fields and defaults; the event is credited to her click."""
    click_id = await anna_signs_up(target)
    answer = await target.sale(path)
    assert answer["customer"].pop("id")
    assert answer == {
        "eventName": "Purchase",
        "customer": {"name": "Anna", "email": "anna@acme.com", "avatar": None, "externalId": "user_1"},
        "sale": {
            "amount": 500,
            "currency": "usd",
            "paymentProcessor": "custom",
            "invoiceId": None,
            "metadata": None,
        },
    }
    (event,) = await sales(target)
    assert (event["eventName"], event["click"]["id"]) == ("Purchase", click_id)
    assert (event["sale"]["amount"], event["sale"]["paymentProcessor"]) == (500, "custom")


@pytest.mark.parametrize("path", SALE_PATHS)
async def test_a_sale_says_back_what_was_sent(target: Target, path: str) -> None:
    """Every field comes back in the answer, and is in the event."""
    await anna_signs_up(target)
    sent = {"amount": 4_999, "paymentProcessor": "stripe", "invoiceId": "in_1", "metadata": {"plan": ["pro"]}}
    answer = await target.sale(path, **sent, currency="EUR", eventName="Invoice paid")
    assert answer["eventName"] == "Invoice paid"
    assert answer["sale"] == sent | {"currency": "eur"}
    (event,) = await sales(target)
    assert (event["eventName"], event["metadata"]) == ("Invoice paid", {"plan": ["pro"]})
    assert (event["sale"]["amount"], event["sale"]["invoiceId"]) == (4_999, "in_1")


@pytest.mark.parametrize("path", SALE_PATHS)
async def test_an_unknown_customer_without_a_click(target: Target, path: str) -> None:
    """Nobody is known to have bought: 200 with both null, nothing recorded, the invoice still free."""
    await anna_signs_up(target)
    assert await target.sale(path, customerExternalId="stranger", invoiceId="in_1") == NOTHING
    assert await sales(target) == []
    assert (await target.sale(path, invoiceId="in_1"))["sale"] is not None


async def test_an_unknown_customer_keeps_the_sales_name(target: Target) -> None:
    """Also a sale that is not recorded answers the name that it was sent with."""
    assert await target.sale(eventName="Renewal") == NOTHING | {"eventName": "Renewal"}


async def test_an_unknown_customer_with_a_click(target: Target) -> None:
    """A sale with a clickId makes its customer and is credited to that click; no lead is recorded."""
    click_id = await target.click_id()
    answer = await target.sale(clickId=click_id, customerName="Ben", customerEmail="ben@acme.com")
    assert (answer["customer"]["name"], answer["customer"]["email"]) == ("Ben", "ben@acme.com")
    (event,) = await sales(target)
    assert event["click"]["id"] == click_id
    assert await target.events("leads") == []


async def test_an_unknown_click(target: Target) -> None:
    """A sale of an unknown customer by an unknown click is a 404, and records nothing."""
    assert error_of(await target.ask_sale(clickId="cm2xyz123abc0000")) == (404, "not_found")
    assert await sales(target) == []


@pytest.mark.parametrize("path", SALE_PATHS)
async def test_without_an_invoice_every_repeat_counts(target: Target, path: str) -> None:
    """The same sale again is another sale, as long as neither names an invoice."""
    await anna_signs_up(target)
    for invoice in ({}, {}, {"invoiceId": None}):
        assert (await target.sale(path, **invoice))["sale"] is not None
    assert len(await sales(target)) == 3


@pytest.mark.parametrize("path", SALE_PATHS)
async def test_an_invoice_counts_once(target: Target, path: str, clock: FakeClock) -> None:
    """A second sale with the same invoice is a 200 that records nothing, whatever else it says and when."""
    await anna_signs_up(target)
    await target.sale(path, invoiceId="in_1")
    clock.advance(30 * DAY_S)
    again = await target.ask_sale(path, invoiceId="in_1", amount=900, eventName="Renewal")
    assert again.status_code == 200
    assert [event["sale"]["amount"] for event in await sales(target)] == [500]


async def test_which_invoices_are_the_same(target: Target) -> None:
    """An invoice's case counts: another one is another sale."""
    await anna_signs_up(target)
    for invoice in ("in_1", "IN_1", "in_10"):
        assert (await target.sale(invoiceId=invoice))["sale"]["invoiceId"] == invoice
    assert len(await sales(target)) == 3


async def test_both_routes_know_an_invoice(target: Target) -> None:
    """An invoice that the app has reported counts no more when the backend reports it."""
    await anna_signs_up(target)
    for path in SALE_PATHS:
        await target.sale(path, invoiceId="in_1")
    assert len(await sales(target)) == 1


async def test_which_lead_a_sale_follows_from(target: Target) -> None:
    """leadEventName credits that lead's click; without it the latest lead's; a lead there never was: 404."""
    first = await anna_signs_up(target)
    second = await target.click_id("https://acme.link/plain")
    await target.lead(second, eventName="Upgrade")
    await target.sale(amount=1, leadEventName="Sign up")
    await target.sale(amount=2)
    credited = {event["sale"]["amount"]: event["click"]["id"] for event in await sales(target)}
    assert credited == {1: first, 2: second}
    assert error_of(await target.ask_sale(leadEventName="Never")) == (404, "not_found")


async def test_a_deferred_customer_can_buy(target: Target) -> None:
    """A customer who was only ever deferred is known, and credited to their own click."""
    click_id = await target.click_id()
    await target.lead(click_id, mode="deferred")
    assert (await target.sale())["sale"] is not None
    (event,) = await sales(target)
    assert event["click"]["id"] == click_id
