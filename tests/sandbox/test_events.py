"""`GET /events`."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.sandbox import SandboxLink
from service.sandbox.metadata_query import metadata_matches
from tests.sandbox.support import IPHONE, LINKS, MAC, NOON, OKHTTP, PIXEL, FakeClock, Sandbox, build, error_of

HOUR_S = 3_600
DAY_S = 86_400


@pytest.fixture
async def world(clock: FakeClock) -> Sandbox:
    """Six clicks that differ in everything a filter can ask for; `ref` in the URL names each."""
    links = [
        *LINKS,
        SandboxLink(
            id="link_rich",
            domain="rich.link",
            key="Deal",
            url="https://rich.com/deal",
            external_id="own_1",
            tenant_id="tenant_2",
            folder_id="folder_1",
            group_id="group_1",
            partner_id="partner_1",
            program_id="program_1",
            tag_ids=("red", "blue"),
        ),
    ]
    sandbox = build(clock, links=links)
    us = {
        "x_vercel_ip_country": "US",
        "x_vercel_ip_continent": "NA",
        "x_vercel_ip_city": "New%20York",
        "x_vercel_ip_country_region": "NY",
        "ip": "203.0.113.1",
    }
    canada = us | {
        "x_vercel_ip_country": "CA",
        "x_vercel_ip_city": "Montreal",
        "x_vercel_ip_country_region": "QC",
    }
    germany = {"x_vercel_ip_country": "DE", "x_vercel_ip_city": "Berlin", "ip": "203.0.113.2"}
    await sandbox.click("/plain?n=mac&utm_source=ig&utm_medium=paid", ua=MAC, **us)
    clock.advance(1)
    await sandbox.click("/plain?n=iphone&qr=1", ua=IPHONE, **canada)
    clock.advance(1)
    await sandbox.click("/plain?n=pixel&utm_source=fb", ua=PIXEL, referer="https://www.t.co/1", **germany)
    clock.advance(1)
    await sandbox.click("/deal?n=rich", host="rich.link", ua=MAC)
    clock.advance(1)
    await sandbox.click("/?n=root", ua=MAC)
    clock.advance(1)
    await sandbox.open("https://acme.link/plain", ua=OKHTTP)
    clock.advance(1)
    return sandbox


async def named(sandbox: Sandbox, **params: Any) -> list[str]:
    """Return the names of the clicks that are listed, oldest first."""
    listed = await sandbox.events(sortOrder="asc", **params)
    return [event["click"]["url"].partition("n=")[2].partition("&")[0] or "open" for event in listed]


ALL = ["mac", "iphone", "pixel", "rich", "root", "open"]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, ALL),
        ({"country": "US"}, ["mac"]),
        ({"country": "us"}, ["mac"]),
        ({"country": "US,CA"}, ["mac", "iphone"]),
        ({"country": "-US"}, ["iphone", "pixel", "rich", "root", "open"]),
        ({"country": "-US,CA"}, ["pixel", "rich", "root", "open"]),
        ({"country": ""}, ALL),
        ({"city": "New York"}, ["mac"]),
        ({"city": "Berlin,Montreal"}, ["iphone", "pixel"]),
        ({"region": "QC"}, ["iphone"]),
        ({"continent": "EU"}, ["pixel"]),
        ({"continent": "-NA,EU"}, ["rich", "root", "open"]),
        ({"device": "mobile"}, ["iphone", "pixel"]),
        ({"device": "-Mobile"}, ["mac", "rich", "root", "open"]),
        ({"browser": "chrome"}, ["mac", "pixel", "rich", "root"]),
        ({"os": "iOS"}, ["iphone"]),
        ({"os": "android,iOS"}, ["iphone", "pixel"]),
        ({"os": "mac"}, ["mac", "rich", "root"]),
        ({"trigger": "qr"}, ["iphone"]),
        ({"trigger": "deeplink"}, ["open"]),
        ({"trigger": "-link"}, ["iphone", "open"]),
        ({"qr": "true"}, ["iphone"]),
        ({"qr": "false"}, ["mac", "pixel", "rich", "root", "open"]),
        ({"referer": "t.co"}, ["pixel"]),
        ({"referer": "-(direct)"}, ["pixel"]),
        ({"refererUrl": "https://www.t.co/1"}, ["pixel"]),
        ({"utm_source": "ig,fb"}, ["mac", "pixel"]),
        ({"utm_source": "-ig"}, ["iphone", "pixel", "rich", "root", "open"]),
        ({"utm_medium": "paid"}, ["mac"]),
        ({"utm_campaign": "x"}, []),
        ({"utm_term": "x"}, []),
        ({"utm_content": "-x"}, ALL),
        ({"url": "https://rich.com/deal?n=rich"}, ["rich"]),
        ({"domain": "rich.link"}, ["rich"]),
        ({"domain": "-acme.link"}, ["rich"]),
        ({"domain": "acme.link,rich.link"}, ALL),
        ({"domain": "RICH.link"}, ["rich"]),
        ({"domain": "*"}, []),
        ({"domain": "rich.link", "key": "deal"}, ["rich"]),
        ({"domain": "acme.link", "key": "deal"}, []),
        ({"linkId": "link_rich,link_root"}, ["rich", "root"]),
        ({"linkId": "-link_rich"}, ["mac", "iphone", "pixel", "root", "open"]),
        ({"externalId": "ext_own_1"}, ["rich"]),
        ({"tenantId": "tenant_2"}, ["rich"]),
        ({"tenantId": "-tenant_2"}, ["mac", "iphone", "pixel", "root", "open"]),
        ({"tagId": "blue"}, ["rich"]),
        ({"tagId": "green,red"}, ["rich"]),
        ({"tagId": "-red"}, ["mac", "iphone", "pixel", "root", "open"]),
        ({"folderId": "folder_1"}, ["rich"]),
        ({"groupId": "group_1"}, ["rich"]),
        ({"partnerId": "partner_1"}, ["rich"]),
        ({"programId": "program_1"}, ["rich"]),
        ({"root": "true"}, ["root"]),
        ({"root": "false"}, ["mac", "iphone", "pixel", "rich", "open"]),
        ({"customerId": "cus_nobody"}, []),
        ({"country": "US,CA", "device": "Mobile"}, ["iphone"]),
        ({"city": "x' OR 1=1 --"}, []),
        ({"unknown": "filter"}, ALL),
    ],
)
async def test_filters(world: Sandbox, params: dict[str, str], expected: list[str]) -> None:
    """Each filter keeps what it names: one value, one of several, or none of them."""
    assert await named(world, **params) == expected


@pytest.mark.parametrize(
    ("params", "word"),
    [
        ({"event": "opens"}, "event"),
        ({"limit": "1001"}, "limit"),
        ({"limit": "0"}, "limit"),
        ({"limit": "ten"}, "limit"),
        ({"page": "0"}, "page"),
        ({"page": "-1"}, "page"),
        ({"page": "1.5"}, "page"),
        ({"sortBy": "amount"}, "sortBy"),
        ({"sortOrder": "up"}, "sortOrder"),
        ({"interval": "2h"}, "interval"),
        ({"start": "yesterday"}, "start"),
        ({"start": "2026-08-01", "end": "soon"}, "end"),
        ({"start": "2026-08-02", "end": "2026-08-01"}, "start"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"timezone": "../../etc/passwd"}, "timezone"),
        ({"country": "USA"}, "country"),
        ({"country": "US,Germany"}, "country"),
        ({"continent": "XX"}, "continent"),
        ({"trigger": "tap"}, "trigger"),
        ({"root": "maybe"}, "root"),
        ({"saleType": "used"}, "saleType"),
        ({"key": "deal"}, "domain"),
        ({"externalId": "own_1"}, "ext_"),
        ({"event": "leads", "query": "metadata['plan']"}, "query"),
        ({"event": "leads", "query": "metadata['a']:'1' OR metadata['b']:'2'"}, "query"),
        ({"event": "leads", "query": "x" * 10_001}, "query"),
    ],
)
async def test_bad_parameters(sandbox: Sandbox, params: dict[str, str], word: str) -> None:
    """A parameter outside the published page is a 422 that names it."""
    status, code, message = error_of(await sandbox.ask_events(**params))
    assert (status, code) == (422, "unprocessable_entity")
    assert word in message


async def test_key_is_wanted(sandbox: Sandbox) -> None:
    """Without a key there is nothing to see."""
    assert error_of(await sandbox.http.get("/events"))[:2] == (401, "unauthorized")


async def test_newest_first_and_oldest_first(world: Sandbox) -> None:
    """The default order is newest first; `asc` turns it round, and so does the older name `order`."""
    newest = [event["timestamp"] for event in await world.events()]
    assert newest == sorted(newest, reverse=True)
    for name in ("sortOrder", "order"):
        assert [e["timestamp"] for e in await world.events(**{name: "asc"})] == newest[::-1]


async def test_pages(world: Sandbox) -> None:
    """Pages follow each other without overlap, and an empty one is the end."""
    pages = [await named(world, limit=4, page=page) for page in (1, 2, 3)]
    assert pages == [ALL[:4], ALL[4:], []]


async def test_default_limit_is_fifty(sandbox: Sandbox) -> None:
    """Without a limit a page has 50 events; 1,000 may be asked for."""
    for number in range(60):
        await sandbox.open(ua=f"phone {number}")
    assert len(await sandbox.events()) == 50
    assert len(await sandbox.events(limit=1_000)) == 60


async def test_deleted_links_leave_short_pages(world: Sandbox) -> None:
    """Events of a deleted link are dropped after paging: a page may be short with more behind it."""
    await world.delete_link("link_rich")
    pages = [await named(world, limit=2, page=page) for page in (1, 2, 3, 4)]
    assert pages == [["mac", "iphone"], ["pixel"], ["root", "open"], []]


async def test_no_address_of_anybody_in_the_eu(world: Sandbox) -> None:
    """`click.ip` is empty for people in the EU, and the address of everybody else."""
    addresses = {event["click"]["country"]: event["click"]["ip"] for event in await world.events()}
    assert addresses == {"US": "203.0.113.1", "CA": "203.0.113.1", "DE": "", "Unknown": "127.0.0.1"}


AGES_S = {
    "ages": 900 * DAY_S,
    "year": 300 * DAY_S,
    "month": 40 * DAY_S,
    "day": 28 * HOUR_S,  # 31 July, 08:00 UTC: 17:00 in Tokyo
    "night": 14 * HOUR_S,  # 31 July, 22:00 UTC: August in Tokyo already
    "now": 0,
}


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, ["night", "now"]),
        ({"interval": "1h"}, ["now"]),
        ({"interval": "24h"}, ["night", "now"]),
        ({"interval": "7d"}, ["day", "night", "now"]),
        ({"interval": "30d"}, ["day", "night", "now"]),
        ({"interval": "90d"}, ["month", "day", "night", "now"]),
        ({"interval": "1y"}, ["year", "month", "day", "night", "now"]),
        ({"interval": "mtd"}, ["now"]),
        ({"interval": "mtd", "timezone": "Asia/Tokyo"}, ["night", "now"]),
        ({"interval": "qtd"}, ["day", "night", "now"]),
        ({"interval": "ytd"}, ["month", "day", "night", "now"]),
        ({"interval": "all"}, list(AGES_S)),
        ({"interval": "all_unfiltered"}, list(AGES_S)),
        ({"start": "2026-07-31T22:00:00Z"}, ["night", "now"]),
        ({"start": "2026-07-31T18:00:00-04:00", "interval": "1h"}, ["night", "now"]),
        ({"start": "2026-07-01", "end": "2026-07-31T22:00:00Z"}, ["day", "night"]),
        ({"start": "2026-07-31T17:00:00", "timezone": "Asia/Tokyo"}, ["day", "night", "now"]),
        ({"start": "2026-07-31T17:00:00"}, ["night", "now"]),
        ({"end": "2026-07-01T00:00:00Z"}, ["night", "now"]),
        ({"start": "2027-01-01"}, []),
    ],
)
async def test_time_range(
    sandbox: Sandbox, clock: FakeClock, params: dict[str, str], expected: list[str]
) -> None:
    """`start` goes before `interval`, both ends belong to it, 24 hours are the default."""
    for name, age_s in AGES_S.items():
        clock.now_s = NOON - age_s
        await sandbox.click(f"/plain?n={name}")
    assert await named(sandbox, **params) == expected


async def test_events_may_be_late(sandbox: Sandbox, clock: FakeClock) -> None:
    """With a visibility delay an event shows up that many seconds after it happened, and not before."""
    await sandbox.settings(eventsDelayS=5)
    await sandbox.open()
    clock.advance(4.9)
    assert await sandbox.events() == []
    clock.advance(0.1)
    assert len(await sandbox.events()) == 1


async def test_events_carry_the_whole_link(sandbox: Sandbox) -> None:
    """An event's link is the link as `/links/info` shows it."""
    await sandbox.open()
    (event,) = await sandbox.events()
    assert event["link"] == await sandbox.link()


async def test_leads_and_sales_know_their_click(sandbox: Sandbox) -> None:
    """A lead and a sale carry click, link and customer, and are filtered by their click's properties."""
    await sandbox.click("/plain", ua=PIXEL, x_vercel_ip_country="US")
    (click,) = await sandbox.events()
    await sandbox.lead(click["click"]["id"], customerEmail="anna@acme.com")
    await sandbox.sale(amount=250)
    for kind in ("leads", "sales"):
        (event,) = await sandbox.events(kind, country="US", os="android")
        assert event["click"] == click["click"]
        assert event["link"]["id"] == "link_plain"
        assert await sandbox.events(kind, country="-US") == []
        customer = event["customer"]
        assert (customer["externalId"], customer["email"], customer["country"]) == (
            "user_1",
            "anna@acme.com",
            "US",
        )
        assert (customer["sales"], customer["saleAmount"]) == (1, 250)
        assert await sandbox.events(kind, customerId=customer["id"]) == [event]
        assert await sandbox.events(kind, customerId="cus_other") == []
        assert [e["click"]["id"] for e in await sandbox.events(customerId=customer["id"])] == [
            click["click"]["id"]
        ]


async def test_event_name(sandbox: Sandbox) -> None:
    """`eventName` chooses among leads, and takes lists and exclusions."""
    click_id = (await sandbox.open())["clickId"]
    for name in ("Sign up", "Trial", "Invite"):
        await sandbox.lead(click_id, eventName=name)
    assert [e["eventName"] for e in await sandbox.events("leads", eventName="Trial,Invite")] == [
        "Invite",
        "Trial",
    ]
    assert [e["eventName"] for e in await sandbox.events("leads", eventName="-Trial,Invite")] == ["Sign up"]


@pytest.mark.parametrize(
    ("query", "customers"),
    [
        ("metadata['plan']:'pro'", ["anna"]),
        ('metadata["plan"] = "PRO"', ["anna"]),
        ("metadata.plan != 'pro'", ["ben", "carl"]),
        ("metadata.seats >= 5", ["anna", "ben"]),
        ("metadata.seats > 5", ["ben"]),
        ("metadata.seats < 6 AND metadata.plan:pro", ["anna"]),
        ("metadata.seats <= 4", []),
        ("metadata.paid:true", ["ben"]),
        ("pro", ["anna"]),
        ("metadata.nothing:x", []),
    ],
)
async def test_metadata_search(sandbox: Sandbox, query: str, customers: list[str]) -> None:
    """`query` searches leads and sales by metadata, and leaves clicks as they are."""
    click_id = (await sandbox.open())["clickId"]
    known: dict[str, dict[str, Any] | None] = {
        "anna": {"plan": "pro", "seats": 5},
        "ben": {"plan": "free", "seats": 9, "paid": True},
        "carl": None,
    }
    for name, metadata in known.items():
        await sandbox.lead(click_id, name, metadata=metadata)
        await sandbox.sale(name, metadata=metadata)
    for kind in ("leads", "sales"):
        found = await sandbox.events(kind, query=query, sortOrder="asc")
        assert [event["customer"]["externalId"] for event in found] == customers
    assert len(await sandbox.events(query=query)) == 1


@given(st.dictionaries(st.text(min_size=1), st.text() | st.integers() | st.booleans() | st.none()))
def test_metadata_search_finds_what_is_there(metadata: dict[str, Any]) -> None:
    """A key that holds a plain word is always found by that word."""
    metadata["plan"] = "pro"
    stored = json.dumps(metadata)
    assert metadata_matches(stored, "metadata['plan']:'pro'")
    assert not metadata_matches(stored, "metadata['plan']!='pro'")


async def test_timestamps_are_dubs(sandbox: Sandbox) -> None:
    """Times are UTC with milliseconds and a Z."""
    await sandbox.open()
    (event,) = await sandbox.events()
    assert event["timestamp"] == "2026-08-01T12:00:00.000Z"
    assert datetime.fromtimestamp(NOON, UTC).isoformat() == "2026-08-01T12:00:00+00:00"
