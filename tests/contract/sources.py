"""``python -m tests.contract.sources [folder]``: are our schemas what Dub's pages say, field by field?

Every page in the folder is read, and all that it says of a field (its name, type, nullability, whether it
is required, limits, values, default) is compared with ``schemas/``. Prints each known contradiction and
each difference, and ends with their count: 0 and exit status 0, or exit status 1.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.contract import pages, shapes
from tests.contract.differences import ANY, PAGES, Known

DEFAULT_FOLDER = Path("../shared/seeds")
_SHOWN_CHARS = 100
_LISTED, _NOT_LISTED = "listed", "not listed"

# Text pages have lost some names, and which object a field is in: what is meant, by endpoint and part.
# `x+` is what follows x without a name; `x'` is the second x.
MEANT = {
    ("/track/lead", "Response"): {
        "id": "click.id",
        "id+": "link",
        "id'": "link.id",
        "key+": "link.shortLink",
        **{name: f"link.{name}" for name in ("domain", "key", "url", "partnerId", "programId", "tenantId")},
        "externalId": "link.externalId",
        **{name: f"customer.{name}" for name in ("name", "email", "avatar")},
        "externalId'": "customer.externalId",
    },
    ("/events", "Query Parameters"): {"key+": "linkId"},
    ("/events", "Click Event"): {"click+": "link"},
    ("/events", "Lead Event"): {"click+": "link"},
    ("/events", "Sale Event"): {"click+": "link"},
}
PARTS = {
    "Request Body": "request",
    "Query Parameters": "request",
    "Response": "answer",
    "Click Event": "click",
    "Lead Event": "lead",
    "Sale Event": "sale",
}
NOT_FIELDS = {"Endpoint", "Authentication"}


class Difference(Struct, frozen=True):
    """One thing that a page says otherwise than we do."""

    page: str
    about: str
    part: str
    field: str
    what: str
    theirs: str
    ours: str

    def __str__(self) -> str:
        where = f"{self.page} ({self.about}), {self.part}, {self.field or 'the body'}"
        return f"{where}: {self.what} is {self.theirs} there, {self.ours} here"

    @property
    def keys(self) -> list[tuple[str, str, str, str]]:
        """Return what it may be known as, the most exact first."""
        return [
            (about, part, self.field, self.what) for about in (self.about, ANY) for part in (self.part, ANY)
        ]


class Comparison:
    """All pages against all schemas."""

    def __init__(self) -> None:
        self.fields = 0
        self.found: list[Difference] = []

    def take(self, page: pages.Page) -> None:
        """Compare one page, with the examples that it shows."""
        about = f"{page.kind} {page.endpoint}"
        for section, claimed in page.claims.items():
            if section in NOT_FIELDS:
                continue
            part = PARTS.get(section, section)
            meant = MEANT.get((page.endpoint, section), {})
            theirs = {meant.get(name, name): facets for name, facets in claimed.items()}
            mine = ours(page.endpoint, part)
            self.fields += len(theirs)
            for field, what, one, other in _compared(theirs, mine, strict=page.kind == "openapi"):
                self.found.append(Difference(page.name, about, part, field, what, _shown(one), _shown(other)))
        for part, schema, example in _examples(page):
            for problem in shapes.problems(schema, example):
                field, _, wrong = problem.removeprefix("$").removeprefix(".").partition(": ")
                self.found.append(Difference(page.name, about, part, field, "example", "shown", wrong))


def ours(endpoint: str, part: str) -> pages.Fields:
    """Return what our schemas say of the fields of one part."""
    if part == "request":
        return dict(pages.fields(shapes.request_of(endpoint)))
    if part == "answer":
        return dict(pages.fields(shapes.answer_of(endpoint)))
    if part.isdecimal():
        codes = shapes.load("error")["x-codes"].get(part, {})
        said = dict(pages.fields(shapes.load("error")))
        said["error.code"]["enum"] = list(codes)
        said["error.doc_url"]["example"] = shapes.DOCS + next(iter(codes.values()), "")
        return said
    return dict(pages.fields(_event(part)))


def _event(kind: str) -> shapes.Schema:
    """Return the schema of one kind of event."""
    kinds: list[shapes.Schema] = shapes.answer_of("/events")["items"]["oneOf"]
    return next(each for each in kinds if each["properties"]["event"]["const"] == kind)


def _examples(page: pages.Page) -> Iterator[tuple[str, shapes.Schema, Any]]:
    """Yield what a page shows as sent or answered: its part, the schema of it, the example."""
    for part, example in page.examples.items():
        if part == "request":
            yield part, shapes.request_of(page.endpoint), example
        elif page.endpoint == "/events":
            yield from ((event["event"], _event(event["event"]), event) for event in example)
        else:
            yield part, shapes.answer_of(page.endpoint), example


def _compared(
    theirs: pages.Fields, mine: pages.Fields, *, strict: bool
) -> Iterator[tuple[str, str, Any, Any]]:
    """Yield (field, what, theirs, ours) for all that is not the same, in either direction."""
    for field, facets in theirs.items():
        if field not in mine:
            yield field, "field", _LISTED, _NOT_LISTED
            continue
        for what, value in facets.items():
            if not _same(what, value, mine[field].get(what), strict=strict):
                yield field, what, value, mine[field].get(what)
    detailed = {field.rpartition(".")[0] for field in theirs if field}
    for field in mine.keys() - theirs.keys() - {""}:
        if field.rpartition(".")[0] in detailed:
            yield field, "field", _NOT_LISTED, _LISTED


def _same(what: str, theirs: Any, mine: Any, *, strict: bool) -> bool:
    if what in {"enum", "x-values"} and theirs and mine:
        return sorted(theirs) == sorted(mine)
    if what == "type" and not strict and theirs == ["number"]:
        return mine in (["number"], ["integer"])  # in prose a number may be a whole one
    return bool(theirs == mine)


def _shown(value: Any) -> str:
    return str(value) if value in (_LISTED, _NOT_LISTED) else repr(value)[:_SHOWN_CHARS]


def main(arguments: list[str], known: Known | None = None) -> int:
    """Compare, print, and return the exit status."""
    folder = Path(arguments[0]) if arguments else DEFAULT_FOLDER
    texts = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    if not texts:
        sys.stderr.write(f"{folder}: no such folder, or no pages (*.txt) in it\n")
        return 1
    comparison = Comparison()
    unread = []
    for path in texts:
        try:
            comparison.take(pages.read(path.name, path.read_text(encoding="utf-8")))
        except ValueError as exc:
            unread.append(f"{path.name}: cannot be compared: {exc}")
    return _report(comparison, unread, PAGES if known is None else known)


def _report(comparison: Comparison, unread: list[str], known: Known) -> int:
    used = {each: next((key for key in each.keys if key in known), None) for each in comparison.found}
    by_key = {key: [each for each, used_key in used.items() if used_key == key] for key in known}
    lines = []
    for key, found in by_key.items():
        if found:
            more = f" (and {len(found) - 1} more like it)" if len(found) > 1 else ""
            lines += [f"known: {found[0]}{more}", f"       {known[key]}"]
    lines.append(f"{sum(map(bool, by_key.values()))} known contradictions, each with its reason above")
    differences = [
        *unread,
        *(f"difference: {each}" for each, key in used.items() if key is None),
        *(f"no longer there: {' '.join(key)}: {known[key]}" for key, found in by_key.items() if not found),
    ]
    lines += [*differences, f"{len(differences)} differences ({comparison.fields} fields compared)"]
    sys.stdout.write("\n".join([*lines, ""]))
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
