"""Arrange the OpenAPI document for the page at ``/schema``: rendered here, without scripts.

The viewers that exist (Scalar, Swagger UI, Redoc, RapiDoc) are 0.8 to 3 MB of JavaScript that would have to
be kept up to date, and need ``unsafe-inline`` styles. For an API of this size, a template is enough.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

_DEEPEST = 4  # levels of objects inside objects
_METHODS = ("get", "post")  # a HEAD is like its GET
_KEYS = {"publishableKey": "publishable key", "serverKey": "server key"}
_LIMITS = {
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minimum": "at least {}",
    "maximum": "at most {}",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "default": "default {}",
}

Document = Mapping[str, Any]


class Row(Struct, frozen=True):
    """A field, parameter or header. ``name`` of a field in an object is its path, such as ``link.url``."""

    name: str
    type: str
    is_required: bool
    about: str


class Reply(Struct, frozen=True):
    """A response. Errors have no fields here: they all have the same."""

    status: str
    about: str
    fields: list[Row]
    headers: list[Row]
    example: str


class Operation(Struct, frozen=True):
    """A method of a path."""

    anchor: str
    method: str
    path: str
    summary: str
    about: list[str]  # paragraphs
    keys: str
    parameters: list[Row]
    body: list[Row]
    replies: list[Reply]


class Group(Struct, frozen=True):
    """The operations with one tag."""

    name: str
    about: str
    operations: list[Operation]


def grouped(document: Document) -> list[Group]:
    """Return the operations of a document by their tags, in the document's order."""
    view = _View(document)
    groups = []
    for tag in document.get("tags", ()):
        operations = [
            view.operation(method, path, item[method])
            for path, item in document["paths"].items()
            for method in _METHODS
            if method in item and tag["name"] in item[method].get("tags", ())
        ]
        groups.append(Group(tag["name"], tag.get("description", ""), operations))
    return groups


class _View:
    """Reads a document, following its references."""

    def __init__(self, document: Document) -> None:
        self._schemas = document.get("components", {}).get("schemas", {})

    def operation(self, method: str, path: str, found: Document) -> Operation:
        body = _json_of(found.get("requestBody", {}))
        keys = [_KEYS.get(name, name) for each in found.get("security") or () for name in each]
        return Operation(
            anchor=found["operationId"],
            method=method.upper(),
            path=path,
            summary=found.get("summary", ""),
            about=[text for text in found.get("description", "").split("\n\n") if text.strip()],
            keys=" or ".join(keys),
            parameters=[self._parameter(each) for each in found.get("parameters", ())],
            body=list(self._rows(body.get("schema", {}), "", 0)),
            replies=[self._reply(status, each) for status, each in found.get("responses", {}).items()],
        )

    def _parameter(self, found: Document) -> Row:
        schema = self._followed(found.get("schema", {}))
        name = f"{found['name']} ({found['in']})"
        about = " ".join(filter(None, [found.get("description", ""), _limits(schema)]))
        return Row(name, self._type(schema), bool(found.get("required")), about)

    def _reply(self, status: str, found: Document) -> Reply:
        content = _json_of(found)
        schema = content.get("schema", {})
        is_error = str(schema.get("$ref", "")).endswith("/Problem")
        examples = [each.get("value") for each in content.get("examples", {}).values()]
        example = json.dumps(examples[0], indent=2, ensure_ascii=False) if examples else ""
        headers = [
            Row(
                name, self._type(each.get("schema", {})), is_required=False, about=each.get("description", "")
            )
            for name, each in found.get("headers", {}).items()
        ]
        fields = [] if is_error else list(self._rows(schema, "", 0))
        return Reply(status, found.get("description", ""), fields, headers, example)

    def _rows(self, schema: Document, prefix: str, depth: int) -> Iterator[Row]:
        """Yield the fields of an object, and of the objects in it."""
        schema = self._inner(schema)
        if schema.get("type") == "array":
            yield from self._rows(schema.get("items", {}), prefix, depth)
            return
        required = schema.get("required", ())
        for name, field in schema.get("properties", {}).items():
            inner = self._inner(field)
            about = field.get("description") or inner.get("description", "")
            text = " ".join(filter(None, [about, _limits(field)]))
            yield Row(f"{prefix}{name}", self._type(field), name in required, text)
            if depth < _DEEPEST:
                yield from self._rows(field, f"{prefix}{name}.", depth + 1)

    def _followed(self, schema: Document) -> Document:
        name = str(schema.get("$ref", "")).rpartition("/")[2]
        found: Document = self._schemas.get(name, {}) if name else schema
        return found

    def _inner(self, schema: Document) -> Document:
        """Return a schema without "or null", and of several the first."""
        schema = self._followed(schema)
        choices = [self._followed(each) for each in schema.get("oneOf", ()) if each.get("type") != "null"]
        return {**schema, **choices[0]} if choices else schema

    def _type(self, schema: Document) -> str:
        schema = self._followed(schema)
        if "oneOf" in schema:
            return " or ".join(dict.fromkeys(self._type(each) for each in schema["oneOf"]))
        if "enum" in schema:
            return " or ".join(json.dumps(value) for value in schema["enum"])
        if "const" in schema:
            return json.dumps(schema["const"])
        kind = schema.get("type", "any")
        if kind == "array":
            return f"list of {self._type(schema.get('items', {}))}"
        return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _json_of(found: Document) -> Document:
    content = found.get("content", {})
    body: Document = content.get("application/json", next(iter(content.values()), {}))
    return body


def _limits(schema: Document) -> str:
    """Return the bounds of a value as a sentence, or nothing."""
    said = [words.format(schema[name]) for name, words in _LIMITS.items() if schema.get(name) is not None]
    return f"{', '.join(said).capitalize()}." if said else ""
