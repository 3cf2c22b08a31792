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
    answer = await target.sale(path, **sent, currency="USD", eventName="Invoice paid")
    assert answer["eventName"] == "Invoice paid"
    assert answer["sale"] == sent | {"currency": "usd"}
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


@pytest.mark.parametrize("path", SALE_PATHS)
@pytest.mark.parametrize("amount", [0, 0.0])
async def test_a_sale_of_nothing(target: Target, path: str, amount: float) -> None:
    """An amount of 0 is answered 200 with both null, and records nothing: its invoice is still free.

    dub-api.md, POST /track/sale. Invoices of $0 are common, so this must not hold up the next sale.
    """
    await anna_signs_up(target)
    assert await target.sale(path, amount=amount, invoiceId="in_1") == NOTHING
    assert await sales(target) == []
    assert (await target.sale(path, amount=1_000, invoiceId="in_1"))["sale"]["amount"] == 1_000


@pytest.mark.parametrize("path", SALE_PATHS)
@pytest.mark.parametrize(
    ("currency", "amount", "in_usd"), [("eur", 1_000, 1_100), ("GBP", 80, 100), ("jpy", 400, 300)]
)
async def test_other_currencies(target: Target, path: str, currency: str, amount: int, in_usd: int) -> None:
    """An amount in another currency is converted: the answer and the event are in US cents.

    dub-api.md, POST /track/sale. The rates are the sandbox's own.
    """
    await anna_signs_up(target)
    sale = (await target.sale(path, amount=amount, currency=currency))["sale"]
    assert (sale["amount"], sale["currency"]) == (in_usd, "usd")
    (event,) = await sales(target)
    assert (event["sale"]["amount"], event["sale"]["currency"]) == (in_usd, "usd")


@pytest.mark.parametrize("path", SALE_PATHS)
@pytest.mark.parametrize(("named", "lead"), [({}, "Sign up"), ({"leadEventName": "Trial"}, "Trial")])
async def test_a_direct_sale(target: Target, path: str, named: dict[str, str], lead: str) -> None:
    """A sale with a clickId makes its customer, is credited to that click, and records a lead event, too.

    dub-api.md, POST /track/sale.
    """
    click_id = await target.click_id()
    buyer = {"customerName": "Ben", "customerEmail": "ben@acme.com"}
    answer = await target.sale(path, clickId=click_id, **buyer, **named)
    assert (answer["customer"]["name"], answer["customer"]["email"]) == ("Ben", "ben@acme.com")
    (sold,), (led,) = await sales(target), await target.events("leads")
    assert (sold["click"]["id"], led["click"]["id"], led["eventName"]) == (click_id, click_id, lead)
    assert led["customer"]["id"] == answer["customer"]["id"]


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
async def test_a_repeated_invoice_gets_the_first_answer(target: Target, path: str, clock: FakeClock) -> None:
    """For 7 days the same invoice is answered as it was first, whatever the repeat says; then it counts.

    dub-api.md, POST /track/sale.
    """
    await anna_signs_up(target)
    first = await target.sale(path, invoiceId="in_1", metadata={"plan": "pro"})
    clock.advance(7 * DAY_S - 1)
    assert await target.sale(path, invoiceId="in_1", amount=900, eventName="Renewal") == first
    assert [event["sale"]["amount"] for event in await sales(target)] == [500]
    clock.advance(1)
    again = await target.sale(path, invoiceId="in_1", amount=900, eventName="Renewal")
    assert (again["eventName"], again["sale"]["amount"]) == ("Renewal", 900)
    assert len(await sales(target)) == 2


async def test_which_invoices_are_the_same(target: Target) -> None:
    """An invoice's case counts: another one is another sale."""
    await anna_signs_up(target)
    for invoice in ("in_1", "IN_1", "in_10"):
        assert (await target.sale(invoiceId=invoice))["sale"]["invoiceId"] == invoice
    assert len(await sales(target)) == 3


async def test_both_routes_know_an_invoice(target: Target) -> None:
    """An invoice that the app has reported counts no more when the backend reports it."""
    await anna_signs_up(target)
    first, again = [await target.sale(path, invoiceId="in_1") for path in SALE_PATHS]
    assert again == first
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


@pytest.mark.parametrize("path", SALE_PATHS)
async def test_a_customer_without_a_lead(target: Target, path: str) -> None:
    """A customer who was only ever deferred has no lead event yet: their sale is a 404, also with a clickId.

    dub-api.md, POST /track/sale. After the lead the same sale is taken.
    """
    click_id = await target.click_id()
    await target.lead(click_id, mode="deferred")
    for more in ({}, {"clickId": click_id}):
        response = await target.ask_sale(path, invoiceId="in_1", **more)
        assert error_of(response) == (404, "not_found")
    assert await sales(target) == []
    await target.lead(click_id)
    assert (await target.sale(path, invoiceId="in_1"))["sale"] is not None


@pytest.mark.parametrize("path", SALE_PATHS)
async def test_a_disabled_link(target: Target, path: str) -> None:
    """A sale that would be credited to a disabled link is a 404, of a known customer and of a new one.

    dub-api.md, POST /track/sale.
    """
    click_id = await anna_signs_up(target)
    await target.at_dub("PATCH", "/links/link_promo", {"disabled": True})
    for buyer in ({}, {"customerExternalId": "ben", "clickId": click_id}):
        assert error_of(await target.ask_sale(path, **buyer)) == (404, "not_found")
    assert await sales(target) == []
    await target.at_dub("PATCH", "/links/link_promo", {"disabled": False})
    assert (await target.sale(path))["sale"] is not None
