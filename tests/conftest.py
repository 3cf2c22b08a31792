"""The real app over HTTP, with a scripted Dub underneath."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest
import uvloop

from service.app import create_app
from service.settings import parse
from service.telemetry import configure_logs
from tests.postgres import Postgres, serving
from tests.support import CONFIG, ENV, FakeClock, FakeDub, LogLines, Service, running


def pytest_asyncio_loop_factories(
    config: pytest.Config,  # noqa: ARG001  by its name
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run what is marked ``both_loops`` on the loop that serves, too: their transports are not the same."""
    loops = {"asyncio": asyncio.new_event_loop}
    return loops | {"uvloop": uvloop.new_event_loop} if item.get_closest_marker("both_loops") else loops


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a data directory of its own."""
    folder = tmp_path / "data"
    monkeypatch.setitem(ENV, "FIRSTOPEN_DATA_DIR", str(folder))
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Start one PostgreSQL for all tests that ask for it; each makes a database of its own."""
    with serving("fsync = off") as server:
        yield server


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def dub() -> FakeDub:
    return FakeDub()


@pytest.fixture
def logs() -> Iterator[LogLines]:
    lines = LogLines()
    configure_logs("debug", lines)
    yield lines
    configure_logs("critical")


@pytest.fixture
async def service(dub: FakeDub, clock: FakeClock, logs: LogLines) -> AsyncIterator[Service]:  # noqa: ARG001
    async with running(
        create_app(parse(CONFIG, ENV), transport=dub, clock=clock, wall=clock.wall)
    ) as service:
        yield service
        if dub.gate is not None:
            dub.gate.set()  # so that what is under way can settle
