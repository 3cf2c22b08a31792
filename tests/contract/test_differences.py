"""The list of known differences stays short and true."""

import re
from pathlib import Path

import pytest

from tests.contract.differences import DIFFERENCES

TESTS = "\n".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
ASKED = set(re.findall(r"expects\(\s*[\"']([^\"]+?)[\"']\s*\)", TESTS))


@pytest.mark.parametrize("name", DIFFERENCES)
def test_each_is_one_has_a_reason_and_is_tested(name: str) -> None:
    """A difference differs, says why, and a contract test asks for it."""
    difference = DIFFERENCES[name]
    assert difference.sandbox != difference.service
    assert len(difference.why.split()) > 5
    assert name in ASKED


def test_none_is_asked_for_that_is_not_listed() -> None:
    """Every difference that a test expects is on the list."""
    assert set(DIFFERENCES) >= ASKED
