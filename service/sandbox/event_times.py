"""Compute the period of a request for events, from `start` and `end` or from `interval`.

What can go wrong: `start` and `end` are used as exact times, but Dub extends them to whole days, so a client
would wrongly seem to get only new events; an unknown time zone is refused, but Dub falls back to UTC.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, time, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from service.sandbox.clock import DAY_S
from service.sandbox.errors import unprocessable

LENGTHS_S = {"24h": DAY_S, "7d": 7 * DAY_S, "30d": 30 * DAY_S, "90d": 90 * DAY_S, "1y": 365 * DAY_S}
SINCE_MONTH = {"ytd": 12, "qtd": 3, "mtd": 1}  # length of the period in months
EVERYTHING = "all"
INTERVALS = (*LENGTHS_S, *SINCE_MONTH, EVERYTHING)
DEFAULT_INTERVAL = "30d"


def period(params: Mapping[str, str], now_ms: int) -> tuple[int, int]:
    """Return the first and the last millisecond of the requested period.

    `start` overrides `interval`; `end` is used only with `start`, and defaults to now. The earlier of the two
    is moved to the beginning of its day, the later one to the end of its day. Times without an offset, and
    the limits of days, months, quarters and years, are in `timezone`.
    """
    zone = _zone(params.get("timezone") or "UTC")
    interval = params.get("interval") or DEFAULT_INTERVAL
    if interval not in INTERVALS:
        raise unprocessable(f"interval: expected {', '.join(INTERVALS)}")
    now = datetime.fromtimestamp(now_ms / 1_000, zone)
    start, end = params.get("start"), params.get("end")
    last = _moment("end", end, zone) if end else now
    if not start:
        return _beginning_ms(interval, now_ms, now), now_ms
    first, last = sorted((_moment("start", start, zone), last))
    return _in_day_ms(first, time.min), _in_day_ms(last, time.max)


def _beginning_ms(interval: str, now_ms: int, now: datetime) -> int:
    if interval == EVERYTHING:
        return 0
    if interval in LENGTHS_S:
        return now_ms - LENGTHS_S[interval] * 1_000
    months = SINCE_MONTH[interval]
    return _in_day_ms(now.replace(month=(now.month - 1) // months * months + 1, day=1), time.min)


def _in_day_ms(moment: datetime, at: time) -> int:
    """Return the time `at` on the moment's day, in the moment's zone, as Unix milliseconds."""
    return int(datetime.combine(moment.date(), at, moment.tzinfo).timestamp() * 1_000)


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC


def _moment(name: str, text: str, zone: tzinfo) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(zone) if moment.tzinfo else moment.replace(tzinfo=zone)
    except (ValueError, OverflowError):
        raise unprocessable(f"{name}: expected an ISO 8601 date or time") from None
