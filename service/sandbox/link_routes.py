"""`/links`: create, read, change and delete links, as far as tests need it.

Bodies have Dub's field names; fields that the sandbox does not use are ignored, because SDKs send many.
"""

from typing import Annotated, Any

import msgspec
from litestar import Request, delete, get, patch, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.status_codes import HTTP_200_OK

from service.sandbox.domains import DomainBook
from service.sandbox.errors import DubError, unprocessable
from service.sandbox.fields import convert, json_of
from service.sandbox.limits import Gate
from service.sandbox.links import KEY_CHARS, Link, LinkBook, SandboxLink, random_text

_KNOWN = frozenset(field.encode_name for field in msgspec.structs.fields(SandboxLink)) - {"id", "workspace"}


def link_routes(gate: Gate, links: LinkBook, domains: DomainBook) -> list[HTTPRouteHandler]:
    """Build the link routes."""

    def require(workspace: str, link: Link | None) -> Link:
        if link is None or link.spec.workspace != workspace:
            raise DubError("not_found", "no such link")
        return link

    @post("/links", status_code=HTTP_200_OK)
    async def create_link(request: Request[Any, Any, Any]) -> dict[str, Any]:
        """Add a link; the default key is random, the default domain the first known one."""
        workspace = gate.links(request)
        body = json_of(await request.body())
        fields = _fields(body)
        if not fields.get("key"):
            fields["key"] = _random_key(convert(body, _RandomKey))
        fields.setdefault("domain", next((spec.domain for spec in domains.all()), "dub.sh"))
        return links.view(links.add(convert(fields | {"workspace": workspace}, SandboxLink)).id)

    @get("/links/info")
    async def link_info(request: Request[Any, Any, Any]) -> dict[str, Any]:
        """Return one link, by domain and key, by `linkId` or by `externalId`."""
        workspace = gate.links(request)
        names = ("domain", "key", "linkId", "externalId")
        domain, key, link_id, external_id = (request.query_params.get(name, "") for name in names)
        if domain and key:
            found = links.find(domain.lower(), key)
        elif link_id or external_id:
            found = links.by_id(link_id or f"ext_{external_id.removeprefix('ext_')}")
        else:
            raise unprocessable("expected domain and key, linkId or externalId")
        return links.view(require(workspace, found).id)

    @patch("/links/{link_id:str}")
    async def change_link(request: Request[Any, Any, Any], link_id: FromPath[str]) -> dict[str, Any]:
        """Change some of a link's fields; `disabled` exists only in the sandbox."""
        link = require(gate.links(request), links.by_id(link_id))
        body = msgspec.to_builtins(link.spec) | _fields(json_of(await request.body()))
        return links.view(links.change(link.id, convert(body, SandboxLink)).id)

    @delete("/links/{link_id:str}", status_code=HTTP_200_OK)
    async def delete_link(request: Request[Any, Any, Any], link_id: FromPath[str]) -> dict[str, Any]:
        """Delete a link; its events stay stored, but are dropped from pages of `/events`."""
        link = require(gate.links(request), links.by_id(link_id))
        links.delete(link.id)
        return {"id": link.id}

    return [create_link, link_info, change_link, delete_link]


class _RandomKey(msgspec.Struct, rename="camel"):
    """How a random key is made: `prefix` comes before it, and is ignored if a key is given."""

    prefix: Annotated[str, msgspec.Meta(max_length=190)] | None = None
    key_length: Annotated[int, msgspec.Meta(ge=3, le=190)] | None = None


def _random_key(wanted: _RandomKey) -> str:
    prefix = (wanted.prefix or "").strip("/")
    key = random_text(wanted.key_length or KEY_CHARS)
    return f"{prefix}/{key}" if prefix else key


def _fields(body: Any) -> dict[str, Any]:
    """Return the known fields of a body; a single tag may be a string."""
    if not isinstance(body, dict):
        raise unprocessable("expected an object")
    known = {name: value for name, value in body.items() if name in _KNOWN}
    tags, external_id = known.get("tagIds"), known.get("externalId")
    if isinstance(external_id, str):
        known["externalId"] = external_id.removeprefix("ext_")
    return known | ({"tagIds": [tags]} if isinstance(tags, str) else {})
