"""Read the repository's Markdown pages: headings, links and fenced blocks with their marks.

A mark is an HTML comment on the line above a block, such as ``<!-- run: demo -->``. Readers do not see it.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>\w*)[^`]*$")
_MARK = re.compile(r"^ *<!-- (?P<text>[^>]*) -->$")
_HEADING = re.compile(r"^#{1,6} +(?P<text>.+?) *#*$")
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\((?P<target>[^()\s]+)\)")
_CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)")
_NOT_IN_ANCHOR = re.compile(r"[^\w\- ]")


class Block(Struct, frozen=True):
    """A fenced block of a page. ``mark`` is the text of the comment above it, or empty."""

    page: str
    line: int
    language: str
    mark: str
    text: str


def pages() -> list[Path]:
    """Return every page whose links and examples are held to be true."""
    found = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
    found += sorted((ROOT / "docs").rglob("*.md"))
    clients = ROOT / "clients"
    return [*found, clients / "README.md", *sorted(clients.glob("*/README.md"))]


def name_of(page: Path) -> str:
    """Return a page's path from the root of the repository."""
    return str(page.relative_to(ROOT))


def blocks_of(page: Path) -> list[Block]:
    """Return a page's fenced blocks in order."""
    return list(_blocks(name_of(page), page.read_text().splitlines()))


def _blocks(name: str, lines: list[str]) -> Iterator[Block]:
    opened: re.Match[str] | None = None
    mark, began = "", 0
    for number, line in enumerate(lines, 1):
        if opened is not None:
            if line.strip() == opened["fence"]:
                text = "\n".join(each.removeprefix(opened["indent"]) for each in lines[began : number - 1])
                yield Block(name, began, opened["language"], mark, text)
                opened, mark = None, ""
        elif (opened := _FENCE.match(line)) is not None:
            began = number
        elif found := _MARK.match(line):
            mark = found["text"]
        elif line.strip():
            mark = ""


def prose_of(page: Path) -> list[str]:
    """Return a page's lines outside of fenced blocks; those inside are blank, so that numbers agree."""
    prose, fence = [], ""
    for line in page.read_text().splitlines():
        found = _FENCE.match(line)
        if fence:
            fence = "" if line.strip() == fence else fence
            prose.append("")
        else:
            fence = found["fence"] if found else ""
            prose.append("" if found else line)
    return prose


def links_of(page: Path) -> list[tuple[int, str]]:
    """Return a page's links, each with its line."""
    return [
        (number, found["target"])
        for number, line in enumerate(prose_of(page), 1)
        for found in _LINK.finditer(_CODE.sub(lambda code: code[0].replace("](", "] ("), line))
    ]


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings."""
    seen: Counter[str] = Counter()
    anchors = set()
    for line in prose_of(page):
        found = _HEADING.match(line)
        if found:
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", found["text"]).replace("`", "")
            anchor = _NOT_IN_ANCHOR.sub("", text.lower()).replace(" ", "-")
            anchors.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
            seen[anchor] += 1
    return anchors
