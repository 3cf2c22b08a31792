"""``python -m tests.clients``: run Dub's Python and JavaScript packages, and ours in `clients/`.

They need tools that not every newcomer has (node; java, swiftc or dart to compile more packages), so they are
not part of ``make test``. It starts its own service on free ports, and ends it.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from tests.clients.packages import NODE, Missing, build_and_test, install
from tests.process import free_ports, started

_NODE_NEEDED = (20, 10)
_USAGE = 2


def main() -> int:
    """Return the exit status: 0, 1 if something failed, 2 if it cannot run."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        _find_node()
        install(NODE)
        built = build_and_test()
        tested = _run_in_node() and _run_in_python()
    except Missing as exc:
        sys.stderr.write(f"make test-clients: {exc}\n")
        return _USAGE
    return 0 if built and tested else 1


def _leave(number: int, _: object) -> NoReturn:
    """Unwind, so that what was started ends too."""
    sys.exit(128 + number)


def _find_node() -> None:
    needed = ".".join(map(str, _NODE_NEEDED))
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise Missing(f"it runs Dub's JavaScript clients and needs node {needed} or newer, with npm")
    shown = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if tuple(map(int, re.findall(r"\d+", shown)[:2])) < _NODE_NEEDED:
        raise Missing(f"it needs node {needed} or newer, and this is {shown}")


def _run_in_node() -> bool:
    """Run the tests in ``node/`` against the demo, started for them."""
    port = free_ports(2)
    env = {"FIRSTOPEN_PORT": str(port)}
    with (
        tempfile.TemporaryDirectory(prefix="firstopen-clients-") as folder,
        started("serve", env=env, cwd=Path(folder)) as process,
    ):
        process.ready(port)
        tests = sorted(path.name for path in NODE.glob("*.test.mjs"))
        one_by_one = "--test-concurrency=1"  # they share a sandbox, and one of them gives it a bad day
        where = {
            "FIRSTOPEN_URL": f"http://127.0.0.1:{port}",
            "SANDBOX_URL": f"http://127.0.0.1:{port + 1}",
        }
        done = subprocess.run(
            [
                "node",
                "--import",
                "./stubs/register.mjs",
                "--test",
                one_by_one,
                "--test-reporter=spec",
                *tests,
            ],
            cwd=NODE,
            env={**os.environ, **where},
            check=False,
        )
        return done.returncode == 0


def _run_in_python() -> bool:
    """Run the tests of Dub's Python client, which start a service of their own."""
    tests = NODE.parent / "test_dub_python.py"
    return subprocess.run([sys.executable, "-m", "pytest", "-q", str(tests)], check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
