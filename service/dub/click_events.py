"""Read click events of ``GET /events`` for matching.

What can go wrong: one unreadable event makes its whole page fail (it is skipped, and reported with the
reason); times are in an unexpected format (see ``event_time``); an app's open counts as a web click if Dub
omits the trigger; parameters of the link's destination, or of the store's URL, count as those of the clicked
URL.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
from msgspec import Meta, Raw, Struct

from service.domain.clicks import UnreadEvent
from service.domain.device_traits import traits_of_click
from service.domain.errors import InvalidDubResponse
from service.domain.match_rules import Click
from service.domain.models import App, Link
from service.domain.networks import Networks
from service.domain.urls import DUB_PARAMETERS
from service.dub.event_feed import EventFeed
from service.dub.event_time import read_time_ms

QUERY_MAX_CHARS = 256
PAGE_MAX_BYTES = 6 * 1024 * 1024  # split without yielding to the event loop; a full page is about 2 MB
EVENTS_AT_A_TIME = 100  # decoded without yielding to the event loop, or fewer if they are large:
BYTES_AT_A_TIME = 32 * 1024

_Id = Annotated[str, Meta(min_length=1, max_length=64)]
_Name = Annotated[str, Meta(min_length=1, max_length=256)]
_Url = Annotated[str, Meta(max_length=32_000)]
_PARAMETERS_MAX = 50
_PARSED_URL_MAX_CHARS = 4096  # queries of longer URLs are ignored
_TARGETS_MAX = 10_000
_NOT_CARRIED = DUB_PARAMETERS | {"referrer"}  # added by Dub, and by the link to Google Play
_APP = re.compile(r"firstopen-device/|\bCFNetwork/|^okhttp/|^Dalvik/")


class _ClickFields(Struct, frozen=True, gc=False):
    id: _Id
    timestamp: Any = None
    url: str | None = None
    device: str | None = None
    browser: str | None = None
    os: str | None = None
    ua: str | None = None
    trigger: str | None = None
    ip: str | None = None


class _LinkFields(Struct, frozen=True, gc=False):
    id: _Name
    domain: _Name
    key: _Url
    url: _Url
    ios: str | None = None
    android: str | None = None


class _EventFields(Struct, frozen=True, gc=False):
    click: _ClickFields
    link: _LinkFields
    timestamp: Any = None


class _Times(Struct, frozen=True, gc=False):
    """The time fields of an event that is otherwise unreadable."""

    click: Any = None
    timestamp: Any = None


class ClickEvent(Struct, frozen=True, gc=False):
    """A click event, with only the fields that are used. Dub may omit ``trigger`` and ``ua``."""

    click: _ClickFields
    link: _LinkFields
    at_ms: int  # Unix milliseconds

    @property
    def click_id(self) -> str:
        """Return the click's id."""
        return self.click.id

    def seen(self, networks: Networks) -> tuple[int, Click] | None:
        """Return the hashed network and the click; None if the address is missing, invalid or shared."""
        network = networks.of(self.click.ip).key
        if network is None:
            return None
        click, link = self.click, self.link
        return network, Click(
            click.id,
            self.at_ms,
            Link(link.id, link.domain, link.key, link.url),
            carried_query(click.url, [link.url, link.ios, link.android]),
            traits_of_click(click.ua, click.os, click.browser),
            opened_app=_opened_app(click.trigger, click.ua),
        )


class DubClicks:
    """Fetches pages of click events from Dub: implements ``ports.ClickSource``."""

    def __init__(self, feed: EventFeed) -> None:
        self._feed = feed

    async def page(
        self, app: App, *, start_ms: int, end_ms: int, number: int, limit: int, begins_sync: bool
    ) -> "ClickEventPage":
        """Return a page of an app's clicks between two times (Unix milliseconds), newest first.

        Calls that begin a sync are paced. Raises as ``EventFeed.page``, and
        ``InvalidDubResponse``.
        """
        query = {
            "event": "clicks",
            "domain": ",".join(app.domains),
            "start": _iso(start_ms),
            "end": _iso(end_ms),
            "sortOrder": "desc",
            "page": number,
            "limit": limit,
        }
        page = await self._feed.page(app, urlencode(query), begins_sync=begins_sync)
        return ClickEventPage(split_page(b"".join([chunk async for chunk in page.chunks()])))


class ClickEventPage:
    """A page of events, decoded while they are iterated."""

    def __init__(self, events: Sequence[Raw]) -> None:
        self._events = events

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self._events)

    def slices(self) -> Iterator[Iterator[ClickEvent | UnreadEvent]]:
        """Yield the events in slices that are small enough to decode without blocking the event loop."""
        return map(read_events, in_slices(self._events))

    def ends_ms(self) -> tuple[int | None, int | None]:
        """Return the times of the first and the last event, in Unix milliseconds; None if unreadable."""
        first, last = (next(read_events([each])).at_ms for each in (self._events[0], self._events[-1]))
        return first, last


_split = msgspec.json.Decoder(list[Raw]).decode
_decode = msgspec.json.Decoder(_EventFields).decode
_decode_times = msgspec.json.Decoder(_Times).decode


def split_page(page: bytes) -> list[Raw]:
    """Split a page into its events without decoding them.

    Raises ``InvalidDubResponse`` if the page is not a list, or too large.
    """
    if len(page) > PAGE_MAX_BYTES:
        raise InvalidDubResponse(f"a page of events over {PAGE_MAX_BYTES} bytes")
    try:
        return _split(page)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidDubResponse("a page of events that is not a JSON list") from exc


def in_slices(events: Sequence[Raw]) -> Iterator[list[Raw]]:
    """Yield events in slices that are small enough to decode without blocking the event loop."""
    taken: list[Raw] = []
    size = 0
    for event in events:
        taken.append(event)
        size += memoryview(event).nbytes
        if len(taken) == EVENTS_AT_A_TIME or size >= BYTES_AT_A_TIME:
            yield taken
            taken, size = [], 0
    if taken:
        yield taken


def read_events(events: Sequence[Raw]) -> Iterator[ClickEvent | UnreadEvent]:
    """Decode each event to a click event, or to the reason why it cannot be read."""
    for event in events:
        try:
            fields = _decode(event)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            yield UnreadEvent("malformed", _time_of_malformed(event))
            continue
        at_ms = _time_of(fields.click.timestamp, fields.timestamp)
        if at_ms is None:
            yield UnreadEvent("timestamp")
        else:
            yield ClickEvent(fields.click, fields.link, at_ms)


def _time_of(click_timestamp: object, timestamp: object) -> int | None:
    return read_time_ms(click_timestamp) or read_time_ms(timestamp)


def _time_of_malformed(event: Raw) -> int | None:
    try:
        times = _decode_times(event)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    click = times.click if isinstance(times.click, dict) else {}
    return _time_of(click.get("timestamp"), times.timestamp)


def carried_query(clicked: str | None, targets: Sequence[str | None]) -> str:
    """Return the query of a clicked short link: the parameters of ``click.url`` that no target contains.

    Dub's event does not contain that query itself, only the destination with that query merged into it.
    """
    if not clicked or "?" not in clicked or clicked in targets or len(clicked) > _PARSED_URL_MAX_CHARS:
        return ""
    try:
        own = [_own_parameters(target[:_PARSED_URL_MAX_CHARS]) for target in targets if target]
        carried = [pair for pair in _parameters(clicked) if not any(pair in pairs for pairs in own)]
    except ValueError:
        return ""
    query = urlencode([(name, value) for name, value in carried if name not in _NOT_CARRIED])
    return query if len(query) <= QUERY_MAX_CHARS else ""


@lru_cache(_TARGETS_MAX)
def _own_parameters(target: str) -> frozenset[tuple[str, str]]:
    return frozenset(_parameters(target))


def _parameters(url: str) -> list[tuple[str, str]]:
    return parse_qsl(urlsplit(url).query, keep_blank_values=True, max_num_fields=_PARAMETERS_MAX)


def _opened_app(trigger: str | None, user_agent: str | None) -> bool:
    """Return True if a click is an app's open, by its trigger or, without one, by its User-Agent."""
    if trigger:
        return trigger == "deeplink"
    return bool(user_agent) and _APP.search(user_agent or "") is not None


def _iso(at_ms: int) -> str:
    """Return a time in Dub's format: UTC, with milliseconds and ``Z``."""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
