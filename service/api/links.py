"""``/v1/links``: create a short link through Dub, such as the link of an invitation."""

from typing import Annotated

import msgspec
from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from msgspec import Meta, Struct

from service.api.auth import Callers
from service.api.http import LeanRequest, strict_body
from service.api.problems import documented
from service.api.schema import CountedOperation
from service.api.wire import BudgetMs, DomainText, required_install_id
from service.attribution.open_contexts import own_domain
from service.attribution.short_links import CreatedLink, ShortLinks
from service.domain.device_identity import Identity
from service.domain.errors import InvalidField, WrongKind
from service.domain.models import App
from service.domain.short_links import PREFIX_MAX_CHARS, LinkTemplate, WantedLink, parsed_url

_URL_MAX_CHARS = 32_000
_KEY_MAX_CHARS = 190
_ID_MAX_CHARS = 255
_OWN = ("url", "domain", "key", "prefix", "external_id", "tenant_id", "track_conversion")
_encode = msgspec.json.Encoder(order="deterministic").encode

TemplateName = Annotated[str, Meta(max_length=64, description="The name of one of the app's templates.")]
Parameters = Annotated[dict[str, str], Meta(max_length=64, description="The template's parameters.")]
Creator = Annotated[
    str,
    Meta(
        min_length=8,
        max_length=128,
        description="Who creates the link, as the app reports it: required with a publishable key.",
    ),
]
Destination = Annotated[str, Meta(min_length=1, max_length=_URL_MAX_CHARS, description="The destination.")]
Key = Annotated[str, Meta(min_length=1, max_length=_KEY_MAX_CHARS, description="By default random.")]
Prefix = Annotated[str, Meta(max_length=PREFIX_MAX_CHARS, description="Comes before a random key: `i/`.")]
ExternalId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=_ID_MAX_CHARS,
        description="Your id of the link. By default it is derived from the request, so that the same request"
        " gets the same link.",
    ),
]
TenantId = Annotated[
    str,
    Meta(min_length=1, max_length=_ID_MAX_CHARS, description="Whose link it is, for Dub's analytics."),
]


class LinkRequest(Struct, frozen=True, kw_only=True, rename="camel"):
    """A short link: one of a `template`, or with a server key one with a destination of its own (`url`)."""

    template: TemplateName | None = None
    parameters: Parameters = {}
    install_id: Creator | None = None
    budget_ms: BudgetMs | None = None
    url: Destination | None = None
    domain: DomainText | None = None
    key: Key | None = None
    prefix: Prefix | None = None
    external_id: ExternalId | None = None
    tenant_id: TenantId | None = None
    track_conversion: bool | None = None

    def to_wanted(self, app: App, identity: Identity, *, by_server: bool) -> WantedLink:
        """Return the link to create; raises ``InvalidField``, ``WrongKind`` or ``ForeignDomain``."""
        own = [name for name in _OWN if getattr(self, name) is not None]
        if not by_server and (own or self.template is None):
            raise WrongKind(
                "Authorization: with a publishable key only links of a template can be created;"
                " a link with a destination of its own needs a server key of the app"
            )
        install_id = None if self.install_id is None else required_install_id(self.install_id)
        if not by_server and install_id is None:
            raise InvalidField("installId", "is required")
        if self.template is not None:
            if own:
                raise InvalidField(_wire_names[own[0]], "cannot be set for a link of a template")
            return self._of_template(app, identity, install_id, by_server=by_server)
        return self._own(app, identity, install_id)

    def _of_template(
        self, app: App, identity: Identity, install_id: str | None, *, by_server: bool
    ) -> WantedLink:
        template = _template(app, self.template or "")
        url = template.destination(self.parameters)
        names = identity.link_names(app.name, _text("template", [template.name, self.parameters]), install_id)
        return WantedLink(
            identity=tuple(names),
            device=None if install_id is None else identity.device(app.name, install_id, None, ""),
            template=template.name,
            per_day=None if by_server else template.per_day,
            external_id=names[0],
            url=url,
            domain=template.domain,
            prefix=template.prefix or None,
        )

    def _own(self, app: App, identity: Identity, install_id: str | None) -> WantedLink:
        if self.url is None:
            raise InvalidField("url", "is required (or template)")
        if self.parameters:
            raise InvalidField("parameters", "expected only with template")
        if parsed_url(self.url, app.schemes) is None:
            raise InvalidField("url", "expected a URL of the web or of the app")
        domain = own_domain(app, self.domain)
        what = [self.url, domain, self.key, self.prefix, self.tenant_id, self.track_conversion]
        text = _text("url", what) if self.external_id is None else _text("external", self.external_id)
        names = identity.link_names(app.name, text, install_id if self.external_id is None else None)
        return WantedLink(
            identity=tuple(names),
            device=None if install_id is None else identity.device(app.name, install_id, None, ""),
            template="",
            per_day=None,
            external_id=self.external_id or names[0],
            url=self.url,
            domain=domain,
            key=self.key,
            prefix=self.prefix or None,
            tenant_id=self.tenant_id,
            track_conversion=self.track_conversion,
        )


_wire_names = {field.name: field.encode_name for field in msgspec.structs.fields(LinkRequest)}


def links_routes(
    callers: Callers, links: ShortLinks, identity: Identity, default_budget_ms: int
) -> list[HTTPRouteHandler]:
    """Build the handler of ``/v1/links``."""

    @post(
        "/v1/links",
        status_code=200,
        before_request=callers.any_key,
        dto=strict_body(LinkRequest),
        return_dto=None,
        operation_class=CountedOperation,
        operation_id="createLink",
        summary="Create a short link",
        security=[{"publishableKey": []}, {"serverKey": []}],
        responses=documented(400, 401, 403, 409, 413, 415, 422, 429, 503),
        tags=["Links"],
    )
    async def create_link(request: LeanRequest, data: JSONBody[LinkRequest]) -> CreatedLink:
        """Create a short link at Dub, once: the same request gets the same link, with `repeat`.

        A publishable key is for templates of the app's settings, with a quota for each install and day.
        Nothing is queued: if the link is not created within the budget, the answer is 503 with `Retry-After`.
        """
        app = request.caller.app
        wanted = data.to_wanted(app, identity, by_server=request.by_server)
        return await links.create(app, wanted, (data.budget_ms or default_budget_ms) / 1000)

    return [create_link]


def _template(app: App, name: str) -> LinkTemplate:
    template = app.link_templates.get(name)
    if template is None:
        raise InvalidField("template", "the app has no template with this name")
    return template


def _text(kind: str, what: object) -> str:
    return f"{kind}\0{_encode(what).decode()}"
