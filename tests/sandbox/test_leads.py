"""`/track/lead` and `/track/lead/client`."""

from typing import Any

import pytest

from service.sandbox import SandboxSettings, create_sandbox
from tests.sandbox.support import LINKS, FakeClock, Sandbox, build, client_of, error_of

DAY_S = 86_400


@pytest.fixture
async def click_id(sandbox: Sandbox) -> str:
    return str((await sandbox.open())["clickId"])


async def test_lead_answers_click_link_and_customer(sandbox: Sandbox, click_id: str) -> None:
    """A lead's answer has exactly the documented fields, and its event is in `/events`."""
    response = await sandbox.lead(
        click_id,
        customerName="Anna",
        customerEmail="anna@acme.com",
        customerAvatar="https://a.com/a.png",
        metadata={"plan": "pro"},
    )
    assert response.status_code == 200
    assert response.json() == {
        "click": {"id": click_id},
        "link": {
            "id": "link_promo",
            "domain": "acme.link",
            "key": "fb-promo",
            "shortLink": "https://acme.link/fb-promo",
            "url": "https://acme.com/product/123?ref=mail&size=42",
            "partnerId": None,
            "programId": None,
            "tenantId": "tenant_1",
            "externalId": "promo",
        },
        "customer": {
            "name": "Anna",
            "email": "anna@acme.com",
            "avatar": "https://a.com/a.png",
            "externalId": "user_1",
        },
    }
    (event,) = await sandbox.events("leads")
    assert (event["event"], event["eventName"], event["metadata"]) == ("lead", "Sign up", {"plan": "pro"})
    assert (event["click"]["id"], event["customer"]["externalId"]) == (click_id, "user_1")
    assert (await sandbox.link())["leads"] == 1


async def test_client_route_is_the_same(sandbox: Sandbox, click_id: str) -> None:
    """An app reports a lead with its publishable key and gets the same answer."""
    body = {"clickId": click_id, "eventName": "Sign up", "customerExternalId": "user_1"}
    response = await sandbox.post("/track/lead/client", body, key="dub_pk_acme")
    assert response.json()["link"]["id"] == "link_promo"


@pytest.mark.parametrize("name", ["customerExternalId", "externalId", "customerId"])
async def test_older_names_of_the_customers_id(sandbox: Sandbox, click_id: str, name: str) -> None:
    """`externalId` and `customerId` still mean customerExternalId."""
    body = {"clickId": click_id, "eventName": "Sign up", name: "user_9"}
    assert (await sandbox.post("/track/lead", body)).json()["customer"]["externalId"] == "user_9"


async def test_newest_name_wins(sandbox: Sandbox, click_id: str) -> None:
    """Where several names are sent, customerExternalId counts."""
    response = await sandbox.lead(click_id, externalId="old", customerId="older")
    assert response.json()["customer"]["externalId"] == "user_1"


@pytest.mark.parametrize(
    "fields",
    [
        {"eventName": "x" * 255},
        {"eventName": f" {'x' * 255} "},
        {"customerExternalId": "x" * 100},
        {"customerName": "x" * 100},
        {"customerName": None, "customerEmail": None, "customerAvatar": None, "metadata": None},
        {"customerEmail": f"{'x' * 93}@a.link"},
        {"eventQuantity": 1},
        {"eventQuantity": 100},
        {"eventQuantity": 2.0},
        {"eventQuantity": None},
        {"metadata": {"k": "x" * 9_992}},
        {"mode": "wait"},
        {"mode": "async"},
        {"unknownField": True},
    ],
)
async def test_just_inside_a_limit(sandbox: Sandbox, click_id: str, fields: dict[str, Any]) -> None:
    """Every field at its documented limit is taken."""
    response = await sandbox.lead(click_id, **fields)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"eventName": ""}, "eventName"),
        ({"eventName": "   "}, "eventName"),
        ({"eventName": "x" * 256}, "eventName"),
        ({"eventName": None}, "eventName"),
        ({"customerExternalId": ""}, "customerExternalId"),
        ({"customerExternalId": None}, "customerExternalId"),
        ({"customerExternalId": "x" * 101}, "customerExternalId"),
        ({"customerName": "x" * 101}, "customerName"),
        ({"customerEmail": f"{'x' * 94}@a.link"}, "customerEmail"),
        ({"customerEmail": "anna"}, "customerEmail"),
        ({"customerEmail": ".anna@acme.com"}, "customerEmail"),
        ({"customerEmail": "an..na@acme.com"}, "customerEmail"),
        ({"customerEmail": "anna@acme"}, "customerEmail"),
        ({"customerAvatar": 1}, "customerAvatar"),
        ({"eventQuantity": 0}, "eventQuantity"),
        ({"eventQuantity": 101}, "eventQuantity"),
        ({"eventQuantity": 1.5}, "eventQuantity"),
        ({"eventQuantity": "2"}, "eventQuantity"),
        ({"eventQuantity": True}, "eventQuantity"),
        ({"metadata": {"k": "x" * 9_993}}, "metadata"),
        ({"metadata": ["x"]}, "metadata"),
        ({"mode": "later"}, "mode"),
        ({"clickId": 7}, "clickId"),
    ],
)
async def test_just_outside_a_limit(
    sandbox: Sandbox, click_id: str, fields: dict[str, Any], named: str
) -> None:
    """Every field one over its limit is a 422 that names it, and records and burns nothing."""
    status, code, message = error_of(await sandbox.lead(click_id, **fields))
    assert (status, code) == (422, "unprocessable_entity")
    assert named in message
    assert (await sandbox.lead(click_id)).json()["link"] is not None


@pytest.mark.parametrize("body", [b"", b"{", b"nonsense", b"\xff"])
async def test_not_json(sandbox: Sandbox, body: bytes) -> None:
    """A body that is not JSON is a 400."""
    assert error_of(await sandbox.post("/track/lead", body))[:2] == (400, "bad_request")


async def test_infinite_quantity_is_refused(sandbox: Sandbox) -> None:
    """A number too large to count with is a 422, not a crash."""
    body = b'{"clickId": "x", "eventName": "y", "customerExternalId": "z", "eventQuantity": 1e999}'
    assert (await sandbox.post("/track/lead", body)).status_code in {400, 422}


async def test_duplicate_answers_a_null_link(sandbox: Sandbox, click_id: str) -> None:
    """The same customer and event again is answered 200 with no link, and recorded once."""
    await sandbox.lead(click_id, customerName="Anna")
    again = await sandbox.lead(click_id, customerName="Somebody else")
    assert again.status_code == 200
    assert again.json()["link"] is None
    assert again.json()["customer"]["name"] == "Anna"
    assert len(await sandbox.events("leads")) == 1


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("Sign up", "sign up", True),
        ("Sign up", "SIGN-UP", True),
        ("Sign up", " Sign up ", True),
        ("Sign up", "Signup", False),
        ("Sign up", "Sign_up", False),
    ],
)
async def test_what_counts_as_the_same_event(
    sandbox: Sandbox, click_id: str, first: str, second: str, *, same: bool
) -> None:
    """Event names are compared in lower case, with spaces as dashes."""
    await sandbox.lead(click_id, eventName=first)
    again = await sandbox.lead(click_id, eventName=second)
    assert (again.json()["link"] is None) is same


async def test_deduplication_lasts_seven_days(sandbox: Sandbox, click_id: str, clock: FakeClock) -> None:
    """A repeat one second before the week is over is dropped; at its end it is a lead again."""
    await sandbox.lead(click_id)
    clock.advance(7 * DAY_S - 1)
    assert (await sandbox.lead(click_id)).json()["link"] is None
    clock.advance(1)
    assert (await sandbox.lead(click_id)).json()["link"] is not None


async def test_another_customer_is_another_lead(sandbox: Sandbox, click_id: str) -> None:
    """Deduplication is per customer."""
    await sandbox.lead(click_id, "user_1")
    assert (await sandbox.lead(click_id, "user_2")).json()["link"] is not None


async def test_a_404_burns_the_key(sandbox: Sandbox, clock: FakeClock) -> None:
    """A lead for an unknown click is a 404; the same again is a 200 that records nothing."""
    assert error_of(await sandbox.lead("unknownunknown00"))[:2] == (404, "not_found")
    click_id = (await sandbox.open())["clickId"]
    retried = await sandbox.lead(click_id)
    assert (retried.status_code, retried.json()["link"]) == (200, None)
    assert await sandbox.events("leads") == []
    clock.advance(7 * DAY_S)
    assert (await sandbox.lead(click_id)).json()["link"] is not None


async def test_deferred_burns_nothing(sandbox: Sandbox) -> None:
    """`deferred` for an unknown click is a 404 that leaves the key unburned."""
    assert (await sandbox.lead("unknownunknown00", mode="deferred")).status_code == 404
    click_id = (await sandbox.open())["clickId"]
    assert (await sandbox.lead(click_id)).json()["link"] is not None


async def test_deferred_makes_the_customer_only(sandbox: Sandbox, click_id: str) -> None:
    """`deferred` answers link and customer, records no event, and the real lead then counts once."""
    deferred = await sandbox.lead(click_id, mode="deferred")
    assert deferred.json()["link"]["id"] == "link_promo"
    assert await sandbox.events("leads") == []
    assert (await sandbox.lead(click_id)).json()["link"]["id"] == "link_promo"
    assert len(await sandbox.events("leads")) == 1


async def test_deferred_after_the_lead_reads_no_key(sandbox: Sandbox, click_id: str) -> None:
    """`deferred` after the real lead still answers the link: it is a safe probe, before and after."""
    await sandbox.lead(click_id)
    assert (await sandbox.lead(click_id, mode="deferred")).json()["link"]["id"] == "link_promo"
    assert (await sandbox.lead(click_id)).json()["link"] is None


@pytest.mark.parametrize("body", [{"clickId": ""}, {"clickId": "  "}, {}])
async def test_stored_click_is_used(sandbox: Sandbox, click_id: str, body: dict[str, str]) -> None:
    """Without a clickId the customer's stored one counts."""
    await sandbox.lead(click_id, mode="deferred")
    lead = {"eventName": "Sign up", "customerExternalId": "user_1"} | body
    response = await sandbox.post("/track/lead", lead)
    assert response.json()["click"] == {"id": click_id}
    assert response.json()["link"]["id"] == "link_promo"


async def test_no_click_and_no_customer(sandbox: Sandbox, click_id: str) -> None:
    """Without a clickId an unknown customer is a 400, which burns no key."""
    assert error_of(await sandbox.lead(""))[:2] == (400, "bad_request")
    assert (await sandbox.lead(click_id)).json()["link"] is not None


async def test_quantity(sandbox: Sandbox, click_id: str) -> None:
    """eventQuantity N records N events."""
    await sandbox.lead(click_id, eventQuantity=3)
    assert len(await sandbox.events("leads")) == 3
    assert (await sandbox.link())["leads"] == 3


async def test_first_click_stays_the_customers(sandbox: Sandbox, click_id: str) -> None:
    """A later lead from another click is credited to that click, and the customer keeps the first."""
    await sandbox.lead(click_id)
    other = (await sandbox.open("https://acme.link/plain"))["clickId"]
    assert (await sandbox.lead(other, eventName="Upgrade")).json()["link"]["id"] == "link_plain"
    assert (await sandbox.lead("", eventName="Third")).json()["click"]["id"] == click_id


@pytest.mark.parametrize("gone", ["deleted", "disabled"])
async def test_link_that_is_gone(sandbox: Sandbox, click_id: str, gone: str) -> None:
    """A lead for a deleted or a disabled link is a 404."""
    if gone == "deleted":
        await sandbox.delete_link()
    else:
        await sandbox.change_link(disabled=True)
    assert error_of(await sandbox.lead(click_id))[:2] == (404, "not_found")


async def test_name_is_made_up(sandbox: Sandbox, click_id: str) -> None:
    """A customer without a name gets one, and keeps it."""
    name = (await sandbox.lead(click_id)).json()["customer"]["name"]
    assert len(name.split()) == 3
    assert (await sandbox.lead(click_id, eventName="Again")).json()["customer"]["name"] == name


async def test_web_clicks_take_a_while_to_be_found(sandbox: Sandbox, clock: FakeClock) -> None:
    """With a lookup delay a web click is a 404 at first; an app's open is found at once."""
    await sandbox.settings(leadLookupDelayS=3)
    await sandbox.click("/plain")
    (web,) = await sandbox.events()
    opened = (await sandbox.open())["clickId"]
    assert (await sandbox.lead(opened, "user_1")).status_code == 200
    assert (await sandbox.lead(web["click"]["id"], "user_2", mode="deferred")).status_code == 404
    clock.advance(3)
    assert (await sandbox.lead(web["click"]["id"], "user_2", mode="deferred")).status_code == 200


async def test_workspaces_are_apart(clock: FakeClock) -> None:
    """Another workspace's click is a 404, and its deduplication, customers and events are its own."""
    sandbox = build(clock, settings=SandboxSettings(workspaces={"dub_other": "ws_other"}))
    async with sandbox.http:
        click_id = (await sandbox.open())["clickId"]
        body = {"clickId": click_id, "eventName": "Sign up", "customerExternalId": "user_1"}
        assert error_of(await sandbox.post("/track/lead", body, key="dub_other"))[0] == 404
        assert (await sandbox.post("/track/lead", body)).json()["link"] is not None
        events = await sandbox.http.get("/events?event=leads", headers={"authorization": "Bearer dub_other"})
        assert events.json() == []


@pytest.mark.parametrize(
    ("path", "right", "wrong"),
    [
        ("/track/lead", "dub_right", "dub_pk_right"),
        ("/track/lead/client", "dub_pk_right", "dub_right"),
        ("/track/sale", "dub_right", "dub_pk_right"),
        ("/track/sale/client", "dub_pk_right", "dub_right"),
    ],
)
async def test_keys(clock: FakeClock, path: str, right: str, wrong: str) -> None:
    """With keys given, each route takes its own kind: none, another or the other kind's is a 401."""
    app = create_sandbox(LINKS, clock=clock, api_keys=["dub_right"], publishable_keys=["dub_pk_right"])
    async with client_of(app) as http:
        sandbox = Sandbox(app, http)
        for key in (None, "dub_wrong", wrong):
            assert error_of(await sandbox.post(path, b"{", key=key))[:2] == (401, "unauthorized")
        assert error_of(await sandbox.post(path, b"{", key=right))[:2] == (400, "bad_request")


@pytest.mark.parametrize("given", ["dub_right", "Basic ZHViOg==", "Bearer "])
async def test_not_a_bearer_token(sandbox: Sandbox, given: str) -> None:
    """An Authorization header of another form is a 400."""
    response = await sandbox.http.get("/events", headers={"authorization": given})
    assert error_of(response)[:2] == (400, "bad_request")
