"""What ``20/second;300/minute`` means: the notation of the ``limits`` library, with bounds of our own."""

from msgspec import Struct

AMOUNT_MAX = 1_000_000_000
PERIOD_MAX_S = 86_400  # a window is counted in memory: a day is long
EXPECTED = 'expected limits such as "1000/second" or "20/second;300/minute", of a day at most'


class Rate(Struct, frozen=True):
    """So many requests in each window of so many seconds."""

    amount: int
    period_s: int


def rates(text: str) -> tuple[Rate, ...]:
    """Read limits, the shortest window first; raises ``ValueError``, which says what was expected."""
    from limits import parse_many  # takes a twentieth of a start, and many have no limits

    try:
        found = [Rate(item.amount, item.get_expiry()) for item in parse_many(text)]
    except ValueError as exc:
        raise ValueError(EXPECTED) from exc
    if not all(0 < rate.amount <= AMOUNT_MAX and rate.period_s <= PERIOD_MAX_S for rate in found):
        raise ValueError(EXPECTED)
    if len({rate.period_s for rate in found}) < len(found):
        raise ValueError(f"{EXPECTED}, and one limit for each length of time")
    return tuple(sorted(found, key=lambda rate: rate.period_s))
