"""The packages in `clients/`: checks that need none of their tools (`make test-clients` builds them)."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "clients"
SOURCES = {
    "swift": CLIENTS / "swift/Sources/Firstopen/OwnLink.swift",
    "react-native": CLIENTS / "react-native/src/own-link.ts",
    "dart": CLIENTS / "dart/lib/src/own_link.dart",
}
LOCKS = sorted(
    [*(ROOT / "tests/clients").glob("*/package-lock.json"), CLIENTS / "react-native/package-lock.json"]
)
VERSIONS = {
    "dart/pubspec.yaml": r"^version: (.*)$",
    "kotlin/build.gradle.kts": r'^version = "(.*)"$',
    "react-native/package.json": r'^  "version": "(.*)",$',
    "swift/Package.swift": r"^// Version (.*)$",
}


def test_the_readme_links_to_every_package() -> None:
    """Each package has a README, and the table in the project's README links to it."""
    packages = sorted(path.parent.name for path in CLIENTS.glob("*/README.md"))
    assert packages == ["dart", "kotlin", "react-native", "swift"]
    for package in packages:
        assert f"](clients/{package}/README.md)" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", VERSIONS)
def test_the_packages_have_one_version(path: str) -> None:
    """All packages are released together."""
    assert re.findall(VERSIONS[path], (CLIENTS / path).read_text(), re.MULTILINE) == ["0.2.0"]


@pytest.mark.parametrize("package", SOURCES)
def test_every_client_that_reads_the_clipboard_finds_urls_by_the_same_pattern(package: str) -> None:
    """The pattern is tested in TypeScript; the other packages must have the same one."""
    code = SOURCES[package].read_text().replace(r"\/", "/")
    assert code.count("https?://[a-z0-9._~:/?#@!$&*+,;=%-]+") == 1


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.parent.name)
def test_what_npm_installs_is_pinned_by_hash_and_by_no_registry(path: Path) -> None:
    """Every package has an exact version and its hash; the registry that served it is not recorded."""
    wanted, *installed = json.loads(path.read_text())["packages"].values()
    named = json.loads((path.parent / "package.json").read_text())
    kind = "dependencies" if "dependencies" in named else "devDependencies"
    assert wanted[kind] == named[kind]
    assert all(re.fullmatch(r"[\d.]+", version) for version in named[kind].values())
    for package in installed:
        assert package["integrity"].startswith("sha512-")
        assert "resolved" not in package
