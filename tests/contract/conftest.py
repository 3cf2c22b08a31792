"""Every contract test runs on both targets; the summary says how many passed on each."""

import gc
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from service.telemetry import configure_logs
from tests.contract.targets import TARGETS, Target, TargetName, targeted
from tests.sandbox.support import FakeClock
from tests.support import LogLines

_ON_TARGET = "contract target"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=TARGETS)
async def target(request: pytest.FixtureRequest, clock: FakeClock, tmp_path: Path) -> AsyncIterator[Target]:
    """Return a target that is this case's own."""
    configure_logs("critical", LogLines())
    name: TargetName = request.param
    async with targeted(name, clock, tmp_path) as built:
        yield built


@pytest.fixture(scope="module")
def shared_clock() -> FakeClock:
    return FakeClock()


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=TARGETS)
async def one_target(
    request: pytest.FixtureRequest, shared_clock: FakeClock, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Target]:
    """Return a target for a whole module: long tables of cases that are in nobody's way."""
    configure_logs("critical", LogLines())
    name: TargetName = request.param
    async with targeted(name, shared_clock, tmp_path_factory.mktemp("kept")) as built:
        yield built


@pytest.fixture
def shared(one_target: Target, shared_clock: FakeClock) -> Target:
    """Let a second pass between the cases, so that they share no limit per second, and change the person."""
    shared_clock.advance(1)
    one_target.begin(shared_clock.now_s)
    return one_target


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Note each case's target where its report will carry it."""
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        name = params.get("target") or params.get("one_target")
        if name in TARGETS:
            item.user_properties.append((_ON_TARGET, name))


def pytest_collection_finish() -> None:
    """Spare the collector what lives as long as the run: apps by the hundred make it look again and again."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many contract cases passed on each target."""
    passed = _counted(terminalreporter.stats.get("passed", []))
    others = [*terminalreporter.stats.get("failed", []), *terminalreporter.stats.get("error", [])]
    if passed or _counted(others):
        words = ", ".join(f"{passed[name]} passed on the {name}" for name in TARGETS)
        failed = sum(_counted(others).values())
        terminalreporter.write_line(f"contract: {words}" + (f", {failed} FAILED" if failed else ""))


def _counted(reports: list[pytest.TestReport]) -> Counter[str]:
    return Counter(
        str(value) for report in reports for name, value in report.user_properties if name == _ON_TARGET
    )
