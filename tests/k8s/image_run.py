"""Starts what the Dockerfile's commands made, as the image would: its command, its user, nothing writable."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.k8s.check import K8S
from tests.k8s.dockerfile import Stage

READY_S = 30
_STOP_S = 30
_REFUSED_STATUS = 2  # firstopen's own, for a setting that stops the boot
# Another user's Python (pyenv in root's home) is read all the same; nothing of root's may be written.
_READ = "dac_read_search"

Command = list[str]


class RunFailed(Exception):
    """What was built does not run as it should; the message says how."""


def run(
    root: Path,
    scratch: Path,
    stage: Stage,
    env: Mapping[str, str],
    mapped: Callable[[str], str],
    skipped: list[str],
) -> None:
    """Start the final stage's command with and without a configuration, and stop it; raises ``RunFailed``."""
    prefix = _as_user(stage.last("USER").text, scratch, skipped)
    command = [*prefix, *stage.last("ENTRYPOINT").words()]
    port = _free_port()
    environment = {
        **env,
        "HOME": "/nonexistent",
        "FIRSTOPEN_HOST": "127.0.0.1",  # the image says ::, every address; this machine is not a container
        "FIRSTOPEN_PORT": str(port),
        "FIRSTOPEN_SECRET": "only for this check and longer than 32 characters",
        "ACME_DUB_API_KEY": "dub_none",
        "ACME_SERVER_KEYS": "dub_none_either",
    }
    skipped.append("FIRSTOPEN_HOST, every address in the image: it listened on 127.0.0.1 instead")
    skipped.append("HEALTHCHECK: its command was run by us, its schedule is an engine's")
    serve = [*command, *stage.last("CMD").words()]
    with _nothing_writable(root):
        _refuses_without_config(serve, environment)
        (config := Path(mapped("/etc/firstopen"))).mkdir(parents=True)
        shutil.copyfile(K8S / "base" / "firstopen.toml", config / "firstopen.toml")
        health = [*prefix, *_health_command(stage)]
        _serves(serve, environment, health)
        # PostgreSQL's client is loaded only then; without its server firstopen is ready all the same.
        away = f"postgresql://firstopen@127.0.0.1:{_free_port()}/firstopen"
        _say("again, with a FIRSTOPEN_DATABASE_URL where nobody listens")
        _serves(serve, {**environment, "FIRSTOPEN_DATABASE_URL": away}, health)
        _sandbox_answers([*command, "sandbox"], environment)


def _as_user(user: str, scratch: Path, skipped: list[str]) -> Command:
    """Return what makes a command run as the image's USER, or nothing where we may not."""
    uid, _, gid = user.partition(":")
    who = ["setpriv", "--reuid", uid, "--regid", gid, "--clear-groups", "--no-new-privs"]
    can_read = [f"--inh-caps=-all,+{_READ}", f"--ambient-caps=-all,+{_READ}"]
    python = [str(scratch / "bin" / "python"), "-c", "import os, sys; sys.exit(os.geteuid() == 0)"]
    for prefix, note in (
        ([*who, "--inh-caps=-all"], ""),
        (who + can_read, f"USER {user}: with leave to read this machine's Python, which is in root's home"),
    ):
        if os.geteuid() == 0 and shutil.which("setpriv"):
            done = subprocess.run([*prefix, *python], capture_output=True, check=False)
            if done.returncode == 0:
                _say(f"runs as {user}")
                if note:
                    skipped.append(note)
                return prefix
    skipped.append(f"USER {user}: this machine does not let us; it ran as uid {os.geteuid()}")
    return []


@contextlib.contextmanager
def _nothing_writable(root: Path) -> Iterator[None]:
    """Take every write permission in the image's tree away, and hold that nothing in it was changed."""
    folders = [root / "opt", *(path for path in (root / "opt").rglob("*") if not path.is_symlink())]
    for path in folders:
        path.chmod(path.stat().st_mode & ~0o222)
    before = _snapshot(root / "opt")
    yield
    if _snapshot(root / "opt") != before:
        raise RunFailed("it changed its own files")
    _say("read-only: the tree is as it was")


def _snapshot(root: Path) -> list[tuple[str, int, int]]:
    return sorted((str(path), path.lstat().st_size, path.lstat().st_mtime_ns) for path in root.rglob("*"))


def _refuses_without_config(serve: Command, env: Mapping[str, str]) -> None:
    done = subprocess.run(
        serve, env=env, cwd="/", capture_output=True, text=True, timeout=READY_S, check=False
    )
    if done.returncode != _REFUSED_STATUS or "FIRSTOPEN_CONFIG" not in done.stderr:
        raise RunFailed(f"without a file it ended with {done.returncode}: {done.stderr[-1000:]}")
    _say("without a firstopen.toml: refuses to start")


def _serves(serve: Command, env: Mapping[str, str], health: Command) -> None:
    started = time.monotonic()
    with _started(serve, env) as process:
        while subprocess.run(health, env=env, cwd="/", capture_output=True, check=False).returncode:
            _still_there(process, started)
        _say(f"firstopen serve: HEALTHCHECK's command says healthy after {time.monotonic() - started:.1f} s")
        process.send_signal(signal.SIGTERM)
        status = process.wait(_STOP_S)
    if status:
        raise RunFailed(f"SIGTERM ended it with {status}")
    if not subprocess.run(health, env=env, cwd="/", capture_output=True, check=False).returncode:
        raise RunFailed("HEALTHCHECK's command says healthy of nothing")
    _say("SIGTERM: ended with 0, and HEALTHCHECK's command says unhealthy")


def _sandbox_answers(sandbox: Command, env: Mapping[str, str]) -> None:
    port, started = _free_port(), time.monotonic()
    with _started([*sandbox, "--port", str(port)], env) as process:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            _still_there(process, started)
    _say("firstopen sandbox (the dev overlay's second container): listens")


def _still_there(process: subprocess.Popen[bytes], started: float) -> None:
    """Wait a moment for a process that is not ready yet; raises ``RunFailed`` if it never will be."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        raise RunFailed(f"ended with {process.wait(0.1)} instead of serving")
    if time.monotonic() - started > READY_S:
        raise RunFailed(f"not ready after {READY_S} s")


@contextlib.contextmanager
def _started(command: Command, env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command, and end it whatever happens."""
    process = subprocess.Popen(command, env=env, cwd="/", stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _health_command(stage: Stage) -> Command:
    text = stage.last("HEALTHCHECK").text
    return type(stage.last("CMD"))("CMD", text.partition("CMD ")[2], 0).words()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def _say(line: str) -> None:
    sys.stdout.write(f"  {line}\n")
    sys.stdout.flush()
