"""The database away, stalled, full, read-only or failing over, under load: no open fails, no lead is lost, no
click is given twice.
"""

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.postgres import Postgres
from tests.replicas.processes import IPHONE, KEY, LIMITS, Replica, Sandbox, replica, sandbox

PROMO = "https://acme.link/fb-promo"
OPEN_MAX_S = 2.0  # the default budget of 1.5 s, which none of these may spend, and this machine's noise
CLICKS = 200
CLIENTS = 8
DISK = "size=160m"

Fault = Callable[[Postgres], Awaitable[None]]


class Load:
    """Opens and leads, one after the other from each of some clients, over both replicas."""

    def __init__(self, http: httpx.AsyncClient, bases: list[str]) -> None:
        self.http = http
        self.bases = bases
        self.failed: list[str] = []
        self.pending = self.opens = 0
        self.leads: list[tuple[str, str]] = []
        self.refused = 0
        self.clicks: Counter[str] = Counter()
        self.stopping = False

    async def client(self, name: int) -> None:
        number = 0
        while not self.stopping:
            number += 1
            await self.once(self.bases[(name + number) % 2], f"{name}-{number}", name)

    async def once(self, base: str, who: str, name: int) -> None:
        """Open with a link, which uses up clicks of its network, and without one, elsewhere."""
        loop = asyncio.get_running_loop()
        for ip, body in (
            (f"203.0.113.{name}", {"deepLink": PROMO, "installId": f"install-{who}"}),
            (f"198.51.100.{name}", {"dubDomain": "acme.link", "installId": f"first-{who}"}),
        ):
            began = loop.time()
            reply = await self.http.post(f"{base}/v1/opens", json=body, headers={"X-Forwarded-For": ip})
            self.opens += 1
            if reply.status_code != 200 or loop.time() - began > OPEN_MAX_S:
                self.failed.append(f"{reply.status_code} after {loop.time() - began:.2f} s")
                continue
            answer = reply.json()
            self.pending += answer["pending"]
            if answer["match"]["type"] == "ip":
                self.clicks[answer["clickId"]] += 1
            if "deepLink" in body and answer["clickId"]:
                await self.lead(base, answer["clickId"], who)

    async def lead(self, base: str, click: str, who: str) -> None:
        body = {"clickId": click, "eventName": "Sign up", "customerExternalId": who}
        reply = await self.http.post(f"{base}/v1/leads", json=body)
        if reply.status_code in (200, 202):
            self.leads.append((reply.json()["leadId"], who))
        else:
            assert reply.status_code == 503, reply.text
            self.refused += 1


@asynccontextmanager
async def loaded(replicas: list[Replica]) -> AsyncIterator[Load]:
    headers = {"Authorization": f"Bearer {KEY}", "User-Agent": IPHONE}
    async with httpx.AsyncClient(headers=headers, timeout=30, limits=LIMITS) as http:
        load = Load(http, [each.base for each in replicas])
        async with asyncio.TaskGroup() as group:
            for name in range(CLIENTS):
                group.create_task(load.client(name))
            try:
                yield load
            finally:
                load.stopping = True


@pytest.fixture
def folder() -> Iterator[Path]:
    """Make a folder that the server's user may enter: a small disk of its own, where that is allowed."""
    path = Path(tempfile.mkdtemp(prefix="firstopen-postgres-"))
    is_disk = os.getuid() == 0 and (
        subprocess.run(["mount", "-t", "tmpfs", "-o", DISK, "tmpfs", path], check=False).returncode == 0
    )
    try:
        yield path
    finally:
        if is_disk:
            subprocess.run(["umount", "-l", path], check=True)
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def server(folder: Path) -> Iterator[Postgres]:
    """Start a server that keeps what it acknowledges, on the folder's disk."""
    server = Postgres(folder / "server", "max_wal_size = 48MB", "min_wal_size = 32MB")
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def dub(tmp_path: Path) -> Iterator[Sandbox]:
    with sandbox(tmp_path) as dub:
        yield dub


async def crashed(server: Postgres) -> None:
    await asyncio.to_thread(server.kill)


async def restarted(server: Postgres) -> None:
    await asyncio.to_thread(server.start)


async def stalled(server: Postgres) -> None:
    await asyncio.to_thread(server.signal, signal.SIGSTOP)


async def resumed(server: Postgres) -> None:
    await asyncio.to_thread(server.signal, signal.SIGCONT)


async def read_only(server: Postgres) -> None:
    await asyncio.to_thread(made_read_only, server, "on")


async def writable(server: Postgres) -> None:
    await asyncio.to_thread(made_read_only, server, "off")


def made_read_only(server: Postgres, value: str) -> None:
    """As an operator or a managed service does it; connections that are open are ended."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}".encode())
        connection.execute("SELECT pg_reload_conf()")
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'firstopen'"
        )


async def filled(server: Postgres) -> None:
    await asyncio.to_thread(fill, server)


def fill(server: Postgres) -> None:
    """Leave no room on the server's disk; without a disk of its own, let none of its files grow."""
    if not os.path.ismount(server.folder.parent):
        limit_files(server, 4096)
        return
    with contextlib.suppress(OSError), (server.folder / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))


def limit_files(server: Postgres, size: int) -> None:
    for pid in server.pids():
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


async def emptied(server: Postgres) -> None:
    await asyncio.to_thread(empty, server)


def empty(server: Postgres) -> None:
    """Make room again."""
    (server.folder / "ballast").unlink(missing_ok=True)
    if not os.path.ismount(server.folder.parent):
        limit_files(server, resource.RLIM_INFINITY)
    if server.popen is not None and server.popen.poll() is not None:  # a server may stop when it cannot write
        server.start()


@pytest.mark.parametrize(
    ("fault", "mend"),
    [(crashed, restarted), (stalled, resumed), (read_only, writable), (filled, emptied)],
    ids=["crashed", "stalled", "read-only", "full"],
)
async def test_a_bad_minute_of_the_database(
    tmp_path: Path,
    dub: Sandbox,
    server: Postgres,
    fault: Fault,
    mend: Fault,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before, during and after: every open is answered in time, every accepted lead arrives once."""
    with ExitStack() as stack:
        url = server.database()
        replicas = [stack.enter_context(replica(tmp_path, dub.port, url)) for _ in range(2)]
        for number in range(CLICKS):
            await asyncio.to_thread(dub.click, f"198.51.100.{number % CLIENTS}")
        async with loaded(replicas) as load:
            await until(lambda: len(load.leads) > 20)
            await fault(server)
            opens = load.opens
            await until(lambda: all("database" in "".join(each.degraded()) for each in replicas))
            await until(lambda: load.opens > opens + 200 and load.refused)
            await mend(server)
            await until(lambda: not any("database" in "".join(each.degraded()) for each in replicas))
            leads = len(load.leads)
            await until(lambda: len(load.leads) > leads + 20)
        await held(load, dub, replicas)
        with capsys.disabled():
            print(f"\n{fault.__name__}: {said(load)}")  # noqa: T201  what the run has shown


async def test_a_failover(
    tmp_path: Path, dub: Sandbox, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The primary is killed under load and its synchronous standby promoted: nothing acknowledged is lost."""
    small = ("max_wal_size = 48MB", "min_wal_size = 32MB")
    primary, standby = Postgres(folder / "primary", *small), Postgres(folder / "standby", *small)
    with ExitStack() as stack:
        stack.callback(standby.kill)
        stack.callback(primary.kill)
        await asyncio.to_thread(primary.create)
        await asyncio.to_thread(primary.start)
        await asyncio.to_thread(standby.create_standby, primary)
        await asyncio.to_thread(standby.start)
        primary.configure("synchronous_standby_names = '*'")
        primary.query("SELECT pg_reload_conf()")
        await until(lambda: primary.query("SELECT sync_state FROM pg_stat_replication") == [("sync",)])
        url = primary.database().replace(f":{primary.port}/", f":{primary.port},127.0.0.1:{standby.port}/")
        replicas = [stack.enter_context(replica(tmp_path, dub.port, url)) for _ in range(2)]
        for number in range(CLICKS):
            await asyncio.to_thread(dub.click, f"198.51.100.{number % CLIENTS}")
        async with loaded(replicas) as load:
            await until(lambda: len(load.leads) > 100)
            await asyncio.to_thread(primary.kill)
            await until(lambda: all("database" in "".join(each.degraded()) for each in replicas))
            await asyncio.to_thread(standby.promote)
            await until(lambda: not any("database" in "".join(each.degraded()) for each in replicas))
            leads = len(load.leads)
            await until(lambda: len(load.leads) > leads + 100)
        await held(load, dub, replicas)
        with capsys.disabled():
            print(f"\nfailover: {said(load)}")  # noqa: T201


async def held(load: Load, dub: Sandbox, replicas: list[Replica]) -> None:
    """Assert that no open failed, no click was given twice, and each accepted lead was recorded once."""
    assert load.failed == []
    assert load.clicks
    assert not [click for click, count in load.clicks.items() if count > 1]
    for lead, _ in load.leads:
        await until(lambda lead=lead: delivered(replicas[0], lead))  # type: ignore[misc]
    events = Counter(
        event["customer"]["externalId"] for event in await asyncio.to_thread(dub.events, "leads")
    )
    assert not [who for who, count in events.items() if count > 1]
    assert {who for _, who in load.leads} <= events.keys()


def said(load: Load) -> str:
    return (
        f"{load.opens} opens, 0 failed, {load.pending} pending; {len(load.leads)} leads acknowledged and"
        f" recorded once, {load.refused} refused; {len(load.clicks)} clicks given, each once"
    )


def delivered(on: Replica, lead_id: str) -> bool:
    return bool(on.http.get(f"/v1/leads/{lead_id}").json().get("status") == "delivered")


async def until(condition: Callable[[], Any], within_s: float = 60) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while loop.time() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if await asyncio.to_thread(condition):
                return
        await asyncio.sleep(0.05)
    raise AssertionError("it never came to that")
