"""The real app over HTTP, with a scripted Dub underneath."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from service.app import create_app
from service.config.settings import parse
from service.storage.engines import sqlite
from service.telemetry import configure_logs
from tests.postgres import Postgres, serving
from tests.support import CONFIG, ENV, FakeClock, FakeDub, LogLines, Service, running


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a data directory of its own."""
    folder = tmp_path / "data"
    monkeypatch.setitem(ENV, "FIRSTOPEN_DATA_DIR", str(folder))
    return folder


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait longer for the database than in production: the machine may be busy with other tests."""
    for name in (
        "opens.LOOKUP_TIMEOUT_S",
        "claims.CLAIM_TIMEOUT_S",
        "network_activity._TIMEOUT_S",
        "outbox.WRITE_TIMEOUT_S",
        "device_sessions.LOAD_TIMEOUT_S",
    ):
        monkeypatch.setattr(f"service.storage.{name}", 5.0)
    quick = tuple(pragma.replace("synchronous=FULL", "synchronous=OFF") for pragma in sqlite._PRAGMAS)
    monkeypatch.setattr(sqlite, "_PRAGMAS", quick)  # real processes wait for the disk, these need not


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Start one PostgreSQL for all tests that ask for it; each makes a database of its own."""
    # With hundreds of databases, it would start a process to look after one of them every fifth of a second.
    with serving("fsync = off", "full_page_writes = off", "autovacuum = off") as server:
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
        create_app(parse(CONFIG, ENV), transport=dub, clock=clock, unix_time=clock.unix_time)
    ) as service:
        yield service
        if dub.blocked is not None:
            dub.blocked.set()  # so that what is under way can settle
