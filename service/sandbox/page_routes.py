"""`POST /track/click` and `/track/visit`: reports of Dub's browser script (`@dub/analytics`) from web pages.

What can go wrong: a page of another website is counted for the workspace; a click with `dub-no-track` is
recorded.
"""

from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
from litestar import Request, post
from litestar.handlers import HTTPRouteHandler
from litestar.status_codes import HTTP_200_OK

from service.sandbox.clicks import ClickLog
from service.sandbox.domains import plain_domain
from service.sandbox.errors import DubError, unprocessable
from service.sandbox.fields import fields_of
from service.sandbox.limits import Gate
from service.sandbox.links import Link, LinkBook
from service.sandbox.urls import ROOT_KEY
from service.sandbox.web import visitor_of


class ClickRequest(msgspec.Struct, frozen=True):
    """The body of `/track/click`: a page was opened with a link's key in its query."""

    domain: str
    key: str
    url: str | None = None
    referrer: str | None = None


class VisitRequest(msgspec.Struct, frozen=True):
    """The body of `/track/visit`: a page was opened; its path is the key of the link to count."""

    domain: str
    url: str
    referrer: str | None = None


def page_routes(gate: Gate, links: LinkBook, clicks: ClickLog) -> list[HTTPRouteHandler]:
    """Build the routes of the browser script; they need no key."""

    def record(
        request: Request[Any, Any, Any], link: Link, url: str, referrer: str | None, trigger: str
    ) -> str | None:
        visitor = visitor_of(request.scope)
        if visitor.no_track:
            return None
        if referrer is not None:
            visitor = msgspec.structs.replace(visitor, referer=referrer)
        return clicks.record(link, link.spec.key, visitor, trigger=trigger, url=url)[0]

    @post("/track/click", status_code=HTTP_200_OK)
    async def track_click(request: Request[Any, Any, Any]) -> dict[str, Any]:
        """Record a click that a page reports; return it with its link's partner and discount."""
        gate.page(request)
        report = fields_of(await request.body(), ClickRequest)
        link = _known(links, report.domain, report.key)
        click_id = record(request, link, report.url or link.spec.url, report.referrer, "link")
        return {"clickId": click_id, **_offer(link)}

    @post("/track/visit", status_code=HTTP_200_OK)
    async def track_visit(request: Request[Any, Any, Any]) -> dict[str, Any]:
        """Record a page view as a click."""
        gate.page(request)
        report = fields_of(await request.body(), VisitRequest)
        link = _known(links, report.domain, _path_of(report.url))
        return {"clickId": record(request, link, report.url, report.referrer, "pageview")}

    return [track_click, track_visit]


def _path_of(url: str) -> str:
    """Return the path of a page as a link's key, "" for the root page; raises a 422 if it is no URL."""
    try:
        return unquote(urlsplit(url).path).strip("/")
    except ValueError:
        raise unprocessable("url: expected a URL") from None


def _known(links: LinkBook, domain: str, key: str) -> Link:
    link = links.find(plain_domain(domain), key or ROOT_KEY)
    if link is None:
        raise DubError("not_found", f"no link {domain}/{key}")
    return link


def _offer(link: Link) -> dict[str, Any]:
    """Return a link's partner and discount for a page; the partner's name is its id in the sandbox."""
    spec = link.spec
    partner = {"id": spec.partner_id, "name": spec.partner_id, "image": None}
    offer = {"partner": partner if spec.partner_id else None, "discount": spec.discount}
    return {name: value for name, value in offer.items() if value is not None}
