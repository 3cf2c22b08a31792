"""`GET /events`: what an event holds, and how many of them a page."""

from typing import Any

import pytest

from tests.contract.targets import ANNA, Phone, Target
from tests.sandbox.support import IPHONE, PIXEL, FakeClock

PLAIN = "https://acme.link/plain"
CLICK_FIELDS = {
    *("id", "timestamp", "url", "country", "city", "region", "continent", "device", "browser", "os", "ua"),
    *("trigger", "referer", "refererUrl", "qr", "ip"),
}


async def ids(target: Target, **params: Any) -> list[str]:
    return [event["click"]["id"] for event in await target.events(**params)]


async def test_a_click_event(target: Target) -> None:
    """A click says when, where to, from where, on what and from which page."""
    place = {"x_vercel_ip_country": "US", "x_vercel_ip_continent": "NA", "x_vercel_ip_city": "New%20York"}
    where = place | {"x_vercel_ip_country_region": "NY", "referer": "https://github.com/search?q=dub"}
    click_id = await target.click(f"{PLAIN}?utm_source=ig", ua=IPHONE, **where)
    (event,) = await target.events()
    assert event["event"] == "click"
    assert set(event["click"]) == CLICK_FIELDS
    assert event["click"] == {
        "id": click_id,
        "timestamp": "2026-08-01T12:00:00.000Z",
        "url": "https://acme.com/plain?utm_source=ig",
        "country": "US",
        "city": "New York",
        "region": "US-NY",
        "continent": "NA",
        "device": "Mobile",
        "browser": event["click"]["browser"],
        "os": "iOS",
        "ua": IPHONE,
        "trigger": "link",
        "referer": "github.com",
        "refererUrl": "https://github.com/search?q=dub",
        "qr": False,
        "ip": ANNA.ip,
    }
    assert "Safari" in event["click"]["browser"]
    link = event["link"]
    assert (link["id"], link["domain"], link["key"]) == ("link_plain", "acme.link", "plain")
    assert (link["url"], link["shortLink"]) == ("https://acme.com/plain", PLAIN)
    assert (link["externalId"], link["tenantId"], link["programId"]) == (None, None, None)


@pytest.mark.parametrize(
    ("query", "trigger", "qr"), [("", "link", False), ("?qr=1", "qr", True), ("?qr=0", "link", False)]
)
async def test_triggers(target: Target, query: str, trigger: str, *, qr: bool) -> None:
    """A scanned code is `qr`, a followed link is `link`."""
    await target.click(PLAIN + query)
    (event,) = await target.events()
    assert (event["click"]["trigger"], event["click"]["qr"]) == (trigger, qr)


async def test_a_page_view(target: Target) -> None:
    """A page that a browser's script saw is `pageview`, a click that it noticed is `link`.

    dub-api.md, "Other routes that Dub's packages call".
    """
    await target.at_dub("POST", "/track/visit", {"domain": "acme.link", "url": "https://acme.com/plain"})
    (event,) = await target.events()
    assert event["click"]["trigger"] == "pageview"
    await target.at_dub("POST", "/track/click", {"domain": "go.acme.com", "key": "Deal"})
    (event,) = await target.events(domain="go.acme.com")
    assert event["click"]["trigger"] == "link"


@pytest.mark.parametrize(("country", "shown"), [("DE", ""), ("FR", ""), ("US", ANNA.ip), ("GB", ANNA.ip)])
async def test_no_address_of_anybody_in_the_eu(target: Target, country: str, shown: str) -> None:
    """`click.ip` is empty for people in the EU."""
    await target.click(PLAIN, x_vercel_ip_country=country)
    (event,) = await target.events()
    assert event["click"]["ip"] == shown


@pytest.mark.parametrize("kind", ["leads", "sales"])
async def test_a_lead_and_a_sale_know_their_click(target: Target, kind: str) -> None:
    """Both carry the click, the link and the customer, and are filtered by what their click was."""
    await target.click(PLAIN, ua=PIXEL, x_vercel_ip_country="US")
    (click,) = await target.events()
    await target.lead(click["click"]["id"], customerEmail="anna@acme.com", metadata={"plan": "pro"})
    await target.sale(amount=250, metadata={"plan": "pro"}, invoiceId="in_1")
    (event,) = await target.events(kind, country="US", os="android")
    assert event["event"] == kind.removesuffix("s")
    assert (event["click"], event["link"]["id"]) == (click["click"], "link_plain")
    assert (event["customer"]["externalId"], event["customer"]["email"]) == ("user_1", "anna@acme.com")
    assert (event["eventName"], event["metadata"]) == (
        "Sign up" if kind == "leads" else "Purchase",
        {"plan": "pro"},
    )
    assert ("sale" in event) is (kind == "sales")
    assert await target.events(kind, country="-US") == []
    customer_id = event["customer"]["id"]
    assert await target.events(kind, customerId=customer_id) == [event]
    assert await target.events(kind, customerId="cus_other") == []
    assert await ids(target, customerId=customer_id) == [click["click"]["id"]]


async def test_event_ids_are_each_ones_own(target: Target) -> None:
    """Each lead and each sale has an id of its own, also those of one quantity."""
    await target.lead(await target.click_id(), eventQuantity=3)
    await target.sale()
    listed = [*await target.events("leads"), *await target.events("sales")]
    assert len({event["eventId"] for event in listed}) == 4


async def test_clicks_are_what_is_listed(target: Target) -> None:
    """Without `event` clicks are listed, and leads and sales are not."""
    click_id = await target.click_id()
    await target.lead(click_id)
    await target.sale()
    listed = (await target.ask_events()).json()
    assert [(event["event"], event["click"]["id"]) for event in listed] == [("click", click_id)]


async def test_how_many_a_page_has(target: Target) -> None:
    """100 without a limit (dub-api.md, GET /events; the published page says 50); 1,000 may be asked for."""
    click_id = await target.click_id()
    for customer in ("anna", "ben"):
        await target.lead(click_id, customerExternalId=customer, eventQuantity=75)
    assert len(await target.events("leads")) == 100
    assert len(await target.events("leads", page=2)) == 50
    assert len(await target.events("leads", page=3)) == 0
    assert len(await target.events("leads", limit=99)) == 99
    assert len(await target.events("leads", limit=1_000)) == 150


async def test_a_full_page(target: Target) -> None:
    """A page of 1,000 events arrives whole."""
    click_id = await target.click_id()
    for number in range(11):
        await target.lead(click_id, customerExternalId=f"user_{number}", eventQuantity=100)
    assert len(await target.events("leads", limit=1_000)) == 1_000
    assert len(await target.events("leads", limit=1_000, page=2)) == 100


async def test_a_deleted_link_leaves_a_short_page(target: Target, clock: FakeClock) -> None:
    """Events of a deleted link are dropped after paging: a short page may have more behind it."""
    first = await target.click(PLAIN)
    clock.advance(1)
    await target.click("https://go.acme.com/Deal")
    clock.advance(1)
    last = await target.click("https://acme.link/")
    await target.at_dub("DELETE", "/links/link_deal")
    pages = [await ids(target, sortOrder="asc", limit=2, page=page) for page in (1, 2, 3)]
    assert pages == [[first], [last], []]


async def test_new_and_recurring_sales(target: Target) -> None:
    """A customer's first sale is new, every other recurring, and without saleType both are listed."""
    await target.lead(await target.click_id())
    for amount in (1, 2, 3):
        await target.sale(amount=amount)
    listed = {
        kind: sorted(event["sale"]["amount"] for event in await target.events("sales", saleType=kind))
        for kind in ("new", "recurring", "")
    }
    assert listed == {"new": [1], "recurring": [2, 3], "": [1, 2, 3]}


async def test_an_event_may_take_a_while_to_be_listed(target: Target, clock: FakeClock) -> None:
    """Dub's events are seconds behind; an answer of before is not taken for the one of now."""
    await target.at_dub("PATCH", "/sandbox/settings", {"eventsDelayS": 5})
    click_id = await target.click_id(phone=Phone("203.0.113.50"))
    assert await target.events() == []
    clock.advance(5)
    assert await ids(target) == [click_id]


async def test_two_forms_of_a_time(target: Target, clock: FakeClock) -> None:
    """An event's own time is a JavaScript date as text, in seconds; its click's is ISO 8601 with a Z.

    dub-api.md, GET /events. A sandbox that wrote ISO in both places once hid that no event of the real Dub
    could be read.
    """
    clock.advance(0.5)
    await target.lead(await target.click_id())
    clock.advance(86_399)
    await target.sale()
    times = {}
    for kind in ("clicks", "leads", "sales"):
        (event,) = await target.events(kind)
        times[kind] = event["timestamp"]
        assert event["click"]["timestamp"] == "2026-08-01T12:00:00.500Z"
    first = "Sat Aug 01 2026 12:00:00 GMT+0000 (Coordinated Universal Time)"
    last = "Sun Aug 02 2026 11:59:59 GMT+0000 (Coordinated Universal Time)"
    assert times == {"clicks": first, "leads": first, "sales": last}
