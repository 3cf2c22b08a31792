"""Every relative link and anchor in the documentation leads somewhere."""

from pathlib import Path

import pytest

from tests.docs.pages import ROOT, anchors_of, links_of, name_of, pages, prose_of


def _broken(page: Path, root: Path = ROOT) -> list[str]:
    broken = []
    for line, target in links_of(page):
        path, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        to = (page.parent / path).resolve() if path else page
        is_page = to.suffix == ".md" and to.is_file()
        if not to.exists() or root not in (to, *to.parents) or (anchor and not is_page):
            broken.append(f"{page.relative_to(root)}:{line}: there is no {target}")
        elif anchor and anchor not in anchors_of(to):
            broken.append(f"{page.relative_to(root)}:{line}: {to.name} has no heading #{anchor}")
    return broken


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_links_resolve(page: Path) -> None:
    assert _broken(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    """The check can fail: missing files and anchors are named, links in code are no links."""
    page = tmp_path / "page.md"
    page.write_text(
        "# One `heading`, twice\n## One heading twice\n[a](#one-heading-twice-1) [b](#none)\n"
        "[c](other.md#part) [d](other.md#none) [e](../outside.md) [f](none.md) `[g](none.md)`\n"
        "[h](https://example.com/none)\n```text\n[i](none.md)\n```\n"
    )
    (tmp_path / "other.md").write_text("# Part\n")
    assert _broken(page, tmp_path) == [
        "page.md:3: page.md has no heading #none",
        "page.md:4: other.md has no heading #none",
        "page.md:4: there is no ../outside.md",
        "page.md:4: there is no none.md",
    ]


def test_every_page_can_be_reached_from_the_readme() -> None:
    """A page that no other page links to is not found by anybody."""
    reached, left = set(), [ROOT / "README.md"]
    while left:
        page = left.pop()
        if page in reached:
            continue
        reached.add(page)
        for _, target in links_of(page):
            to = (page.parent / target.partition("#")[0]).resolve()
            if to.is_file() and to.suffix == ".md":
                left.append(to)
    assert sorted(map(name_of, set(pages()) - reached)) == []


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 170
    assert len(prose_of(ROOT / "README.md")) > 50
