"""`GET /events`: from when to when, in which order, page by page, and what a search finds."""

from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio

from tests.contract.targets import Target, error_of
from tests.sandbox.support import MAC, NOON, FakeClock

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOUR_S = 3_600
DAY_S = 86_400
PLAIN = "https://acme.link/plain"
AGES_S = {
    "ages": 900 * DAY_S,
    "year": 300 * DAY_S,
    "month": 40 * DAY_S,
    "day": 28 * HOUR_S,  # 31 July, 08:00 UTC: 17:00 in Tokyo
    "night": 14 * HOUR_S,  # 31 July, 22:00 UTC: August in Tokyo already
    "hour": HOUR_S,
    "now": 0,
}
METADATA: dict[str, dict[str, Any] | None] = {
    "anna": {"plan": "pro", "seats": 5},
    "ben": {"plan": "free", "seats": 9, "paid": True},
    "carl": None,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def past(one_target: Target, shared_clock: FakeClock) -> Target:
    """A click of each age (`n` in its URL), and by the last a lead and a sale of three customers."""
    assert datetime.fromtimestamp(NOON, UTC).isoformat() == "2026-08-01T12:00:00+00:00"
    click_id = ""
    for name, age_s in AGES_S.items():
        shared_clock.now_s = NOON - age_s
        click_id = await one_target.click(f"{PLAIN}?n={name}", ua=f"{MAC} {name}")
    for name, metadata in METADATA.items():
        named = {"eventName": f"Lead of {name}", "customerExternalId": name}
        await one_target.lead(click_id, **named, metadata=metadata)
        await one_target.sale(customerExternalId=name, metadata=metadata)
    return one_target


async def aged(target: Target, **params: str) -> list[str]:
    """Return the ages of the clicks that are listed, as they are listed."""
    listed = await target.events(**params)
    return [event["click"]["url"].partition("n=")[2] for event in listed]


@pytest.mark.parametrize(
    ("params", "newest_first"),
    [
        ({}, True),
        ({"sortOrder": "desc"}, True),
        ({"sortOrder": "asc"}, False),
        ({"sortBy": "timestamp"}, True),
        ({"sortBy": "timestamp", "sortOrder": "asc"}, False),
        ({"order": "asc"}, False),
    ],
)
async def test_order(past: Target, params: dict[str, str], *, newest_first: bool) -> None:
    """Newest first, unless `asc` is asked for (by its older name, too)."""
    oldest_first = list(AGES_S)
    expected = oldest_first[::-1] if newest_first else oldest_first
    assert await aged(past, interval="all", **params) == expected


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6]),
        ({"page": 1}, [0, 1, 2, 3, 4, 5, 6]),
        ({"page": 2}, []),
        ({"limit": 1}, [0]),
        ({"limit": 3}, [0, 1, 2]),
        ({"limit": 3, "page": 2}, [3, 4, 5]),
        ({"limit": 3, "page": 3}, [6]),
        ({"limit": 3, "page": 4}, []),
        ({"limit": 7}, [0, 1, 2, 3, 4, 5, 6]),
        ({"limit": 999}, [0, 1, 2, 3, 4, 5, 6]),
        ({"limit": 1_000}, [0, 1, 2, 3, 4, 5, 6]),
        ({"limit": 1, "page": 1_000}, []),
    ],
    ids=str,
)
async def test_pages(past: Target, params: dict[str, Any], expected: list[int]) -> None:
    """Pages begin at 1, follow each other without overlap, and end with an empty one."""
    names = list(AGES_S)
    found = await aged(past, interval="all", sortOrder="asc", **params)
    assert found == [names[number] for number in expected]


@pytest.mark.parametrize(
    ("params", "oldest"),
    [
        ({}, "day"),
        ({"interval": "24h"}, "night"),
        ({"interval": "7d"}, "day"),
        ({"interval": "30d"}, "day"),
        ({"interval": "90d"}, "month"),
        ({"interval": "1y"}, "year"),
        ({"interval": "mtd"}, "hour"),
        ({"interval": "mtd", "timezone": "Asia/Tokyo"}, "night"),
        ({"interval": "mtd", "timezone": "Asia/Calcutta"}, "night"),
        ({"interval": "qtd"}, "day"),
        ({"interval": "ytd"}, "month"),
        ({"interval": "all"}, "ages"),
        ({"end": "2026-07-01T00:00:00Z"}, "day"),
        ({"timezone": "America/New_York"}, "day"),
    ],
    ids=str,
)
async def test_intervals(past: Target, params: dict[str, str], oldest: str) -> None:
    """30 days (dub-api.md, GET /events; the published page says 24 hours), or an interval up to now."""
    assert await aged(past, sortOrder="asc", **params) == since(oldest)


@pytest.mark.parametrize(
    ("params", "oldest"),
    [
        ({"start": "2026-07-31"}, "day"),
        ({"start": "2026-07-31T00:00:00Z"}, "day"),
        ({"start": "2026-07-31T23:59:59.999Z"}, "day"),
        ({"start": "2026-07-31T23:00:00Z", "interval": "24h"}, "day"),
        ({"start": "2026-08-01T00:00:00Z"}, "hour"),
        ({"start": "2026-08-01T11:59:59"}, "hour"),
        ({"start": "2026-08-01T02:00:00+02:00"}, "hour"),
        ({"start": "2026-08-01T01:59:59+02:00"}, "day"),
        ({"start": "2026-07-31T22:00:00Z", "timezone": "Asia/Tokyo"}, "night"),
        ({"start": "2026-08-01T23:00:00", "timezone": "Asia/Tokyo"}, "night"),
        ({"start": "2026-08-01T02:00:00Z", "timezone": "America/New_York"}, "day"),
        ({"start": "2027-01-01"}, "hour"),
    ],
    ids=str,
)
async def test_from_the_start_of_a_day(past: Target, params: dict[str, str], oldest: str) -> None:
    """`start` means the beginning of its day in `timezone`, and goes before `interval`.

    dub-api.md, GET /events. Without `end` it is put in order with now.
    """
    assert await aged(past, sortOrder="asc", **params) == since(oldest)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"start": "2026-07-01", "end": "2026-07-31T00:00:00Z"}, ["day", "night"]),
        ({"start": "2026-07-01", "end": "2026-07-30T23:59:59Z", "interval": "all"}, []),
        ({"start": "2026-07-31T22:00:00Z", "end": "2026-07-31T09:00:00Z"}, ["day", "night"]),
        ({"start": "2026-07-01", "end": "2026-07-31", "timezone": "Asia/Tokyo"}, ["day"]),
    ],
    ids=str,
)
async def test_until_the_end_of_a_day(past: Target, params: dict[str, str], expected: list[str]) -> None:
    """`end` counts with a `start`, and means the end of its day in `timezone` (dub-api.md, GET /events)."""
    assert await aged(past, sortOrder="asc", **params) == expected


async def test_a_start_after_the_end(past: Target) -> None:
    """The two are swapped (dub-api.md, GET /events), then widened to whole days."""
    swapped = await aged(past, sortOrder="asc", start="2026-07-31", end="2026-06-20")
    assert swapped == ["month", "day", "night"]


@pytest.mark.parametrize("zone", ["Mars/Olympus", "undefined", "GMT+25", "../../etc/passwd", "x" * 300])
async def test_an_unknown_timezone(past: Target, zone: str) -> None:
    """It falls back to UTC (dub-api.md, GET /events): the month and the day begin there."""
    assert await aged(past, sortOrder="asc", interval="mtd", timezone=zone) == since("hour")
    assert await aged(past, sortOrder="asc", start="2026-08-01", timezone=zone) == since("hour")


def since(oldest: str) -> list[str]:
    """Return this age and every later one."""
    names = list(AGES_S)
    return names[names.index(oldest) :]


@pytest.mark.parametrize(
    ("name", "customers"),
    [
        ("Lead of ben", ["ben"]),
        ("Lead of ben,Lead of carl", ["ben", "carl"]),
        ("-Lead of ben,Lead of carl", ["anna"]),
        ("lead of ben", []),
        ("", ["anna", "ben", "carl"]),
    ],
)
async def test_event_names(past: Target, name: str, customers: list[str]) -> None:
    """`eventName`, which Dub's own client sends, chooses among leads."""
    listed = await past.events("leads", eventName=name, sortOrder="asc")
    assert [event["customer"]["externalId"] for event in listed] == customers


@pytest.mark.parametrize(
    ("query", "customers"),
    [
        ("metadata['plan']:'pro'", ["anna"]),
        ('metadata["plan"]:"PRO"', ["anna"]),
        ("metadata['plan']='pro'", ["anna"]),
        ("metadata.plan != 'pro'", ["ben", "carl"]),
        ("metadata['seats'] >= 5", ["anna", "ben"]),
        ("metadata['seats'] > 5", ["ben"]),
        ("metadata['seats'] < 6 AND metadata['plan']:'pro'", ["anna"]),
        ("metadata['paid']:true", ["ben"]),
        ("metadata['nothing']:'x'", []),
    ],
)
async def test_searching_metadata(past: Target, query: str, customers: list[str]) -> None:
    """`query` searches the metadata of leads and of sales, and leaves clicks alone."""
    for kind in ("leads", "sales"):
        found = await past.events(kind, query=query, sortOrder="asc")
        assert [event["customer"]["externalId"] for event in found] == customers
    assert len(await past.events(query=query, interval="all")) == len(AGES_S)


async def test_a_search_that_cannot_be_read(past: Target) -> None:
    """A search that makes no sense is an error, never an empty list."""
    response = await past.ask_events(event="leads", query="metadata['plan'")
    assert error_of(response) == (422, "unprocessable_entity")
