"""What is written behind while a real server is away: bounded, and said."""

import asyncio
import time

import pytest

from service.store import valkey as subject
from service.store.valkey import Behind, Valkey
from service.telemetry import Event, Metrics, configure_logs
from tests.shared.server import Server
from tests.support import LogLines, until

LONG = b"x" * 32_000


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
