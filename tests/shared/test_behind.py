"""What is written behind while a real server is away: bounded, and said."""

import asyncio
import time

import pytest

from service.resolve.errors import StoreFailed
from service.store import valkey as subject
from service.store.valkey import Behind, Valkey
from service.telemetry import Event, Metrics, configure_logs
from tests.shared.server import Server
from tests.support import LogLines, until

LONG = b"x" * 32_000
PATIENCE_S = 5.0


async def test_a_server_that_takes_every_other_thing_does_not_fill_the_log(server: Server) -> None:
    """A full server answers questions and refuses writes: it is said once a second at most."""
    with server.client as client:
        client.config_set("maxmemory", 1)
    lines, faults = LogLines(), Metrics().valkey_faults
    valkey = Valkey(server.url, faults, configure_logs("info", lines), lambda: 1000.0)
    for _ in range(20):
        with pytest.raises(StoreFailed):
            await valkey.ask("claim", [("SET", "key", "value")], PATIENCE_S)
        assert valkey.is_away()
        assert await valkey.ask("hear", [("GET", "key")], PATIENCE_S) == [None]
        assert not valkey.is_away()
    await valkey.close()
    configure_logs("critical")
    assert faults.labels("claim")._value.get() == 20
    assert [line["event"] for line in lines.lines] == [Event.VALKEY_FAILING, Event.VALKEY_RECOVERED]


@pytest.mark.parametrize("bound", ["_BEHIND_MAX", "_BEHIND_MAX_BYTES"])
async def test_what_waits_is_bounded(server: Server, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    """Beyond so many writes, or so many bytes, the oldest go; the newest are kept, and the log counts."""
    monkeypatch.setattr(subject, bound, {"_BEHIND_MAX": 20, "_BEHIND_MAX_BYTES": 20 * 32_100}[bound])
    lines = LogLines()
    valkey = Valkey(server.url, Metrics().valkey_faults, configure_logs("error", lines), time.monotonic)
    behind = Behind(valkey, "keep")
    behind.start()
    server.stop()
    behind.put(("SET", "first", b"x"))
    await until(lambda: behind._failing)
    for number in range(100):
        behind.put(("SET", f"key-{number}", LONG))
    await asyncio.sleep(0)
    assert len(behind._waiting) <= 20
    server.start()
    await until(lambda: lines.events(Event.VALKEY_LOST))
    with server.client as client:
        await until(lambda: client.exists("key-99"))
        kept = client.dbsize()
        assert 15 <= kept <= 20
        assert not client.exists("first")
    (line,) = lines.events(Event.VALKEY_LOST)
    assert line["writes"] == 101 - kept
    await behind.close()
    await valkey.close()
    configure_logs("critical")
