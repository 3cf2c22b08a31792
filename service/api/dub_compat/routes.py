"""The routes of the Dub-compatible API: an app with Dub's SDK only changes its base URL.

Requests, answers, errors and CORS are those of Dub (see the contract suite). Opens are decided by the
resolver, which tells Dub the devices apart.
"""

from collections.abc import Callable
from urllib.parse import parse_qsl

from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send
from msgspec import Raw, Struct

from service.api.auth import Callers
from service.api.dub_compat.bodies import TrackLeadRequest, TrackOpenReply, TrackOpenRequest, TrackSaleRequest
from service.api.dub_compat.event_filters import events_query
from service.api.http import JSONReply, LeanRequest, strict_body
from service.api.problems import documented
from service.api.schema import CountedOperation
from service.attribution.conversion_delivery import ConversionDelivery
from service.attribution.resolver import Resolver
from service.domain.errors import CompatLinkNotFound, DubLinkNotFound, DubUnavailable
from service.domain.models import Link, OpenReport
from service.domain.ports import EventPage, EventPages

_NO_TRACK = "dub-no-track"
_NO_TRACK_HEADER = _NO_TRACK.encode()


def dub_routes(
    callers: Callers,
    resolver: Resolver,
    conversions: ConversionDelivery,
    feed: EventPages,
    budget_ms: int,
) -> list[HTTPRouteHandler]:
    """Build the handlers of the Dub-compatible API."""
    return [
        *_open_routes(callers, resolver, budget_ms),
        *_conversion_routes(callers, conversions, budget_ms),
        *_events_routes(callers, feed),
    ]


def _open_routes(callers: Callers, resolver: Resolver, budget_ms: int) -> list[HTTPRouteHandler]:
    @post(
        "/track/open",
        status_code=200,
        before_request=callers.publishable_uncounted,
        dto=strict_body(TrackOpenRequest),
        return_dto=None,
        operation_class=CountedOperation,
        operation_id="trackOpen",
        summary="Track a deep link open",
        security=[{"publishableKey": []}],
        responses=documented(400, 401, 403, 404, 422, 429),
        tags=["Dub-compatible API"],
    )
    async def track_open(request: LeanRequest, data: JSONBody[TrackOpenRequest]) -> Response[TrackOpenReply]:
        """Return the click and link of an open; 404 for a link that Dub does not know."""
        report = data.to_report(request.caller, budget_ms, resolver.parse_link)
        if _asks_for_no_track(request):
            return await _looked_up(resolver, report)
        opened = (await resolver.settle(report)).open
        degraded = opened.provisional and opened.source in ("stale", "parsed")
        reply = _opened(opened.click_id, opened.link, report.deep_link, pending=degraded)
        if opened.pending:
            reply.headers["Firstopen-Open-Id"] = opened.open_id
        return reply

    return [track_open]


def _conversion_routes(
    callers: Callers, conversions: ConversionDelivery, budget_ms: int
) -> list[HTTPRouteHandler]:
    budget_s = budget_ms / 1000

    def conversion(
        path: str, body: type[Struct], operation: str, summary: str
    ) -> Callable[..., HTTPRouteHandler]:
        from_app = path.endswith("/client")
        return post(
            path,
            status_code=200,
            before_request=callers.client_leads if from_app else callers.server,
            dto=strict_body(body),
            return_dto=None,
            operation_class=CountedOperation,
            operation_id=operation,
            summary=summary,
            security=[{"publishableKey" if from_app else "serverKey": []}],
            responses=documented(400, 401, 403, 404, 422, 429, 503),
            tags=["Dub-compatible API"],
        )

    async def lead(request: LeanRequest, data: TrackLeadRequest) -> Response[Raw]:
        app = request.caller.app
        return _converted(*await conversions.report(app, "lead", data.to_dub(), budget_s))

    async def sale(request: LeanRequest, data: TrackSaleRequest) -> Response[Raw]:
        app = request.caller.app
        return _converted(*await conversions.report(app, "sale", data.to_dub(), budget_s))

    @conversion("/track/lead", TrackLeadRequest, "trackLead", "Track a lead")
    async def track_lead(request: LeanRequest, data: JSONBody[TrackLeadRequest]) -> Response[Raw]:
        """Record a lead that a backend reports."""
        return await lead(request, data)

    @conversion("/track/lead/client", TrackLeadRequest, "trackClientLead", "Track a lead, from an app")
    async def track_client_lead(request: LeanRequest, data: JSONBody[TrackLeadRequest]) -> Response[Raw]:
        """Record a lead that an app reports."""
        return await lead(request, data)

    @conversion("/track/sale", TrackSaleRequest, "trackSale", "Track a sale")
    async def track_sale(request: LeanRequest, data: JSONBody[TrackSaleRequest]) -> Response[Raw]:
        """Record a sale that a backend reports."""
        return await sale(request, data)

    @conversion("/track/sale/client", TrackSaleRequest, "trackClientSale", "Track a sale, from an app")
    async def track_client_sale(request: LeanRequest, data: JSONBody[TrackSaleRequest]) -> Response[Raw]:
        """Record a sale that an app reports."""
        return await sale(request, data)

    return [track_lead, track_client_lead, track_sale, track_client_sale]


def _events_routes(callers: Callers, feed: EventPages) -> list[HTTPRouteHandler]:
    @get(
        "/events",
        before_request=callers.server,
        operation_class=CountedOperation,
        operation_id="listEvents",
        summary="List events",
        security=[{"serverKey": []}],
        responses=documented(401, 403, 404, 422, 429, 503),
        tags=["Dub-compatible API"],
    )
    async def list_events(request: LeanRequest) -> ASGIResponse:
        """List clicks, leads or sales of the app's own domains, by Dub's filters."""
        app = request.caller.app
        query = events_query(request.scope["query_string"], app.domains)
        return PageReply(await feed.page(app, query))

    return [list_events]


def _opened(click_id: str | None, link: Link | None, deep_link: str | None, *, pending: bool) -> JSONReply:
    if link is None and click_id is None and deep_link is not None and not pending:
        raise CompatLinkNotFound(f"Deep link not found: {deep_link}")
    return JSONReply(TrackOpenReply(click_id, link))


async def _looked_up(resolver: Resolver, report: OpenReport) -> JSONReply:
    """Answer with the link only, and with nulls if Dub is unavailable and the link is not cached."""
    try:
        found = await resolver.look_up(report) if report.deep_link else None
    except DubLinkNotFound:
        raise CompatLinkNotFound(f"Deep link not found: {report.deep_link}") from None
    except DubUnavailable:
        found = None
    return JSONReply(TrackOpenReply(None, found))


def _converted(answer: bytes, queued: bool) -> JSONReply:  # noqa: FBT001  as ``report`` returns it
    return JSONReply(Raw(answer), headers={"Firstopen-Queued": "true"} if queued else None)


def _asks_for_no_track(request: LeanRequest) -> bool:
    if any(name == _NO_TRACK_HEADER for name, _ in request.scope["headers"]):
        return True
    query = request.scope["query_string"]
    return _NO_TRACK_HEADER in query and _NO_TRACK in dict(
        parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="replace")
    )


class PageReply(ASGIResponse):
    """A response that streams a page of events as it arrives."""

    def __init__(self, page: EventPage) -> None:
        self._page = page
        self._headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
        self.status_code = 200

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  ASGI's signature
        """Send the page. If Dub's transfer fails half-way, the connection to the caller ends, too."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self._headers})
        async for chunk in self._page.chunks():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
