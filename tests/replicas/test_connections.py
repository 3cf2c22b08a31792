"""The ways to PostgreSQL that docs/database.md promises: through PgBouncer, and over TLS."""

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import contexts
from tests.postgres import Postgres, binary, serving
from tests.process import free_ports
from tests.replicas.processes import Replica, Sandbox, replica, sandbox, until

PROMO = "https://acme.link/fb-promo"


@contextlib.contextmanager
def pgbouncer(server: Postgres) -> Iterator[int]:
    """Run PgBouncer in transaction mode before a server; yields its port."""
    port = free_ports()
    with tempfile.TemporaryDirectory(prefix="firstopen-pgbouncer-") as name:
        folder = Path(name)
        (folder / "users").write_text('"firstopen" ""\n')
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\n* = host=127.0.0.1 port={server.port} user=firstopen\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = any\nauth_file = {folder / 'users'}\n"
            "pool_mode = transaction\ndefault_pool_size = 2\n"
        )
        for path in (folder, *folder.iterdir()):
            server.give_away(path)
        command = [binary("pgbouncer"), str(folder / "pgbouncer.ini")]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, user=server.user) as process:
            try:
                yield port
            finally:
                process.kill()


def reports(here: Replica, there: Replica, dub: Sandbox) -> None:
    """Report one open and one lead; the other replica repeats the open, and Dub has the lead."""
    first = here.open(deepLink=PROMO, installId="install-anna", budgetMs=10_000)
    until(lambda: there.open(deepLink=PROMO, installId="install-anna")["openId"] == first["openId"])
    lead = {"clickId": first["clickId"], "eventName": "Sign up", "customerExternalId": "anna"}
    assert here.http.post("/v1/leads", json=lead).status_code == 200
    assert len(dub.events("leads")) == 1


def test_replicas_work_behind_pgbouncer(tmp_path: Path, postgres: Postgres) -> None:
    """In transaction mode, with fewer connections to the server than the replicas hold."""
    database = postgres.database().rpartition("/")[2]
    with sandbox(tmp_path) as dub, pgbouncer(postgres) as port:
        url = f"postgresql://firstopen@127.0.0.1:{port}/{database}"
        with replica(tmp_path, dub.port, url) as here, replica(tmp_path, dub.port, url) as there:
            reports(here, there, dub)
            assert here.degraded() == there.degraded() == []


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[tuple[Postgres, Path]]:
    """Start a server that takes TLS connections only, and yield it with the certificate to trust."""
    trusted = contexts(tmp_path)[2]
    with serving() as server:
        for name in ("server.crt", "server.key"):
            path = server.data / name
            path.write_bytes(trusted.read_bytes())
            path.chmod(0o600)
            server.give_away(path)
        server.configure("ssl = on")
        (server.data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 trust\n")
        server.kill()
        server.start()
        yield server, trusted


def test_the_connection_is_encrypted_and_the_certificate_checked(
    tmp_path: Path, encrypted: tuple[Postgres, Path]
) -> None:
    """``sslmode=verify-full`` connects to the trusted server, and to no other."""
    server, trusted = encrypted
    database = server.database()
    with sandbox(tmp_path) as dub:
        with replica(tmp_path, dub.port, f"{database}?sslmode=verify-full&sslrootcert={trusted}") as here:
            here.open(deepLink=PROMO, installId="install-anna", budgetMs=10_000)
            assert here.degraded() == []
            used = server.query(
                "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
                " WHERE datname LIKE 'test_%'"
            )
            assert used == [(True,)]
        (tmp_path / "other").mkdir()
        stranger = contexts(tmp_path / "other")[2]
        with replica(tmp_path, dub.port, f"{database}?sslmode=verify-full&sslrootcert={stranger}") as here:
            assert any("database" in each for each in here.degraded())
            answer = here.open(deepLink=PROMO, installId="install-ben", budgetMs=10_000)
            assert (answer["source"], answer["pending"]) == ("dub", False)
