"""The real app over HTTP, with a scripted Dub underneath."""

from collections.abc import AsyncIterator, Iterator

import pytest

from service.app import create_app
from service.settings import parse
from service.telemetry import configure_logs
from tests.support import CONFIG, ENV, FakeClock, FakeDub, LogLines, Service, running


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
    async with running(create_app(parse(CONFIG, ENV), transport=dub, clock=clock)) as service:
        yield service
        if dub.gate is not None:
            dub.gate.set()  # so that what is under way can settle
