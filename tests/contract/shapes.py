"""The shapes of Dub's wire: JSON Schemas of our own writing, and what they say about an answer.

``schemas/`` has a request and an answer for each endpoint, and the one error body. Two keywords are ours:
``x-maxJsonLength`` (the length of a value as JSON) and ``x-codes`` (the error codes of each status).
"""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from jsonschema import Draft202012Validator, FormatChecker, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend

SCHEMAS = Path(__file__).parent / "schemas"
DOCS = "https://dub.co/docs/api-reference/errors#"
ENDPOINTS = {
    "/track/open": "open",
    "/track/lead": "lead",
    "/track/lead/client": "lead",
    "/track/sale": "sale",
    "/track/sale/client": "sale",
    "/events": "events",
}
FIRST_ERROR = 400

Schema = dict[str, Any]


@cache
def load(name: str) -> Schema:
    """Read one schema, with what it refers to put in its place."""
    schema: Schema = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    held: Schema = _inlined(schema, schema.get("$defs", {}))
    held.pop("$defs", None)
    return held


def error(status: int) -> Schema:
    """Return the error body of one status: its codes, each with its own page."""
    schema = load("error")
    codes = [
        {"properties": {"code": {"const": code}, "doc_url": {"const": DOCS + anchor}}}
        for code, anchor in schema["x-codes"][str(status)].items()
    ]
    body = {**schema["properties"]["error"], "oneOf": codes}
    return {"type": "object", "required": schema["required"], "properties": {"error": body}}


def statuses() -> list[int]:
    """Return every status that an error may have."""
    return [int(status) for status in load("error")["x-codes"]]


def problems(schema: Schema, value: Any) -> list[str]:
    """Return what is wrong with a value, one line each; nothing if it fits."""
    found = _Validator(schema, format_checker=_FORMATS).iter_errors(value)
    return [f"{each.json_path}: {each.message[:200]}" for each in found]


def answer_of(path: str) -> Schema:
    """Return the schema of an endpoint's 200."""
    return load("events.answer" if path == "/events" else f"{ENDPOINTS[path]}.answer")


def request_of(path: str) -> Schema:
    """Return the schema of an endpoint's body, or of its query."""
    return load("events.query" if path == "/events" else f"{ENDPOINTS[path]}.request")


def hold(path: str, response: httpx.Response) -> None:
    """Fail unless an answer has the shape that its endpoint and its status have."""
    status = response.status_code
    if not response.content:
        assert status == 204, f"{path}: {status} without a body"
        return
    assert response.headers["content-type"].partition(";")[0] == "application/json"
    schema = error(status) if status >= FIRST_ERROR else answer_of(path)
    wrong = problems(schema, response.json())
    assert not wrong, f"{path}: {status} {wrong} in {response.text[:1000]}"


def openapi() -> Schema:
    """Build an OpenAPI document from the schemas, for tools that want one."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Dub's wire", "version": "1"},
        "paths": {path: {_method(path): _operation(path)} for path in ENDPOINTS},
    }


def _method(path: str) -> str:
    return "get" if path == "/events" else "post"


def _operation(path: str) -> Schema:
    answers = {str(status): _described(error(status)) for status in statuses() if status < 500}
    operation: Schema = {"responses": {"200": _described(answer_of(path)), **answers}}
    request = request_of(path)
    if path == "/events":
        asked = request["properties"]
        operation["parameters"] = [{"name": name, "in": "query", "schema": asked[name]} for name in asked]
    else:
        operation["requestBody"] = {"required": True, **_described(request)}
    return operation


def _described(schema: Schema) -> Schema:
    return {"description": schema.get("title", ""), "content": {"application/json": {"schema": schema}}}


def _inlined(node: Any, definitions: Schema) -> Any:
    if isinstance(node, list):
        return [_inlined(each, definitions) for each in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inlined(definitions[node["$ref"].rpartition("/")[2]], definitions)
    return {name: _inlined(each, definitions) for name, each in node.items()}


def _max_json_length(_: Validator, most: int, value: Any, __: Schema) -> Iterator[ValidationError]:
    if value is not None and len(json.dumps(value, ensure_ascii=False, separators=(",", ":"))) > most:
        yield ValidationError(f"is longer than {most} characters as JSON")


_FORMATS = FormatChecker(["email"])
_Validator = extend(  # type: ignore[no-untyped-call]  # its stubs say nothing of it
    Draft202012Validator, {"x-maxJsonLength": _max_json_length}
)
