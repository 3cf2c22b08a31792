"""``firstopen routes``: prints, explains, checks; for a person and for a CI job."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from service.cli.main import main
from tests.process import finished

HEAD = """
[apps.acme]
publishable_keys = ["dub_pk_acme"]
domains = ["acme.link"]
default_screen = "home"
schemes = ["acme"]
"""
ROUTES = """
[[apps.acme.routes]]
pattern = "https://acme.com/product/:id"
screen = "product"
query = ["color"]

[[apps.acme.routes]]
pattern = "https://acme.com/invite/:from"
screen = "invite"
min_version = "2.3"
"""
TESTS = """
[[apps.acme.route_tests]]
url = "https://www.acme.com/product/123/?utm_source=ig&color=dark%20red"
screen = "product"
params = { id = "123", color = "dark red" }

[[apps.acme.route_tests]]
url = "acme.com/invite/anna"
screen = "update"
app_version = "2.1"
"""
TWO_APPS = """
[apps.globex]
publishable_keys = ["dub_pk_globex"]
domains = ["globex.link"]
default_screen = "start"
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Name a file that each test writes; without it the demo is what the command works on."""
    path = tmp_path / "firstopen.toml"
    monkeypatch.setenv("FIRSTOPEN_CONFIG", str(path))
    return path


def run(*args: str) -> Result:
    return CliRunner().invoke(main, ["routes", *args], catch_exceptions=False)


def test_the_demos_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no file, the demo's routes are printed in the order in which they are tried."""
    monkeypatch.delenv("FIRSTOPEN_CONFIG", raising=False)
    result = run()
    assert result.exit_code == 0
    places = [result.output.index(each) for each in ("/product/:id", "/invite/:from", "2.3", "anything else")]
    assert places == sorted(places)
    assert "warning" not in result.output


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (
            ["https://acme.com/product/123?x=1"],
            ["https://acme.com/product/:id", "product", "id=123", "matched"],
        ),
        (["acme.com/product/123/?color=red"], ["id=123, color=red", "matched"]),
        (["https://acme.com/invite/a", "--app-version", "2.1"], ["update_required", "2.1 is older"]),
        (["https://acme.com/invite/a", "--app-version", "2.10"], ["matched", "2.10 is new enough for 2.3"]),
        (["https://acme.com/invite/a", "--app-version", "2.2.9.RELEASE"], ["update_required"]),
        (["https://acme.com/invite/a", "--app-version", "x"], ["matched", "'x' is not a version"]),
        (["https://acme.com/nowhere"], ["home", "unlisted", "no pattern covers https://acme.com/nowhere"]),
        (["https://acme.link/press"], ["unlisted", "only Dub knows its destination"]),
        (
            ["acme://open?link=https%3A%2F%2Facme.link%2Fpress"],
            ["unlisted", "only Dub knows its destination"],
        ),
        (["javascript:alert(1)"], ["home", "default", "only http, https"]),
    ],
)
def test_a_url_is_explained(config: Path, args: list[str], expected: list[str]) -> None:
    """The pattern, the screen and the params are named, and why."""
    config.write_text(HEAD + ROUTES)
    result = run(*args)
    assert result.exit_code == 0
    for part in expected:
        assert part in result.output


def test_an_expected_screen(config: Path) -> None:
    """A URL that lands elsewhere than expected is exit status 1, for a CI job."""
    config.write_text(HEAD + ROUTES)
    assert run("https://acme.com/product/1", "--expect", "product").exit_code == 0
    result = run("https://acme.com/nowhere", "--expect", "product")
    assert result.exit_code == 1
    assert "expected product, but it lands on home" in result.stderr


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["--app", "nobody"], "configured: acme, globex"),
        (["--expect", "home"], "--expect: needs a URL"),
        (["https://acme.com/", "--expect", "home"], "and --app if there are several apps"),
    ],
)
def test_what_cannot_be_asked(config: Path, args: list[str], problem: str) -> None:
    """A wrong option is exit status 2, and says what is right."""
    config.write_text(HEAD + ROUTES + TWO_APPS)
    result = run(*args)
    assert (result.exit_code, problem in result.stderr) == (2, True)


def test_a_url_as_json(config: Path) -> None:
    """Standard output is JSON and nothing else: one object for each app."""
    config.write_text(HEAD + ROUTES + TWO_APPS)
    result = run(
        "acme.com/product/1", "--app-version", "2.1", "--json", "--app", "acme", "--expect", "product"
    )
    (said,) = json.loads(result.stdout)
    assert said["route"] == {
        "screen": "product",
        "params": {"id": "1"},
        "url": "https://acme.com/product/1",
        "reason": "matched",
    }
    assert (said["app"], said["index"], said["pattern"]) == ("acme", 0, "https://acme.com/product/:id")
    unlisted: list[dict[str, Any]] = json.loads(run("https://acme.com/x", "--json").stdout)
    assert [(each["app"], each["index"], each["route"]["screen"]) for each in unlisted] == [
        ("acme", None, "home"),
        ("globex", None, "start"),
    ]


def test_routes_that_no_url_can_reach_are_warned_of(config: Path) -> None:
    """A warning is no failure, in text as in JSON."""
    config.write_text(HEAD + ROUTES + ROUTES.replace("https://acme.com", "http://www.acme.com"))
    result = run()
    assert result.exit_code == 0
    assert "warning: #2 http://www.acme.com/product/:id: no URL can reach it" in result.output
    (said,) = json.loads(run("--json").stdout)
    assert [(each["route"], each["message"]) for each in said["warnings"]] == [
        (2, "no URL can reach it: it has the same pattern as #0"),
        (3, "no URL can reach it: it has the same pattern as #1"),
    ]


def test_route_tests(config: Path) -> None:
    """They pass, or the one that fails is named with what it expected, and the exit status is 1."""
    config.write_text(HEAD + ROUTES + TESTS)
    result = run()
    assert (result.exit_code, "route tests: 2 of 2 passed" in result.output) == (0, True)
    config.write_text(HEAD + ROUTES + TESTS.replace("dark red", "red"))
    result = run()
    assert result.exit_code == 1
    assert "failed: route_tests[0]: expected https://www.acme.com/product/123/" in result.output
    assert "lands on product {'id': '123', 'color': 'dark red'} (matched)" in result.output
    assert "route tests: 1 of 2 passed" in result.output
    (said,) = json.loads(run("--json").stdout)
    assert [each["passed"] for each in said["tests"]] == [False, True]
    assert run("https://acme.com/product/1").exit_code == 0  # to find out why, the command must still work


def test_a_failing_route_test_stops_the_boot(tmp_path: Path) -> None:
    """Each that fails is named, with what it expected and where its URL lands."""
    (tmp_path / "firstopen.toml").write_text(HEAD + ROUTES + TESTS.replace('"update"', '"invite"'))
    env = {"FIRSTOPEN_CONFIG": "firstopen.toml", "FIRSTOPEN_SECRET": "x" * 32}
    expected = "expected acme.com/invite/anna to land on invite, but it lands on update (update_required)"
    assert finished(["serve"], tmp_path, env) == (2, f"firstopen: apps.acme.route_tests[1]: {expected}")
