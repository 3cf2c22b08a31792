"""What every attack is made with: processes to attack, a watch on each, and raw requests."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urlsplit

import httpx
from msgspec import Struct

from tests.bench.processes import Server, clean_env, free_port, serving

KEY = "dub_pk_acme"
SERVER_KEY = "server-key-of-acme"
CONFIG = """
[apps.acme]
publishable_keys = ["dub_pk_acme"]
server_keys_env = "ACME_SERVER_KEYS"
dub_api_key_env = "ACME_DUB_API_KEY"
analytics_calls_per_s = 16
domains = ["acme.link"]
default_screen = "home"
ip_matching = "off"
trusts_forwarded_ip = true

[[apps.acme.routes]]
pattern = "https://acme.com/ip/:ip"
screen = "ip"

[apps.globex]
publishable_keys = ["dub_pk_globex"]
domains = ["globex.link"]
default_screen = "start"
ip_matching = "off"
"""
_ENV = {
    "FIRSTOPEN_SECRET": "attack-0123456789abcdef0123456789abcdef",
    "ACME_SERVER_KEYS": SERVER_KEY,
    "ACME_DUB_API_KEY": "dub_secret_of_acme",
    "FIRSTOPEN_LOG_LEVEL": "warning",
}
_QUEUE_TIMEOUT_S = 20


class DeliveryResult(Struct, frozen=True):
    """What an attack came to; ``problems`` is empty if it was withstood."""

    inputs: str
    problems: list[str]
    longest_ms: float | None = None  # None: what the watch saw


class Row(Struct, frozen=True):
    """One line of the table."""

    case: str
    inputs: str
    longest_ms: float
    before_mb: float
    after_mb: float
    problems: list[str]


class Target:
    """A process that is attacked, and the watch on it."""

    def __init__(self, server: Server, watch: subprocess.Popen[str]) -> None:
        self.server = server
        self.port = int(urlsplit(server.url).port or 0)
        self._watch = watch
        self.http = httpx.Client(base_url=server.url, timeout=_QUEUE_TIMEOUT_S, headers=with_key(KEY))
        # Without a key of its own, and on a new connection each time.
        self.anybody = httpx.Client(
            base_url=server.url, timeout=_QUEUE_TIMEOUT_S, limits=httpx.Limits(max_keepalive_connections=0)
        )

    def longest_ms(self) -> float:
        """Return for how long the service kept /health/live waiting, at worst since this was last asked."""
        stdin, stdout = cast("IO[str]", self._watch.stdin), cast("IO[str]", self._watch.stdout)
        stdin.write("\n")
        stdin.flush()
        return float(stdout.readline())

    def rss_mb(self) -> float:
        """Return the resident memory."""
        return self.server.rss_bytes() / 1024 / 1024

    def open(self, **fields: Any) -> dict[str, Any]:
        """Report an open; raises ``httpx.HTTPStatusError`` unless it is answered 200."""
        reply = self.http.post("/v1/opens", json=fields)
        reply.raise_for_status()
        answer: dict[str, Any] = reply.json()
        return answer

    def connect(self) -> socket.socket:
        """Return a new connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=_QUEUE_TIMEOUT_S)

    def raw(self, data: bytes) -> bytes:
        """Send bytes as they are, say that no more will come, and return all that is answered."""
        with self.connect() as sock:
            with contextlib.suppress(OSError):
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
            chunks = []
            with contextlib.suppress(ConnectionError):
                while chunk := sock.recv(65_536):
                    chunks.append(chunk)
            return b"".join(chunks)

    def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        lines = self.http.get("/metrics").text.splitlines()
        return sum(
            float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{"))
        )


class Lab:
    """Starts processes, each with a folder of its own, and tells a person how far it is."""

    def __init__(self, folder: Path) -> None:
        self.dub_url = ""
        self._folder = folder
        self._began = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._began

    def say(self, text: str) -> None:
        """Report progress."""
        sys.stderr.write(f"[{self.elapsed_s:5.1f} s] {text}\n")
        sys.stderr.flush()

    @contextmanager
    def dub(self) -> Iterator[None]:
        """Run the fake Dub that every service asks."""
        with self._process("dub", ["tests.attack.dub"], "/counts") as server:
            self.dub_url = server.url
            yield

    @contextmanager
    def service(
        self, name: str, *, tables: str = "", env: Mapping[str, str] | None = None, descriptors: int = 0
    ) -> Iterator[Target]:
        """Run ``firstopen serve`` and a watch on it; ``descriptors`` is its ``ulimit -n``."""
        folder = self._new_folder(name)
        config = folder / "firstopen.toml"
        config.write_text(CONFIG + tables)
        ours = {
            **_ENV,
            "FIRSTOPEN_CONFIG": str(config),
            "FIRSTOPEN_DATA_DIR": str(folder),
            "DUB_BASE_URL": self.dub_url,
            **(env or {}),
        }
        with (
            self._process(name, ["service", "serve", "--port"], "/health/ready", ours, descriptors) as server,
            _watched(server) as target,
        ):
            yield target

    @contextmanager
    def sandbox(self) -> Iterator[Target]:
        """Run ``firstopen sandbox`` and a watch on it."""
        with (
            self._process("sandbox", ["service", "sandbox", "--port"], "/sandbox/clock") as server,
            _watched(server) as target,
        ):
            yield target

    @contextmanager
    def _process(
        self,
        name: str,
        module: list[str],
        ready_path: str,
        env: Mapping[str, str] | None = None,
        descriptors: int = 0,
    ) -> Iterator[Server]:
        port = free_port()
        command = [sys.executable, "-m", *module, str(port)]
        if descriptors:
            command = ["sh", "-c", f'ulimit -n {descriptors} && exec "$@"', "sh", *command]
        with serving(
            command,
            port=port,
            core=",".join(map(str, sorted(os.sched_getaffinity(0)))),
            log=self._new_folder(name) / "log",
            env={**clean_env(), **(env or {})},
            ready_path=ready_path,
        ) as server:
            yield server

    def _new_folder(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        return folder


@contextmanager
def _watched(server: Server) -> Iterator[Target]:
    port = urlsplit(server.url).port
    watch = subprocess.Popen(
        [sys.executable, "-m", "tests.attack.watch", str(port), str(server.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    target = Target(server, watch)
    try:
        with target.http, target.anybody, watch:
            target.longest_ms()
            yield target
            cast("IO[str]", watch.stdin).close()
    finally:
        if watch.poll() is None:
            watch.kill()


def with_key(key: str) -> dict[str, str]:
    """Return the header that carries a key."""
    return {"Authorization": f"Bearer {key}"}
