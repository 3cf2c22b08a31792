"""The fields of a lead: each limit from both sides, on both routes."""

from typing import Any

import pytest

from tests.contract import shapes
from tests.contract.targets import LEAD_PATHS, Target, case_id, error_of, refused

pytestmark = pytest.mark.asyncio(loop_scope="module")

REQUEST = shapes.request_of("/track/lead")
EMAIL_100 = f"{'x' * 91}@acme.com"


@pytest.mark.parametrize(
    "fields",
    [
        {"eventName": "x"},
        {"eventName": "x" * 254},
        {"eventName": "x" * 255},
        {"customerExternalId": "x"},
        {"customerExternalId": "x" * 99},
        {"customerExternalId": "x" * 100},
        {"customerName": ""},
        {"customerName": "x" * 99},
        {"customerName": "x" * 100},
        {"customerName": None},
        {"customerEmail": EMAIL_100[1:]},
        {"customerEmail": EMAIL_100},
        {"customerEmail": "anna.o'neil+app_1@mail.acme-app.co.uk"},
        {"customerEmail": None},
        {"customerAvatar": "https://acme.com/anna.png"},
        {"customerAvatar": "not a URL, and nobody minds"},
        {"customerAvatar": None},
        {"eventQuantity": 1},
        {"eventQuantity": 100},
        {"eventQuantity": None},
        {"metadata": {}},
        {"metadata": {"k": "x" * 9_991}},
        {"metadata": {"k": "x" * 9_992}},
        {"metadata": {"k": "ü" * 9_992}},
        {"metadata": None},
        {"mode": "async"},
        {"mode": "wait"},
        {"mode": "deferred"},
        {"nobodyDocumentedThis": [True]},
    ],
    ids=case_id,
)
async def test_inside_a_limit(shared: Target, fields: dict[str, Any]) -> None:
    """Every field is taken at its limit and one below it; null is absent where null is documented."""
    clicks = {}
    for path in LEAD_PATHS:
        clicks[path] = await shared.click_id(phone=shared.somebodys_phone())
        answer = await shared.lead(clicks[path], path, **({"customerExternalId": shared.somebody()} | fields))
        assert answer["click"]["id"] == clicks[path]
    newest = await shared.events("leads", limit=2 * int(fields.get("eventQuantity") or 1))
    recorded = {event["click"]["id"] for event in newest}
    same_customer = "customerExternalId" in fields
    expected = 0 if fields.get("mode") == "deferred" else 1 if same_customer else 2
    assert len(recorded & set(clicks.values())) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"eventName": ""},
        {"eventName": "   "},
        {"eventName": "x" * 256},
        {"eventName": None},
        {"eventName": 7},
        {"customerExternalId": ""},
        {"customerExternalId": "x" * 101},
        {"customerExternalId": None},
        {"customerExternalId": 7},
        {"customerName": "x" * 101},
        {"customerName": 7},
        {"customerEmail": f"x{EMAIL_100}"},
        {"customerEmail": ""},
        {"customerEmail": "anna"},
        {"customerEmail": "anna@acme"},
        {"customerEmail": "@acme.com"},
        {"customerEmail": ".anna@acme.com"},
        {"customerEmail": "anna.@acme.com"},
        {"customerEmail": "anna'@acme.com"},
        {"customerEmail": "an..na@acme.com"},
        {"customerEmail": "anna@-acme.com"},
        {"customerEmail": "anna@acme.c"},
        {"customerEmail": "anna@acme.com, ben@acme.com"},
        {"customerAvatar": 7},
        {"eventQuantity": 0},
        {"eventQuantity": -1},
        {"eventQuantity": 101},
        {"eventQuantity": 1.5},
        {"eventQuantity": "2"},
        {"eventQuantity": True},
        {"metadata": {"k": "x" * 9_993}},
        {"metadata": {"k": "ü" * 9_993}},
        {"metadata": ["pro"]},
        {"metadata": "pro"},
        {"mode": "later"},
        {"mode": ""},
        {"mode": None},
        {"clickId": 7},
    ],
    ids=case_id,
)
async def test_outside_a_limit(shared: Target, fields: dict[str, Any]) -> None:
    """Every field one over its limit, or of another type, is a 422 that names it, and burns nothing."""
    customer = shared.somebody()
    lead = {"clickId": await shared.click_id(), "eventName": "Sign up", "customerExternalId": customer}
    assert shapes.problems(REQUEST, lead | fields)
    for path in LEAD_PATHS:
        refused(await shared.post(path, lead | fields), next(iter(fields)))
    assert (await shared.post("/track/lead", lead)).json()["link"] is not None


@pytest.mark.parametrize("path", LEAD_PATHS)
async def test_a_name_is_trimmed_before_it_is_measured(shared: Target, path: str) -> None:
    """Spaces around 255 characters do not count, and are not kept."""
    click_id = await shared.click_id(phone=shared.somebodys_phone())
    body = {"clickId": f" {click_id} ", "eventName": f"  {'y' * 255} ", "customerExternalId": "user_1"}
    response = await shared.ask("POST", path, body=body | {"customerExternalId": shared.somebody()})
    assert response.json()["click"] == {"id": click_id}
    assert (await shared.events("leads"))[0]["eventName"] == "y" * 255


@pytest.mark.parametrize("name", ["customerExternalId", "externalId", "customerId"])
async def test_older_names_of_the_customers_id(shared: Target, name: str) -> None:
    """`externalId` and `customerId` are the customer's id too, within the same limits."""
    body = {"clickId": await shared.click_id(), "eventName": "Sign up", name: "y" * 100}
    assert (await shared.post("/track/lead", body)).json()["customer"]["externalId"] == "y" * 100
    for value in ("", "x" * 101):
        response = await shared.post("/track/lead", body | {name: value})
        assert error_of(response) == (422, "unprocessable_entity")


@pytest.mark.parametrize("name", ["externalId", "customerId"])
async def test_older_names_from_an_app(shared: Target, name: str) -> None:
    """On the app's route Dub knows no older names (dub-api.md, POST /track/lead), so the id is missing."""
    lead = {"clickId": await shared.click_id(), "eventName": "Sign up", name: shared.somebody()}
    response = await shared.post("/track/lead/client", lead)
    assert response.status_code == shared.expects("an older field name from an app")
    if response.status_code != 200:
        refused(response, "customerExternalId")


@pytest.mark.parametrize("fields", [{}, {"clickId": None}], ids=["missing", "null"])
async def test_a_lead_of_an_app_without_a_click(shared: Target, fields: dict[str, None]) -> None:
    """On the app's route Dub requires a clickId (dub-api.md, POST /track/lead)."""
    await shared.lead(await shared.click_id(), mode="deferred")
    lead = {"eventName": "Sign up", "customerExternalId": shared.customer} | fields
    response = await shared.ask("POST", "/track/lead/client", body=lead)
    assert response.status_code == shared.expects("a lead of an app without a clickId")
    if response.status_code != 200:
        refused(response, "clickId")


async def test_the_current_name_goes_first(shared: Target) -> None:
    """Where several names of the id are sent, customerExternalId counts."""
    ids = {"customerExternalId": shared.somebody(), "externalId": "old", "customerId": "older"}
    answer = await shared.lead(await shared.click_id(), **ids)
    assert answer["customer"]["externalId"] == ids["customerExternalId"]


@pytest.mark.parametrize("path", LEAD_PATHS)
@pytest.mark.parametrize("left_out", ["eventName", "customerExternalId"])
async def test_required_fields(shared: Target, path: str, left_out: str) -> None:
    """A lead without a name, or without a customer, is a 422 that names what is missing."""
    body = {"clickId": "x", "eventName": "Sign up", "customerExternalId": "user_1"}
    del body[left_out]
    refused(await shared.post(path, body), left_out)
    assert shapes.problems(REQUEST, body)


@pytest.mark.parametrize("name", ["externalId", "customerId"])
async def test_an_older_name_is_held_to_its_limit_too(shared: Target, name: str) -> None:
    """An older name that is too long is a 422, also beside a current one that is not."""
    click_id = await shared.click_id()
    response = await shared.ask_lead(click_id, **{name: "x" * 101})
    assert error_of(response) == (422, "unprocessable_entity")
    assert (await shared.lead(click_id, **{name: "x" * 100}))["link"] is not None


@pytest.mark.parametrize("length", [100, 101, 300])
async def test_how_long_a_click_id_may_be(shared: Target, length: int) -> None:
    """Dub does not apply the 100-character limit of a clickId (dub-api.md, POST /track/lead).

    A long one is looked up, and answered 404 like any unknown one.
    """
    answer = await shared.ask_lead("x" * length, customerExternalId=shared.somebody())
    assert error_of(answer) == (404, "not_found")
