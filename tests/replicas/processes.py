"""Replicas as an operator runs them: real processes on one PostgreSQL, in front of one sandbox."""

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from tests.process import Process, free_ports, started

KEY = "dub_pk_acme"
HOME = "203.0.113.7"
IPHONE = "Acme/12 CFNetwork/1490 Darwin/23.5.0"
SAFARI = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
    " Version/17.5 Mobile/15E148 Safari/604.1"
)
CONFIG = """
[apps.acme]
publishable_keys = ["dub_pk_acme"]
dub_api_key_env = "ACME_DUB_API_KEY"
domains = ["acme.link"]
default_screen = "home"
leads = "client"
min_confidence = 0
ambiguous = "latest"
analytics_calls_per_s = 50

[server]
drain_ms = 0
"""
LINKS = """
[[links]]
domain = "acme.link"
key = "fb-promo"
url = "https://acme.com/product/123"

[[links]]
domain = "acme.link"
key = "invite"
url = "https://acme.com/invite/anna"
"""
LIMITS = httpx.Limits(max_connections=64, max_keepalive_connections=64)


class Sandbox:
    """A Dub in a process of its own."""

    def __init__(self, port: int) -> None:
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20)
        self.port = port

    def calls(self, path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.http.get("/sandbox/calls", params={"path": path}).json()
        return found

    def fault(self, **fault: Any) -> None:
        assert self.http.post("/sandbox/faults", json=fault).is_success

    def well(self) -> None:
        assert self.http.delete("/sandbox/faults").is_success

    def events(self, event: str) -> list[dict[str, Any]]:
        answer = self.http.get(
            "/events",
            params={"event": event, "domain": "acme.link", "limit": 1000},
            headers={"Authorization": "Bearer dub_x"},
        )
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()
        return found

    def click(self, ip: str, key: str = "fb-promo") -> None:
        headers = {
            "Host": "acme.link",
            "X-Real-IP": ip,
            "User-Agent": SAFARI,
        }
        assert self.http.get(f"/{key}", headers=headers).status_code == 302


class Replica:
    """One ``firstopen serve``."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port
        self.base = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(
            base_url=self.base,
            headers={"Authorization": f"Bearer {KEY}", "User-Agent": IPHONE},
            timeout=20,
            limits=LIMITS,
        )

    def open(self, **fields: Any) -> dict[str, Any]:
        reply = self.http.post("/v1/opens", json=fields)
        assert reply.status_code == 200, reply.text
        answer: dict[str, Any] = reply.json()
        return answer

    def degraded(self) -> list[str]:
        found: list[str] = self.http.get("/health/ready").json()["degraded"]
        return found

    def metric(self, name: str) -> float:
        lines = self.http.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


class World(NamedTuple):
    """Two replicas, their Dub, and the URL of their database."""

    here: Replica
    there: Replica
    dub: Sandbox
    database_url: str


def ip_matching(on: Replica, install: str, ip: str = HOME) -> dict[str, Any]:
    body = {"dubDomain": "acme.link", "installId": install, "budgetMs": 10_000}
    reply = on.http.post("/v1/opens", json=body, headers={"X-Forwarded-For": ip})
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def settled(on: Replica, lead_id: str) -> str | None:
    """Return the status of a lead, if it is known there."""
    try:
        status: str | None = on.http.get(f"/v1/leads/{lead_id}").json().get("status")
    except httpx.HTTPError:
        return None
    return status


def until(condition: Callable[[], Any], within_s: float = 30) -> None:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it never came to that")


@contextlib.contextmanager
def sandbox(folder: Path, configured: str = LINKS, port: int = 0) -> Iterator[Sandbox]:
    port = port or free_ports()
    links = folder / "links.toml"
    links.write_text(configured)
    with started("sandbox", "--port", str(port), "--links", str(links), env={}, cwd=folder) as process:
        process.until(str(port))
        found = Sandbox(port)
        with found.http:
            yield found


@contextlib.contextmanager
def replica(
    folder: Path, dub_port: int, database_url: str, *, config: str = CONFIG, **env: str
) -> Iterator[Replica]:
    """Start a replica. It keeps nothing on its own disk: its data directory is never made."""
    port = free_ports()
    file = folder / "firstopen.toml"
    file.write_text(config)
    known = {
        "FIRSTOPEN_CONFIG": str(file),
        "FIRSTOPEN_PORT": str(port),
        "FIRSTOPEN_SECRET": "a secret for tests of 32 characters or more",
        "FIRSTOPEN_DATABASE_URL": database_url,
        "FIRSTOPEN_DATA_DIR": str(folder / "never-made"),
        "ACME_DUB_API_KEY": "dub_x",
        "DUB_BASE_URL": f"http://127.0.0.1:{dub_port}",
    }
    with started("serve", env={**known, **env}, cwd=folder, retries_soon=True) as process:
        process.ready(port)
        found = Replica(process, port)
        with found.http:
            yield found


@contextlib.contextmanager
def two_replicas(
    folder: Path, database_url: str, *, config: str = CONFIG, links: str = LINKS, **env: str
) -> Iterator[World]:
    """Start two replicas and their sandbox at the same time: each takes a second."""
    dub_port = free_ports()
    with contextlib.ExitStack() as stack, ThreadPoolExecutor() as threads:
        dub = threads.submit(stack.enter_context, sandbox(folder, links, dub_port))
        here, there = (
            threads.submit(stack.enter_context, replica(folder, dub_port, database_url, config=config, **env))
            for _ in range(2)
        )
        yield World(here.result(), there.result(), dub.result(), database_url)
