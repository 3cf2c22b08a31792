"""Types and cursors for the export of opens in time order, without personal data.

What can go wrong: a page is read before an earlier open is written, and that open is never listed. Opens are
written behind, by replicas whose clocks differ. So opens of the last ``UNSETTLED_S`` seconds are not listed.
"""

import base64
import re
import struct
from datetime import UTC, datetime
from typing import Annotated

from msgspec import Meta, Struct

from service.domain.models import MatchReason, MatchType, Source

UNSETTLED_S = 5.0
LIMIT_MAX = 1000

_MOMENT_MAX_CHARS = 64
_SECONDS_MAX = 100_000_000_000  # greater numbers are milliseconds
_NUMBER = re.compile(r"\d{1,7}|\d{9,14}", re.ASCII)  # eight digits are a date
_IN_A_QUERY = re.compile(r"(T\S+) (\d\d:?\d\d)\Z", re.ASCII)  # an unescaped + is decoded as a space
_POSITION = struct.Struct(">q16s")
_CURSOR_CHARS = _POSITION.size * 4 // 3
_MS_MAX = 253_402_300_800_000  # the year 10000


class Position(Struct, frozen=True, order=True):
    """A position in the list of opens: after all opens before ``opened_at_ms``, and after ``open_id``."""

    opened_at_ms: int  # Unix milliseconds
    open_id: bytes = b""

    def cursor(self) -> str:
        """Return the position as an opaque cursor."""
        return base64.urlsafe_b64encode(_POSITION.pack(self.opened_at_ms, self.open_id)).decode()


class ListedOpen(Struct, frozen=True, kw_only=True, gc=False, rename="camel"):
    """One exported open."""

    open_id: str
    app: str
    opened_at: Annotated[str, Meta(description="RFC 3339, in UTC.", examples=["2026-11-01T09:30:00.125Z"])]
    updated_at: Annotated[str, Meta(description="When the answer last changed: RFC 3339, in UTC.")]
    match_type: MatchType
    guaranteed: bool
    confidence: Annotated[float | None, Meta(description="Of a match by IP address: 0 to 1.")]
    reason: Annotated[MatchReason | None, Meta(description="Why an open without a link has no click.")]
    source: Source
    pending: Annotated[bool, Meta(description="true: the answer may still improve.")]
    click_id: str | None
    link_id: str | None
    link_domain: str | None
    link_key: str | None
    app_version: str | None


class OpenPage(Struct, frozen=True, rename="camel"):
    """A page of opens, oldest first."""

    opens: list[ListedOpen]
    next: Annotated[
        str, Meta(description="Cursor: pass it as `after` to get the next page, now or at any later time.")
    ]
    has_more: Annotated[
        bool,
        Meta(description="true: the next page is available now. Even then, this page may be short or empty."),
    ]


def read_cursor(text: str) -> Position | None:
    """Decode a cursor of ``Position.cursor``; return None if the text is not one."""
    if len(text) != _CURSOR_CHARS:
        return None
    try:
        position = Position(*_POSITION.unpack(base64.b64decode(text, b"-_", validate=True)))
    except (ValueError, struct.error):
        return None
    return position if 0 <= position.opened_at_ms < _MS_MAX else None


def read_moment_ms(text: str) -> int | None:
    """Return a point in time as Unix milliseconds.

    Accepts RFC 3339, a date (midnight in UTC), and Unix seconds or milliseconds. Returns None for any other
    text and for times before 1970.
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
    """Return Unix milliseconds as RFC 3339 in UTC, with milliseconds."""
    at = datetime.fromtimestamp(unix_ms / 1000, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{unix_ms % 1000:03d}Z"
