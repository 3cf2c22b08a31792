"""From a request's body to checked fields.

The bounds live in the Structs of each endpoint; this module parses, and says what is wrong as Dub would:
400 for what is not JSON, 422 with the field's name for what breaks a rule.
"""

import json
import math
import re
from typing import Any, TypeVar

import msgspec

from service.sandbox.errors import DubError, unprocessable

METADATA_MAX_CHARS = 10_000  # as JSON, without spaces: Dub measures what JSON.stringify gives
EMAIL_MAX_CHARS = 100
SAFE_INTEGER_MAX = 2**53 - 1  # beyond it JavaScript, and so Dub, cannot count
_EMAIL = re.compile(r"(?:[\w'+-]+\.)*[\w'+-]*[\w+-]@(?:[A-Za-z\d][A-Za-z\d-]*\.)+[A-Za-z]{2,}", re.ASCII)

Shape = TypeVar("Shape")


def json_of(body: bytes) -> Any:
    """Parse a JSON body: 400 when it is not JSON, or nested deeper than anybody means it."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise DubError("bad_request", "the body is not valid JSON") from None


def fields_of(body: bytes, shape: type[Shape]) -> Shape:
    """Parse a JSON body into `shape`: 422 with the field and its rule when it does not fit."""
    return convert(json_of(body), shape)


def convert(value: Any, shape: type[Shape]) -> Shape:
    """Fit an already parsed body into `shape`."""
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise unprocessable(_named(str(error))) from None


def whole(value: float | None, name: str, low: int, high: int = SAFE_INTEGER_MAX) -> int | None:
    """Hold a number to an integer in its bounds; JSON's 1.0 is the integer 1, as it is in JavaScript."""
    if value is None:
        return None
    if not math.isfinite(value) or value != int(value):
        raise unprocessable(f"{name}: expected an integer")
    if not low <= value <= high:
        raise unprocessable(f"{name}: expected an integer from {low} to {high}")
    return int(value)


def email(value: str | None) -> str | None:
    """Hold a customer's e-mail address to Dub's rules."""
    if value is not None and (len(value) > EMAIL_MAX_CHARS or not _EMAIL.fullmatch(value)):
        raise unprocessable(
            f"customerEmail: expected an e-mail address of at most {EMAIL_MAX_CHARS} characters"
        )
    return value


def metadata(value: dict[str, Any] | None) -> str | None:
    """Return metadata as the JSON that is kept, held to Dub's length."""
    if value is None:
        return None
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if len(text) > METADATA_MAX_CHARS:
        raise unprocessable(f"metadata: expected at most {METADATA_MAX_CHARS} characters as JSON")
    return text


def _named(message: str) -> str:
    """Turn msgspec's "Expected … - at `$.field`" into "field: expected …"."""
    rule, _, where = message.partition(" - at `$")
    rule = rule[:1].lower() + rule[1:]
    field = where.rstrip("`").lstrip(".")
    return f"{field}: {rule}" if field else rule
