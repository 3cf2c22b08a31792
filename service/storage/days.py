"""Days, for counters that are kept by day."""

_DAY_MS = 86_400_000


def day_began_ms(unix_time: float, days_ago: int) -> int:
    """Return when a day began (UTC), in Unix milliseconds. ``unix_time`` is in seconds."""
    return (int(unix_time * 1000) // _DAY_MS - days_ago) * _DAY_MS
