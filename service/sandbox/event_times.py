"""Which stretch of time a request for events means: `start` and `end`, or an `interval`."""

from collections.abc import Mapping
from datetime import datetime, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from service.sandbox.clock import DAY_S, HOUR_S
from service.sandbox.errors import unprocessable

LENGTHS_S = {
    "1h": HOUR_S,
    "24h": DAY_S,
    "7d": 7 * DAY_S,
    "30d": 30 * DAY_S,
    "90d": 90 * DAY_S,
    "1y": 365 * DAY_S,
}
SINCE_MONTH = {"ytd": 12, "qtd": 3, "mtd": 1}  # how many months there are between two beginnings
EVERYTHING = ("all", "all_unfiltered")
INTERVALS = (*LENGTHS_S, *SINCE_MONTH, *EVERYTHING)
DEFAULT_INTERVAL = "24h"


def period(params: Mapping[str, str], now_ms: int) -> tuple[int, int]:
    """Return the first and the last millisecond that are asked for.

    `start` goes before `interval`; `end` counts only with a `start`. A time without an offset is in
    `timezone`, and so is the beginning of a year, quarter or month.
    """
    zone = _zone(params.get("timezone") or "UTC")
    interval = params.get("interval") or DEFAULT_INTERVAL
    if interval not in INTERVALS:
        raise unprocessable(f"interval: expected {', '.join(INTERVALS)}")
    start, end = params.get("start"), params.get("end")
    end_ms = _moment("end", end, zone) if end else now_ms
    if not start:
        return _beginning_ms(interval, now_ms, zone), now_ms
    start_ms = _moment("start", start, zone)
    if start_ms > end_ms and end:
        raise unprocessable("start: expected a time before end")
    return start_ms, end_ms


def _beginning_ms(interval: str, now_ms: int, zone: tzinfo) -> int:
    if interval in EVERYTHING:
        return 0
    if interval in LENGTHS_S:
        return now_ms - LENGTHS_S[interval] * 1_000
    now = datetime.fromtimestamp(now_ms / 1_000, zone)
    months = SINCE_MONTH[interval]
    month = (now.month - 1) // months * months + 1
    return int(datetime(now.year, month, 1, tzinfo=zone).timestamp() * 1_000)


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise unprocessable("timezone: expected an IANA time zone, such as America/New_York") from None


def _moment(name: str, text: str, zone: tzinfo) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise unprocessable(f"{name}: expected an ISO 8601 date or time") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp() * 1_000)
