"""`POST /track/lead` and `/track/lead/client`: what is recorded, once, and for whom."""

from typing import Any

import pytest

from tests.contract.targets import BEN, LEAD_PATHS, OTHER_APP_KEY, PROMO_URL, Target, error_of
from tests.sandbox.support import MAC, FakeClock

DAY_S = 86_400
pytestmark = pytest.mark.asyncio(loop_scope="module")

NOBODYS = "cm2xyz123abc0000"
PLAIN = "https://acme.link/plain"
PROMO_LINK = {
    "id": "link_promo",
    "domain": "acme.link",
    "key": "fb-promo",
    "shortLink": "https://acme.link/fb-promo",
    "url": PROMO_URL,
    "partnerId": None,
    "programId": None,
    "tenantId": "tenant_1",
    "externalId": "promo",
}


async def leads(shared: Target, limit: int = 20) -> list[dict[str, Any]]:
    """Return the newest leads of this case's customer, and of any whose id begins with theirs."""
    listed = await shared.events("leads", interval="all", limit=limit)
    return [event for event in listed if event["customer"]["externalId"].startswith(shared.customer)]


@pytest.mark.parametrize("path", LEAD_PATHS)
async def test_a_lead_answers_its_click_link_and_customer(shared: Target, path: str) -> None:
    """The answer has exactly the documented fields; the event has what was sent."""
    click_id = await shared.click_id()
    person = {
        "customerName": "John Doe",
        "customerEmail": "john@acme.com",
        "customerAvatar": "https://acme.com/john.png",
    }
    answer = await shared.lead(click_id, path, **person, metadata={"plan": "pro", "seats": [1, {"a": None}]})
    assert answer == {
        "click": {"id": click_id},
        "link": PROMO_LINK,
        "customer": {
            "name": "John Doe",
            "email": "john@acme.com",
            "avatar": "https://acme.com/john.png",
            "externalId": shared.customer,
        },
    }
    (event,) = await leads(shared)
    assert (event["eventName"], event["click"]["id"]) == ("Sign up", click_id)
    assert event["metadata"] == {"plan": "pro", "seats": [1, {"a": None}]}
    assert event["customer"]["externalId"] == shared.customer


async def test_ids_of_partners_are_answered(shared: Target) -> None:
    """A link that has a partner, a program and ids of the team's own shows them."""
    link = (await shared.lead(await shared.click_id("https://go.acme.com/Deal")))["link"]
    shown = [link[name] for name in ("partnerId", "programId", "tenantId", "externalId")]
    assert shown == ["partner_1", "program_1", "tenant_2", "deal"]


async def test_a_customer_without_a_name_gets_one(shared: Target) -> None:
    """A name is made up for a new customer, and stays."""
    click_id = await shared.click_id()
    name = (await shared.lead(click_id))["customer"]["name"]
    assert name
    assert (await shared.lead(click_id, eventName="Trial"))["customer"]["name"] == name


async def test_a_click_on_the_web_brings_leads_too(shared: Target) -> None:
    """The clickId of a web redirect's cookie is as good as an open's."""
    click_id = await shared.click(PLAIN, ua=MAC)
    assert (await shared.lead(click_id))["link"]["id"] == "link_plain"


async def test_a_click_on_the_web_may_not_be_found_yet(shared: Target, shared_clock: FakeClock) -> None:
    """Until Dub has written a web click down, `deferred` is a 404, and a moment later it is not."""
    await shared.at_dub("PATCH", "/sandbox/settings", {"leadLookupDelayS": 3})
    click_id = await shared.click(PLAIN, ua=f"{MAC} {shared.customer}")
    assert error_of(await shared.ask_lead(click_id, mode="deferred")) == (404, "not_found")
    shared_clock.advance(3)
    assert (await shared.lead(click_id, mode="deferred"))["link"]["id"] == "link_plain"
    await shared.at_dub("PATCH", "/sandbox/settings", {"leadLookupDelayS": 0})


@pytest.mark.parametrize("path", LEAD_PATHS)
async def test_a_duplicate_answers_a_null_link(shared: Target, path: str) -> None:
    """The same customer and event again: 200, a null link, and nothing more is recorded."""
    click_id = await shared.click_id()
    first = await shared.lead(click_id, path, customerName="Anna")
    again = await shared.lead(click_id, path, customerName="Somebody else")
    assert first["link"]["id"] == "link_promo"
    assert again == {"click": {"id": click_id}, "link": None, "customer": first["customer"]}
    assert len(await leads(shared)) == 1


async def test_both_routes_share_one_memory(shared: Target) -> None:
    """A lead that the app has reported is a duplicate when the backend reports it."""
    click_id = await shared.click_id()
    assert (await shared.lead(click_id, "/track/lead/client"))["link"] is not None
    assert (await shared.lead(click_id, "/track/lead"))["link"] is None


@pytest.mark.parametrize(
    ("again", "same"),
    [
        ("Sign up", True),
        ("sign up", True),
        ("SIGN UP", True),
        ("sign-up", True),
        ("  Sign up ", True),
        ("Signup", False),
        ("Sign_up", False),
        ("Sign  up", False),
        ("Sign up!", False),
    ],
)
async def test_which_names_are_the_same_event(shared: Target, again: str, *, same: bool) -> None:
    """Names are compared trimmed, in lower case, with spaces as dashes."""
    click_id = await shared.click_id()
    await shared.lead(click_id)
    assert ((await shared.lead(click_id, eventName=again))["link"] is None) is same
    assert len(await leads(shared)) == 2 - same


async def test_another_customer_is_another_lead(shared: Target) -> None:
    """Deduplication is per customer, whichever click they came by."""
    click_id = await shared.click_id()
    for name in ("anna", "Anna", "ben"):
        lead = await shared.lead(click_id, customerExternalId=shared.customer + name)
        assert lead["link"] is not None
    assert len(await leads(shared)) == 3


async def test_a_lead_is_remembered_for_seven_days(shared: Target, shared_clock: FakeClock) -> None:
    """A second before the week is over it is a duplicate, then it is a new lead."""
    click_id = await shared.click_id()
    await shared.lead(click_id)
    shared_clock.advance(7 * DAY_S - 1)
    assert (await shared.lead(click_id))["link"] is None
    shared_clock.advance(1)
    assert (await shared.lead(click_id))["link"] is not None
    assert len(await leads(shared)) == 2


@pytest.mark.parametrize("path", LEAD_PATHS)
async def test_the_burned_key(shared: Target, path: str) -> None:
    """An unknown click is a 404. At Dub the lead's key is burned by it; through the service it is not."""
    assert error_of(await shared.ask_lead(NOBODYS, path)) == (404, "not_found")
    retried = await shared.lead(await shared.click_id(), path)
    burned = shared.expects("a lead's key after its 404") == "burned"
    assert (retried["link"] is None) is burned
    assert len(await leads(shared)) == (0 if burned else 1)


async def test_a_burned_key_is_free_again_after_seven_days(shared: Target, shared_clock: FakeClock) -> None:
    """Whoever burned it, after a week the lead counts."""
    assert error_of(await shared.ask_lead(NOBODYS)) == (404, "not_found")
    shared_clock.advance(7 * DAY_S)
    assert (await shared.lead(await shared.click_id()))["link"] is not None


async def test_a_repeat_for_another_click(shared: Target) -> None:
    """A repeat is a repeat whatever its click is; only whether an unknown one is looked up differs."""
    click_id = await shared.click_id()
    await shared.lead(click_id)
    assert (await shared.lead(await shared.click_id(PLAIN)))["link"] is None
    unknown = await shared.ask_lead(NOBODYS)
    assert unknown.status_code == shared.expects("a repeated lead's click is looked up")
    assert len(await leads(shared)) == 1


async def test_deferred_makes_the_customer_and_no_event(shared: Target) -> None:
    """`deferred` answers like a lead and records none; however often it came before, the lead counts once."""
    click_id = await shared.click_id()
    for _ in range(2):
        deferred = await shared.lead(click_id, mode="deferred", customerName="Anna")
        assert (deferred["click"], deferred["link"]) == ({"id": click_id}, PROMO_LINK)
        assert await leads(shared) == []
    counted = await shared.lead(click_id)
    assert (counted["link"], counted["customer"]["name"]) == (PROMO_LINK, "Anna")
    assert len(await leads(shared)) == 1


async def test_deferred_reads_no_key(shared: Target) -> None:
    """`deferred` after the lead still answers the link, records nothing and frees nothing."""
    click_id = await shared.click_id()
    await shared.lead(click_id)
    assert (await shared.lead(click_id, mode="deferred"))["link"] == PROMO_LINK
    assert (await shared.lead(click_id))["link"] is None
    assert len(await leads(shared)) == 1


async def test_deferred_burns_no_key(shared: Target) -> None:
    """`deferred` for an unknown click is a 404 after which the lead still counts."""
    assert error_of(await shared.ask_lead(NOBODYS, mode="deferred")) == (404, "not_found")
    assert (await shared.lead(await shared.click_id()))["link"] is not None
    assert len(await leads(shared)) == 1


@pytest.mark.parametrize(
    "given",
    [{"clickId": ""}, {"clickId": "  "}, {"clickId": None}, {}],
    ids=["empty", "blank", "null", "missing"],
)
async def test_a_known_customers_own_click(shared: Target, given: dict[str, str | None]) -> None:
    """Without a clickId (null is without, by dub-api.md) the one that the customer came by counts."""
    click_id = await shared.click_id()
    await shared.lead(click_id, mode="deferred")
    body = {"eventName": "Sign up", "customerExternalId": shared.customer} | given
    answer = (await shared.post("/track/lead", body)).json()
    assert (answer["click"], answer["link"]) == ({"id": click_id}, PROMO_LINK)
    (event,) = await leads(shared)
    assert event["click"]["id"] == click_id


@pytest.mark.parametrize("path", LEAD_PATHS)
@pytest.mark.parametrize("mode", ["async", "wait", "deferred"])
async def test_no_click_and_no_customer(shared: Target, path: str, mode: str) -> None:
    """Without a clickId an unknown customer is a 400, which burns nothing."""
    assert error_of(await shared.ask_lead("", path, mode=mode)) == (400, "bad_request")
    assert (await shared.lead(await shared.click_id(), path))["link"] is not None


async def test_a_customer_keeps_the_first_click(shared: Target) -> None:
    """A lead from another click is credited to that one; without a click the first counts again."""
    first, second = await shared.click_id(), await shared.click_id(PLAIN)
    await shared.lead(first)
    assert (await shared.lead(second, eventName="Trial"))["link"]["id"] == "link_plain"
    assert (await shared.lead("", eventName="Upgrade"))["click"]["id"] == first


@pytest.mark.parametrize("mode", ["async", "wait"])
async def test_modes_that_record(shared: Target, mode: str) -> None:
    """`async` (the default) and `wait` both record the lead."""
    assert (await shared.lead(await shared.click_id(), mode=mode))["link"] == PROMO_LINK
    assert len(await leads(shared)) == 1


@pytest.mark.parametrize(
    ("quantity", "recorded"), [(None, 1), (1, 1), (2, 2), (2.0, 2), (99, 99), (100, 100)]
)
async def test_a_quantity_counts_that_often(shared: Target, quantity: float | None, recorded: int) -> None:
    """eventQuantity N records N events of the one lead."""
    await shared.lead(await shared.click_id(), eventQuantity=quantity)
    assert len(await leads(shared, limit=recorded + 1)) == recorded


@pytest.mark.parametrize("path", LEAD_PATHS)
async def test_another_teams_click(shared: Target, path: str) -> None:
    """A click of another workspace is a 404, and so is one's own with another's key."""
    theirs = await shared.click("https://globex.link/x", ip=BEN.ip)
    assert error_of(await shared.ask_lead(theirs, path)) == (404, "not_found")
    body = {"clickId": theirs, "eventName": "Sign up", "customerExternalId": shared.customer}
    by_globex = await shared.post("/track/lead/client", body, key=OTHER_APP_KEY)
    assert by_globex.json()["link"]["id"] == "link_globex"


async def test_teams_share_no_memory(shared: Target) -> None:
    """The same customer and event of another team is another lead."""
    theirs = await shared.click("https://globex.link/x", ip=BEN.ip)
    body = {"clickId": theirs, "eventName": "Sign up", "customerExternalId": shared.customer}
    assert (await shared.post("/track/lead/client", body, key=OTHER_APP_KEY)).json()["link"] is not None
    assert (await shared.lead(await shared.click_id()))["link"] == PROMO_LINK


@pytest.mark.parametrize("gone", ["disabled", "deleted"])
async def test_a_link_that_is_gone(shared: Target, gone: str) -> None:
    """A lead for a link that was disabled or deleted since is a 404."""
    new = {"domain": "acme.link", "key": gone, "url": "https://acme.com/gone"}
    link_id = (await shared.at_dub("POST", "/links", new))["id"]
    click_id = await shared.click_id(f"https://acme.link/{gone}")
    if gone == "deleted":
        await shared.at_dub("DELETE", f"/links/{link_id}")
    else:
        await shared.at_dub("PATCH", f"/links/{link_id}", {"disabled": True})
    assert error_of(await shared.ask_lead(click_id)) == (404, "not_found")
