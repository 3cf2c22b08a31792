"""Test sessions: kept for all replicas, for some hours, and the only names that count as test devices."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import structlog

from service.attribution import device_sessions
from service.attribution.device_sessions import DeviceSessions
from service.attribution.erasure import ErasedCounts
from service.domain.device_identity import TrustedProxies
from service.domain.device_sessions import SESSION_S, SESSIONS_MAX
from service.domain.errors import NotFound, TooManySessions
from service.domain.models import App, Caller, OpenReport
from service.domain.routing import Router
from service.storage.database import Database
from service.storage.device_sessions import DeviceSessionStore
from tests.storage.conftest import MakeEngine
from tests.support import FakeClock, background

ACME, GLOBEX = (
    App(name, (f"{name}.link",), Router((), default_screen="home")) for name in ("acme", "globex")
)


@asynccontextmanager
async def replica(make_engine: MakeEngine, clock: FakeClock) -> AsyncIterator[DeviceSessions]:
    """One process's view of the sessions."""
    database = Database(make_engine(), structlog.get_logger())
    await database.open()
    store = DeviceSessionStore(database, clock.unix_time)
    sessions = DeviceSessions(store, no_installs, background(), clock, clock.unix_time)
    yield sessions
    await sessions.close()
    await database.close()


async def no_installs(_: object) -> ErasedCounts:
    return ErasedCounts(0, 0, 0, 0)


async def is_test(sessions: DeviceSessions, app: App, name: str) -> bool:
    """Whether an open of this app with this name counts as a test device's; if not, it says so."""
    caller = Caller(app, None, "", "", 0.0, TrustedProxies(()))
    report = OpenReport(caller=caller, budget_ms=1500, test_device=name, ignored=("budgetMs",))
    checked = await sessions.checked(report)
    assert checked.ignored == (("budgetMs",) if checked.test_device else ("budgetMs", "testDevice"))
    assert checked.test_device in (name, None)
    return checked.test_device is not None


async def test_only_names_of_active_sessions_count(make_engine: MakeEngine, clock: FakeClock) -> None:
    """A name counts on every replica, for its app, until it expires or is ended; no other name does."""
    async with replica(make_engine, clock) as here, replica(make_engine, clock) as there:
        name = (await here.start(ACME)).name
        assert await is_test(here, ACME, name)
        assert await is_test(there, ACME, name)
        assert not await is_test(there, GLOBEX, name)
        assert not await is_test(there, ACME, "aaaa-aaaa")
        clock.advance(SESSION_S - 1)
        assert await is_test(there, ACME, name)
        clock.advance(2)
        assert not await is_test(here, ACME, name)
        assert not await is_test(there, ACME, name)


async def test_a_session_that_was_ended_elsewhere_ends_here(
    make_engine: MakeEngine, clock: FakeClock
) -> None:
    async with replica(make_engine, clock) as here, replica(make_engine, clock) as there:
        name = (await here.start(ACME)).name
        assert await is_test(there, ACME, name)
        await here.end(ACME, name)
        assert not await is_test(here, ACME, name)
        clock.advance(6)
        assert not await is_test(there, ACME, name)
        with pytest.raises(NotFound):
            await there.end(ACME, name)


async def test_an_app_has_a_bounded_number_of_sessions(make_engine: MakeEngine, clock: FakeClock) -> None:
    async with replica(make_engine, clock) as sessions:
        started = [await sessions.start(ACME) for _ in range(SESSIONS_MAX)]
        with pytest.raises(TooManySessions):
            await sessions.start(ACME)
        await sessions.start(GLOBEX)
        await sessions.end(ACME, started[0].name)
        await sessions.start(ACME)


async def test_invented_names_cost_few_queries(
    database: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many invented names are reported, the sessions are read once per pause."""
    monkeypatch.setattr(device_sessions, "_LOADS_EVERY_S", 0.0)
    store = DeviceSessionStore(database, clock.unix_time)
    reads = 0
    read_all = database.read_all

    async def counted(*queries: object, **options: object) -> object:
        nonlocal reads
        reads += 1
        return await read_all(*queries, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(database, "read_all", counted)
    sessions = DeviceSessions(store, no_installs, background(), clock, clock.unix_time)
    found = await asyncio.gather(*(is_test(sessions, ACME, "aaaa-aaaa") for _ in range(500)))
    assert not any(found)
    assert reads == 1
