"""Opens in the order in which they came, for export: how they were decided, and nothing about a person.

What can go wrong: a page is read while an open that came a moment earlier is not written yet, and is skipped
for ever (opens are written behind, by replicas whose clocks differ: none of the last ``UNSETTLED_S`` seconds
is listed).
"""

import base64
import re
import struct
from datetime import UTC, datetime
from typing import Annotated

from msgspec import Meta, Struct

UNSETTLED_S = 5.0
LIMIT_MAX = 1000

_MOMENT_MAX_CHARS = 64
_SECONDS_MAX = 100_000_000_000  # greater numbers are milliseconds
_NUMBER = re.compile(r"\d{1,7}|\d{9,14}", re.ASCII)  # eight digits are a date
_IN_A_QUERY = re.compile(r"(T\S+) (\d\d:?\d\d)\Z", re.ASCII)  # where + stands for a space
_POSITION = struct.Struct(">q16s")
_CURSOR_CHARS = _POSITION.size * 4 // 3
_MS_MAX = 253_402_300_800_000  # the year 10000


class Position(Struct, frozen=True, order=True):
    """A place in the order of opens: behind every open from before it, and behind the one it names."""

    opened_at_ms: int  # Unix milliseconds
    open_id: bytes = b""

    def cursor(self) -> str:
        """Write the position as opaque text."""
        return base64.urlsafe_b64encode(_POSITION.pack(self.opened_at_ms, self.open_id)).decode()


class ListedOpen(Struct, frozen=True, kw_only=True, gc=False, rename="camel"):
    """How an open was decided."""

    open_id: str
    app: str
    opened_at: Annotated[str, Meta(description="RFC 3339, in UTC.", examples=["2026-11-01T09:30:00.125Z"])]
    updated_at: Annotated[str, Meta(description="When the answer last changed: RFC 3339, in UTC.")]
    match_type: str
    guaranteed: bool
    confidence: Annotated[float | None, Meta(description="Of a match by address: 0 to 1.")]
    reason: Annotated[str | None, Meta(description="Why an open without a link has no click.")]
    source: str
    pending: Annotated[bool, Meta(description="true: the answer may still improve.")]
    click_id: str | None
    link_id: str | None
    link_domain: str | None
    link_key: str | None
    app_version: str | None


class OpenPage(Struct, frozen=True, rename="camel"):
    """Some opens, oldest first."""

    opens: list[ListedOpen]
    next: Annotated[
        str, Meta(description="Where this page ends: the `after` of the next one, now or at any later time.")
    ]
    has_more: Annotated[
        bool,
        Meta(description="true: the next page can be had now. A page may be short, or empty, all the same."),
    ]


def read_cursor(text: str) -> Position | None:
    """Read what ``Position.cursor`` wrote; None for anything else."""
    if len(text) != _CURSOR_CHARS:
        return None
    try:
        position = Position(*_POSITION.unpack(base64.b64decode(text, b"-_", validate=True)))
    except (ValueError, struct.error):
        return None
    return position if 0 <= position.opened_at_ms < _MS_MAX else None


def read_moment_ms(text: str) -> int | None:
    """Read a time in RFC 3339, a date (its first moment in UTC), or Unix seconds or milliseconds.

    Returns Unix milliseconds; None for anything else, and for times before 1970.
    """
    text = text.strip().upper()
    if len(text) > _MOMENT_MAX_CHARS:
        return None
    if _NUMBER.fullmatch(text):
        number = int(text)
        at_ms = number * 1000 if number < _SECONDS_MAX else number
    else:
        try:
            moment = datetime.fromisoformat(_IN_A_QUERY.sub(r"\1+\2", text))
        except ValueError:
            return None
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        at_ms = round(aware.timestamp() * 1000)
    return at_ms if 0 <= at_ms < _MS_MAX else None


def rfc3339(unix_ms: int) -> str:
    """Write a time in UTC, to the millisecond."""
    at = datetime.fromtimestamp(unix_ms / 1000, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{unix_ms % 1000:03d}Z"
