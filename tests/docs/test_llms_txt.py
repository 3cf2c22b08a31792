"""docs/llms.txt lists every page of the documentation, by paths that exist."""

import re

from tests.docs.pages import ROOT

DOCS = ROOT / "docs"
LINK = re.compile(r"^- \[[^\]]+\]\((?P<path>[^)]+)\): .+$")


def test_every_page_is_listed() -> None:
    lines = (DOCS / "llms.txt").read_text().splitlines()
    listed = {found["path"] for line in lines if (found := LINK.match(line))}
    pages = {path.name for path in DOCS.glob("*.md")} | {"decisions/README.md", "runbooks/README.md"}
    assert listed == pages | {"openapi.json", "firstopen.http"}


def test_every_list_item_is_a_link_with_its_meaning() -> None:
    items = [line for line in (DOCS / "llms.txt").read_text().splitlines() if line.startswith("-")]
    assert all(LINK.match(item) for item in items)
