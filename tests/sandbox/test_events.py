"""`GET /events`: what only the sandbox can show. Filters, pages and times are in the contract suite."""

import json
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.sandbox.event_times import period
from service.sandbox.metadata_query import metadata_matches
from tests.sandbox.support import NOON, PIXEL, Sandbox, error_of

ZONES = ["UTC", "Asia/Tokyo", "America/New_York", "Europe/Berlin", "Pacific/Kiritimati", "Asia/Kathmandu"]


async def test_a_glob_is_no_domain(sandbox: Sandbox) -> None:
    """A domain is compared as it is written: `*` names none."""
    await sandbox.open()
    assert await sandbox.events(domain="*") == []


async def test_events_carry_the_whole_link(sandbox: Sandbox) -> None:
    """An event's link is the link as `/links/info` shows it."""
    await sandbox.open()
    (event,) = await sandbox.events()
    assert event["link"] == await sandbox.link()


async def test_customers_carry_what_they_bought(sandbox: Sandbox) -> None:
    """A lead's and a sale's customer has a country, and the number and sum of the sales."""
    await sandbox.click("/plain", ua=PIXEL, x_vercel_ip_country="US")
    (click,) = await sandbox.events()
    await sandbox.lead(click["click"]["id"])
    await sandbox.sale(amount=250)
    for kind in ("leads", "sales"):
        (event,) = await sandbox.events(kind)
        customer = event["customer"]
        assert (customer["country"], customer["sales"], customer["saleAmount"]) == ("US", 1, 250)


async def test_regions_are_iso_3166_2(sandbox: Sandbox) -> None:
    """`click.region` is `US-CA` (dub-api.md, GET /events), and Unknown where only the country is known."""
    await sandbox.click("/plain", ip="203.0.113.1", x_vercel_ip_country="us", x_vercel_ip_country_region="CA")
    await sandbox.click("/plain", ip="203.0.113.2", x_vercel_ip_country="US")
    assert {event["click"]["region"] for event in await sandbox.events()} == {"US-CA", "Unknown"}


@pytest.fixture
def no_system_zones() -> Iterator[None]:
    """Take the system's time zones away, as in the image: PyPI's tzdata is left."""
    zoneinfo.reset_tzpath(to=())
    zoneinfo.ZoneInfo.clear_cache()
    yield
    zoneinfo.reset_tzpath()
    zoneinfo.ZoneInfo.clear_cache()


@pytest.mark.usefixtures("no_system_zones")
@pytest.mark.parametrize("zone", ["Asia/Kolkata", "Asia/Calcutta"])
def test_time_zones_need_no_system_database(zone: str) -> None:
    """Names are known without one, old names included; days begin there at 18:30 UTC."""
    start_ms, _ = period({"start": "2026-08-01", "timezone": zone}, int(NOON * 1_000))
    assert datetime.fromtimestamp(start_ms / 1_000, UTC) == datetime(2026, 7, 31, 18, 30, tzinfo=UTC)


@given(
    st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001  bounds have none
    st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001  bounds have none
    st.sampled_from(ZONES),
)
def test_start_and_end_are_widened_to_whole_days(one: datetime, other: datetime, zone: str) -> None:
    """In either order, the two give every moment between them, from midnight to midnight in the zone.

    dub-api.md, GET /events.
    """
    params = {"start": one.isoformat(), "end": other.isoformat(), "timezone": zone}
    start_ms, end_ms = period(params, int(NOON * 1_000))
    first, last = (datetime.fromtimestamp(at / 1_000, UTC) for at in (start_ms, end_ms + 1))
    assert first <= min(one, other) <= max(one, other) < last
    for moment in (first, last):
        local = moment.astimezone(zoneinfo.ZoneInfo(zone))
        assert (local.hour, local.minute, local.second) == (0, 0, 0)
    assert min(one, other) - first < timedelta(hours=25) > last - max(one, other)


def test_a_day_on_which_clocks_change() -> None:
    """The last Sunday of October has 25 hours in Berlin."""
    params = {"start": "2026-10-25", "end": "2026-10-25", "timezone": "Europe/Berlin"}
    start_ms, end_ms = period(params, int(NOON * 1_000))
    assert end_ms + 1 - start_ms == 25 * 3_600_000


@pytest.mark.parametrize("moment", ["0001-01-01", "9999-12-31", "9999-12-31T23:59:59-23:59"])
async def test_moments_at_the_ends_of_the_calendar(sandbox: Sandbox, moment: str) -> None:
    """They are taken or refused, and break nothing."""
    for zone in ("Asia/Tokyo", "America/New_York"):
        response = await sandbox.ask_events(start="2026-08-01", end=moment, timezone=zone)
        assert response.status_code == 200 or error_of(response)[0] == 422


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


@pytest.mark.parametrize("query", ["metadata['plan']", "metadata['a']:'1' OR metadata['b']:'2'"])
async def test_a_search_that_is_not_understood(sandbox: Sandbox, query: str) -> None:
    """It is a 422, so that no test takes it for "no match"."""
    status, _, message = error_of(await sandbox.ask_events(event="leads", query=query))
    assert status == 422
    assert "query" in message


@given(st.dictionaries(st.text(min_size=1), st.text() | st.integers() | st.booleans() | st.none()))
def test_metadata_search_finds_what_is_there(metadata: dict[str, Any]) -> None:
    """A key that holds a plain word is always found by that word."""
    metadata["plan"] = "pro"
    stored = json.dumps(metadata)
    assert metadata_matches(stored, "metadata['plan']:'pro'")
    assert not metadata_matches(stored, "metadata['plan']!='pro'")
