"""Both forms in which Dub writes the time of an event (dub-api.md, "GET /events")."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.dub.event_time import read_time_ms

AUGUST_MS = 1_787_346_842_000  # 2026-08-21 21:14:02 UTC


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("2026-08-21T21:14:02.000Z", AUGUST_MS),
        ("2026-08-21T21:14:02.250Z", AUGUST_MS + 250),
        ("2026-08-21T21:14:02Z", AUGUST_MS),
        ("2026-08-21T23:14:02+02:00", AUGUST_MS),
        ("2026-08-21T21:14:02", AUGUST_MS),
        ("2026-08-21 21:14:02.000", AUGUST_MS),
        ("Fri Aug 21 2026 21:14:02 GMT+0000 (Coordinated Universal Time)", AUGUST_MS),
        ("Fri Aug 21 2026 21:14:02 GMT+0000", AUGUST_MS),
        ("Fri Aug 21 2026 23:14:02 GMT+0200 (Central European Summer Time)", AUGUST_MS),
        ("Fri Aug 21 2026 23:14:02 GMT+0200 (Mitteleuropäische Sommerzeit)", AUGUST_MS),
        ("Sat Aug 22 2026 02:44:02 GMT+0530 (India Standard Time)", AUGUST_MS),
        ("Fri Aug 21 2026 11:44:02 GMT-0930 (Marquesas Time)", AUGUST_MS),
        ("Fri Aug 21 2026 17:14:02 GMT-0400 (Eastern Daylight Time)", AUGUST_MS),
        ("Thu Jan 01 1970 00:00:01 GMT+0000 (Coordinated Universal Time)", 1000),
        ("Thu Feb 29 2024 00:00:00 GMT+0000 (Coordinated Universal Time)", 1_709_164_800_000),
    ],
)
def test_both_forms_of_a_time_are_read(text: str, at_ms: int) -> None:
    """ISO 8601, and what JavaScript makes of a date, with any offset and in any server's language."""
    assert read_time_ms(text) == at_ms


@pytest.mark.parametrize(
    "text",
    [
        None,
        True,
        AUGUST_MS,
        {},
        [],
        "",
        "?",
        "yesterday",
        "Invalid Date",
        "2026-08-21",
        "2026-W34-5",
        "2026-08-21T25:00:00Z",
        "1969-12-31T23:59:59Z",
        "0001-01-01T00:00:00+23:59",
        "Fri Aug 21 2026 21:14:02",
        "Fri Aug 21 2026 21:14:02 GMT+0000x",
        "Fri Aug 21 2026 21:14:02 GMT+2460 (Nowhere)",
        "Fri Aug 32 2026 21:14:02 GMT+0000 (Coordinated Universal Time)",
        "Fri Foo 21 2026 21:14:02 GMT+0000 (Coordinated Universal Time)",
        "Fri Aug 21 +12026 21:14:02 GMT+0000 (Coordinated Universal Time)",
        "Fri Aug ٢١ 2026 21:14:02 GMT+0000 (Coordinated Universal Time)",
        "Thu Jan 01 1970 00:30:00 GMT+0100 (Central European Standard Time)",
        "2026-08-21T21:14:02Z" + " " * 200,
        "Fri Aug 21 2026 21:14:02 GMT+0000 (" + "x" * 200 + ")",
    ],
)
def test_what_is_no_time_is_none(text: object) -> None:
    """A text that neither form allows, a date without a time of day, a time before 1970, an endless text."""
    assert read_time_ms(text) is None


moments = st.datetimes(datetime(1970, 1, 3), datetime(9999, 12, 29))  # noqa: DTZ001  Hypothesis adds the zone
offsets = st.integers(-23 * 60, 23 * 60)


@given(moments, offsets)
def test_a_moment_reads_alike_in_every_form(at: datetime, offset_minutes: int) -> None:
    """Whatever the offset that a server writes it with."""
    zone = timezone(timedelta(minutes=offset_minutes))
    local = at.replace(microsecond=0, tzinfo=UTC).astimezone(zone)
    expected = int(local.timestamp() * 1000)
    assert read_time_ms(local.isoformat()) == expected
    javascript = f"{local:%a %b %d} {local.year:04} {local:%H:%M:%S} GMT{local:%z} (Some Zone)"
    assert read_time_ms(javascript) == expected


@given(st.text() | st.text(alphabet="FriAug 0123456789:+-TZGM()"))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever stands in the field, the answer is a time after 1970 or none."""
    assert (read_time_ms(text) or 1) > 0
