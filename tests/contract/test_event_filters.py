"""`GET /events`: every documented filter, one value, several, or all but some."""

from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.contract import shapes
from tests.contract.targets import ANNA, Target, error_of, refused
from tests.sandbox.support import IPHONE, MAC, PIXEL, PROMO, FakeClock

pytestmark = pytest.mark.asyncio(loop_scope="module")

NEW_YORK = {
    "x_vercel_ip_country": "US",
    "x_vercel_ip_continent": "NA",
    "x_vercel_ip_city": "New%20York",
    "x_vercel_ip_country_region": "NY",
}
MONTREAL = NEW_YORK | {
    "x_vercel_ip_country": "CA",
    "x_vercel_ip_city": "Montreal",
    "x_vercel_ip_country_region": "QC",
}
BERLIN = {"x_vercel_ip_country": "DE", "x_vercel_ip_city": "Berlin"}
PLAIN = "https://acme.link/plain"
UTM = "utm_source=ig&utm_medium=paid&utm_campaign=spring&utm_term=shoes&utm_content=blue"
ALL = ["mac", "iphone", "pixel", "deal", "root", "open"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clicked(one_target: Target, shared_clock: FakeClock) -> Target:
    """Six clicks that differ in everything a filter can ask for; `n` in the URL names each."""
    at_dub = one_target.click
    await at_dub(f"{PLAIN}?n=mac&{UTM}", ua=MAC, **NEW_YORK)
    shared_clock.advance(1)
    await at_dub(f"{PLAIN}?n=iphone&qr=1", ua=IPHONE, **MONTREAL)
    shared_clock.advance(1)
    await at_dub(f"{PLAIN}?n=pixel&utm_source=fb", ua=PIXEL, referer="https://www.t.co/1", **BERLIN)
    shared_clock.advance(1)
    await at_dub("https://go.acme.com/Deal?n=deal", ua=MAC)
    shared_clock.advance(1)
    await at_dub("https://acme.link/?n=root", ua=MAC)
    shared_clock.advance(1)
    await one_target.open(PROMO, ANNA)
    return one_target


async def named(target: Target, **params: Any) -> list[str]:
    """Return the names of the clicks that are listed, oldest first."""
    listed = await target.events(sortOrder="asc", **params)
    return [event["click"]["url"].partition("n=")[2].partition("&")[0] or "open" for event in listed]


def without(*names: str) -> list[str]:
    return [name for name in ALL if name not in names]


def as_typed(params: dict[str, str]) -> dict[str, Any]:
    """Return a query as its schema reads it: numbers and booleans where those are meant."""
    typed: dict[str, Any] = dict(params)
    for name, value in params.items():
        kind = shapes.request_of("/events")["properties"].get(name, {}).get("type")
        if kind == "integer" and value.isdecimal():
            typed[name] = int(value)
        if kind == "boolean" and value in {"true", "false"}:
            typed[name] = value == "true"
    return typed


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, ALL),
        ({"country": "US"}, ["mac"]),
        ({"country": "us"}, ["mac"]),
        ({"country": "US,CA"}, ["mac", "iphone"]),
        ({"country": "-US"}, without("mac")),
        ({"country": "-US,CA"}, without("mac", "iphone")),
        ({"city": "New York"}, ["mac"]),
        ({"city": "Berlin,Montreal"}, ["iphone", "pixel"]),
        ({"city": "-Berlin"}, without("pixel")),
        ({"region": "CA-QC"}, ["iphone"]),
        ({"region": "CA-QC,US-NY"}, ["mac", "iphone"]),
        ({"region": "-CA-QC,US-NY"}, without("mac", "iphone")),
        ({"region": "QC"}, []),
        ({"continent": "EU"}, ["pixel"]),
        ({"continent": "EU,NA"}, ["mac", "iphone", "pixel"]),
        ({"continent": "-NA,EU"}, ["deal", "root", "open"]),
        ({"device": "Mobile"}, ["iphone", "pixel"]),
        ({"device": "mobile"}, ["iphone", "pixel"]),
        ({"device": "desktop,mobile"}, ALL),
        ({"device": "-mobile"}, without("iphone", "pixel")),
        ({"browser": "chrome"}, ["mac", "pixel", "deal", "root"]),
        ({"browser": "-chrome"}, ["iphone", "open"]),
        ({"os": "iOS"}, ["iphone"]),
        ({"os": "android,iOS"}, ["iphone", "pixel"]),
        ({"os": "-mac,iOS"}, ["pixel", "open"]),
        ({"trigger": "link"}, ["mac", "pixel", "deal", "root"]),
        ({"trigger": "qr"}, ["iphone"]),
        ({"trigger": "pageview"}, []),
        ({"trigger": "deeplink,qr"}, ["iphone", "open"]),
        ({"trigger": "-link"}, ["iphone", "open"]),
        ({"qr": "true"}, ["iphone"]),
        ({"qr": "false"}, without("iphone")),
        ({"referer": "t.co"}, ["pixel"]),
        ({"referer": "-t.co"}, without("pixel")),
        ({"refererUrl": "https://www.t.co/1"}, ["pixel"]),
        ({"refererUrl": "-https://www.t.co/1"}, without("pixel")),
        ({"utm_source": "ig"}, ["mac"]),
        ({"utm_source": "ig,fb"}, ["mac", "pixel"]),
        ({"utm_source": "-ig"}, without("mac")),
        ({"utm_medium": "paid"}, ["mac"]),
        ({"utm_campaign": "spring"}, ["mac"]),
        ({"utm_term": "shoes"}, ["mac"]),
        ({"utm_content": "blue"}, ["mac"]),
        ({"utm_content": "-blue,red"}, without("mac")),
        ({"url": "https://acme.com/?n=root"}, ["root"]),
        ({"url": "-https://acme.com/?n=root"}, without("root")),
        ({"domain": "go.acme.com"}, ["deal"]),
        ({"domain": "GO.acme.com"}, ["deal"]),
        ({"domain": "acme.link,go.acme.com"}, ALL),
        ({"domain": "-acme.link"}, ["deal"]),
        ({"domain": "-somebody.elses"}, ALL),
        ({"domain": "go.acme.com", "key": "Deal"}, ["deal"]),
        ({"domain": "acme.link", "key": "plain"}, ["mac", "iphone", "pixel"]),
        ({"linkId": "link_deal"}, ["deal"]),
        ({"linkId": "link_deal,link_root"}, ["deal", "root"]),
        ({"linkId": "-link_plain"}, ["deal", "root", "open"]),
        ({"externalId": "ext_deal"}, ["deal"]),
        ({"externalId": "ext_nothing"}, []),
        ({"tenantId": "tenant_2"}, ["deal"]),
        ({"tenantId": "tenant_1,tenant_2"}, ["deal", "open"]),
        ({"tenantId": "-tenant_2"}, without("deal")),
        ({"tagId": "blue"}, ["deal"]),
        ({"tagId": "green,red"}, ["deal"]),
        ({"tagId": "-red"}, without("deal")),
        ({"tagIds": "blue"}, ["deal"]),
        ({"folderId": "folder_1"}, ["deal"]),
        ({"folderId": "-folder_1"}, without("deal")),
        ({"groupId": "group_1"}, ["deal"]),
        ({"groupId": "-group_1"}, without("deal")),
        ({"partnerId": "partner_1"}, ["deal"]),
        ({"partnerId": "-partner_1"}, without("deal")),
        ({"programId": "program_1"}, ["deal"]),
        ({"programId": "-program_1"}, without("deal")),
        ({"partnerTagId": "ptag_1"}, []),
        ({"partnerTagId": "-ptag_1"}, ALL),
        ({"root": "true"}, ["root"]),
        ({"root": "false"}, without("root")),
        ({"customerId": "cus_nobody"}, []),
        ({"saleType": "new"}, ALL),
        ({"query": "metadata['plan']:'pro'"}, ALL),
        ({"country": "US,CA", "device": "Mobile"}, ["iphone"]),
        ({"city": "x' OR 1=1 --"}, []),
        ({"nobodyDocumentedThis": "x"}, ALL),
    ],
    ids=lambda value: "&".join(f"{n}={v}" for n, v in value.items()) if isinstance(value, dict) else "",
)
async def test_filters(clicked: Target, params: dict[str, str], expected: list[str]) -> None:
    """A filter keeps what it names, several values mean any of them, a dash means none of them."""
    assert await named(clicked, **params) == expected
    assert not shapes.problems(shapes.request_of("/events"), as_typed(params))


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("name", sorted(shapes.request_of("/events")["properties"]))
async def test_a_blank_filter_is_none(clicked: Target, name: str) -> None:
    """A parameter without a value is as good as left out."""
    assert len(await clicked.events(**({"event": "clicks"} | {name: ""}))) == len(ALL)


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"event": "click"}, "event"),
        ({"event": "opens"}, "event"),
        ({"page": "0"}, "page"),
        ({"page": "-1"}, "page"),
        ({"page": "1.5"}, "page"),
        ({"page": "one"}, "page"),
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"limit": "ten"}, "limit"),
        ({"sortBy": "amount"}, "sortBy"),
        ({"sortOrder": "up"}, "sortOrder"),
        ({"order": "up"}, "order"),
        ({"interval": "2h"}, "interval"),
        ({"interval": "1h"}, "interval"),
        ({"interval": "all_unfiltered"}, "interval"),
        ({"interval": "24H"}, "interval"),
        ({"start": "yesterday"}, "start"),
        ({"start": "2026-08-01", "end": "soon"}, "end"),
        ({"country": "USA"}, "country"),
        ({"country": "US,Germany"}, "country"),
        ({"country": "-USA"}, "country"),
        ({"continent": "XX"}, "continent"),
        ({"continent": "EU,XX"}, "continent"),
        ({"trigger": "tap"}, "trigger"),
        ({"trigger": "link,tap"}, "trigger"),
        ({"root": "maybe"}, "root"),
        ({"qr": "maybe"}, "qr"),
        ({"saleType": "used"}, "saleType"),
        ({"key": "Deal"}, "domain"),
        ({"externalId": "deal"}, "ext_"),
        ({"event": "leads", "query": "x" * 10_001}, "query"),
    ],
    ids=lambda value: "&".join(value) if isinstance(value, dict) else "",
)
async def test_bad_parameters(shared: Target, params: dict[str, str], field: str) -> None:
    """A value outside the ones that Dub takes is a 422 that names the parameter.

    `1h` and `all_unfiltered` are on the published page, and refused (dub-api.md, GET /events).
    """
    refused(await shared.ask_events(**params), field)
    if "start" not in params:  # moments are more than a schema can say
        assert shapes.problems(shapes.request_of("/events"), as_typed(params))


@pytest.mark.parametrize(
    "params", [{"domain": "acme.link", "key": "Deal"}, {"domain": "go.acme.com", "key": "x"}]
)
async def test_an_unknown_key(shared: Target, params: dict[str, str]) -> None:
    """A key that no link of the domain has is a 404, and no empty list (dub-api.md, GET /events)."""
    assert error_of(await shared.ask_events(**params)) == (404, "not_found")


@pytest.mark.parametrize(("length", "status"), [(9_999, 200), (10_000, 200), (10_001, 422)])
async def test_how_long_a_search_may_be(shared: Target, length: int, status: int) -> None:
    """A search of 10,000 characters is taken, one more is not."""
    assert (await shared.ask_events(event="leads", query="x" * length)).status_code == status


@pytest.mark.parametrize("domain", ["globex.link", "globex.link,acme.link", "*"])
async def test_somebody_elses_domain(shared: Target, domain: str) -> None:
    """A domain of another team, or a glob, shows nothing of theirs."""
    response = await shared.ask_events(domain=domain)
    assert response.status_code == shared.expects("events of somebody else's domain")
    if response.status_code == httpx.codes.OK:
        assert {event["link"]["domain"] for event in response.json()} <= {"acme.link"}


async def test_somebody_elses_events(shared: Target) -> None:
    """Without a domain the list holds the team's own events only."""
    await shared.click("https://globex.link/x", ip="203.0.113.99")
    assert "globex.link" not in {event["link"]["domain"] for event in await shared.events(limit=1_000)}
    (theirs,) = (await shared.ask("GET", "/events", key="dub_globex_backend")).json()
    assert theirs["link"]["domain"] == "globex.link"


async def test_an_error_has_no_page(shared: Target) -> None:
    """A refusal of the filters is an error and no list."""
    assert error_of(await shared.ask_events(limit=1_001)) == (422, "unprocessable_entity")
