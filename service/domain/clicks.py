"""Clicks of the matching window, between Dub's events, the sync and the database."""

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

from service.domain.match_rules import Click

Fault = Literal["malformed", "timestamp"]  # why an event cannot be read


class UnreadEvent(Struct, frozen=True, gc=False):
    """An event that cannot be used, and when it was, if that can be read."""

    fault: Fault
    at_ms: int | None = None  # Unix milliseconds


class SyncRound(Struct):
    """A sync that this process makes, or (``mine`` false) that another one has finished.

    Of one's own turn, ``clicks`` are stored at its end, together with how far the sync has seen.
    """

    mine: bool
    number: int
    synced_to_ms: int  # every click before then is stored, in Unix milliseconds by Dub's clock
    unread: Mapping[Fault, int]  # how many of the last sync's events could not be read
    clicks: Sequence[tuple[int, Click]] = ()
