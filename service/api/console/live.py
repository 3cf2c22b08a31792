"""The page of opens as they come: drawn by the server, then kept up to date by server-sent events.

Each message is HTML that htmx puts in its place: first the latest opens, then new ones above them. An open
that comes again (its answer was pending, or a test device repeats it) is taken from its old place.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import urlencode

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from service.api.console.opens import filter_of
from service.api.console.sessions import PATH
from service.api.console.shell import ConsoleRequest, Shell
from service.api.event_stream import HEARTBEAT_S, EventStream, event
from service.api.pages.rendering import SECURITY_HEADERS, Pages, count, moment
from service.attribution.device_sessions import DeviceSessions
from service.attribution.live_feed import LiveFeed, Watcher
from service.domain.device_sessions import session_name
from service.domain.live_opens import ANY_TEST_DEVICE, LiveFilter, LiveOpen
from service.domain.open_explanations import MATCH_TYPES, OUTCOMES
from service.telemetry.background import Background

LATEST = 50
_ROWS_MAX = 200
_EVENTS = f"{PATH}/live/events"


def live_pages(
    shell: Shell,
    live: LiveFeed,
    sessions: DeviceSessions,
    background: Background,
    unix_time: Callable[[], float],
) -> list[HTTPRouteHandler]:
    """Build the handlers of the page and of its events. ``unix_time`` is in seconds."""
    shell.add("Live", f"{PATH}/live")

    @get(f"{PATH}/live", before_request=shell.signed_in)
    async def page(request: ConsoleRequest) -> Response[bytes]:
        """Show the latest opens that fit the filter, and those that come."""
        app = request.app_of_session
        wanted = live_filter(request.query_params)
        names = {each.name: each.name for each in await sessions.of_app(app)}
        return await shell.page(
            request,
            "live.html",
            wanted=wanted,
            devices={ANY_TEST_DEVICE: "any test device", **names},
            **await live_values(live, request, wanted),
        )

    @get(_EVENTS, before_request=shell.signed_in)
    async def events(request: ConsoleRequest) -> Response[Any]:
        """Send what is new on the page."""
        watcher = await live.watch(request.app_of_session, live_filter(request.query_params))
        messages = _messages(live, watcher, shell.pages, unix_time)
        return EventStream(watcher, messages, background, SECURITY_HEADERS)

    return [page, events]


def live_filter(query: Mapping[str, str]) -> LiveFilter:
    """Return the filter of a query; unknown values count as none."""
    wanted = filter_of(query.get("match", ""), query.get("outcome", ""))
    device = query.get("device", "")
    name = ANY_TEST_DEVICE if device == ANY_TEST_DEVICE else session_name(device)
    return LiveFilter(wanted.match_type, wanted.outcome, name)


async def live_values(live: LiveFeed, request: ConsoleRequest, wanted: LiveFilter) -> dict[str, Any]:
    """Return the values of a page that shows live opens; raises ``StoreFailed``."""
    filters = {"match": wanted.match_type, "outcome": wanted.outcome, "device": wanted.test_device}
    latest = await live.latest(request.app_of_session, wanted, LATEST)
    latest.reverse()
    return {
        "events": f"{_EVENTS}?{urlencode({name: value for name, value in filters.items() if value})}",
        "tested": [each for each in latest if each.test_device],
        "others": [each for each in latest if not each.test_device],
        "match_types": MATCH_TYPES,
        "outcomes": OUTCOMES,
    }


async def _messages(
    live: LiveFeed, watcher: Watcher, pages: Pages, unix_time: Callable[[], float]
) -> AsyncIterator[bytes]:
    drawn = _Drawn()
    shown = await live.latest(watcher.app, watcher.wanted, LATEST)
    await asyncio.to_thread(_render, pages, shown)
    yield event("opens", drawn.all(shown) + _state(unix_time(), watcher.skipped))
    while True:
        shown = await watcher.next(HEARTBEAT_S)
        if any(not each.html for each in shown):
            await asyncio.to_thread(_render, pages, shown)
        yield event("opens", drawn.new(shown) + _state(unix_time(), watcher.skipped))


def _render(pages: Pages, shown: Sequence[LiveOpen]) -> None:
    """Render rows, unless another watcher has rendered them."""
    for each in shown:
        if not each.html:
            row = pages.render("console/row.html", each=each, outcomes=OUTCOMES, match_types=MATCH_TYPES)
            each.html = row.decode()


class _Drawn:
    """The rows that a browser shows, oldest first."""

    def __init__(self) -> None:
        self._ids: dict[str, None] = {}

    def all(self, shown: Sequence[LiveOpen]) -> str:
        """Return the message that replaces all rows."""
        self._ids = {each.open.open_id: None for each in shown}
        return _rows(shown, replace=True)

    def new(self, shown: Sequence[LiveOpen]) -> str:
        """Return the message that adds rows, and removes those that come again or are too many."""
        latest = {each.open.open_id: each for each in shown}
        gone = [open_id for open_id in latest if open_id in self._ids]
        for open_id in gone:
            del self._ids[open_id]
        self._ids.update(dict.fromkeys(latest))
        for open_id in list(self._ids)[: max(len(self._ids) - _ROWS_MAX, 0)]:
            del self._ids[open_id]
            if open_id not in latest:
                gone.append(open_id)
        removed = "".join(
            f'<template><tr id="open-{escape(open_id)}" hx-swap-oob="delete"></tr></template>'
            for open_id in gone
        )
        return removed + _rows(list(latest.values()), replace=False)


def _rows(shown: Sequence[LiveOpen], *, replace: bool) -> str:
    """Return rows for the two parts of the table, newest first: test devices above all others."""
    message = ""
    for part, is_test in (("tested", True), ("others", False)):
        rows = "".join(each.html for each in reversed(shown) if bool(each.test_device) is is_test)
        place = f'id="{part}" hx-swap-oob="innerHTML"' if replace else f'hx-swap-oob="afterbegin:#{part}"'
        if rows or replace:
            message += f"<template><tbody {place}>{rows}</tbody></template>"
    return message


def _state(now: float, skipped: int) -> str:
    missed = f" {count(skipped, 'open')} not shown, because too many came: filter them." if skipped else ""
    return f'<p id="state" class="hint" hx-swap-oob="true">Live. Up to date at {moment(now)} UTC.{missed}</p>'
