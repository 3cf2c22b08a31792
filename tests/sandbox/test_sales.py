"""`/track/sale` and `/track/sale/client`."""

from typing import Any

import pytest

from tests.sandbox.support import FakeClock, Sandbox, error_of

NOTHING = {"eventName": "Purchase", "customer": None, "sale": None}


@pytest.fixture
async def anna(sandbox: Sandbox) -> str:
    """Make a customer through a lead; return her click."""
    click_id = str((await sandbox.open())["clickId"])
    assert (await sandbox.lead(click_id, customerName="Anna")).status_code == 200
    return click_id


@pytest.mark.usefixtures("anna")
async def test_sale_answers_event_customer_and_sale(sandbox: Sandbox) -> None:
    """A sale's answer has exactly the documented fields, with the documented defaults."""
    body = (await sandbox.sale()).json()
    assert body["customer"].pop("id").startswith("cus_")
    assert body == {
        "eventName": "Purchase",
        "customer": {"name": "Anna", "email": None, "avatar": None, "externalId": "user_1"},
        "sale": {
            "amount": 500,
            "currency": "usd",
            "paymentProcessor": "custom",
            "invoiceId": None,
            "metadata": None,
        },
    }


async def test_sale_is_credited_to_the_click(sandbox: Sandbox, anna: str) -> None:
    """The sale is in `/events` with the customer's click, and in the link's counters."""
    await sandbox.sale(
        amount=700, currency="EUR", paymentProcessor="stripe", invoiceId="in_1", metadata={"a": 1}
    )
    (event,) = await sandbox.events("sales")
    assert (event["event"], event["eventName"], event["click"]["id"]) == ("sale", "Purchase", anna)
    assert event["sale"] == {
        "amount": 700,
        "currency": "eur",
        "invoiceId": "in_1",
        "paymentProcessor": "stripe",
    }
    assert event["metadata"] == {"a": 1}
    link = await sandbox.link()
    assert (link["sales"], link["saleAmount"], link["conversions"]) == (1, 700, 1)


async def test_unknown_customer_without_a_click(sandbox: Sandbox, anna: str) -> None:
    """A sale for nobody is a 200 with nulls that records nothing and holds no invoice."""
    response = await sandbox.sale("stranger", invoiceId="in_1")
    assert (response.status_code, response.json()) == (200, NOTHING)
    assert await sandbox.events("sales") == []
    assert (await sandbox.sale("user_1", invoiceId="in_1")).json()["sale"] is not None
    assert anna


async def test_unknown_customer_with_a_click(sandbox: Sandbox) -> None:
    """A sale with a clickId makes its customer; an unknown click is a 404."""
    click_id = (await sandbox.open())["clickId"]
    answer = (await sandbox.sale("new", clickId=click_id, customerEmail="new@acme.com")).json()
    assert answer["customer"]["email"] == "new@acme.com"
    assert error_of(await sandbox.sale("newer", clickId="unknownunknown00"))[:2] == (404, "not_found")
    (event,) = await sandbox.events("sales")
    assert event["click"]["id"] == click_id
    assert await sandbox.events("leads") == []


async def test_direct_sale_may_name_its_lead(sandbox: Sandbox) -> None:
    """A first sale with a clickId and leadEventName records that lead too."""
    click_id = (await sandbox.open())["clickId"]
    await sandbox.sale("new", clickId=click_id, leadEventName="Trial")
    (lead,) = await sandbox.events("leads")
    assert lead["eventName"] == "Trial"


@pytest.mark.usefixtures("anna")
async def test_only_an_invoice_makes_it_idempotent(sandbox: Sandbox, clock: FakeClock) -> None:
    """Without invoiceId every repeat counts; with it the second is a 200 with nulls."""
    await sandbox.sale()
    await sandbox.sale()
    assert len(await sandbox.events("sales")) == 2
    await sandbox.sale(invoiceId="in_1")
    clock.advance(3_600)
    assert (await sandbox.sale(invoiceId="in_1", amount=900)).json() == NOTHING
    assert len(await sandbox.events("sales")) == 3


async def test_new_and_recurring(sandbox: Sandbox, anna: str) -> None:
    """A customer's first sale is new, every other recurring; only the first is a conversion."""
    for amount in (1, 2, 3):
        await sandbox.sale(amount=amount)
    amounts = {
        kind: [e["sale"]["amount"] for e in await sandbox.events("sales", saleType=kind)]
        for kind in ("new", "recurring")
    }
    assert amounts == {"new": [1], "recurring": [3, 2]}
    assert (await sandbox.link())["conversions"] == 1
    assert anna


async def test_lead_event_name_chooses_the_click(sandbox: Sandbox, anna: str) -> None:
    """leadEventName credits that lead's click, the latest lead counts otherwise, an unknown one is a 404."""
    other = (await sandbox.open("https://acme.link/plain"))["clickId"]
    await sandbox.lead(other, eventName="Upgrade")
    await sandbox.sale(amount=1, leadEventName="Sign up")
    await sandbox.sale(amount=2)
    credited = {e["sale"]["amount"]: e["click"]["id"] for e in await sandbox.events("sales")}
    assert credited == {1: anna, 2: other}
    assert error_of(await sandbox.sale(leadEventName="Never"))[0] == 404


async def test_deferred_customer_can_buy(sandbox: Sandbox) -> None:
    """A customer with no lead event yet is credited to the click they came by."""
    click_id = (await sandbox.open())["clickId"]
    await sandbox.lead(click_id, mode="deferred")
    await sandbox.sale()
    (event,) = await sandbox.events("sales")
    assert event["click"]["id"] == click_id


@pytest.mark.usefixtures("anna")
@pytest.mark.parametrize(
    "fields",
    [
        {"amount": 0},
        {"amount": 12.0},
        {"eventName": "x" * 255},
        {"paymentProcessor": "revenuecat"},
        {"currency": "JPY"},
        {"metadata": {"k": "x" * 9_992}},
        {"invoiceId": None, "metadata": None, "leadEventName": None, "clickId": None},
        {"customerName": None, "customerEmail": None, "customerAvatar": None},
    ],
)
async def test_just_inside_a_limit(sandbox: Sandbox, fields: dict[str, Any]) -> None:
    """Every field at its documented limit is taken."""
    response = await sandbox.sale(**fields)
    assert response.json()["sale"] is not None, response.text


@pytest.mark.usefixtures("anna")
@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"amount": -1}, "amount"),
        ({"amount": 1.5}, "amount"),
        ({"amount": "5"}, "amount"),
        ({"amount": None}, "amount"),
        ({"amount": 2**53}, "amount"),
        ({"currency": "dollars"}, "currency"),
        ({"currency": "u1"}, "currency"),
        ({"eventName": "x" * 256}, "eventName"),
        ({"paymentProcessor": "paypal"}, "paymentProcessor"),
        ({"customerExternalId": ""}, "customerExternalId"),
        ({"customerExternalId": "x" * 101}, "customerExternalId"),
        ({"customerName": "x" * 101}, "customerName"),
        ({"customerEmail": "nobody"}, "customerEmail"),
        ({"metadata": {"k": "x" * 9_993}}, "metadata"),
        ({"invoiceId": 1}, "invoiceId"),
    ],
)
async def test_just_outside_a_limit(sandbox: Sandbox, fields: dict[str, Any], named: str) -> None:
    """Every field one over its limit is a 422 that names it and records nothing."""
    status, code, message = error_of(await sandbox.sale(**fields))
    assert (status, code) == (422, "unprocessable_entity")
    assert named in message
    assert await sandbox.events("sales") == []


@pytest.mark.usefixtures("anna")
@pytest.mark.parametrize("name", ["externalId", "customerId"])
async def test_older_names_and_the_client_route(sandbox: Sandbox, name: str) -> None:
    """An app reports a sale with its publishable key, under the older names too."""
    response = await sandbox.post("/track/sale/client", {name: "user_1", "amount": 1}, key="dub_pk_acme")
    assert response.json()["customer"]["externalId"] == "user_1"
