"""Replicas that count together, in a real server that may go away."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from pathlib import Path

import pytest

from service.app import create_app
from service.settings import SettingsError, parse
from service.stores import refuse_bad_valkey_url
from tests.integration.test_metrics import scraped
from tests.shared.server import Server, serving
from tests.support import (
    ANNA,
    CONFIG,
    ENV,
    FB_PROMO,
    KEY,
    FakeClock,
    FakeDub,
    LogLines,
    Service,
    running,
    until,
)

Replica = Callable[..., AbstractAsyncContextManager[Service]]

HOME = "203.0.113.7"
PATIENCE_S = 1.5
FAULTS = 'firstopen_valkey_faults_total{operation="limits"}'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "valkey") as server:
        yield server


@pytest.fixture
def replica(
    server: Server,
    dub: FakeDub,
    clock: FakeClock,
    logs: LogLines,  # noqa: ARG001  its lines go first
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Replica:
    """Start a replica of its own disk; the server is looked for again every 10 ms.

    A machine that is busy with something else is no server that is slow: replicas are patient here.
    """
    monkeypatch.setattr("service.limiting.shared.PATIENCE_S", PATIENCE_S)
    monkeypatch.setattr("service.limiting.shared._RETRY_S", 0.01)
    number = count()

    @asynccontextmanager
    async def start(limits: str, shared: str = "true") -> AsyncIterator[Service]:
        env = {"FIRSTOPEN_VALKEY_URL": server.url, "FIRSTOPEN_DATA_DIR": str(tmp_path / f"{next(number)}")}
        settings = parse(f"{CONFIG}\n[limits]\nshared = {shared}\n{limits}", {**ENV, **env})
        async with running(create_app(settings, transport=dub, clock=clock, wall=clock.wall)) as service:
            yield service

    return start


async def opens(service: Service, start: int, times: int = 1) -> list[int]:
    """Open as so many installs, one after the other."""
    return [status for status, _ in await timed(service, start, times)]


async def timed(service: Service, start: int, times: int) -> list[tuple[int, float]]:
    """Open as so many installs; return the statuses, and how many seconds each took."""
    found = []
    for number in range(start, start + times):
        began = time.perf_counter()
        body = {"deepLink": FB_PROMO, "installId": f"install-{number}"}
        status = (await service.report(body, X_Forwarded_For=HOME)).status_code
        found.append((status, time.perf_counter() - began))
    return found


@pytest.mark.parametrize("limit", ["per_key", "per_address"])
async def test_replicas_count_together(replica: Replica, limit: str, clock: FakeClock) -> None:
    """What one has taken, the other takes no more, until the window is over."""
    async with replica(f'{limit} = "4/minute"') as one, replica(f'{limit} = "4/minute"') as two:
        assert await opens(one, 0, 2) == [200, 200]
        assert await opens(two, 10, 3) == [200, 200, 429]
        assert await opens(one, 20) == [429]
        clock.advance(60)
        assert await opens(one, 30) == [200]


async def test_nobody_is_named_in_the_server(replica: Replica, server: Server) -> None:
    """Addresses and keys are counted under keyed hashes, and everything there comes to an end."""
    async with replica('per_key = "9/minute"\nper_address = "9/second;99/hour"') as service:
        assert await opens(service, 0, 2) == [200, 200]
        with server.client as client:
            keys = [key.decode() for key in client.keys("*")]
            assert not [key for key in keys if HOME in key or KEY in key]
            counts = [key for key in keys if key.startswith("fo1:n:")]
            assert len(counts) == 3
            for key in counts:
                assert 0 < client.ttl(key) <= 3600


async def test_one_open_reported_at_once_is_still_one(replica: Replica, dub: FakeDub) -> None:
    """Counting takes a moment, in which the same open may come again: Dub hears of it once."""
    async with replica('per_key = "100/minute"') as service:
        body = {"deepLink": FB_PROMO, "installId": ANNA}
        replies = await asyncio.gather(*(service.report(body) for _ in range(20)))
        assert {reply.status_code for reply in replies} == {200}
        assert len({reply.json()["clickId"] for reply in replies}) == 1
        assert dub.calls("/track/open") == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_server_that_is_away_delays_nothing(
    replica: Replica, server: Server, logs: LogLines, number: signal.Signals
) -> None:
    """Each replica goes on alone, and one open of each pays; when the server is back they count together."""
    async with replica('per_key = "30/minute"') as one, replica('per_key = "30/minute"') as two:
        assert await opens(one, 0, 5) == [200] * 5
        server.signal(number)
        alone = await timed(one, 100, 20), await timed(two, 200, 31)
        assert [status for status, _ in alone[0]] == [200] * 20
        assert [status for status, _ in alone[1]] == [200] * 30 + [429]
        for replies in alone:
            assert len([took_s for _, took_s in replies if took_s >= PATIENCE_S]) <= 1
        assert (await scraped(one))[FAULTS] >= 1
        assert len(logs.events("limits.alone")) == 2
        if number is signal.SIGSTOP:
            server.signal(signal.SIGCONT)
        else:
            server.stop()
            server.start()
        await until(lambda: len(logs.events("limits.shared")) == 2)
        faults = (await scraped(one))[FAULTS]
        assert await opens(one, 300, 5) == [200] * 5
        assert (await scraped(one))[FAULTS] == faults
        assert await opens(one, 400) == [429]
    assert HOME not in logs.text


@pytest.mark.parametrize("shared", ["true", "false"])
async def test_what_another_replica_answered_is_a_repeat(
    replica: Replica, server: Server, dub: FakeDub, shared: str
) -> None:
    """An open that only the Valkey knows is answered from there, whatever the limits say."""
    body = {"deepLink": FB_PROMO, "installId": ANNA}
    async with replica('per_key = "2/minute"', shared) as one, replica('per_key = "2/minute"', shared) as two:
        assert (await one.report(body)).status_code == 200
        with server.client as client:
            await until(lambda: client.keys("fo1:a:*"))
        assert (await opens(two, 0, 3))[-1] == 429
        again = await two.report(body)
        assert (again.status_code, again.json()["repeat"]) == (200, True)
        calls = dub.calls("/track/open")
        many = {"deepLink": FB_PROMO, "installId": "install-many"}
        refused = await asyncio.gather(*(two.report(many) for _ in range(20)))
        assert {reply.status_code for reply in refused} == {429}
        assert dub.calls("/track/open") == calls


def test_a_url_that_names_no_server_stops_the_boot() -> None:
    """The message names the variable, and not what is in it."""
    with pytest.raises(SettingsError, match=r"^FIRSTOPEN_VALKEY_URL: expected redis://") as refused:
        refuse_bad_valkey_url("amqp://user:secret@host")
    assert "secret" not in str(refused.value)
