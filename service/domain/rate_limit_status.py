"""The state of a rate limit, which the response reports in its RateLimit-* headers."""

from typing import Literal

from msgspec import Struct

By = Literal["key", "address"]


class RateLimitStatus(Struct, frozen=True, gc=False):
    """Requests left in the window that resets first, and the seconds until it resets."""

    limit: int
    remaining: int
    reset_s: float
