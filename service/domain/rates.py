"""Parse rate limits such as ``20/second;300/minute``: the notation of ``limits``, with upper bounds."""

from msgspec import Struct

AMOUNT_MAX = 1_000_000_000
PERIOD_MAX_S = 86_400  # windows are counted in memory, which a restart clears
EXPECTED = 'expected limits such as "1000/second" or "20/second;300/minute", per day at most'


class Rate(Struct, frozen=True):
    """At most ``amount`` requests in each window of ``period_s`` seconds."""

    amount: int
    period_s: int


def rates(text: str) -> tuple[Rate, ...]:
    """Parse limits, shortest window first. Raises ``ValueError``, whose message says what is expected."""
    from limits import parse_many  # here, because its import takes 5 % of a start, and many set no limits

    try:
        found = [Rate(item.amount, item.get_expiry()) for item in parse_many(text)]
    except ValueError as exc:
        raise ValueError(EXPECTED) from exc
    if not all(0 < rate.amount <= AMOUNT_MAX and rate.period_s <= PERIOD_MAX_S for rate in found):
        raise ValueError(EXPECTED)
    if len({rate.period_s for rate in found}) < len(found):
        raise ValueError(f"{EXPECTED}, and only one limit per period")
    return tuple(sorted(found, key=lambda rate: rate.period_s))
