"""One sandbox per test, at noon on 1 August 2026."""

from collections.abc import AsyncIterator

import pytest

from tests.sandbox.support import FakeClock, FakeSleep, Sandbox, build


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def sleep() -> FakeSleep:
    return FakeSleep()


@pytest.fixture
async def sandbox(clock: FakeClock, sleep: FakeSleep) -> AsyncIterator[Sandbox]:
    built = build(clock, sleep=sleep)
    async with built.http:
        yield built
