"""Serve the files by which iOS and Android verify that a domain's links belong to an app.

What can go wrong: a file that is redirected, has another content type, or names another app is ignored by the
phone without a message, and links open the browser (``firstopen doctor`` checks what each domain serves).

Sources: Apple, "Supporting associated domains"; Android, "Verify Android App Links".
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Request, get
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response

from service.domain.errors import NotFound
from service.domain.well_known import WellKnownFiles

_MAX_AGE_S = 3600  # Apple's CDN and phones ask rarely; an operator who corrects a file waits for an hour


def well_known_routes(files: Mapping[str, WellKnownFiles]) -> list[HTTPRouteHandler]:
    """Build the handlers; ``files`` are the files of each domain (lower case, no port, no ``www.``)."""

    @get("/.well-known/apple-app-site-association", include_in_schema=False, response_class=Response)
    async def apple_app_site_association(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Return the file for iOS, of the app that has this host as a domain."""
        return _json(_of(files, request).apple)

    @get("/.well-known/assetlinks.json", include_in_schema=False, response_class=Response)
    async def asset_links(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Return the file for Android, of the app that has this host as a domain."""
        return _json(_of(files, request).android)

    return [apple_app_site_association, asset_links]


def _of(files: Mapping[str, WellKnownFiles], request: Request[Any, Any, Any]) -> WellKnownFiles:
    host = request.headers.get("host", "").lower().partition(":")[0].removeprefix("www.")
    found = files.get(host)
    if found is None:
        raise NotFound("Host: this domain has no such file here")
    return found


def _json(document: Any) -> Response[bytes]:
    if document is None:
        raise NotFound("Host: this domain's app has no settings for this system")
    return Response(
        msgspec.json.encode(document),
        media_type="application/json",
        headers={"Cache-Control": f"public, max-age={_MAX_AGE_S}"},
    )
