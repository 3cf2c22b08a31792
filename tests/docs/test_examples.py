"""docs/examples: the script's dry run, what it runs where the tools are installed, and that both agree."""

import json
import re
import runpy
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.browser import chromium
from tests.docs.pages import ROOT, blocks_of

EXAMPLES = ROOT / "docs" / "examples"
SCRIPT = EXAMPLES / "run.py"
EXPECTED = runpy.run_path(str(SCRIPT))

# Stands for a tool: notes its arguments, and whether firstopen answers meanwhile, and ends with status 3.
TOOL = """#!{python}
import json, os, sys, urllib.request
ready = urllib.request.urlopen(os.environ["FIRSTOPEN_URL"] + "/health/ready", timeout=10).status
with open("noted.json", "w") as noted:
    json.dump([sys.argv[1:], os.environ["FIRSTOPEN_URL"], ready], noted)
sys.exit(3)
"""
# Detox's and Jest's globals, which note what a test does.
GLOBALS = """
window.noted = {launches: [], opened: [], shown: []};
window.process = {env: {FIRSTOPEN_URL: 'http://127.0.0.1:8000'}};
window.steps = [];
window.device = {
  launchApp: async options => { noted.launches.push(options); },
  openURL: async ({url}) => { noted.opened.push(url); },
};
window.by = {text: text => text};
window.element = text => text;
window.waitFor = text => ({toBeVisible: () => ({withTimeout: async () => { noted.shown.push(text); }})});
window.describe = (name, body) => body();
window.beforeAll = step => { steps.push(step); };
window.it = (name, step) => { steps.push(step); };
"""
# CommonJS, for files of settings.
MODULE = "window.__dirname = '.'; window.module = {};"


def run(*arguments: str, folder: Path, path: str = "") -> "subprocess.CompletedProcess[str]":
    """Run the script with only ``firstopen`` and the programs in ``path`` on PATH."""
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        cwd=folder,
        env={"PATH": f"{path}:{Path(sys.executable).parent}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def install(tool: str, folder: Path) -> None:
    """Put a program into ``folder`` that stands for a tool."""
    program = folder / tool
    program.write_text(TOOL.format(python=sys.executable))
    program.chmod(0o755)


@pytest.mark.parametrize(("tool", "platform"), [("maestro", "ios"), ("detox", "android")])
def test_the_dry_run_reaches_the_screens(tool: str, platform: str, tmp_path: Path) -> None:
    """A link is tapped, a first launch is matched, a deep link is followed; the page shows the same."""
    done = run(tool, "--platform", platform, "--dry-run", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (shown,) = (each.text for each in blocks_of(ROOT / "docs" / "testing.md") if "tapped" in each.text)
    assert _without_ports(done.stdout) == _without_ports(shown)
    _assert_stopped(done.stdout)


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("maestro", ["test", "-e", "FIRSTOPEN_URL={url}", "{examples}/maestro/first-launch.yaml"]),
        ("detox", ["test", "-C", "{examples}/detox/.detoxrc.js", "-c", "android"]),
    ],
)
def test_the_tool_is_run_beside_firstopen(tool: str, arguments: list[str], tmp_path: Path) -> None:
    """It gets the service's address, and its exit status is the script's; then everything is stopped."""
    install(tool, tmp_path)
    done = run(tool, folder=tmp_path, path=str(tmp_path))
    assert done.returncode == 3, done.stdout + done.stderr
    noted, url, ready = json.loads((tmp_path / "noted.json").read_text())
    assert noted == [each.format(url=url, examples=EXAMPLES) for each in arguments]
    assert ready == 200
    assert f"firstopen at {url}" in done.stdout
    assert "tapped" in done.stdout
    _assert_stopped(done.stdout)


def test_a_missing_tool_is_named(tmp_path: Path) -> None:
    done = run("maestro", folder=tmp_path)
    assert done.returncode == 2
    assert "maestro is not installed; --dry-run" in done.stderr


def test_the_maestro_flow_expects_what_the_dry_run_does() -> None:
    head, commands = yaml.safe_load_all((EXAMPLES / "maestro" / "first-launch.yaml").read_text())
    assert head == {"appId": "com.acme.app"}
    assert [next(iter(each)) for each in commands] == [
        *("launchApp", "extendedWaitUntil", "openLink", "extendedWaitUntil")
    ]
    launch, first, link, then = (next(iter(each.values())) for each in commands)
    assert launch["clearState"]
    assert launch["arguments"] == {"firstopenUrl": "${FIRSTOPEN_URL}"}
    assert (first["visible"], link, then["visible"]) == _steps()


async def test_the_detox_test_expects_what_the_dry_run_does() -> None:
    """Its JavaScript is run with stand-ins for Detox."""
    async with chromium() as browser:
        page = await browser.new_page()
        await page.add_script_tag(content=GLOBALS)
        await page.add_script_tag(path=EXAMPLES / "detox" / "first-launch.test.js")
        noted: Mapping[str, Any] = await page.evaluate(
            "async () => { for (const step of steps) await step(); return noted; }"
        )
        settings = []
        for name in (".detoxrc.js", "jest.config.js"):
            await page.evaluate(MODULE)
            await page.add_script_tag(path=EXAMPLES / "detox" / name)
            settings.append(await page.evaluate("module.exports"))
    (launch,) = noted["launches"]
    assert launch == {
        "delete": True,
        "newInstance": True,
        "launchArgs": {"firstopenUrl": "http://127.0.0.1:8000"},
    }
    (first, then), (link,) = noted["shown"], noted["opened"]
    assert (first, link, then) == _steps()
    detox, jest = settings
    assert set(detox["configurations"]) == set(EXPECTED["BROWSERS"])
    assert detox["testRunner"]["args"] == {"$0": "jest", "config": "./jest.config.js"}
    assert jest["testMatch"] == ["<rootDir>/*.test.js"]


def _steps() -> tuple[str, str, str]:
    return EXPECTED["FIRST_SCREEN"], EXPECTED["DEEP_LINK"], EXPECTED["NEXT_SCREEN"]


def _without_ports(text: str) -> str:
    return re.sub(r":\d{4,5}", ":PORT", text).strip()


def _assert_stopped(said: str) -> None:
    """Nothing listens any more where firstopen was."""
    for port in re.findall(r"http://127\.0\.0\.1:(\d+)", said.splitlines()[0]):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(port)), timeout=5)
