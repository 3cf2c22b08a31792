"""The OpenAPI document: its title, tags, security schemes, and common response headers."""

import asyncio
from dataclasses import dataclass
from typing import Any

from litestar import Request, Response, Router
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPIHeader,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Reference,
    Schema,
    SecurityScheme,
    Tag,
)

from service.api.pages.reference import grouped
from service.api.pages.rendering import SECURITY_HEADERS, Pages
from service.api.problems import problem_reply

_NOT_FOUND = 404
_PLACEHOLDER = b"placeholder"

_COUNTED = {
    "RateLimit-Limit": "Requests per window, if rate limits are set.",
    "RateLimit-Remaining": "Requests left in this window.",
    "RateLimit-Reset": "Seconds until the window ends.",
}


@dataclass
class CountedOperation(Operation):
    """An operation with rate limits: its responses have RateLimit-* headers if limits are set."""

    def __post_init__(self) -> None:
        """Describe the headers."""
        for status, response in (self.responses or {}).items():
            if isinstance(response, OpenAPIResponse) and status in ("200", "429"):
                headers: dict[str, OpenAPIHeader | Reference] = {
                    name: _whole_number(meaning) for name, meaning in _COUNTED.items()
                }
                if status == "429":
                    headers["Retry-After"] = _whole_number("Seconds to wait before the next request.")
                response.headers = {**(response.headers or {}), **headers}


@dataclass
class OpenOperation(CountedOperation):
    """An operation that ignores unusable fields, and names them in a response header."""

    def __post_init__(self) -> None:
        """Describe the headers."""
        super().__post_init__()
        answer = (self.responses or {}).get("200")
        if isinstance(answer, OpenAPIResponse):
            meaning = "Fields that cannot be used, comma-separated; the open is answered without them."
            ignored = OpenAPIHeader(schema=Schema(type=OpenAPIType.STRING), description=meaning)
            answer.headers = {**(answer.headers or {}), "Firstopen-Ignored": ignored}


def _whole_number(meaning: str) -> OpenAPIHeader:
    return OpenAPIHeader(schema=Schema(type=OpenAPIType.INTEGER), description=meaning)


class ReferencePage(OpenAPIRenderPlugin):
    """The page at /schema. ``finish`` renders it, because ``render`` would hold the event loop."""

    def __init__(self, pages: Pages) -> None:
        super().__init__(path="/")
        self._pages = pages
        self._document: dict[str, Any] = {}
        self._page = b""

    def __deepcopy__(self, memo: object) -> "ReferencePage":
        """Return self: Litestar deep-copies routers, whose hook is bound to this object."""
        return self

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002  Litestar's signature
        """Return a placeholder for the page."""
        self._document = openapi_schema
        return _PLACEHOLDER

    async def finish(self, response: Response[Any]) -> Response[Any]:
        """Replace the placeholder by the page, and Litestar's 404 page by an error in Dub's format."""
        if response.status_code == _NOT_FOUND:
            return problem_reply(404, "this path does not exist")
        if response.content is _PLACEHOLDER:
            self._page = self._page or await asyncio.to_thread(self._render)
            response.content = self._page
            response.headers.update(SECURITY_HEADERS)
        return response

    def _render(self) -> bytes:
        document = self._document
        return self._pages.render("reference.html", info=document["info"], groups=grouped(document))


async def _prepare(request: Request[Any, Any, Any]) -> None:
    """Build the document in a thread, before Litestar's handler needs it: that takes half a second, once."""
    plugins = request.app.plugins
    await asyncio.to_thread(plugins.get("OpenAPIPlugin").provide_openapi_schema)


def openapi(version: str, pages: Pages) -> OpenAPIConfig:
    """Return the configuration of the OpenAPI document, which is served at /schema."""
    reference = ReferencePage(pages)
    return OpenAPIConfig(
        title="firstopen",
        version=version,
        summary="An app was just opened: where should this person land, and which click brought them?",
        openapi_router=Router(
            "/schema",
            route_handlers=[],
            before_request=_prepare,
            after_request=reference.finish,
            include_in_schema=False,
        ),
        render_plugins=[reference],
        use_handler_docstrings=True,
        tags=[
            Tag("Opens", "What an app sends when it is opened."),
            Tag("Touches", "What a web page sees of a visitor on the way to the store."),
            Tag("Leads", "Sign-ups and other conversions, credited to the click of an install."),
            Tag("Dub-compatible API", "For Dub's own SDKs: change their base URL."),
            Tag("Ops", "Health and metrics, for operators."),
        ],
        components=Components(
            security_schemes={
                "publishableKey": SecurityScheme(
                    type="http", scheme="bearer", description="One of the app's publishable keys (dub_pk_…)."
                ),
                "serverKey": SecurityScheme(
                    type="http", scheme="bearer", description="One of the app's server keys, for its backend."
                ),
            }
        ),
    )
