"""Parse request bodies into checked fields.

The Structs of each endpoint define the bounds. Errors are those of Dub: 400 for a body that is not JSON, 422
with the field's name for a field that breaks a rule.
"""

import json
import math
import re
from typing import Any, TypeVar

import msgspec

from service.sandbox.errors import DubError, unprocessable

METADATA_MAX_CHARS = 10_000  # as JSON, without spaces: Dub measures what JSON.stringify gives
EMAIL_MAX_CHARS = 100
SAFE_INTEGER_MAX = 2**53 - 1  # the largest exact integer in JavaScript, and so at Dub
_EMAIL = re.compile(r"(?:[\w'+-]+\.)*[\w'+-]*[\w+-]@(?:[A-Za-z\d][A-Za-z\d-]*\.)+[A-Za-z]{2,}", re.ASCII)

Shape = TypeVar("Shape")


def json_of(body: bytes) -> Any:
    """Parse a JSON body; raises a 400 if it is not JSON, or nested too deep."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise DubError("bad_request", "the body is not valid JSON") from None


def fields_of(body: bytes, shape: type[Shape]) -> Shape:
    """Parse a JSON body into `shape`; raises a 422 that names the field and its rule, or a 400."""
    return convert(json_of(body), shape)


def convert(value: Any, shape: type[Shape]) -> Shape:
    """Convert a parsed body into `shape`; raises a 422 that names the field and its rule."""
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise unprocessable(_field_first(str(error))) from None


def whole(value: float | None, name: str, low: int, high: int = SAFE_INTEGER_MAX) -> int | None:
    """Return a number as an integer; 1.0 is accepted as 1, as in JavaScript. Raises a 422 out of bounds."""
    if value is None:
        return None
    if not math.isfinite(value) or value != int(value):
        raise unprocessable(f"{name}: expected an integer")
    if not low <= value <= high:
        raise unprocessable(f"{name}: expected an integer from {low} to {high}")
    return int(value)


def email(value: str | None) -> str | None:
    """Return a customer's e-mail address; raises a 422 if it breaks Dub's rules."""
    if value is not None and (len(value) > EMAIL_MAX_CHARS or not _EMAIL.fullmatch(value)):
        raise unprocessable(
            f"customerEmail: expected an e-mail address of at most {EMAIL_MAX_CHARS} characters"
        )
    return value


def metadata(value: dict[str, Any] | None) -> str | None:
    """Return metadata as the JSON text to store; raises a 422 above Dub's maximum length."""
    if value is None:
        return None
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if len(text) > METADATA_MAX_CHARS:
        raise unprocessable(f"metadata: expected at most {METADATA_MAX_CHARS} characters as JSON")
    return text


def _field_first(message: str) -> str:
    """Turn msgspec's "Expected … - at `$.field`" into "field: expected …"."""
    rule, _, where = message.partition(" - at `$")
    rule = rule[:1].lower() + rule[1:]
    field = where.rstrip("`").lstrip(".")
    return f"{field}: {rule}" if field else rule
