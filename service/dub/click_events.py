"""Click events of ``GET /events``, as matching needs them.

What can go wrong: one event that cannot be read costing its whole page (it is left out, and the caller is
told why); times that Dub writes in another form than expected (see ``event_time``); an app's open taken for
a web click where Dub says no trigger; a link's own parameters, or a store's, taken for those of the link
that was clicked.
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
PAGE_MAX_BYTES = 6 * 1024 * 1024  # split in one turn of the event loop; a full page is some 2 MB
EVENTS_AT_A_TIME = 100  # decoded between two turns of the event loop, or fewer if they are large:
BYTES_AT_A_TIME = 32 * 1024

_Id = Annotated[str, Meta(min_length=1, max_length=64)]
_Name = Annotated[str, Meta(min_length=1, max_length=256)]
_Url = Annotated[str, Meta(max_length=32_000)]
_PARAMETERS_MAX = 50
_PARSED_URL_MAX_CHARS = 4096  # of longer ones no query is taken
_TARGETS_MAX = 10_000
_NOT_CARRIED = DUB_PARAMETERS | {"referrer"}  # what Dub and Play's link add on the way
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
    """What says when an event was, whatever else is wrong with it."""

    click: Any = None
    timestamp: Any = None


class ClickEvent(Struct, frozen=True, gc=False):
    """An event, with only the fields that are used. ``trigger`` and ``ua`` may be left out by Dub."""

    click: _ClickFields
    link: _LinkFields
    at_ms: int  # Unix milliseconds

    @property
    def click_id(self) -> str:
        """Return the click's id."""
        return self.click.id

    def seen(self, networks: Networks) -> tuple[int, Click] | None:
        """Return its network's key and the click; ``None`` where the address is nobody's alone, or unsaid."""
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
            _opened_app(click.trigger, click.ua),
        )


class DubClicks:
    """Asks Dub for pages of click events: fills ``ports.ClickSource``."""

    def __init__(self, feed: EventFeed) -> None:
        self._feed = feed

    async def page(
        self, app: App, *, start_ms: int, end_ms: int, number: int, limit: int
    ) -> "ClickEventPage":
        """Return a page of an app's clicks between two times (Unix milliseconds), newest first.

        Raises as ``EventFeed.page``, and ``InvalidDubResponse``.
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
        page = await self._feed.page(app, urlencode(query))
        return ClickEventPage(split_page(b"".join([chunk async for chunk in page.chunks()])))


class ClickEventPage:
    """A page of events, which are decoded when they are read."""

    def __init__(self, events: Sequence[Raw]) -> None:
        self._events = events

    def __len__(self) -> int:
        """Return how many events the page has."""
        return len(self._events)

    def slices(self) -> Iterator[Iterator[ClickEvent | UnreadEvent]]:
        """Yield the events in slices, each small enough for one turn of the event loop."""
        return map(read_events, in_slices(self._events))

    def ends_ms(self) -> tuple[int | None, int | None]:
        """Return when the first and the last event were (Unix milliseconds), where that can be read."""
        first, last = (next(read_events([each])).at_ms for each in (self._events[0], self._events[-1]))
        return first, last


_split = msgspec.json.Decoder(list[Raw]).decode
_decode = msgspec.json.Decoder(_EventFields).decode
_decode_times = msgspec.json.Decoder(_Times).decode


def split_page(page: bytes) -> list[Raw]:
    """Split a page into its events, undecoded.

    Raises ``InvalidDubResponse`` if it is not a list, or too large.
    """
    if len(page) > PAGE_MAX_BYTES:
        raise InvalidDubResponse(f"a page of events over {PAGE_MAX_BYTES} bytes")
    try:
        return _split(page)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidDubResponse("a page of events that does not read as Dub's") from exc


def in_slices(events: Sequence[Raw]) -> Iterator[list[Raw]]:
    """Yield events in slices that are each read in one turn of the event loop."""
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
    """Decode events one by one, each to a click event or to what is wrong with it."""
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
    """Return the parameters that a clicked short link carried: those of ``click.url`` no target has itself.

    Dub's event has no query of the short link; it shows the destination with that query laid over it.
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
    """Whether a click is an app's open: by its trigger, or if Dub says none, by what the app calls itself."""
    if trigger:
        return trigger == "deeplink"
    return bool(user_agent) and _APP.search(user_agent or "") is not None


def _iso(at_ms: int) -> str:
    """Write a time as Dub does: UTC, milliseconds, ``Z``."""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
