"""A real service beside a real sandbox, each a process; the service can be killed and started again."""

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from service.storage.database import Database
from service.storage.encryption import Cipher
from service.storage.engines.sqlite import SqliteEngine
from service.storage.outbox import SqlOutboxStore
from service.telemetry import configure_logs
from tests.process import Process, free_ports, started
from tests.support import KEY, SERVER_KEY

SECRET = "the secret of tests that kill has 32 characters or more"
AS_APP = {"Authorization": f"Bearer {KEY}"}
AS_SERVER = {"Authorization": f"Bearer {SERVER_KEY}"}
AT_DUB = {"Authorization": "Bearer dub_secret_of_acme"}
FB_PROMO = "https://acme.link/fb-promo"
CONFIG = """
[apps.acme]
publishable_keys = ["dub_pk_acme"]
server_keys_env = "ACME_SERVER_KEYS"
dub_api_key_env = "ACME_DUB_API_KEY"
domains = ["acme.link"]
default_screen = "home"
leads = "client"
trusts_forwarded_ip = true

[dub]
timeout_ms = 1000
slow_ms = 500
breaker_open_s = 0.1

[server]
drain_ms = 0
stop_ms = 1000
"""
PAGE = 1000


class Sandbox:
    """A Dub that survives, and what it has recorded."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.url, headers=AT_DUB, timeout=20)

    def fault(self, **fields: Any) -> None:
        reply = self.http.post("/sandbox/faults", json=fields)
        assert reply.status_code == 201, reply.text

    def clear(self) -> None:
        assert self.http.delete("/sandbox/faults").status_code == 200

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return all events, page by page, until one is empty."""
        found: list[dict[str, Any]] = []
        for page in range(1, 100):
            reply = self.http.get("/events", params={"event": kind, "page": page, "limit": PAGE})
            assert reply.status_code == 200, reply.text
            if not reply.json():
                return found
            found += reply.json()
        raise AssertionError("pages without end")


class Killable:
    """``firstopen serve`` on one port and one data directory, as often as it takes."""

    def __init__(
        self, sandbox: Sandbox, folder: Path, stack: ExitStack, env: Mapping[str, str], config: str = CONFIG
    ) -> None:
        self.port = free_ports()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data = folder / "data"
        self._folder = folder
        self._stack = stack
        file = folder / "firstopen.toml"
        file.write_text(config)
        self._env = {
            "FIRSTOPEN_CONFIG": str(file),
            "FIRSTOPEN_PORT": str(self.port),
            "FIRSTOPEN_SECRET": SECRET,
            "FIRSTOPEN_DATA_DIR": str(self.data),
            "FIRSTOPEN_BUDGET_MS": "300",
            "DUB_BASE_URL": sandbox.url,
            "ACME_SERVER_KEYS": SERVER_KEY,
            "ACME_DUB_API_KEY": "dub_secret_of_acme",
            **env,
        }
        self.processes: list[Process] = []
        self._ended: list[Process] = []

    def start(self) -> None:
        """Start it; its port takes connections a moment later."""
        self.processes.append(
            self._stack.enter_context(started("serve", env=self._env, cwd=self._folder, retries_soon=True))
        )

    def ready(self) -> None:
        self.processes[-1].ready(self.port)

    def kill(self) -> None:
        """Take the power away."""
        assert self.processes[-1].stop(signal.SIGKILL) == -signal.SIGKILL

    def stop(self) -> None:
        assert self.processes[-1].stop() == 0

    def logs(self) -> str:
        """Return what every process has printed, once the last has ended."""
        for process in self.processes:
            if process not in self._ended:
                process.rest()
                self._ended.append(process)
        return "\n".join(line for process in self.processes for line in process.lines)

    async def left_over(self) -> dict[str, int]:
        """Count what the outbox on disk holds, such as ``lead queued``; another process looks in."""
        database = Database(SqliteEngine(self.data, exclusive=False), configure_logs("critical"))
        await database.open()
        try:
            depths = await SqlOutboxStore(database, Cipher([SECRET]), time.time).depths("queued", "dead")
        finally:
            await database.close()
        return {f"{kind} {state}": count for (kind, state), count in depths.items()}


@contextmanager
def beside_a_sandbox(folder: Path, config: str = CONFIG, **env: str) -> Iterator[tuple[Killable, Sandbox]]:
    """Start a sandbox and, beside it, the service; end both whatever happens."""
    port = free_ports()
    links = folder / "links.toml"
    links.write_text(
        '[[links]]\ndomain = "acme.link"\nkey = "fb-promo"\nurl = "https://acme.com/product/123"\n'
    )
    with ExitStack() as stack:
        args = ("sandbox", "--port", str(port), "--no-demo", "--links", str(links))
        process = stack.enter_context(started(*args, env={}, cwd=folder))
        process.until("Try it")
        process.until("")
        sandbox = Sandbox(port)
        stack.enter_context(sandbox.http)
        service = Killable(sandbox, folder, stack, env, config)
        service.start()
        service.ready()
        yield service, sandbox
