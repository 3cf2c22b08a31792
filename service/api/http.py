"""Litestar's request and response, made lean: what each request needs is read once, as bytes.

A body is decoded straight into its Struct (strictly: "1500" is no integer), and a reply is written
as it is encoded. ``make bench`` measures both against a plain Litestar handler.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any, cast

import msgspec
from litestar import Litestar, Request, Response
from litestar._openapi.schema_generation import SchemaCreator
from litestar.datastructures import State
from litestar.dto import MsgspecDTO
from litestar.openapi.spec import Reference, Schema
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send
from litestar.typing import FieldDefinition
from msgspec import Struct

from service.resolve.admission import Admission, Standing
from service.resolve.errors import BodyTooLarge, InvalidField, MalformedBody, UnsupportedBody

BODY_MAX_BYTES = 64 * 1024

_ADMISSION = "firstopen.admission"  # in a request's scope
_NESTING_MAX = 500
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"')
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_encode = msgspec.json.Encoder().encode


class LeanRequest(Request[Any, Any, State]):
    """A request whose few interesting headers are read in one pass, and whose body is bounded.

    ``arrived`` is the clock when the headers were complete: budgets count from there.
    """

    __slots__ = ("arrived", "authorization", "content_type_bytes", "forwarded_for", "user_agent")

    clock: Callable[[], float]

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(scope, receive, send)
        arrived = cast("dict[str, Any]", scope).get("arrived")  # our protocol notes it; tests have none
        self.arrived: float = type(self).clock() if arrived is None else arrived
        self.authorization = self.user_agent = self.forwarded_for = self.content_type_bytes = b""
        for name, value in scope["headers"]:
            if name == b"authorization":
                self.authorization = b"" if self.authorization else value  # two keys are none
            elif name == b"user-agent":
                self.user_agent = value
            elif name == b"content-type":
                self.content_type_bytes = value
            elif name == b"x-forwarded-for":
                self.forwarded_for = self.forwarded_for + b"," + value if self.forwarded_for else value

    def counted_by(self, admission: Admission) -> None:
        """Note what counts this request: its reply, an error's too, says where the caller stands then."""
        cast("dict[str, Any]", self.scope)[_ADMISSION] = admission

    async def body(self) -> bytes:
        """Read a JSON body; raises ``UnsupportedBody``, ``BodyTooLarge``, or ``MalformedBody`` if empty."""
        if isinstance(self._body, bytes):
            return self._body
        if not _says_json(self.content_type_bytes):
            raise UnsupportedBody("Content-Type: expected application/json")
        body = b""
        more = True
        while more and len(body) <= BODY_MAX_BYTES:
            message = cast("dict[str, Any]", await self.receive())
            if message["type"] == "http.disconnect":
                raise MalformedBody("body: did not arrive whole")
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if len(body) > BODY_MAX_BYTES:
            raise BodyTooLarge(f"body: must be at most {BODY_MAX_BYTES} bytes")
        if not body:
            raise MalformedBody("body: is empty; expected a JSON object")
        self._body = body
        return body


def request_class(clock: Callable[[], float]) -> type[LeanRequest]:
    """Return the request class that reads this clock (monotonic, seconds)."""
    return cast(
        "type[LeanRequest]",
        type("ClockedRequest", (LeanRequest,), {"clock": staticmethod(clock), "__slots__": ()}),
    )


class JSONReply(Response[Any]):
    """A response that is one JSON body with no cookies, background tasks or negotiation."""

    def __init__(
        self, content: Any, *, status_code: int | None = None, headers: dict[str, str] | None = None, **_: Any
    ) -> None:
        """Take what a reply here has; Litestar's own constructor looks at twelve things more."""
        self.content = content
        self.status_code = status_code
        self.headers = headers or {}

    def to_asgi_response(
        self,
        app: Litestar | None,  # noqa: ARG002  Litestar's signature
        request: Request[Any, Any, Any],
        *,
        status_code: int | None = None,
        **_: Any,
    ) -> ASGIResponse:
        """Encode the content, and return the ASGI application that sends it."""
        extra = [(name.lower().encode(), value.encode()) for name, value in self.headers.items()]
        if _ADMISSION in request.scope:
            extra += counted(request.scope)
        return _Sent(self.status_code or status_code or 200, _encode(self.content), extra)


class _Sent(ASGIResponse):
    """An encoded reply; Litestar's own builds its headers through a multidict."""

    def __init__(self, status: int, body: bytes, extra_headers: list[tuple[bytes, bytes]]) -> None:
        self.status_code = status
        self.body = body
        self._headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
            *extra_headers,
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  ASGI's signature
        """Send it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self._headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


def counted(scope: Scope) -> list[tuple[bytes, bytes]]:
    """Return the headers that say where a request's caller stands; none if it was not counted."""
    admission: Admission | None = cast("dict[str, Any]", scope).get(_ADMISSION)
    standing = None if admission is None else admission.standing
    if standing is None:
        return []
    return [(name.lower().encode(), value.encode()) for name, value in standing_headers(standing).items()]


def standing_headers(standing: Standing) -> dict[str, str]:
    """Return the headers that say where a caller stands."""
    return {
        "RateLimit-Limit": str(standing.limit),
        "RateLimit-Remaining": str(standing.remaining),
        "RateLimit-Reset": str(math.ceil(standing.reset_s)),
    }


class StrictBody(MsgspecDTO[Any]):
    """Decodes a body straight into its Struct: use as ``dto=strict_body(Model)``."""

    decode: Callable[[bytes], Struct]
    model: type[Struct]

    def decode_bytes(self, value: bytes) -> Struct:
        """Decode, strictly; raises ``InvalidField`` or ``MalformedBody``."""
        try:
            return type(self).decode(value)
        except msgspec.ValidationError as exc:
            if " - at `" not in str(exc) and _is_deep(value):
                raise MalformedBody("body: is nested too deep") from exc
            _refuse_if_cut_off(value)
            raise _invalid(exc, self.model) from exc
        except RecursionError as exc:
            raise MalformedBody("body: is nested too deep") from exc
        except UnicodeDecodeError as exc:
            raise MalformedBody("body: is not UTF-8") from exc
        except msgspec.DecodeError as exc:
            surrogates = _field_with_lone_surrogate(value)
            if surrogates:
                raise InvalidField(surrogates, "must not contain lone surrogates") from exc
            raise MalformedBody(f"body: is not JSON: {exc}") from exc

    @classmethod
    def create_for_field_definition(cls, *_: Any, **__: Any) -> None:
        """Build no transfer model: the Struct is its own."""

    @classmethod
    def create_openapi_schema(
        cls,
        field_definition: FieldDefinition,
        handler_id: str,  # noqa: ARG003  the signature is Litestar's
        schema_creator: SchemaCreator,
    ) -> Reference | Schema:
        """Document the Struct under its own name."""
        return schema_creator.for_field_definition(field_definition)


def strict_body(model: type[Struct]) -> type[StrictBody]:
    """Return the DTO that decodes this model."""
    decode = msgspec.json.Decoder(model).decode
    return cast(
        "type[StrictBody]",
        type(f"Strict{model.__name__}", (StrictBody,), {"decode": staticmethod(decode), "model": model}),
    )


def _says_json(content_type: bytes) -> bool:
    """Accept JSON types, and no type at all: some HTTP stacks leave it out."""
    if content_type == b"application/json" or not content_type:
        return True
    essence = content_type.partition(b";")[0].strip().lower()
    return essence == b"application/json" or (
        essence.startswith(b"application/") and essence.endswith(b"+json")
    )


def _is_deep(body: bytes) -> bool:
    """Whether a body nests deeper than any of ours: Python's own limit depends on its version."""
    depth = 0
    for piece in _STRINGS.sub(b"", body):
        depth += (piece in b"[{") - (piece in b"]}")
        if depth > _NESTING_MAX:
            return True
    return False


def _refuse_if_cut_off(body: bytes) -> None:
    """Hear a body out, since decoding ends at its first wrong field: what is not JSON has no fields."""
    try:
        json.loads(body.decode(), parse_int=float)
    except UnicodeDecodeError as exc:
        raise MalformedBody("body: is not UTF-8") from exc
    except json.JSONDecodeError as exc:
        raise MalformedBody(f"body: is not JSON: {exc}") from exc
    except RecursionError:
        return  # deeper than anybody reads: the wrong field says more


def _invalid(exc: msgspec.ValidationError, model: type[Struct]) -> InvalidField:
    """Name the field and the limit; what the caller sent is not repeated."""
    problem, _, at = str(exc).partition(" - at `$")
    field = at.removesuffix("`").lstrip(".") or "body"
    if problem.startswith("Invalid enum value"):
        choices = _choices(model, field)
        problem = f"expected one of {choices}" if choices else "is not one of the documented values"
    return InvalidField(field, problem[:1].lower() + problem[1:])


def _choices(model: type[Struct], field: str) -> str:
    info = msgspec.inspect.type_info(model)
    for known in cast("msgspec.inspect.StructType", info).fields:
        if known.encode_name == field:
            kind = known.type.type if isinstance(known.type, msgspec.inspect.Metadata) else known.type
            kinds = kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)
            for kind in kinds:
                if isinstance(kind, msgspec.inspect.LiteralType):
                    return ", ".join(repr(value) for value in kind.values)
    return ""


def _field_with_lone_surrogate(body: bytes) -> str | None:
    """Find the field that made a body undecodable; Python's own parser lets lone surrogates through."""
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(raw, dict):
        return None
    for name, value in raw.items():
        if _LONE_SURROGATE.search(json.dumps(value, ensure_ascii=False)):
            return name if name.isascii() and name.isidentifier() else "body"
    return "body" if _LONE_SURROGATE.search("".join(raw)) else None
