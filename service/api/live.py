"""``GET /v1/opens/live``: opens as they come, as server-sent events, for a terminal or a dashboard."""

from collections.abc import AsyncIterator
from typing import Annotated, cast, get_args

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import HeaderParameter, QueryParameter
from msgspec import Struct

from service.api.auth import Callers
from service.api.event_stream import HEARTBEAT_S, EventStream, event
from service.api.http import LeanRequest
from service.api.problems import documented
from service.api.schema import CountedOperation
from service.attribution.live_feed import LiveFeed, Watcher
from service.domain.device_sessions import session_name
from service.domain.errors import InvalidField
from service.domain.live_opens import ANY_TEST_DEVICE, LiveFilter, LiveOpen
from service.domain.models import MatchReason, MatchType, Source
from service.domain.open_listing import rfc3339
from service.domain.routing import Reason
from service.telemetry.background import Background

MatchParameter = Annotated[
    str | None,
    QueryParameter(
        name="match",
        description="Only opens of this `match.type`.",
        schema_extra={"enum": list(get_args(MatchType))},
    ),
]
OutcomeParameter = Annotated[
    str | None,
    QueryParameter(
        name="outcome",
        description="Only opens of this `route.reason`.",
        schema_extra={"enum": list(get_args(Reason))},
    ),
]
TestDeviceParameter = Annotated[
    str | None,
    QueryParameter(
        name="testDevice",
        description="Only opens of this test session, or of any with `any`.",
        schema_extra={"examples": ["k7qf-m2xd", "any"]},
    ),
]
LastEventId = Annotated[
    str | None,
    HeaderParameter(
        name="Last-Event-ID",
        description="The last `id` that was received: what came since, within ten minutes, is sent first.",
    ),
]


_EXAMPLE = (
    'id: 1793525400125\nevent: open\ndata: {"openId":"01a229395aa2469fa16570867728950e","app":"acme",'
    '"openedAt":"2026-11-01T09:30:00.125Z","screen":"product","outcome":"matched","matchType":"deep_link",'
    '"guaranteed":true,"confidence":null,"reason":null,"source":"dub","pending":false,'
    '"clickId":"d0UtZqE0BZuBPrJS","linkId":"link_1","linkDomain":"acme.link","linkKey":"fb-promo",'
    '"appVersion":"2.4.1","testDevice":null,"repeatedAt":null}\n\n'
)


class ShownOpen(Struct, frozen=True, kw_only=True, gc=False, rename="camel"):
    """The ``data`` of an ``open`` event: an open, without personal data. Times are RFC 3339, in UTC."""

    open_id: str
    app: str
    opened_at: str
    screen: str
    outcome: Reason
    match_type: MatchType
    guaranteed: bool
    confidence: float | None
    reason: MatchReason | None
    source: Source
    pending: bool
    click_id: str | None
    link_id: str | None
    link_domain: str | None
    link_key: str | None
    app_version: str | None
    test_device: str | None
    repeated_at: str | None  # when a test device reported it again


def live_routes(callers: Callers, live: LiveFeed, background: Background) -> list[HTTPRouteHandler]:
    """Build the handler of ``GET /v1/opens/live``."""

    @get(
        "/v1/opens/live",
        before_request=callers.server,
        operation_class=CountedOperation,
        operation_id="followOpens",
        summary="Follow opens as they come",
        media_type="text/event-stream",
        security=[{"serverKey": []}],
        responses={
            200: ResponseSpec(
                str,
                generate_examples=False,
                media_type="text/event-stream",
                description="Server-sent events: `open`, whose `data` is JSON, and `skipped`.",
                examples=[Example(value=_EXAMPLE)],
            ),
            **documented(400, 401, 403, 422, 429, 503),
        },
        tags=["Opens"],
    )
    async def follow_opens(
        request: LeanRequest,
        match: MatchParameter = None,
        outcome: OutcomeParameter = None,
        test_device: TestDeviceParameter = None,
        last_event_id: LastEventId = None,
    ) -> Response[str]:
        """Send the app's opens within a second of their answers, from all replicas, until the client leaves.

        Comments are sent as heartbeats. After a disconnection, connect again with the last `id`; an open may
        then come twice.
        """
        app = request.caller.app
        wanted = read_filter(match, outcome, test_device)
        watcher = await live.watch(app, wanted)
        return EventStream(watcher, _events(live, watcher, _since_ms(last_event_id)), background)

    return [follow_opens]


def read_filter(match: str | None, outcome: str | None, test_device: str | None) -> LiveFilter:
    """Return the filter of a query; raises ``InvalidField``."""
    if match and match not in get_args(MatchType):
        raise InvalidField("match", f"expected one of {', '.join(get_args(MatchType))}")
    if outcome and outcome not in get_args(Reason):
        raise InvalidField("outcome", f"expected one of {', '.join(get_args(Reason))}")
    name = ANY_TEST_DEVICE if test_device == ANY_TEST_DEVICE else session_name(test_device or "")
    if test_device and name is None:
        raise InvalidField("testDevice", f"expected the name of a test session, or {ANY_TEST_DEVICE}")
    return LiveFilter(cast("MatchType", match) or None, cast("Reason", outcome) or None, name)


def _since_ms(last_event_id: str | None) -> int | None:
    digits = (last_event_id or "").strip()
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) <= len(str(2**53)) else None


async def _events(live: LiveFeed, watcher: Watcher, since_ms: int | None) -> AsyncIterator[bytes]:
    skipped = 0
    shown = [] if since_ms is None else await live.since(watcher.app, watcher.wanted, since_ms)
    while True:
        if watcher.skipped > skipped:
            yield event("skipped", f'{{"skipped": {watcher.skipped - skipped}}}')
            skipped = watcher.skipped
        if shown:
            yield b"".join(map(_event, shown))
        else:
            yield b": \n\n"
        shown = await watcher.next(HEARTBEAT_S)


def _event(shown: LiveOpen) -> bytes:
    """Write an open's event, unless it was written for another watcher."""
    if not shown.event:
        shown.event = event("open", _json(shown), str(_ms(shown.at)))
    return shown.event


def _json(shown: LiveOpen) -> str:
    opened, route = shown.open, shown.route
    match, link = opened.match, opened.link
    return msgspec.json.encode(
        ShownOpen(
            open_id=opened.open_id,
            app=opened.app,
            opened_at=rfc3339(_ms(opened.opened_at)),
            screen=route.screen,
            outcome=route.reason,
            match_type=match.type,
            guaranteed=match.guaranteed,
            confidence=match.confidence if isinstance(match.confidence, float | int) else None,
            reason=match.reason if isinstance(match.reason, str) else None,
            source=opened.source,
            pending=opened.pending,
            click_id=opened.click_id,
            link_id=None if link is None else link.id,
            link_domain=None if link is None else link.domain,
            link_key=None if link is None else link.key,
            app_version=opened.app_version,
            test_device=shown.test_device,
            repeated_at=None if shown.repeated_at is None else rfc3339(_ms(shown.repeated_at)),
        )
    ).decode()


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
