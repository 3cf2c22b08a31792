"""`POST /track/open`: answer an app's open.

What can go wrong: an unknown deep link is answered like a first open of its domain instead of with a 404; a
body is refused that Dub would accept, or accepted that Dub would refuse; an open with `dub-no-track` is
recorded.
"""

from typing import Annotated, Any
from urllib.parse import unquote

import msgspec
from litestar import Request, post
from litestar.handlers import HTTPRouteHandler
from litestar.status_codes import HTTP_200_OK
from msgspec import UNSET, UnsetType

from service.sandbox.clicks import ClickLog, OpenedLink
from service.sandbox.errors import DubError, unprocessable
from service.sandbox.fields import fields_of
from service.sandbox.limits import SandboxSettings
from service.sandbox.links import LinkBook
from service.sandbox.urls import split_deep_link
from service.sandbox.web import Visitor, visitor_of

DEEP_LINK_MAX_CHARS = 32_000


class OpenRequest(msgspec.Struct, frozen=True, rename="camel"):
    """The body of `/track/open`; a field that is null or empty is refused, not ignored."""

    deep_link: Annotated[str, msgspec.Meta(min_length=1, max_length=DEEP_LINK_MAX_CHARS)] | UnsetType = UNSET
    dub_domain: Annotated[str, msgspec.Meta(min_length=1)] | UnsetType = UNSET


class OpenReply(msgspec.Struct, frozen=True, rename="camel"):
    """The answer of `/track/open`."""

    click_id: str | None
    link: OpenedLink | None


def open_routes(links: LinkBook, clicks: ClickLog, settings: SandboxSettings) -> list[HTTPRouteHandler]:
    """Build the route for opens; it needs no key."""

    @post("/track/open", status_code=HTTP_200_OK)
    async def track_open(request: Request[Any, Any, Any]) -> OpenReply:
        """Return the click and the link of an app's open."""
        report = fields_of(await request.body(), OpenRequest)
        visitor = visitor_of(request.scope)
        if report.deep_link:
            return _by_deep_link(links, clicks, report.deep_link, visitor)
        if not report.dub_domain:
            raise unprocessable("deepLink: expected deepLink, or dubDomain without it")
        found = None if settings.first_opens_unfound else clicks.first_open(visitor, report.dub_domain)
        return OpenReply(found.click_id, found.link) if found else OpenReply(None, None)

    return [track_open]


def _by_deep_link(links: LinkBook, clicks: ClickLog, deep_link: str, visitor: Visitor) -> OpenReply:
    named = split_deep_link(deep_link)
    if named is None:
        raise unprocessable("deepLink: expected a URL")
    domain, key = named
    link = links.find(domain, unquote(key))
    if link is None:
        raise DubError("not_found", f"Deep link not found: {deep_link}")
    opened = OpenedLink(link.id, domain, key, link.spec.url)
    if visitor.no_track:
        return OpenReply(None, opened)
    click_id, _ = clicks.record(link, key, visitor, trigger="deeplink", url=link.spec.url)
    return OpenReply(click_id, opened)
