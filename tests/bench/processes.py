"""Child processes: pinned to one core, awaited until they answer, ended by pid whatever happens."""

import contextlib
import http.client
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

ROOT = Path(__file__).resolve().parents[2]

_READY_WITHIN_S = 30.0
_ASKED_EVERY_S = 0.005
STOPPED_WITHIN_S = 15.0
_LAST_WORDS = 12


class Failed(Exception):
    """A measurement could not be made; the message says why."""


class Server(Struct, frozen=True):
    """A process that answers at ``url``. ``ready_s`` counts from just before it was started.

    ``database_url`` is a firstopen's that has PostgreSQL; else its SQLite file is in ``folder``.
    """

    url: str
    pid: int
    log: Path
    ready_s: float
    database_url: str = ""

    @property
    def folder(self) -> Path:
        """Return where its log is, and firstopen's data."""
        return self.log.parent

    def rss_bytes(self) -> int:
        """Return its resident memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def cpu_s(self) -> float:
        """Return the CPU seconds that it has used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime


@contextmanager
def serving(
    command: Sequence[str],
    *,
    port: int,
    core: int | str,
    log: Path,
    env: Mapping[str, str],
    ready_path: str,
    ready_status: int = 200,
) -> Iterator[Server]:
    """Run a server until the block ends. Raises ``Failed``, with its last words, if it does not start."""
    url = f"http://127.0.0.1:{port}"
    with log.open("ab") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us: we end it
        )
        try:
            _await_ready(process, url + ready_path, ready_status, log)
            ready_s = time.perf_counter() - began
            yield Server(url, process.pid, log, ready_s)
        finally:
            end(process)


def free_port() -> int:
    """Return a loopback port that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def fetch(
    method: str, url: str, body: str | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Make one request on a connection of its own; raises ``OSError`` or ``http.client.HTTPException``."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    try:
        connection.request(method, parts.path, body=body, headers=dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def clean_env() -> dict[str, str]:
    """Return the environment without anything that would configure the service."""
    ours = ("FIRSTOPEN_", "DUB_", "BENCH_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def _await_ready(process: subprocess.Popen[bytes], url: str, wanted: int, log: Path) -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Failed(f"the server ended at start (exit {process.returncode}):{last_words(log)}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            if fetch("GET", url)[0] == wanted:
                return
        time.sleep(_ASKED_EVERY_S)
    raise Failed(f"no {wanted} from {url} within {_READY_WITHIN_S:.0f} s:{last_words(log)}")


def end(process: subprocess.Popen[bytes]) -> None:
    """End it by its pid: asked first, then killed."""
    process.terminate()  # which does nothing to a process that has ended
    try:
        process.wait(STOPPED_WITHIN_S)
    except BaseException as exc:
        process.kill()
        process.wait()
        if not isinstance(exc, subprocess.TimeoutExpired):
            raise


def last_words(log: Path) -> str:
    """Return what a server said last."""
    lines = log.read_text(errors="replace").splitlines()[-_LAST_WORDS:]
    return "".join(f"\n    {line}" for line in lines) or " it said nothing"
