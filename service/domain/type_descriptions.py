"""Describe in plain words what a msgspec type accepts, for error messages.

msgspec's own messages use Python type names (``Expected `int | null` ``). Only the location of the problem is
taken from them; the expected value is read from the type.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect

_PLACE = re.compile(r" - at `\$(.*)`$")
_STEP = re.compile(r"\.([^.\[]+)|\[(?:\d+|\.\.\.)\]")
_MISSING = re.compile(r"Object missing required field `(.*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`$")


class Invalid(NamedTuple):
    """A validation error: a path in the document, such as ``apps.acme.domains``, and the problem there."""

    path: str  # empty for the whole document
    problem: str


def explain(exc: msgspec.ValidationError, model: type, *, structure: str = "an object") -> Invalid:
    """Explain why a document could not be decoded as ``model``.

    ``structure`` is the format's term for a set of named values. The explanation contains no values.
    """
    message = _PLACE.sub("", str(exc))
    found = _PLACE.search(str(exc))
    path = found[1] if found else ""
    at = inspect.type_info(model)
    for step in _STEP.finditer(path):
        at = _child(at, step[1])
    path = path.removeprefix(".")
    if missing := _MISSING.match(message):
        return Invalid(f"{path}.{missing[1]}".removeprefix("."), "is required")
    if unknown := _UNKNOWN.match(message):
        close = closest(unknown[1], [field.encode_name for field in _struct(at).fields])
        return Invalid(
            path, f"unknown setting `{unknown[1]}`" + (f", did you mean `{close}`?" if close else "")
        )
    return Invalid(path, f"expected {_words(at, structure)}")


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the most similar known name, ignoring case and separators; None if no name is similar."""
    plain = {_plain(each): each for each in known}
    close = get_close_matches(_plain(name), plain, n=1, cutoff=0.75)
    return plain[close[0]] if close else None


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _child(at: inspect.Type, field: str | None) -> inspect.Type:
    """Return the type one step further down a path: of a named field, or of an item of a list or table."""
    for kind in _kinds(at):
        if field is not None and isinstance(kind, inspect.StructType):
            return next((each.type for each in kind.fields if each.encode_name == field), inspect.AnyType())
        if field is None and isinstance(kind, inspect.CollectionType):
            return kind.item_type
        if field is None and isinstance(kind, inspect.DictType):
            return kind.value_type
    return inspect.AnyType()


def _struct(at: inspect.Type) -> inspect.StructType:
    return next(kind for kind in _kinds(at) if isinstance(kind, inspect.StructType))


def _kinds(at: inspect.Type) -> tuple[inspect.Type, ...]:
    """Return the alternatives of a type: the members of a union, or the type itself; without null."""
    if isinstance(at, inspect.Metadata):
        return _kinds(at.type)
    if isinstance(at, inspect.UnionType):
        return tuple(kind for each in at.types for kind in _kinds(each))
    return () if isinstance(at, inspect.NoneType) else (at,)


def _words(at: inspect.Type, structure: str) -> str:
    return " or ".join(_kind_words(kind, structure) for kind in _kinds(at)) or "nothing here"


def _kind_words(kind: inspect.Type, structure: str) -> str:
    match kind:
        case inspect.IntType(ge=low, le=high):
            words = "an integer" + _bounds(low, high)
        case inspect.FloatType(ge=low, gt=above, le=high):
            words = "a number" + _bounds(low, high, above)
        case inspect.StrType(pattern=pattern) if pattern is not None:
            words = f"text that matches {pattern}"
        case inspect.StrType(min_length=low, max_length=high):
            words = "text" + _length(low, high, "character", "characters")
        case inspect.BoolType():
            words = "true or false"
        case inspect.LiteralType(values=values):
            words = "one of " + ", ".join(repr(value) for value in values)
        case inspect.CollectionType(min_length=low, max_length=high):
            words = "a list" + _length(low, high, "entry", "entries")
        case _:
            words = structure
    return words


def _bounds(low: Any, high: Any, above: Any = None) -> str:
    if above is not None:
        return f" above {above}" + (f" and at most {high}" if high is not None else "")
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if low is not None:
        return f" of at least {low}"
    return f" of at most {high}" if high is not None else ""


def _length(low: int | None, high: int | None, one: str, many: str) -> str:
    if low and high:
        return f" of {low} to {high} {many}"
    if low:
        return f" of at least {low} {one if low == 1 else many}"
    return f" of at most {high} {many}" if high else ""
