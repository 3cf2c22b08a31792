"""Real processes of ours: started on free loopback ports, read, and ended whatever happens."""

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx

READY_S = 20


def free_ports(count: int = 1) -> int:
    """Return the first of ``count`` free consecutive ports."""
    while True:
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            try:
                for port in range(first + 1, first + count):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except (OSError, OverflowError):
                continue
            return int(first)


_RUN = "from service.cli.main import main; main()"
_RETRIES_SOON = (
    "from service.outbox import policy; policy.BACKOFF_MIN_S, policy.BACKOFF_MAX_S = 0.05, 0.2; "
    "from service.webhooks import delivery, endpoint_health; "
    f"delivery._BACKOFF_MIN_S, endpoint_health.PAUSE_MIN_S = 0.05, 0.2; {_RUN}"
)


class Process:
    """One ``firstopen`` command under way; ``lines`` are what it has printed so far."""

    def __init__(
        self,
        *args: str,
        env: Mapping[str, str],
        cwd: Path,
        stdout: int = subprocess.PIPE,
        retries_soon: bool = False,
    ) -> None:
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("FIRSTOPEN_", "DUB_"))
        }
        self.popen = subprocess.Popen(
            [sys.executable, "-c", _RETRIES_SOON if retries_soon else _RUN, *args],
            cwd=cwd,
            env={**inherited, "PYTHONWARNINGS": "error", **env},
            stdout=stdout,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        if self.popen.stdout:
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.popen.stdout
        for line in self.popen.stdout:
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def until(self, text: str) -> str:
        """Read on until a line contains the text, and return that line."""
        deadline = time.monotonic() + READY_S
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                line = self._queue.get(timeout=left)
                if line is None:
                    break
                self.lines.append(line)
                if text in line:
                    return line
        raise AssertionError(f"no line with {text!r}; there were: {self.lines}")

    def ready(self, port: int) -> None:
        """Wait for the first 200 of /health/ready."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and self.popen.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200:
                    return
        raise AssertionError(f"not ready (exit {self.popen.poll()}): {self.rest()}")

    def rest(self) -> list[str]:
        """Return all lines, once the process has ended."""
        if self.popen.poll() is None:
            return self.lines
        while (line := self._queue.get(timeout=READY_S)) is not None:
            self.lines.append(line)
        return self.lines

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, and return the exit status."""
        self.popen.send_signal(number)
        return self.popen.wait(READY_S)


@contextlib.contextmanager
def started(
    *args: str, env: Mapping[str, str], cwd: Path, stdout: int = subprocess.PIPE, retries_soon: bool = False
) -> Iterator[Process]:
    """Start a command, and end it whatever happens. ``retries_soon``: the outbox's pauses are short."""
    process = Process(*args, env=env, cwd=cwd, stdout=stdout, retries_soon=retries_soon)
    try:
        yield process
    finally:
        if process.popen.poll() is None:
            process.popen.kill()
        process.popen.wait()
        if process.popen.stdout:
            process.popen.stdout.close()


def finished(args: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a command to its end; return its exit status and what it printed."""
    with started(*args, env=env or {}, cwd=cwd) as process:
        status = process.popen.wait(READY_S)
        return status, "\n".join(process.rest())
