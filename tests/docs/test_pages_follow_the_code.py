"""What pages say about files, packages, reasons and measurements is what there is."""

import re
from pathlib import Path
from typing import get_args

import pytest

from service.domain.match_rules import NoMatch
from tests.bench.measures import MEASURES
from tests.docs.pages import ROOT, anchors_of, name_of, pages, prose_of

SERVICE = ROOT / "service"
_PATH = re.compile(r"`((?:clients|docs|k8s|service|tests)/[\w./-]*)`")
_FIRST_CELL = re.compile(r"^\| (`[^|]+) \|", re.MULTILINE)


def _section(page: str, heading: str) -> str:
    text = (ROOT / page).read_text()
    return text.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def _in_first_cells(text: str) -> set[str]:
    return {name for cell in _FIRST_CELL.findall(text) for name in re.findall(r"`([^`]+)`", cell)}


@pytest.mark.parametrize("page", [page for page in pages() if page.name != "CHANGELOG.md"], ids=name_of)
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = [path for line in prose_of(page) for path in _PATH.findall(line)]
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_architecture_draws_every_package() -> None:
    drawn = {
        name
        for name in re.findall(r"^ +([a-z_]+)/? ", _section("docs/architecture.md", "Packages"), re.MULTILINE)
        if (SERVICE / name).is_dir()
    }
    assert drawn == {init.parent.name for init in SERVICE.glob("*/__init__.py")}


def test_every_reason_for_no_match_is_explained() -> None:
    """The page has each reason of the rules; what it has beyond them is in the code, too."""
    explained = _in_first_cells(_section("docs/first-launch.md", "Why there is no match"))
    assert set(get_args(NoMatch)) <= explained
    code = "\n".join(path.read_text() for path in SERVICE.rglob("*.py"))
    assert [reason for reason in explained if f'"{reason}"' not in code] == []


def test_every_measurement_is_described() -> None:
    described = _in_first_cells((ROOT / "docs" / "benchmarks.md").read_text())
    assert described == {measure.name for measure in MEASURES}


def test_every_endpoint_is_described() -> None:
    """Each path of the OpenAPI document is on the page about the API, or on that about Dub's wire."""
    text = (ROOT / "docs" / "api.md").read_text() + (ROOT / "docs" / "dub-sdk.md").read_text()
    code = "\n".join(path.read_text() for path in (SERVICE / "api").rglob("*.py"))
    paths = {re.sub(r":str", "", path) for path in re.findall(r'^ +"(/[\w/{}:-]+)",$', code, re.MULTILINE)}
    assert len(paths) > 8
    assert [path for path in sorted(paths) if path not in text] == []


def test_the_glossary_is_in_order_and_short() -> None:
    """Each term has one entry of at most three sentences, and terms are sorted."""
    terms = re.findall(r"^### (.+)\n((?:.+\n?)+)", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    names = [name for name, _ in terms]
    assert names == sorted(names)
    assert len(names) == len(anchors_of(ROOT / "docs" / "glossary.md")) - 1
    assert [name for name, text in terms if len(re.findall(r"[.:?](?=\s|$)", text)) > 4] == []
