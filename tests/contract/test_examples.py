"""The requests that Dub's pages and SDKs show, as a reader would try them."""

import pytest

from tests.contract.targets import ANNA, APP_KEY, SERVER_KEY, Phone, Target, error_of
from tests.sandbox.support import IPHONE, MAC, PROMO


async def test_the_open_of_a_deep_link(target: Target) -> None:
    """An iPhone's SDK reports the link that opened the app, and where a first open would look."""
    phone = Phone(ANNA.ip, "Acme/12 CFNetwork/1568 Darwin/24.0.0")
    response = await target.ask_open(phone, deepLink=PROMO, dubDomain="acme.link")
    opened = response.json()
    assert (opened["link"]["domain"], opened["link"]["key"]) == ("acme.link", "fb-promo")
    assert opened["clickId"]


async def test_a_clipboards_text_as_a_deep_link(target: Target) -> None:
    """The iOS SDK takes any text for a key of the domain: that is a 404, with the text as it was sent."""
    response = await target.ask_open(deepLink="acme.link/my-grocery-list", dubDomain="acme.link")
    assert error_of(response) == (404, "not_found")
    assert response.json()["error"]["message"] == "Deep link not found: acme.link/my-grocery-list"


async def test_a_lead_with_the_pages_fields(target: Target) -> None:
    """The page's lead: the answer has its click, its link in full, and the customer as sent."""
    click_id = await target.click("https://acme.link/plain", ua=MAC)
    body = {
        "clickId": click_id,
        "eventName": "Sign up",
        "customerExternalId": "user_123456",
        "customerName": "John Doe",
        "customerEmail": "john@example.com",
    }
    answer = (await target.post("/track/lead", body)).json()
    assert answer["click"] == {"id": click_id}
    assert answer["link"]["shortLink"] == "https://acme.link/plain"
    assert answer["customer"] == {
        "name": "John Doe",
        "email": "john@example.com",
        "avatar": None,
        "externalId": "user_123456",
    }


async def test_the_pages_click_is_nobodys(target: Target) -> None:
    """Pasted as it is, with the page's own clickId, it is a 404."""
    response = await target.ask_lead("cm2xyz123abc", customerExternalId="user_123456")
    assert error_of(response) == (404, "not_found")


async def test_a_lead_of_an_older_sdk(target: Target) -> None:
    """The oldest form has clickId, eventName and externalId, and nothing else."""
    body = {"clickId": await target.click_id(), "eventName": "Sign up", "externalId": "user_1"}
    response = await target.post("/track/lead", body)
    assert response.json()["customer"]["externalId"] == "user_1"


async def test_deferred_sign_up(target: Target) -> None:
    """The page's two steps: deferred with the click, then the event with an empty one."""
    click_id = await target.click_id()
    await target.lead(click_id, eventName="Qualified", mode="deferred")
    answer = await target.lead("", eventName="Qualified")
    assert (answer["click"]["id"], answer["link"]["id"]) == (click_id, "link_promo")
    (event,) = await target.events("leads")
    assert event["eventName"] == "Qualified"


async def test_seats_of_a_trial(target: Target) -> None:
    """The page's quantity: five provisioned seats are five events."""
    await target.lead(await target.click_id(), eventName="Trial", eventQuantity=5)
    assert len(await target.events("leads", eventName="Trial")) == 5


async def test_a_sale_after_its_lead(target: Target) -> None:
    """leadEventName ties a sale to the lead of that name."""
    click_id = await target.click_id()
    await target.lead(click_id, eventName="Sign up")
    answer = await target.sale(amount=2_900, eventName="Invoice paid", leadEventName="Sign up")
    assert (answer["eventName"], answer["sale"]["amount"]) == ("Invoice paid", 2_900)


async def test_the_pages_list_of_clicks(target: Target) -> None:
    """The page's query lists a click on a link that has an id of the team's own."""
    await target.at_dub(
        "POST",
        "/links",
        {"domain": "acme.link", "key": "github", "url": "https://github.com/x/y", "externalId": "123456"},
    )
    await target.click("https://acme.link/github", referer="https://google.com/search?q=dub")
    response = await target.ask("GET", "/events", params="event=clicks&limit=100&sortOrder=desc")
    (event,) = response.json()
    assert (event["event"], event["click"]["referer"], event["click"]["qr"]) == ("click", "google.com", False)
    link = event["link"]
    assert (link["key"], link["url"]) == ("github", "https://github.com/x/y")
    assert (link["externalId"], link["programId"], link["tenantId"]) == ("123456", None, None)
    assert await target.events(externalId="ext_123456") == [event]


@pytest.mark.parametrize("path", ["/track/lead", "/track/lead/client"])
async def test_from_the_store_to_the_sign_up(target: Target, path: str) -> None:
    """Click, open, sign up, purchase: the sign-up and the purchase are the open's, the click is apart."""
    web = await target.click(PROMO, ua=IPHONE)
    opened = await target.click_id()
    key = SERVER_KEY if path == "/track/lead" else APP_KEY
    body = {"clickId": opened, "eventName": "Sign up", "customerExternalId": "anna"}
    assert (await target.post(path, body, key=key)).json()["click"] == {"id": opened}
    await target.sale(customerExternalId="anna")
    credited = {kind: [e["click"]["id"] for e in await target.events(kind)] for kind in ("leads", "sales")}
    assert credited == {"leads": [opened], "sales": [opened]}
    assert {event["click"]["id"] for event in await target.events()} == {web, opened}
