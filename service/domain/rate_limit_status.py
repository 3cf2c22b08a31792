"""Whether a request may cost something; what is answered from memory never asks."""

from typing import Literal

from msgspec import Struct

By = Literal["key", "address"]


class RateLimitStatus(Struct, frozen=True, gc=False):
    """How much is left in the window that is over first, and for how many seconds it lasts."""

    limit: int
    remaining: int
    reset_s: float
