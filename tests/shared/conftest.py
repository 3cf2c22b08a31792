"""One real server for a test."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shared.server import Server, serving

RACED = "installs that raced for one click"
TAKEN_OVER = "leads of a killed replica delivered once by another"
FAULTS = "server faults outlived"
OPENS = "opens answered"
PENDING = "opens pending"
LEADS = "leads acknowledged and recorded exactly once"
CLICKS = "clicks given, each once"

SAID = (FAULTS, OPENS, PENDING, LEADS, CLICKS, RACED, TAKEN_OVER)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was outlived, and how much was asked meanwhile, by the tests that passed."""
    counts: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", []):
        ours = ((name, value) for name, value in report.user_properties if name in SAID)
        counts.update(dict(ours))
    if counts:
        terminalreporter.write_line("shared: " + ", ".join(f"{name}: {counts[name]}" for name in SAID))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "valkey") as server:
        yield server
