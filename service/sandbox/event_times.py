"""Which stretch of time a request for events means: `start` and `end`, or an `interval`.

What can go wrong: the exact moments taken for `start` and `end`, where Dub takes whole days, so that a reader
seems to get only what is new; an unknown time zone refused, where Dub falls back to UTC.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, time, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from service.sandbox.clock import DAY_S
from service.sandbox.errors import unprocessable

LENGTHS_S = {"24h": DAY_S, "7d": 7 * DAY_S, "30d": 30 * DAY_S, "90d": 90 * DAY_S, "1y": 365 * DAY_S}
SINCE_MONTH = {"ytd": 12, "qtd": 3, "mtd": 1}  # how many months there are between two beginnings
EVERYTHING = "all"
INTERVALS = (*LENGTHS_S, *SINCE_MONTH, EVERYTHING)
DEFAULT_INTERVAL = "30d"


def period(params: Mapping[str, str], now_ms: int) -> tuple[int, int]:
    """Return the first and the last millisecond that are asked for.

    `start` goes before `interval`; `end` counts only with a `start`, and is now unless given. The two are put
    in order, then widened to the beginning and the end of their days. A time without an offset is in
    `timezone`, and so are the beginnings of days, months, quarters and years.
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
    """Return another time of the moment's day, in the moment's zone, as Unix milliseconds."""
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
