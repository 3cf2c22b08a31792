"""The fields of a sale: each limit from both sides, on both routes."""

from typing import Any

import pytest

from tests.contract import shapes
from tests.contract.targets import SALE_PATHS, Target, case_id, refused

pytestmark = pytest.mark.asyncio(loop_scope="module")

REQUEST = shapes.request_of("/track/sale")
PROCESSORS = ("stripe", "shopify", "polar", "paddle", "apple", "revenuecat", "dub", "custom")
EMAIL_100 = f"{'x' * 91}@acme.com"


async def customer_of(shared: Target) -> str:
    """Make a customer through a lead; return their id."""
    customer = shared.somebody()
    await shared.lead(await shared.click_id(), customerExternalId=customer)
    return customer


async def bought(shared: Target, customer: str) -> int:
    """Return how many of the newest sales are this customer's."""
    listed = await shared.events("sales", limit=5)
    return sum(event["customer"]["externalId"] == customer for event in listed)


@pytest.mark.parametrize(
    "fields",
    [
        {"amount": 1},
        {"amount": 12.0},
        {"currency": "usd"},
        {"currency": "JPY"},
        {"eventName": "x" * 254},
        {"eventName": "x" * 255},
        *({"paymentProcessor": name} for name in PROCESSORS),
        {"invoiceId": "in_1"},
        {"invoiceId": "x" * 300},
        {"invoiceId": None},
        {"leadEventName": None},
        {"leadEventName": "Sign up"},
        {"clickId": None},
        {"customerName": None},
        {"customerEmail": None},
        {"customerEmail": EMAIL_100},
        {"customerAvatar": None},
        {"metadata": {"k": "x" * 9_991}},
        {"metadata": {"k": "x" * 9_992}},
        {"metadata": None},
        {"nobodyDocumentedThis": [True]},
    ],
    ids=case_id,
)
async def test_inside_a_limit(shared: Target, fields: dict[str, Any]) -> None:
    """Every field is taken at its limit and one below it; null is absent where null is documented."""
    customer = await customer_of(shared)
    for path in SALE_PATHS:
        named = {"invoiceId": f"{fields['invoiceId']}{path}"} if fields.get("invoiceId") else {}
        answer = await shared.sale(path, **({"customerExternalId": customer} | fields | named))
        assert answer["sale"] is not None
    assert await bought(shared, customer) == len(SALE_PATHS)


@pytest.mark.parametrize(
    "fields",
    [
        {"amount": -1},
        {"amount": 2**53},
        {"amount": 1.5},
        {"amount": "500"},
        {"amount": True},
        {"amount": None},
        {"currency": "dollars"},
        {"currency": "us"},
        {"currency": "u$d"},
        {"currency": ""},
        {"currency": None},
        {"eventName": "x" * 256},
        {"eventName": None},
        {"paymentProcessor": "paypal"},
        {"paymentProcessor": "Stripe"},
        {"paymentProcessor": None},
        {"customerExternalId": ""},
        {"customerExternalId": "x" * 101},
        {"customerExternalId": 7},
        {"customerName": "x" * 101},
        {"customerEmail": f"x{EMAIL_100}"},
        {"customerEmail": "anna.@acme.com"},
        {"customerAvatar": 7},
        {"invoiceId": 7},
        {"leadEventName": 7},
        {"clickId": 7},
        {"metadata": {"k": "x" * 9_993}},
        {"metadata": ["pro"]},
    ],
    ids=case_id,
)
async def test_outside_a_limit(shared: Target, fields: dict[str, Any]) -> None:
    """Every field one over its limit, or of another type, is a 422 that names it and records nothing."""
    customer = await customer_of(shared)
    body = {"customerExternalId": customer, "amount": 500} | fields
    assert shapes.problems(REQUEST, body)
    for path in SALE_PATHS:
        refused(await shared.post(path, body), next(iter(fields)))
    assert await bought(shared, customer) == 0


@pytest.mark.parametrize("left_out", ["amount", "customerExternalId"])
async def test_required_fields(shared: Target, left_out: str) -> None:
    """A sale without an amount, or without a customer, is a 422 that names what is missing."""
    body = {"customerExternalId": "user_1", "amount": 500}
    del body[left_out]
    assert shapes.problems(REQUEST, body)
    for path in SALE_PATHS:
        refused(await shared.post(path, body), left_out)


@pytest.mark.parametrize("name", ["externalId", "customerId"])
async def test_older_names_of_the_customers_id(shared: Target, name: str) -> None:
    """`externalId` and `customerId` are the customer's id too; the current name goes first."""
    customer = await customer_of(shared)
    answer = (await shared.post("/track/sale", {name: customer, "amount": 1})).json()
    assert answer["customer"]["externalId"] == customer
    both = await shared.sale(**{"customerExternalId": customer, name: "stranger"})
    assert both["customer"]["externalId"] == customer


@pytest.mark.parametrize("name", ["externalId", "customerId"])
async def test_older_names_from_an_app(shared: Target, name: str) -> None:
    """On the app's route Dub knows no older names (dub-api.md, POST /track/lead), so the id is missing."""
    sale = {name: await customer_of(shared), "amount": 1}
    response = await shared.post("/track/sale/client", sale)
    assert response.status_code == shared.expects("an older field name from an app")
    if response.status_code != 200:
        refused(response, "customerExternalId")
