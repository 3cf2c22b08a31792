"""What Dub's pages say of each field, read from the forms they come in.

An OpenAPI document inside a page says everything, so what it leaves out is said too. A page that is plain
text, or a table, says only what it says: of a field it lists, the facets that are written there.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml
from msgspec import Struct

Facets = dict[str, Any]
Fields = dict[str, Facets]

EMAILS = (
    *("a@b.co", "anna@acme.com", "o'neil@acme.com", "a+b_c-d@acme.com", "a.b.c@x.y.museum", "1@2.aero"),
    *(".a@b.co", "a.@b.co", "a'@b.co", "a..b@c.co", "a@b..co", "a@b", "a@b.c", "a@-b.co", "@b.co", "a@b.co "),
    *("a+@b.co", "a-@b.co", "a_@b.co", "+@b.co", "-@b.co", "a@1-b.co", "a@b-.co"),
    *("a b@c.co", "a@b_c.co", "ä@b.co", "a@b.co,c@d.co", "", "a", "a@", "'@b.co", "_@b.co", "a@b.c1"),
)
_BODY_TYPES = {"string": "string", "number": "number", "boolean": "boolean", "object": "object"}
_NAMES_ONLY = {"description", "example", "examples", "title", "$schema", "deprecated"}


def _number(text: str) -> int | None:
    digits = text.replace(",", "")
    return int(digits) if digits.isdecimal() else None


_LENGTH = re.compile(r"Max(?:imum length:)? ([\d,]+) characters")
_BULLET = re.compile(r"^\N{BULLET} (\w+) - ")
_TYPE_LINE = re.compile(r"(string|number|object|enum|boolean)( \| null)?")
_NAME_LINE = re.compile(r"[A-Za-z]\w*")
_TABLE_ROW = re.compile(r"\| `(\w+)` +\| (\S.*?) +\| (:\w+:) +\| (.*?) +\|")
_IN_PROSE: tuple[tuple[re.Pattern[str], str, Callable[[str], Any]], ...] = (
    (re.compile(r"[Dd]efaults to \W?(\w+)\W?\."), "default", lambda text: _number(text) or text),
    (_LENGTH, "maxLength", _number),
    (re.compile(r"Max (\d+) items"), "maximum", _number),
    (re.compile(r"Options: ([\w, ]+)$"), "enum", lambda text: text.split(", ")),
    (re.compile(r"Valid values: ([\w, ]+)\."), "x-values", lambda text: text.split(", ")),
)
_JSON_LENGTH = "x-maxJsonLength"
_SECTIONS = (
    *("Endpoint", "Authentication", "Request Body", "Query Parameters", "Response"),
    *("Click Event", "Lead Event", "Sale Event", "Examples"),
)


class Page(Struct, frozen=True):
    """One page: what it is about, and its claims by part (request, answer, an error's status, an event)."""

    name: str
    kind: str  # openapi, text or table
    endpoint: str
    claims: dict[str, Fields]
    examples: dict[str, Any]


def read(name: str, text: str) -> Page:
    """Read a page; raises ``ValueError`` for one that is of no known form."""
    if match := re.search(r"^`{3,}yaml (?:post|get) (/\S+)\n(.*?)^`{3,}$", text, re.DOTALL | re.MULTILINE):
        return Page(name, "openapi", match[1], _openapi(match[1], yaml.safe_load(match[2])), {})
    if "| Field " in text and "# TrackLeadRequestBody" in text:
        return Page(name, "table", "/track/lead", {"request": _table(text)}, {})
    if match := re.search(r"curl -X (?:POST|GET) \"?https://api\.dub\.co(/[\w/]+)", text):
        return Page(name, "text", match[1], _text(text), _examples(text))
    raise ValueError(f"{name}: neither an OpenAPI document, nor a table, nor a page of fields")


def fields(schema: dict[str, Any], path: str = "", *, required: bool = False) -> Iterator[tuple[str, Facets]]:
    """Walk a schema; yield each field's path and everything that is said of it, nothing included."""
    unknown = schema.keys() - _NAMES_ONLY - _KEYWORDS
    unknown = {keyword for keyword in unknown if not keyword.startswith("x-")}
    if unknown:
        raise ValueError(f"{path or 'the body'}: {sorted(unknown)} are not compared")
    kinds = schema.get("type", [])
    nullable = schema.get("nullable", False) or "null" in kinds
    kinds = {kinds} if isinstance(kinds, str) else {kind for kind in kinds if kind != "null"}
    said = _LENGTH.search(schema.get("description", ""))
    length = _number(said[1]) if said else None
    yield (
        path,
        {
            "type": sorted(kinds),
            "nullable": nullable,
            "required": required,
            "closed": schema.get("additionalProperties") is False,
            "pattern": _accepted(schema.get("pattern")),
            _JSON_LENGTH: schema.get(_JSON_LENGTH, length if "object" in kinds else None),
            "maxLength": schema.get("maxLength", length if "string" in kinds else None),
            "alternatives": len(schema.get("anyOf", [])),
            "x-lists": schema.get("x-lists", False),
            **{name: schema.get(name) for name in _AS_WRITTEN},
            "default": schema.get("default", "none"),
        },
    )
    for name, inner in schema.get("properties", {}).items():
        inside = f"{path}.{name}".lstrip(".")
        yield from fields(inner, inside, required=name in schema.get("required", []))


_AS_WRITTEN = ("minLength", "minimum", "maximum", "enum", "format", "const", "dependentRequired", "x-values")
_KEYWORDS = {
    *("type", "nullable", "properties", "required", "additionalProperties", "pattern", "maxLength"),
    *("default", "anyOf", *_AS_WRITTEN),
}


def _accepted(pattern: str | None) -> list[str] | None:
    """Return what a pattern takes of the samples, since two patterns may say one thing in two ways."""
    return None if pattern is None else [each for each in EMAILS if re.search(pattern, each)]


def _openapi(endpoint: str, document: dict[str, Any]) -> dict[str, Fields]:
    (operation,) = document["paths"][endpoint].values()
    claims = {
        "request": dict(fields(_json_of(operation["requestBody"]))),
        "answer": dict(fields(_json_of(operation["responses"]["200"]))),
    }
    errors = document["components"]["responses"]
    for status in operation["responses"].keys() - {"200"}:
        schema = _json_of(errors[status])
        claims[status] = dict(fields(schema))
        claims[status]["error.doc_url"]["example"] = schema["properties"]["error"]["properties"]["doc_url"][
            "example"
        ]
    return claims


def _json_of(part: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = part["content"]["application/json"]["schema"]
    return schema


def _table(text: str) -> Fields:
    found: Fields = {}
    for name, kind, mark, description in _TABLE_ROW.findall(text):
        facets: Facets = {"required": mark == ":heavy_check_mark:"}
        if kind.strip("*") in _BODY_TYPES:
            facets["type"] = [kind.strip("*")]
        elif kind.startswith("Record<"):
            facets["type"] = ["object"]
        if said := _LENGTH.search(description):
            facets[_JSON_LENGTH] = _number(said[1])
        found[name] = facets
    return found


def _text(text: str) -> dict[str, Fields]:
    """Read fields that are a name on a line, a type on the next, then a description."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    claims: dict[str, Fields] = {}
    section, at = "", 0
    while at < len(lines):
        if lines[at] in _SECTIONS:
            section = lines[at]
        elif at + 1 < len(lines) and _NAME_LINE.fullmatch(lines[at]) and _TYPE_LINE.fullmatch(lines[at + 1]):
            end = at + 2
            while end < len(lines) and lines[end] not in _SECTIONS and not _begins(lines, end):
                end += 1
            part = claims.setdefault(section, {})
            name = lines[at]
            if name in part:  # the text has lost which object a field is in: see sources.MEANT
                name += "'"
            said = lines[at + 2 : end]
            own = [line for line in said if line not in _nameless(said)]
            part[name] = _said(lines[at + 1], own, asked=section in _ASKED)
            for line in _nameless(said):
                part[f"{name}+"] = _said("", [line], asked=section in _ASKED)
            at = end - 1
        at += 1
    return claims


_ASKED = ("Request Body", "Query Parameters")


def _begins(lines: list[str], at: int) -> bool:
    return (
        at + 1 < len(lines)
        and _NAME_LINE.fullmatch(lines[at]) is not None
        and _TYPE_LINE.fullmatch(lines[at + 1]) is not None
    )


def _nameless(lines: list[str]) -> list[str]:
    """Return the descriptions of fields whose name and type the text has lost: any after the first."""
    return [line for line in lines if line.startswith("The ")][1:]


def _said(kind: str, lines: list[str], *, asked: bool) -> Facets:
    """Return what the lines under a field's type say."""
    facets: Facets = {}
    base, _, null = kind.partition(" | ")
    if base in _BODY_TYPES:
        facets["type"] = [base]
    if null:
        facets["nullable"] = True
    if asked:
        facets["required"] = "required" in lines
        facets["x-lists"] = any("Supports advanced filtering" in line for line in lines)
    for line in lines:
        if line.startswith("default:"):
            facets["default"] = json.loads(line.removeprefix("default:"))
        if said := _BULLET.search(line):
            facets.setdefault("enum", []).append(said[1])
        for pattern, what, value in _IN_PROSE:
            if said := pattern.search(line):
                facets.setdefault(
                    _JSON_LENGTH if (what, base) == ("maxLength", "object") else what, value(said[1])
                )
    return facets


def _examples(text: str) -> dict[str, Any]:
    """Return the JSON that a page shows: what is sent, and what comes back."""
    found: dict[str, Any] = {}
    if sent := re.search(r"-d '(\{.*?\})'", text, re.DOTALL):
        found["request"] = json.loads(sent[1])
    if answered := re.search(r"^Response Examples?\n+(.*)", text, re.DOTALL | re.MULTILINE):
        found["answer"], _ = json.JSONDecoder().raw_decode(answered[1].lstrip())
    return found
