"""What the README shows is what is tested: its snippets are files that `make test-clients` compiles."""

import json
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
README = (HERE.parents[1] / "README.md").read_text()
LANGUAGES = {".swift": "swift", ".kt": "kotlin", ".ts": "typescript", ".dart": "dart"}
SNIPPETS = sorted((HERE / "snippets").iterdir())
LOCKS = sorted(HERE.glob("*/package-lock.json"))


def test_every_language_has_its_snippet() -> None:
    """One file for each language, and no file that the README does not show."""
    assert sorted(path.suffix for path in SNIPPETS) == sorted(LANGUAGES)


@pytest.mark.parametrize("path", SNIPPETS, ids=lambda path: path.name)
def test_the_readme_shows_the_file(path: Path) -> None:
    """The README's only block of a language is, to the letter, the file that is compiled."""
    blocks = re.findall(rf"^```{LANGUAGES[path.suffix]}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert blocks == [path.read_text()]


@pytest.mark.parametrize(
    "path", [path for path in SNIPPETS if path.suffix != ".kt"], ids=lambda path: path.name
)
def test_every_client_that_reads_the_clipboard_finds_urls_by_the_same_pattern(path: Path) -> None:
    """Only TypeScript's file runs in the tests; the others hold the pattern that is tested there."""
    code = path.read_text().replace(r"\/", "/")
    assert code.count("https?://[a-z0-9._~:/?#@!$&*+,;=%-]+") == 1


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.parent.name)
def test_what_npm_installs_is_pinned_by_hash_and_by_no_registry(path: Path) -> None:
    """Every package has an exact version and its hash; whose registry served it is nobody's business."""
    wanted, *installed = json.loads(path.read_text())["packages"].values()
    assert wanted["dependencies"] == json.loads((path.parent / "package.json").read_text())["dependencies"]
    assert all(re.fullmatch(r"[\d.]+", version) for version in wanted["dependencies"].values())
    for package in installed:
        assert package["integrity"].startswith("sha512-")
        assert "resolved" not in package
