"""``/v1/touches``: a web page saw a visitor on the way to the store. ``/v1/touch.js``: the page's script."""

from functools import cache
from pathlib import Path
from typing import Annotated

from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from msgspec import Meta, Struct

from service.api.auth import Callers
from service.api.fields import FieldReader, ParseLink
from service.api.http import JSONReply, LeanRequest, lenient_body
from service.api.problems import documented
from service.api.schema import OpenOperation
from service.api.wire import Language, Screen, Timezone
from service.attribution.touches import TouchAnswer, Touches, TouchReport
from service.domain.deep_links import DEEP_LINK_MAX_CHARS, DeepLink
from service.domain.errors import ForeignDomain, InvalidField
from service.domain.models import Caller
from service.domain.urls import is_click_id

_KEY_MAX_CHARS = 190  # Dub's limit
_SCRIPT_MAX_AGE_S = 3600


class TouchRequest(Struct, frozen=True, kw_only=True, rename="camel"):
    """A visitor of a page. Its address and User-Agent are the request's own.

    The link is required: `url`, or `domain` and `key`. Other fields that cannot be used are ignored, and
    named in the response header `Firstopen-Ignored`.
    """

    url: (
        Annotated[
            str,
            Meta(
                max_length=DEEP_LINK_MAX_CHARS,
                description="The short link that leads to the app, on one of the app's domains.",
                examples=["https://acme.link/fb-promo"],
            ),
        ]
        | None
    ) = None
    domain: Annotated[str, Meta(max_length=253, examples=["acme.link"])] | None = None
    key: Annotated[str, Meta(max_length=_KEY_MAX_CHARS, examples=["fb-promo"])] | None = None
    click_id: (
        Annotated[
            str,
            Meta(
                max_length=64,
                description="Dub's `dub_id`.",
                examples=["d0UtZqE0BZuBPrJS"],
            ),
        ]
        | None
    ) = None
    consent: (
        Annotated[bool, Meta(description="For apps that match or compare signals only with it.")] | None
    ) = None
    language: Language | None = None
    timezone: Timezone | None = None
    screen: Screen | None = None

    def to_report(self, caller: Caller, parse_link: ParseLink) -> tuple[TouchReport, list[str]]:
        """Return the report, and the names of ignored fields.

        Raises ``InvalidField`` without a link, and ``ForeignDomain`` for a link on somebody else's domain.
        """
        read = FieldReader()
        link = self._link(read, caller, parse_link)
        if link.domain not in caller.app.domains:
            raise ForeignDomain("url: is not on one of this app's domains")
        click_id = read.text("clickId", self.click_id, 64)
        if click_id is not None and not is_click_id(click_id):
            read.ignored.append("clickId")
            click_id = None
        report = TouchReport(
            caller=caller,
            link=link,
            click_id=click_id,
            consent=read.boolean("consent", self.consent),
            signals=read.signals(self.language, self.timezone, self.screen),
        )
        return report, read.ignored

    def _link(self, read: FieldReader, caller: Caller, parse_link: ParseLink) -> DeepLink:
        text, name = self.url, "url"
        if text is None and self.domain is not None and self.key is not None:
            domain = read.domain("domain", self.domain, caller.app)
            key = read.text("key", self.key, _KEY_MAX_CHARS)
            if domain is None or key is None:
                raise InvalidField("domain" if domain is None else "key", "cannot be used")
            text, name = f"https://{domain}/{key.lstrip('/')}", "key"
        if text is None:
            raise InvalidField("url", "is required (or domain and key)")
        found, link = read.link(name, text, DEEP_LINK_MAX_CHARS, caller.app, parse_link)
        if found is None or link is None:
            raise InvalidField(name, "is not a link")
        return link


def touches_routes(callers: Callers, touches: Touches, parse_link: ParseLink) -> list[HTTPRouteHandler]:
    """Build the handlers of touches, and of the script that sends them."""

    @post(
        "/v1/touches",
        status_code=200,
        before_request=callers.publishable,
        dto=lenient_body(TouchRequest),
        return_dto=None,
        operation_class=OpenOperation,
        operation_id="reportTouch",
        summary="Report that a web page saw a visitor",
        security=[{"publishableKey": []}],
        responses=documented(400, 401, 403, 413, 415, 422, 429, 503),
        tags=["Touches"],
    )
    async def report_touch(request: LeanRequest, data: JSONBody[TouchRequest]) -> Response[TouchAnswer]:
        """Keep what a first open without a link is compared with, for the matching window.

        `stored` is false if such an open could not be matched: see `reason`.
        """
        report, ignored = data.to_report(request.caller, parse_link)
        reply = JSONReply(await touches.record(report))
        if ignored:
            reply.headers["Firstopen-Ignored"] = ", ".join(ignored)
        return reply

    @get(
        "/v1/touch.js",
        media_type="text/javascript",
        response_class=Response,
        include_in_schema=False,
    )
    async def touch_script() -> Response[bytes]:
        """Return the script; it is the same for every app."""
        return Response(
            _script(),
            media_type="text/javascript; charset=utf-8",
            headers={
                "Cache-Control": f"public, max-age={_SCRIPT_MAX_AGE_S}",
                "Cross-Origin-Resource-Policy": "cross-origin",
                "X-Content-Type-Options": "nosniff",
            },
        )

    return [report_touch, touch_script]


@cache
def _script() -> bytes:
    """Return the script without the white space that only people need."""
    text = Path(__file__).with_name("touch.js").read_text(encoding="utf-8")
    return "".join(f"{line.strip()}\n" for line in text.splitlines()).encode()
