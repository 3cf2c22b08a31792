"""The program behind `make contract-sources`, against pages of our own making."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contract import shapes, sources
from tests.contract.differences import ANY, Known

Change = Callable[[dict[str, Any], dict[str, Any]], object]

PAGE_OF_FIELDS = """
Endpoint

method
string
POST

Request Body

clickId
string
required
The click.
customerExternalId
string
required
The customer.Maximum length: 100 characters
mode
enum
default:"async"
How.
  \N{BULLET} async - At once
  \N{BULLET} wait - Later
  \N{BULLET} deferred - Much later
eventQuantity
number
How many.

Response

click
object
id
string
Which click.
The link, whose name is lost.
id
string
Which link.

Examples

curl -X POST https://api.dub.co/track/lead -d '{
    "clickId": "x", "eventName": "Sign up", "customerExternalId": "user_1"
  }'

Response Example

{"click": {"id": "x"}, "link": null,
 "customer": {"name": null, "email": null, "avatar": null, "externalId": "user_1"}}

And so on.
"""


def page(change: Change = lambda *_: None) -> str:
    """Write a page for /track/open that says what we say, but for a change to its request or answer."""
    request, answer = (copy.deepcopy(shapes.load(f"open.{part}")) for part in ("request", "answer"))
    change(request, answer)
    unknown = shapes.error(404)["properties"]["error"]
    unknown = {name: unknown[name] for name in ("type", "properties", "required")}
    unknown["properties"] = {
        "code": {"type": "string", "enum": ["not_found"]},
        "message": {"type": "string"},
        "doc_url": {"type": "string", "example": "https://dub.co/docs/api-reference/errors#not-found"},
    }
    error = {"type": "object", "properties": {"error": unknown}, "required": ["error"]}
    operation = {
        "requestBody": _json(request),
        "responses": {"200": _json(answer), "404": {"$ref": "#/components/responses/404"}},
    }
    document = {
        "paths": {"/track/open": {"post": operation}},
        "components": {"responses": {"404": _json(error)}},
    }
    return f"# A page\n\n````yaml post /track/open\n{json.dumps(document, indent=2)}\n````\n"


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


def compared(folder: Path, capsys: pytest.CaptureFixture[str], known: Known) -> tuple[int, list[str]]:
    """Run the program on a folder; return its exit status and what it printed."""
    status = sources.main([str(folder)], known)
    return status, capsys.readouterr().out.splitlines()


def test_a_page_that_says_what_we_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No difference is exit status 0; the last line counts the fields: 3 asked, 7 answered, 5 of an error."""
    (tmp_path / "a.txt").write_text(page())
    status, lines = compared(tmp_path, capsys, {})
    assert (status, lines[-1]) == (0, "0 differences (15 fields compared)")


@pytest.mark.parametrize(
    ("change", "field", "what"),
    [
        (lambda asked, _: asked["properties"]["deepLink"].update(maxLength=2_000), "deepLink", "maxLength"),
        (lambda asked, _: asked["properties"]["deepLink"].update(minLength=2), "deepLink", "minLength"),
        (lambda asked, _: asked["properties"]["deepLink"].update(type="number"), "deepLink", "type"),
        (lambda asked, _: asked["properties"]["deepLink"].update(nullable=True), "deepLink", "nullable"),
        (lambda asked, _: asked["properties"]["deepLink"].update(default="x"), "deepLink", "default"),
        (lambda asked, _: asked["properties"]["deepLink"].update(enum=["x"]), "deepLink", "enum"),
        (lambda asked, _: asked["properties"]["deepLink"].update(format="uri"), "deepLink", "format"),
        (lambda asked, _: asked["properties"]["deepLink"].update(pattern="^a"), "deepLink", "pattern"),
        (lambda asked, _: asked["properties"]["dubDomain"].update(minimum=1), "dubDomain", "minimum"),
        (lambda asked, _: asked.update(required=["dubDomain"]), "dubDomain", "required"),
        (lambda asked, _: asked["properties"].update(more={"type": "string"}), "more", "field"),
        (lambda asked, _: asked["properties"].pop("dubDomain"), "dubDomain", "field"),
        (lambda _, answer: answer["properties"]["link"]["properties"].pop("key"), "link.key", "field"),
        (lambda _, answer: answer["properties"]["link"].pop("additionalProperties"), "link", "closed"),
        (lambda _, answer: answer["properties"]["clickId"].update(type="string"), "clickId", "nullable"),
        (lambda _, answer: answer.update(required=["clickId"]), "link", "required"),
    ],
)
def test_each_kind_of_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Change, field: str, what: str
) -> None:
    """Whatever a page says otherwise is named, by field and by what it is, and fails the run."""
    (tmp_path / "a.txt").write_text(page(change))
    status, lines = compared(tmp_path, capsys, {})
    assert status == 1
    (said,) = (line for line in lines if line.startswith("difference: "))
    assert f", {field}: {what} is " in said
    assert lines[-1].startswith("1 differences (")


def test_a_known_contradiction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A difference with a reason is printed with it, counted, and fails nothing."""
    (tmp_path / "a.txt").write_text(page(lambda asked, _: asked["properties"]["deepLink"].pop("maxLength")))
    known = {("openapi /track/open", "request", "deepLink", "maxLength"): "the other page has it"}
    status, lines = compared(tmp_path, capsys, known)
    assert (status, lines[-1]) == (0, "0 differences (15 fields compared)")
    assert lines[-2].startswith("1 known contradictions")
    assert "the other page has it" in lines[1]


def test_a_contradiction_that_is_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A reason without its difference is a difference: the table does not outlive what it excuses."""
    (tmp_path / "a.txt").write_text(page())
    status, lines = compared(tmp_path, capsys, {(ANY, "answer", "link", "type"): "once so"})
    assert status == 1
    assert "no longer there: * answer link type: once so" in lines


def test_a_page_of_fields(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a page that is text, what it says is compared: required, limits, values, defaults, examples."""
    (tmp_path / "a.txt").write_text(PAGE_OF_FIELDS)
    said = differences(compared(tmp_path, capsys, {})[1], "is ")
    assert "request, clickId: required is True there, False here" in said
    assert not [line for line in said if "mode" in line or "eventQuantity" in line or "example" in line]
    changed = PAGE_OF_FIELDS.replace("100 char", "99 char").replace('"async"', '"wait"')
    changed = changed.replace("deferred - M", "never - M").replace('"link": null', '"link": 7')
    (tmp_path / "a.txt").write_text(changed)
    more = differences(compared(tmp_path, capsys, {})[1], "is ")
    assert [line.partition(" is ")[0] for line in more if line not in said] == [
        "request, customerExternalId: maxLength",
        "request, mode: default",
        "request, mode: enum",
        "answer, link: example",
    ]


def differences(lines: list[str], word: str) -> list[str]:
    """Return what the differences are about, without the page."""
    return [line.partition("), ")[2] for line in lines if line.startswith("difference: ") and word in line]


def test_a_page_that_nobody_can_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A page of no known form fails the run: it is never passed over."""
    (tmp_path / "a.txt").write_text("Hello.")
    status, lines = compared(tmp_path, capsys, {})
    assert status == 1
    assert any(line.startswith("a.txt: cannot be compared") for line in lines)


@pytest.mark.parametrize("there", [True, False])
def test_no_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str], *, there: bool) -> None:
    """A folder that is missing, or has no pages, is a clear error."""
    folder = tmp_path if there else tmp_path / "missing"
    assert sources.main([str(folder)]) == 1
    assert f"{folder}: no such folder, or no pages" in capsys.readouterr().err
