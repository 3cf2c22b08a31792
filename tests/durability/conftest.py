"""Counts of the fault matrix and the kill loop, in pytest's own summary."""

from collections import Counter

import pytest

FAULTS = "fault cases held"
KILLS = "kills"
ACKNOWLEDGED = "leads acknowledged"
ONCE = "leads recorded exactly once"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many faults were held and how many kills were outlived, by the tests that passed."""
    counts: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", []):
        ours = (
            (name, value)
            for name, value in report.user_properties
            if name in (FAULTS, KILLS, ACKNOWLEDGED, ONCE)
        )
        counts.update(dict(ours))
    said = []
    if counts[FAULTS]:
        said.append(f"faults: {counts[FAULTS]} cases held")
    if counts[KILLS]:
        said.append(
            f"kills: {counts[KILLS]}, leads acknowledged: {counts[ACKNOWLEDGED]}, "
            f"recorded exactly once: {counts[ONCE]}"
        )
    if said:
        terminalreporter.write_line("; ".join(said))
