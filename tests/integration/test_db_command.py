"""``firstopen db``, and what ``firstopen serve`` says of a database that it must not write to.

On either engine; what serves is a real process.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from click.testing import CliRunner

from service.cli.main import main
from service.storage.fingerprints import fingerprint
from service.storage.migrate import LATEST
from service.storage.migrations import MIGRATIONS
from tests.postgres import Postgres, serving
from tests.process import finished, free_ports, started
from tests.replicas.processes import until

OLD = "the old secret of tests has 32 characters"
NEW = "the new secret of tests has 32 characters"
AS_APP = {"Authorization": "Bearer dub_pk_acme"}
CONFIG = """
[apps.acme]
publishable_keys = ["dub_pk_acme"]
server_keys_env = "ACME_SERVER_KEYS"
dub_api_key_env = "ACME_DUB_API_KEY"
domains = ["acme.link"]
leads = "client"
default_screen = "home"
ip_matching = "off"

[server]
drain_ms = 0
"""


class Deployment:
    """One database, and the commands that use it."""

    def __init__(self, folder: Path, database_url: str = "") -> None:
        self.folder = folder
        self.database_url = database_url
        config = folder / "firstopen.toml"
        config.write_text(CONFIG)
        self.port = free_ports()
        self.env = {
            "FIRSTOPEN_CONFIG": str(config),
            "FIRSTOPEN_PORT": str(self.port),
            "FIRSTOPEN_DATA_DIR": str(folder / "data"),
            "FIRSTOPEN_DATABASE_URL": database_url,
            "FIRSTOPEN_SECRET": OLD,
            "ACME_DUB_API_KEY": "dub_secret_of_acme",
            "ACME_SERVER_KEYS": "server-key-of-acme",
            "DUB_BASE_URL": "http://127.0.0.1:1",
        }

    def db(self, *args: str, **env: str) -> tuple[int, str]:
        """Run ``firstopen db`` in this process; return its exit code and what it printed."""
        result = CliRunner().invoke(main, ["db", *args], env={**self.env, **env})
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.exit_code, result.output.rstrip()

    def refused(self, **env: str) -> str:
        """Start ``firstopen serve``, which must end with exit code 2 and one line, and return that."""
        status, said = finished(["serve"], self.folder, {**self.env, **env})
        [line] = said.splitlines()
        assert status == 2
        return line

    @contextlib.contextmanager
    def serving(self, **env: str) -> Iterator[httpx.Client]:
        with started("serve", env={**self.env, **env}, cwd=self.folder) as process:
            process.ready(self.port)
            with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=AS_APP, timeout=20) as http:
                yield http
            assert process.stop() == 0

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a statement, and return its rows if it has any."""
        if self.database_url:
            with psycopg.connect(self.database_url, autocommit=True) as server:
                cursor = server.execute(sql.encode())
                return cursor.fetchall() if cursor.description else []
        with contextlib.closing(sqlite3.connect(self.folder / "data" / "firstopen.sqlite")) as file, file:
            return file.execute(sql).fetchall()


@pytest.fixture(params=["sqlite", "postgres"])
def deployment(request: pytest.FixtureRequest, tmp_path: Path) -> Deployment:
    if request.param == "sqlite":
        return Deployment(tmp_path)
    return Deployment(tmp_path, request.getfixturevalue("postgres").database())


def said_of(text: str, name: str) -> list[str]:
    """Return the values of a name in the status."""
    lines = text.splitlines()
    at = next(number for number, line in enumerate(lines) if line.split()[:1] == [name])
    found = [lines[at].split(maxsplit=1)[1]]
    for line in lines[at + 1 :]:
        if not line.startswith(" " * 11):
            break
        found.append(line.strip())
    return found


def open_(http: httpx.Client, install: str = "install-anna") -> dict[str, Any]:
    reply = http.post("/v1/opens", json={"deepLink": "https://acme.link/promo", "installId": install})
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def degraded(http: httpx.Client) -> str:
    return " ".join(http.get("/health/ready").json().get("degraded", []))


def test_a_new_database_is_migrated(deployment: Deployment) -> None:
    """It is not usable yet; migrate makes it so and says what it did; the next time nothing is left to do."""
    status, said = deployment.db("status")
    assert status == 1
    status, said = deployment.db("migrate")
    applied = [f"{each.number} {each.name}" for each in MIGRATIONS]
    printed = [*(f"applied {each}" for each in applied), f"schema {LATEST}: up to date"]
    assert (status, said.splitlines()) == (0, printed)
    assert deployment.db("migrate") == (0, f"schema {LATEST}: up to date")
    status, said = deployment.db("status")
    assert status == 0
    assert said_of(said, "schema") == [f"{LATEST} (this version of firstopen: {LATEST})"]
    assert [each.rpartition(",")[0] for each in said_of(said, "applied")] == applied
    assert said_of(said, "secrets") == ["none yet"]
    assert said_of(said, "rows")[0] == "opens 0"


def test_looking_creates_nothing(tmp_path: Path) -> None:
    """Where there is no SQLite file, status and forget-secret say so, and make none."""
    deployment = Deployment(tmp_path)
    for command in (["status"], ["forget-secret", "0" * 16]):
        status, said = deployment.db(*command)
        assert (status, "there is no file yet" in said) == (1, True)
    assert not (tmp_path / "data").exists()


def test_status_beside_a_running_service(deployment: Deployment) -> None:
    """It counts what serve has written, and serve goes on writing."""
    with deployment.serving() as http:
        open_(http)
        until(lambda: said_of(deployment.db("status")[1], "rows")[0] == "opens 1")
        status, said = deployment.db("status")
        assert status == 0
        [secret] = said_of(said, "secrets")
        assert secret.startswith(f"{fingerprint(OLD)}, current since 20")
        assert secret.endswith(": listed in FIRSTOPEN_SECRET")
        assert OLD not in said
        assert deployment.db("migrate")[0] == 0
        open_(http, "install-ben")
        assert "database" not in degraded(http)
    assert deployment.query("SELECT count(*) FROM opens") == [(2,)]


def test_a_newer_schema_is_refused(deployment: Deployment) -> None:
    """By serve, migrate and status, each with one line that says what to do, and exit code 2."""
    deployment.db("migrate")
    deployment.query(f"INSERT INTO schema_migrations VALUES ({LATEST + 1}, 'from the future', 0)")
    status, said = deployment.db("migrate")
    assert status == 2
    for line in (said, deployment.refused()):
        assert line.startswith(
            f"firstopen: the database has schema {LATEST + 1}, but this firstopen supports up to"
        )
        assert "run the newer version" in line
    status, said = deployment.db("status")
    assert status == 2
    assert said_of(said, "applied")[-1].startswith(f"{LATEST + 1} from the future, ")
    assert "run the newer version" in said_of(said, "problem")[0]


def test_another_secret_stops_the_start(deployment: Deployment) -> None:
    """With one line that names the fix, which works; so does giving the old secret up."""
    with deployment.serving() as http:
        path = "/v1/opens/" + open_(http)["openId"]
    line = deployment.refused(FIRSTOPEN_SECRET=NEW)
    assert line.startswith("firstopen: FIRSTOPEN_SECRET: ")
    assert "FIRSTOPEN_SECRET=current,older" in line
    assert f"firstopen db forget-secret {fingerprint(OLD)}" in line
    status, said = deployment.db("status", FIRSTOPEN_SECRET=NEW)
    assert status == 2
    assert said_of(said, "secrets")[0].endswith(": not listed in FIRSTOPEN_SECRET")
    with deployment.serving(FIRSTOPEN_SECRET=f"{NEW},{OLD}") as http:
        assert http.get(path).status_code == 200
    assert deployment.db("forget-secret", "nobody's")[0] == 2
    assert deployment.db("forget-secret", fingerprint(OLD)) == (0, f"forgotten: {fingerprint(OLD)}")
    with deployment.serving(FIRSTOPEN_SECRET=NEW) as http:
        assert http.get(path).status_code == 404
        open_(http)


def test_status_without_a_secret(deployment: Deployment) -> None:
    """It says that it cannot compare, and finds no fault."""
    deployment.db("migrate")
    deployment.query(f"INSERT INTO secrets (fingerprint, first_used_at) VALUES ('{fingerprint(OLD)}', 0)")
    status, said = deployment.db("status", FIRSTOPEN_SECRET="")
    assert status == 2  # an empty one is a mistake, as for serve
    del deployment.env["FIRSTOPEN_SECRET"]
    status, said = deployment.db("status")
    assert (status, said_of(said, "secrets")[0].endswith(": FIRSTOPEN_SECRET is not set here")) == (0, True)


@pytest.fixture
def server() -> Iterator[Postgres]:
    """Start a PostgreSQL of this test's own, to be ended and started again."""
    with serving() as server:
        yield server


def test_an_unreachable_server_is_no_reason_not_to_start(tmp_path: Path, server: Postgres) -> None:
    """Opens are answered and readiness names it; status says why. Then it is reached without a restart."""
    url = server.database().replace("firstopen@", "firstopen:swordfish@")
    deployment = Deployment(tmp_path, url)
    server.kill()
    status, said = deployment.db("status")
    assert status == 1
    assert said_of(said, "database") == [
        f"PostgreSQL, database 'test_1' on 127.0.0.1:{server.port} as firstopen"
    ]
    assert said_of(said, "state")[0].startswith("cannot be reached: connection to server at")
    assert "swordfish" not in said
    status, said = deployment.db("migrate")
    assert (status, said.startswith("firstopen: the database cannot be reached: ")) == (1, True)
    assert "swordfish" not in said
    with deployment.serving() as http:
        assert open_(http)["route"]["screen"] == "home"
        assert "database: connection to server at" in degraded(http)
        assert "swordfish" not in degraded(http)
        listed = http.get("/v1/opens", headers={"Authorization": "Bearer server-key-of-acme"})
        assert listed.status_code == 503
        assert "database" in listed.json()["error"]["message"]
        server.start()
        until(lambda: "database" not in degraded(http))
        assert http.get("/v1/opens/" + open_(http)["openId"]).status_code == 200
    assert deployment.query("SELECT count(*) FROM opens") == [(1,)]


def test_a_wrong_secret_is_found_when_the_server_comes_back(tmp_path: Path, server: Postgres) -> None:
    """The process did not stop at its start, so it writes nothing, says so, and goes on answering opens."""
    deployment = Deployment(tmp_path, server.database())
    with deployment.serving() as http:
        open_(http)
    server.kill()
    with deployment.serving(FIRSTOPEN_SECRET=NEW) as http:
        server.start()
        until(lambda: "FIRSTOPEN_SECRET" in degraded(http))
        assert open_(http, "install-ben")["route"]["screen"] == "home"
        lead = {"clickId": "c" * 16, "eventName": "Sign up", "customerExternalId": "anna"}
        refused = http.post("/v1/leads", json=lead)
        assert (refused.status_code, "database" in refused.json()["error"]["message"]) == (503, True)
        assert "FIRSTOPEN_SECRET" in degraded(http)
    assert deployment.query("SELECT count(*) FROM opens") == [(1,)]
    assert deployment.query("SELECT count(*) FROM outbox WHERE kind = 'lead'") == [(0,)]
    assert deployment.query("SELECT fingerprint FROM secrets") == [(fingerprint(OLD),)]


def test_help_teaches() -> None:
    """Each command is listed, and says what its exit codes mean."""
    said = CliRunner().invoke(main, ["db", "--help"]).output
    assert all(name in said for name in ("status", "migrate", "forget-secret", "FIRSTOPEN_DATABASE_URL"))
    for command in ("status", "migrate"):
        assert "Exit code 0" in CliRunner().invoke(main, ["db", command, "--help"]).output
