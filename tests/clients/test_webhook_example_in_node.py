"""The cookbook's code for Node verifies what firstopen signs, and refuses the rest."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from service.domain.webhooks import parse_endpoint, signatures
from tests.docs.pages import ROOT, blocks_of
from tests.receiver import OLD_SECRET, SECRET

BODY = '{"type": "open.matched"}'
CALL = """
const [body, headers, secret] = JSON.parse(process.argv[1]);
const { eventOf } = require(process.argv[2]);
try { console.log(eventOf(body, headers, secret).type); } catch (problem) { console.log(problem.message); }
"""


@pytest.mark.parametrize(
    ("body", "secret", "age_s", "said"),
    [
        (BODY, SECRET, 0, "open.matched"),
        (BODY, OLD_SECRET, 0, "open.matched"),
        (f"{BODY} ", SECRET, 0, "no signature of ours"),
        (BODY, f"whsec_{'A' * 43}=", 0, "no signature of ours"),
        (BODY, SECRET, 600, "too old, or too new"),
    ],
)
def test_the_node_example_verifies(tmp_path: Path, body: str, secret: str, age_s: int, said: str) -> None:
    """Also during a rotation, when there are two signatures."""
    (block,) = [each for each in blocks_of(ROOT / "docs" / "webhooks.md") if each.language == "js"]
    module = tmp_path / "example.cjs"
    module.write_text(block.text)
    keys = parse_endpoint("https://acme.com", f"{OLD_SECRET} {SECRET}", allow_private=False).keys
    at = int(time.time()) - age_s
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(at),
        "webhook-signature": signatures(keys, "msg_1", at, BODY.encode()),
    }
    given = json.dumps([body, headers, secret])
    ran = subprocess.run(
        ["node", "-e", CALL, given, str(module)], capture_output=True, text=True, check=True, timeout=30
    )
    assert ran.stdout.strip() == said
