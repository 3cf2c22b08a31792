"""A real PostgreSQL on a free loopback port, that can be killed, stopped and started again. Never runs as
root.

``python -m tests.postgres`` ends with 1 if there is none, and says what to install.
"""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from tests.process import READY_S, free_ports

_USER = "firstopen"
_UNPRIVILEGED = ("postgres", "nobody")
_FOLDERS = (
    "/usr/lib/postgresql",
    "/usr/local/pgsql",
    "/opt/homebrew/opt",
    "/usr/local/opt",
)  # Debian, source, Homebrew


class PostgresMissing(Exception):
    """PostgreSQL's programs are not on this machine."""


def binary(name: str) -> str:
    """Find one of PostgreSQL's programs; the newest version installed. Raises ``PostgresMissing``."""
    on_path = shutil.which(name) or shutil.which(name, path="/usr/sbin")  # where Debian puts pgbouncer
    if on_path is not None and (name == "pgbouncer" or shutil.which("initdb") is not None):
        return on_path
    found = [path for folder in _FOLDERS for path in Path(folder).glob(f"*/bin/{name}")]
    if not found:
        raise PostgresMissing(
            f"no {name}: install PostgreSQL 14 or newer and PgBouncer, with apt or"
            " `brew install postgresql@17 pgbouncer`"
        )
    return str(max(found, key=lambda path: path.parts))


def _unprivileged() -> str | None:
    """Return the user to run the server as; None if this is not root."""
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in _UNPRIVILEGED if name in names)


class Postgres:
    """One server with one superuser and no password. ``options`` are lines of its configuration."""

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        self.port = port or free_ports()
        self.folder = folder
        self.data = folder / "data"
        self.options = options
        self.popen: subprocess.Popen[bytes] | None = None
        self.user = _unprivileged()
        self._databases = 0

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/{database}"

    def create(self) -> None:
        """Make the data directory."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.give_away(self.folder)
        self.run("initdb", "-D", str(self.data), "-U", _USER, "-A", "trust", "--no-sync", "-E", "UTF8")
        self.configure(*self.options)

    def create_standby(self, of: "Postgres") -> None:
        """Make the data directory of a standby, which follows a running server."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.give_away(self.folder)
        source = ("-h", "127.0.0.1", "-p", str(of.port), "-U", _USER)
        self.run("pg_basebackup", "-D", str(self.data), *source, "-R", "-X", "stream", "--no-sync")
        self.configure(*self.options)

    def promote(self) -> None:
        """Make a standby the primary."""
        self.run("pg_ctl", "promote", "-D", str(self.data), "-w", "-t", str(READY_S))

    def configure(self, *options: str) -> None:
        """Add lines to its configuration."""
        with (self.data / "postgresql.auto.conf").open("a") as file:
            file.write("\n".join([*options, ""]))

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs as the server's user."""
        command = [binary(program), *arguments]
        subprocess.run(
            command, check=True, capture_output=True, user=self.user, cwd=self.folder, extra_groups=None
        )

    def give_away(self, folder: Path) -> None:
        """Let the server's user own a folder."""
        if self.user is not None:
            shutil.chown(folder, self.user)

    def start(self) -> None:
        command = [
            binary("postgres"),
            "-D",
            str(self.data),
            "-p",
            str(self.port),
            "-h",
            "127.0.0.1",
            "-k",
            "",
        ]
        with (self.folder / "log").open("ab") as log:
            self.popen = subprocess.Popen(command, stdout=log, stderr=log, user=self.user, cwd=self.folder)
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and self.popen.poll() is None:
            with (
                contextlib.suppress(psycopg.OperationalError),
                psycopg.connect(self.url(), connect_timeout=2),
            ):
                return
            time.sleep(0.02)
        raise AssertionError((self.folder / "log").read_text())

    def query(self, sql: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run a statement and return its rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(sql.encode())
            return [] if cursor.description is None else cursor.fetchall()

    def database(self) -> str:
        """Create an empty database and return its URL."""
        self._databases += 1
        name = f"test_{self._databases}"
        self.query(f"CREATE DATABASE {name}")
        return self.url(name)

    def pids(self) -> list[int]:
        """Return the server's process and every process of it."""
        assert self.popen
        children = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.popen.pid)], capture_output=True, text=True, check=False
        )
        return [self.popen.pid, *map(int, children.stdout.split())]

    def signal(self, number: signal.Signals) -> None:
        """Signal the server and every process of it."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self) -> None:
        """End it as an administrator's restart does: connections are closed, nothing is lost."""
        assert self.popen
        self.popen.send_signal(signal.SIGINT)
        self.popen.wait(READY_S)

    def kill(self) -> None:
        """End it as a crash would."""
        if self.popen is not None and self.popen.poll() is None:
            self.signal(signal.SIGKILL)
            self.popen.wait()


@contextlib.contextmanager
def serving(*options: str) -> Iterator[Postgres]:
    """Start a server in a folder of its own, and end it whatever happens."""
    # not pytest's folder: the server's user may not enter it
    folder = Path(tempfile.mkdtemp(prefix="firstopen-postgres-"))
    server = Postgres(folder, *options)
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> str | None:
    """Return what is missing."""
    try:
        for name in ("postgres", "initdb", "pgbouncer"):
            binary(name)
    except PostgresMissing as exc:
        return str(exc)
    return None


if __name__ == "__main__":
    sys.exit(main())
