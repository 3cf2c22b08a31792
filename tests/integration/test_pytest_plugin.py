"""The fixture ``firstopen``, as the tests of somebody's app use it: in a pytest of its own."""

import subprocess
import sys
from pathlib import Path

THEIR_TEST = """
import json
import urllib.request

def test_a_link_leads_to_its_screen(firstopen):
    request = urllib.request.Request(
        f"{firstopen.url}/v1/opens",
        data=json.dumps({"deepLink": firstopen.link("fb-promo"), "installId": "install-anna"}).encode(),
        headers={"Authorization": f"Bearer {firstopen.publishable_key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as reply:
        answer = json.load(reply)
    assert answer["route"]["screen"] == "product"
"""


def test_a_test_of_an_app_uses_the_fixture(tmp_path: Path) -> None:
    (tmp_path / "test_app.py").write_text(THEIR_TEST)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
