"""A real Valkey or Redis on a free loopback port, that can be killed, stalled and started again."""

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import redis

from tests.process import READY_S, free_ports

BINARY = shutil.which("valkey-server") or shutil.which("redis-server")


class Server:
    """One server, every write on its disk before it is acknowledged."""

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        self.port = port or free_ports()
        self.folder = folder
        self.options = options
        self.popen: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> "redis.Redis":
        return redis.Redis(port=self.port, socket_timeout=5)

    def start(self) -> None:
        assert BINARY, "no valkey-server or redis-server: make test installs one"
        self.folder.mkdir(parents=True, exist_ok=True)
        durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        args = [BINARY, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        with (self.folder / "log").open("ab") as log:
            self.popen = subprocess.Popen([*args, *durable, *self.options], stdout=log, stderr=log)
        deadline = time.monotonic() + READY_S
        with self.client as client:
            while time.monotonic() < deadline:
                with contextlib.suppress(redis.RedisError, OSError):
                    if client.ping():
                        return
                time.sleep(0.01)
        raise AssertionError((self.folder / "log").read_text())

    def signal(self, number: signal.Signals) -> None:
        assert self.popen
        self.popen.send_signal(number)

    def stop(self) -> None:
        """End it as a crash would."""
        if self.popen is not None and self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()


@contextlib.contextmanager
def serving(folder: Path, *options: str) -> Iterator[Server]:
    """Start a server, and end it whatever happens."""
    server = Server(folder, *options)
    try:
        server.start()
        yield server
    finally:
        server.stop()
