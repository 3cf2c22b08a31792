"""Faster request and response classes for Litestar, and the decoding of JSON bodies.

A request is authenticated before its body is read: see ``Callers``. A body is decoded directly into its
Struct by msgspec. Only a body that msgspec rejects is parsed again, by Python's parser, to find the problem;
both take time linear in its length.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar, cast

import msgspec
from litestar import Litestar, Request, Response
from litestar.datastructures import State
from litestar.dto import MsgspecDTO
from litestar.openapi.spec import Reference, Schema
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send
from litestar.typing import FieldDefinition
from msgspec import Struct

from service.domain.errors import BodyTooLarge, InvalidField, MalformedBody, UnsupportedBody
from service.domain.models import Caller
from service.domain.rate_limit_status import RateLimitStatus
from service.domain.type_descriptions import explain

BODY_MAX_BYTES = 64 * 1024
# Key in a request's scope: its caller. The response gets RateLimit-* headers; a failed request is counted.
CALLER = "firstopen.caller"

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_encode = msgspec.json.Encoder().encode

S = TypeVar("S", bound=Struct)


class RequestHead:
    """The headers of a request that handlers need, read in one pass.

    ``arrived`` is when the headers were complete, in monotonic seconds: budgets start then.
    """

    __slots__ = ("arrived", "authorization", "content_type", "forwarded_for", "host", "peer", "user_agent")

    def __init__(self, scope: Scope, clock: Callable[[], float]) -> None:
        context: Any = scope
        arrived = context.get("arrived")  # set by our server protocol, but not in tests
        if arrived is None:
            arrived = context["arrived"] = clock()
        self.arrived: float = arrived
        self.peer: tuple[str, int] | None = context["client"]
        self.authorization = self.user_agent = self.forwarded_for = self.content_type = self.host = b""
        authorizations = 0
        for name, value in context["headers"]:
            if name == b"authorization":
                self.authorization = b"" if authorizations else value  # several keys count as no key
                authorizations += 1
            elif name == b"user-agent":
                self.user_agent = value
            elif name == b"content-type":
                self.content_type = value
            elif name == b"x-forwarded-for":
                self.forwarded_for = self.forwarded_for + b"," + value if self.forwarded_for else value
            elif name == b"host":
                self.host = value


class LeanRequest(Request[Any, Any, State]):
    """A request that reads the headers it needs in one pass, and limits the size of its body.

    ``caller`` and ``by_server`` (it has a server key) are set by the handler's ``before_request`` hook.
    """

    __slots__ = ("by_server", "caller", "head")

    clock: Callable[[], float]
    caller: Caller
    by_server: bool

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(scope, receive, send)
        self.head = RequestHead(scope, type(self).clock)

    async def body(self) -> bytes:
        """Read a JSON body; raises ``UnsupportedBody``, ``BodyTooLarge`` or ``MalformedBody``."""
        if not isinstance(self._body, bytes):
            self._body = await read_body(self.head, self.receive)
        return self._body


async def read_body(head: RequestHead, receive: Receive) -> bytes:
    """Read a JSON body; raises ``UnsupportedBody``, ``BodyTooLarge`` or ``MalformedBody``."""
    if not _says_json(head.content_type):
        raise UnsupportedBody("Content-Type: expected application/json")
    body = b""
    more = True
    while more and len(body) <= BODY_MAX_BYTES:
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            raise MalformedBody("body: did not arrive completely")
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if len(body) > BODY_MAX_BYTES:
        raise BodyTooLarge(f"body: must be at most {BODY_MAX_BYTES} bytes")
    if not body:
        raise MalformedBody("body: is empty; expected a JSON object")
    return body


def request_class(clock: Callable[[], float]) -> type[LeanRequest]:
    """Return a request class with this clock (monotonic seconds)."""
    return cast(
        "type[LeanRequest]",
        type("ClockedRequest", (LeanRequest,), {"clock": staticmethod(clock), "__slots__": ()}),
    )


class JSONReply(Response[Any]):
    """A response with a JSON body, without cookies, background tasks and content negotiation."""

    def __init__(
        self, content: Any, *, status_code: int | None = None, headers: dict[str, str] | None = None, **_: Any
    ) -> None:
        """Set the few values needed here; Litestar's constructor processes twelve more."""
        self.content = content
        self.status_code = status_code
        self.headers = headers or {}

    def encoded(self) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """Return the body, and the headers to send with it."""
        body = _encode(self.content)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
        ]
        if self.headers:
            headers += [(name.lower().encode(), value.encode()) for name, value in self.headers.items()]
        return body, headers

    def to_asgi_response(
        self,
        app: Litestar | None,  # noqa: ARG002  Litestar's signature
        request: Request[Any, Any, Any],  # noqa: ARG002  Litestar's signature
        *,
        status_code: int | None = None,
        **_: Any,
    ) -> ASGIResponse:
        """Encode the content, and return the ASGI application that sends it."""
        return _Sent(self.status_code or status_code or 200, *self.encoded())


class _Sent(ASGIResponse):
    """An encoded reply; Litestar's own builds its headers through a multidict."""

    def __init__(self, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        self.status_code = status
        self.body = body
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  ASGI's signature
        """Send it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self._headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


def rate_limit_headers(rate_limit_status: RateLimitStatus) -> dict[str, str]:
    """Return the RateLimit-* headers."""
    return {
        "RateLimit-Limit": str(rate_limit_status.limit),
        "RateLimit-Remaining": str(rate_limit_status.remaining),
        "RateLimit-Reset": str(math.ceil(rate_limit_status.reset_s)),
    }


class BodyDTO(MsgspecDTO[Any]):
    """Decodes a body directly into its Struct: see ``strict_body`` and ``lenient_body``."""

    decode: Callable[[bytes], Struct]

    def decode_bytes(self, value: bytes) -> Struct:
        """Decode; raises ``InvalidField`` or ``MalformedBody``."""
        return type(self).decode(value)

    @classmethod
    def create_for_field_definition(cls, *_: Any, **__: Any) -> None:
        """Do nothing: bodies are decoded into the Struct itself, without a transfer model."""

    @classmethod
    def create_openapi_schema(
        cls,
        field_definition: FieldDefinition,
        handler_id: str,  # noqa: ARG003  the signature is Litestar's
        schema_creator: Any,
    ) -> Reference | Schema:
        """Document the Struct under its own name."""
        return cast("Reference | Schema", schema_creator.for_field_definition(field_definition))


def strict_body(model: type[Struct]) -> type[BodyDTO]:
    """Return a DTO that decodes this model, and raises ``InvalidField`` for a body that does not fit it."""
    decode = msgspec.json.Decoder(model).decode

    def decode_strictly(body: bytes) -> Struct:
        try:
            return decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            _refuse(body, model, exc)

    return _body_dto(model, decode_strictly)


def lenient_body(model: type[Struct]) -> type[BodyDTO]:
    """Return a DTO that decodes any JSON object: a field that does not fit the model keeps its value.

    So the values may violate the Struct's annotations, and each must be checked where it is read. The DTO
    raises ``MalformedBody``.
    """
    decode = msgspec.json.Decoder(model).decode
    names = {field.encode_name: field.name for field in msgspec.structs.fields(model)}

    def decode_leniently(body: bytes) -> Struct:
        try:
            return decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            given = parse_json(body)
        if not isinstance(given, dict):
            raise MalformedBody("body: expected a JSON object")
        return model(**{names[name]: value for name, value in given.items() if name in names})

    return _body_dto(model, decode_leniently)


def _body_dto(model: type[Struct], decode: Callable[[bytes], Struct]) -> type[BodyDTO]:
    return cast("type[BodyDTO]", type(f"{model.__name__}Body", (BodyDTO,), {"decode": staticmethod(decode)}))


def _refuse(body: bytes, model: type[Struct], exc: Exception) -> NoReturn:
    """Raise ``InvalidField`` with the problem of a body, or ``MalformedBody`` if it is not JSON."""
    raw = parse_json(body)
    if isinstance(exc, msgspec.ValidationError):
        field, problem = explain(exc, model)
        raise InvalidField(field or "body", problem) from exc
    raise InvalidField(_field_with_lone_surrogate(raw), "must not contain lone surrogates") from exc


def parse_json(body: bytes) -> Any:
    """Parse JSON with Python's parser; raises ``MalformedBody``.

    It accepts valid JSON that msgspec rejects: lone surrogates (half of an emoji) and huge numbers.
    """
    try:
        text = body.decode()
        try:
            return _parse(text)
        except json.JSONDecodeError:
            raise
        except ValueError:
            return _parse_huge_numbers(text)
    except UnicodeDecodeError as exc:
        raise MalformedBody("body: is not UTF-8") from exc
    except RecursionError as exc:
        raise MalformedBody("body: is nested too deeply") from exc
    except json.JSONDecodeError as exc:
        raise MalformedBody(f"body: is not JSON: {exc}") from exc


def _refuse_constant(name: str) -> NoReturn:
    raise json.JSONDecodeError(f"{name} is not a JSON number", "", 0)


_parse = json.JSONDecoder(parse_constant=_refuse_constant).decode
# Python rejects integers of thousands of digits, which take quadratic time. As floats they become infinity.
_parse_huge_numbers = json.JSONDecoder(parse_int=float, parse_constant=_refuse_constant).decode


def _says_json(content_type: bytes) -> bool:
    """Return True for JSON content types, and if there is none, because some HTTP stacks omit it."""
    if content_type == b"application/json" or not content_type:
        return True
    essence = content_type.partition(b";")[0].strip().lower()
    return essence == b"application/json" or (
        essence.startswith(b"application/") and essence.endswith(b"+json")
    )


def _field_with_lone_surrogate(raw: Any) -> str:
    """Return the name of the first field with a lone surrogate, which msgspec cannot decode, or "body"."""
    for name, value in raw.items() if isinstance(raw, dict) else ():
        if _LONE_SURROGATE.search(json.dumps(value, ensure_ascii=False)):
            return name if name.isascii() and name.isidentifier() else "body"
    return "body"
