"""The workflows, Renovate's settings and compose.yaml are valid, and the workflows are safe."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.k8s.check import ROOT

WORKFLOWS = ROOT / ".github" / "workflows"
BIN = Path(sys.executable).parent


def run(*command: str) -> str:
    """Run a tool of this environment; return what it printed, and fail if it found something."""
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.github-workflows", ".github/workflows/*.yml"),
        ("vendor.renovate", ".github/renovate.json"),
        ("vendor.compose-spec", "compose.yaml"),
    ],
)
def test_it_fits_its_published_schema(schema: str, files: str) -> None:
    paths = [str(path) for path in ROOT.glob(files)]
    assert paths
    run("check-jsonschema", "--builtin-schema", schema, *paths)


def test_an_audit_finds_nothing() -> None:
    """zizmor: no unpinned action, no template injection, no more rights than needed, no credentials kept."""
    run("zizmor", "--offline", "--persona", "pedantic", "--no-progress", str(WORKFLOWS))


def test_ci_runs_what_everybody_runs() -> None:
    assert "run: .ci/run" in (WORKFLOWS / "ci.yml").read_text()


def test_a_release_names_no_registry() -> None:
    """Where images go is a variable of whoever releases."""
    release = (WORKFLOWS / "release.yml").read_text()
    assert "IMAGE: ${{ vars.IMAGE }}" in release
    assert not re.search(r"ghcr\.io|docker\.io|quay\.io", release)
