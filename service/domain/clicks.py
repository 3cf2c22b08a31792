"""Types that pass clicks of the matching window between Dub's events, the click sync and the database."""

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

from service.domain.match_rules import Click

Fault = Literal["malformed", "timestamp"]  # why an event cannot be read


class UnreadEvent(Struct, frozen=True, gc=False):
    """An event that cannot be decoded. ``at_ms`` is its time, None if that cannot be decoded either."""

    fault: Fault
    at_ms: int | None = None  # Unix milliseconds


class SyncRound(Struct):
    """One sync of clicks: made by this process if ``mine``, otherwise finished by another process.

    At the end of its own sync, this process stores ``clicks`` and ``synced_to_ms`` in one transaction.
    """

    mine: bool
    number: int
    synced_to_ms: int  # every click before this time is stored (Unix milliseconds, Dub's clock)
    unread: Mapping[Fault, int]  # how many of the last sync's events could not be read
    clicks: Sequence[tuple[int, Click]] = ()
