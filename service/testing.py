"""A pytest plugin: the fixture ``firstopen`` runs the service and an embedded Dub, both on free ports.

It is there wherever the package is installed. A test of an app's backend uses the addresses; the demo's app,
links and keys are served, or those of the file that the option ``firstopen_config`` of pytest's own
configuration names.
"""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

_READY_S = 30
_STOP_S = 20


class Running(NamedTuple):
    """Where the service and the embedded Dub are, and the keys to use."""

    url: str
    """Base URL of the service, as an app uses it."""
    sandbox_url: str
    """Base URL of the embedded Dub: its API, ``/sandbox/*`` and the links."""
    publishable_key: str
    server_key: str

    def link(self, key: str) -> str:
        """Return a short link on the first app's local domain."""
        host = self.sandbox_url.removeprefix("http://127.0.0.1")
        return f"http://acme.localhost{host}/{key}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option ``firstopen_config``."""
    parser.addini("firstopen_config", "The firstopen.toml that the fixture `firstopen` serves.", default="")


@pytest.fixture(scope="session")
def firstopen(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Run ``firstopen dev`` until the session ends."""
    config = str(pytestconfig.getini("firstopen_config"))
    own = ("--config", str(pytestconfig.rootpath / config)) if config else ()
    with running(tmp_path_factory.mktemp("firstopen"), *own) as found:
        yield found


@contextlib.contextmanager
def running(folder: Path, *arguments: str) -> Iterator[Running]:
    """Run ``firstopen dev`` with its data in a folder, and stop it with the block.

    Raises ``RuntimeError`` with what it printed if it does not get ready.
    """
    port = _free_ports()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("FIRSTOPEN_", "DUB_"))}
    log = folder / "firstopen.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603  our own command
            [sys.executable, "-m", "service", "dev", "--port", str(port), *arguments],
            cwd=folder,
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_until_ready(process, f"http://127.0.0.1:{port}/health/ready", log)
        yield Running(
            f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}", "dub_pk_acme", "dub_demo_acme"
        )
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_ports() -> int:
    """Return the first of two free ports that follow each other."""
    while True:
        with contextlib.ExitStack() as held:
            first = int(held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1])
            with contextlib.suppress(OSError, OverflowError):
                held.enter_context(socket.create_server(("127.0.0.1", first + 1)))
                return first


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    until = time.monotonic() + _READY_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=2):  # noqa: S310
            return
        time.sleep(0.05)
    raise RuntimeError(f"firstopen dev did not get ready:\n{log.read_text(errors='replace')}")
