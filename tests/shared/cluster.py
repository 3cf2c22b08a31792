"""A Cluster of real servers, and a server behind a real Sentinel."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from tests.process import free_ports
from tests.shared.replicas import until
from tests.shared.server import BINARY, Server

SLOTS = 16_384


@contextlib.contextmanager
def clustered(folder: Path, count: int = 3) -> Iterator[tuple[str, list[Server]]]:
    """Start servers that share the slots; yield their URL."""
    with contextlib.ExitStack() as stack:
        servers = []
        for number in range(count):
            options = ("--cluster-enabled", "yes", "--cluster-port", str(free_ports()))
            server = Server(folder / str(number), *options)
            stack.callback(server.stop)
            server.start()
            servers.append(server)
        for number, server in enumerate(servers):
            with server.client as client:
                first, end = SLOTS * number // count, SLOTS * (number + 1) // count
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
                bus = int(servers[0].options[-1])
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", servers[0].port, bus)
        for server in servers:
            with server.client as client:
                until(lambda client=client: all_is_well(client, count))  # type: ignore[misc]
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers[:2])
        yield f"redis+cluster://{hosts}", servers


@contextlib.contextmanager
def watched(folder: Path, server: Server) -> Iterator[str]:
    """Start a Sentinel that knows the server as ``main``; yield its URL."""
    assert BINARY
    port = free_ports()
    folder.mkdir()
    config = folder / "sentinel.conf"
    config.write_text(f"port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {server.port} 1\n")
    with (folder / "log").open("wb") as log:
        popen = subprocess.Popen([BINARY, str(config), "--sentinel"], cwd=folder, stdout=log, stderr=log)
    try:
        with redis.Redis(port=port) as client:
            until(lambda: answers(client))
        yield f"redis+sentinel://127.0.0.1:{port}/main"
    finally:
        popen.kill()
        popen.wait()


def all_is_well(client: Any, count: int) -> bool:
    told = client.execute_command("CLUSTER INFO")
    text = str({key: str(value) for key, value in told.items()} if isinstance(told, dict) else told)
    return "ok" in text and len(client.execute_command("CLUSTER SLOTS")) == count


def answers(client: "redis.Redis") -> bool:
    with contextlib.suppress(redis.RedisError, OSError):
        return bool(client.ping())
    return False
