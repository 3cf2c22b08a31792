"""Parse the times in Dub's events, which have two formats.

Dub's ``click.timestamp`` is ISO 8601; the event's own ``timestamp`` is a JavaScript date as text, such as
``Fri Aug 21 2026 21:14:02 GMT+0000 (Coordinated Universal Time)``. Both formats are accepted for both fields.
"""

import re
from datetime import UTC, datetime

_MAX_CHARS = 128
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_HAS_TIME_OF_DAY = re.compile(r"[T ]\d\d", re.ASCII)
# Every repetition has a fixed width, so matching takes linear time. The name of the time zone in brackets is
# ignored: it depends on the server's language, and the offset is sufficient.
_JAVASCRIPT = re.compile(
    r"(?:Sun|Mon|Tue|Wed|Thu|Fri|Sat) (?P<month>[A-Z][a-z]{2}) (?P<day>\d\d) (?P<year>\d{4})"
    r" (?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
    r" GMT(?P<offset>[+-](?:[01]\d|2[0-3])[0-5]\d)(?: \(|\Z)",
    re.ASCII,
)


def read_time_ms(text: object) -> int | None:
    """Return an ISO 8601 or JavaScript date text as Unix milliseconds.

    A time without a time zone is in UTC. Return None for anything else, for a date without a time of day, and
    for times before 1970.
    """
    if not isinstance(text, str) or len(text) > _MAX_CHARS:
        return None
    try:
        at_ms = _javascript_ms(text) if text[:1].isalpha() else _iso_ms(text)
    except (ValueError, OverflowError):
        return None
    return at_ms if at_ms is not None and at_ms > 0 else None


def _iso_ms(text: str) -> int | None:
    if _HAS_TIME_OF_DAY.search(text) is None:
        return None
    at = datetime.fromisoformat(text)
    return _unix_ms(at if at.tzinfo else at.replace(tzinfo=UTC))


def _javascript_ms(text: str) -> int | None:
    found = _JAVASCRIPT.match(text)
    if found is None:
        return None
    month = _MONTHS.index(found["month"]) + 1
    day, year, hour, minute, second = (
        int(found[name]) for name in ("day", "year", "hour", "minute", "second")
    )
    local = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    offset = found["offset"]
    offset_minutes = int(offset[1:3]) * 60 + int(offset[3:])
    return _unix_ms(local) - (-1 if offset[0] == "-" else 1) * offset_minutes * 60_000


def _unix_ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)
