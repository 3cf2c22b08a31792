"""A real Valkey or Redis, every write on its disk before it is acknowledged, and what it did, from outside.

Its fsyncs are counted by strace, which starts it, so that a filter in the kernel stops the server at those
calls only. Attached to a running server it would stop it at every call, and a slow server fsyncs less.
"""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import redis

from service.store.shared_entries import KEY as OUTBOX
from tests.bench.processes import Failed, clean_env, end, free_port, last_words

_STRACE = (
    "strace",
    "-D",
    "-f",
    "--seccomp-bpf",
    "-qq",
    "-e",
    "trace=fsync,fdatasync",
    "-e",
    "signal=none",
    "-o",
)
_DURABLE = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
_READY_WITHIN_S = 10.0
_ASKED_EVERY_S = 0.01
_SAMPLED = 500  # keys


class Valkey:
    """The server, from outside."""

    def __init__(self, port: int, trace: Path) -> None:
        self.url = f"redis://127.0.0.1:{port}/0"
        self.client = redis.Redis(port=port, socket_timeout=5)
        self._trace = trace

    def fsyncs(self) -> int:
        """Return how often it made sure that the disk has what it was told; it must be traced."""
        return self._trace.read_bytes().count(b"sync(")

    def queued_leads(self) -> int:
        """Return how many leads wait in the outbox."""
        return int(self.client.zcard(f"{OUTBOX}:queued:lead"))

    def answers(self) -> int:
        """Return how many answers it knows."""
        return sum(1 for _ in self.client.scan_iter("fo1:a:*", count=1000))

    def key_bytes(self, pattern: str) -> float:
        """Return the memory of a key of this pattern, on average over the first few that it finds."""
        found = list(islice(self.client.scan_iter(pattern, count=1000), _SAMPLED))
        return sum(int(self.client.memory_usage(key) or 0) for key in found) / max(len(found), 1)

    def cpu_s(self) -> float:
        """Return the CPU seconds that it has used so far."""
        info = self.client.info("cpu")
        return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])

    def used_bytes(self) -> int:
        """Return the memory of all that it keeps."""
        return int(self.client.info("memory")["used_memory"])


@contextmanager
def running(folder: Path, *, core: int, is_traced: bool) -> Iterator[Valkey]:
    """Run a server until the block ends. Raises ``Failed``, with its last words, if it does not start."""
    binary = shutil.which("valkey-server") or shutil.which("redis-server")
    if binary is None:
        raise Failed("no valkey-server or redis-server: `make bench` installs one")
    if is_traced and shutil.which("strace") is None:
        raise Failed("no strace, which counts fsyncs: `make bench` installs it")
    port, log, trace = free_port(), folder / "log", folder / "trace"
    strace = [*_STRACE, str(trace)] if is_traced else []
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), *_DURABLE]
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *strace, *command],
            env=clean_env(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        valkey = Valkey(port, trace)
        try:
            with valkey.client:
                _await_ready(process, valkey, log)
                yield valkey
        finally:
            end(process)


def _await_ready(process: subprocess.Popen[bytes], valkey: Valkey, log: Path) -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(redis.RedisError, OSError):
            if valkey.client.ping():
                return
        time.sleep(_ASKED_EVERY_S)
    raise Failed(f"Valkey does not answer (exit {process.poll()}):{last_words(log)}")
