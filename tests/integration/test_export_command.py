"""``firstopen export``: opens straight from the database."""

import asyncio
import csv
import io
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner, Result
from msgspec import structs

from service.cli.main import main
from service.config.settings import parse
from service.domain.models import BY_DEEP_LINK, Link, Match, Open
from service.storage.database import Database
from service.storage.encryption import Cipher
from service.storage.opens import SqlOpenStore
from service.wiring.stores import engine
from tests.process import READY_S
from tests.support import CONFIG, ENV

LINK = Link("link_1", "acme.link", "fb-promo", "https://acme.com/product/1")
OPEN = Open(
    app="acme",
    open_id="00" * 16,
    device="00" * 8,
    click_id="c" * 16,
    link=LINK,
    carried="to=secret-query",
    match=BY_DEEP_LINK,
    source="dub",
    app_version="2.1",
    opened_at=1_604_188_800.0,  # 2020-11-01T00:00:00Z
    repeat_until=0.0,
)
COLUMNS = [
    *("openId", "app", "openedAt", "updatedAt", "matchType", "guaranteed", "confidence", "reason", "source"),
    *("pending", "clickId", "linkId", "linkDomain", "linkKey", "appVersion"),
]


@pytest.fixture(params=["sqlite", "postgres"])
def env(request: pytest.FixtureRequest, tmp_path: Path, data_dir: Path) -> Mapping[str, str]:
    config = tmp_path / "firstopen.toml"
    config.write_text(CONFIG)
    url = "" if request.param == "sqlite" else request.getfixturevalue("postgres").database()
    paths = {"FIRSTOPEN_CONFIG": str(config), "FIRSTOPEN_DATA_DIR": str(data_dir)}
    return {**ENV, **paths, "FIRSTOPEN_DATABASE_URL": url}


async def keep(env: Mapping[str, str], *opens: Open) -> None:
    """Write opens as serve does."""
    database = Database(engine(parse(CONFIG, env)), structlog.get_logger())
    await database.open()
    store = SqlOpenStore(
        database, Cipher([env["FIRSTOPEN_SECRET"]]), clock=time.monotonic, unix_time=lambda: OPEN.opened_at
    )
    for opened in opens:
        store.keep(b"a key of 16 bytes"[:16], opened, None, None)
    await database.close()


def hourly(count: int, app: str = "acme") -> list[Open]:
    """Return opens an hour apart, from the first of November on."""
    return [
        structs.replace(OPEN, app=app, open_id=f"{number:032x}", opened_at=OPEN.opened_at + number * 3600)
        for number in range(count)
    ]


def export(env: Mapping[str, str], *args: str) -> Result:
    """Run the command in this process, without the secret: it needs none."""
    known: dict[str, str | None] = {**env, "FIRSTOPEN_SECRET": None}
    return CliRunner().invoke(main, ["export", *args], env=known)


def test_lines_of_json(env: Mapping[str, str]) -> None:
    """One object a line, as the list of opens over HTTP has them; nothing personal."""
    none = Match("none", guaranteed=False, reason="no_click")
    later = structs.replace(
        OPEN, open_id="01" * 16, opened_at=OPEN.opened_at + 60.125, match=none, link=None, click_id=None
    )
    asyncio.run(keep(env, later, OPEN))
    done = export(env)
    assert done.exit_code == 0
    assert "secret" not in done.stdout
    first, second = map(json.loads, done.stdout.splitlines())
    assert first == {
        "openId": "00" * 16,
        "app": "acme",
        "openedAt": "2020-11-01T00:00:00.000Z",
        "updatedAt": "2020-11-01T00:00:00.000Z",
        "matchType": "deep_link",
        "guaranteed": True,
        "confidence": None,
        "reason": None,
        "source": "dub",
        "pending": False,
        "clickId": "c" * 16,
        "linkId": "link_1",
        "linkDomain": "acme.link",
        "linkKey": "fb-promo",
        "appVersion": "2.1",
    }
    assert (second["openedAt"], second["reason"]) == ("2020-11-01T00:01:00.125Z", "no_click")
    assert done.stderr == "firstopen: 2 opens exported\n"


def test_csv(env: Mapping[str, str]) -> None:
    """The same columns below their names; what is missing is empty, what has commas is quoted."""
    odd = structs.replace(OPEN, app_version='2,1 "beta"', link=structs.replace(LINK, key="a,b"))
    bare = structs.replace(OPEN, open_id="01" * 16, link=None, click_id=None, app_version=None)
    asyncio.run(keep(env, odd, bare))
    names, first, second = csv.reader(io.StringIO(export(env, "--format", "csv").stdout))
    assert names == COLUMNS
    assert first[-2:] == ["a,b", '2,1 "beta"']
    assert (first[5], first[9]) == ("true", "false")
    assert second[-5:] == [""] * 5


def test_csv_of_nothing_has_its_columns(env: Mapping[str, str]) -> None:
    asyncio.run(keep(env))
    done = export(env, "--format", "csv")
    assert (done.exit_code, done.stdout) == (0, ",".join(COLUMNS) + "\n")
    assert export(env).stdout == ""


def test_a_part_of_it(env: Mapping[str, str]) -> None:
    """From one time on (inclusive), to another (exclusive), of one app; else of every app."""
    asyncio.run(keep(env, *hourly(72), structs.replace(OPEN, app="globex", open_id="ff" * 16)))

    def ids(*args: str) -> list[int]:
        lines = export(env, *args).stdout.splitlines()
        return [int(json.loads(line)["openId"], 16) for line in lines]

    assert ids("--since", "2020-11-02", "--until", "2020-11-03") == list(range(24, 48))
    assert ids("--since", "2020-11-03T22:00:00Z", "--app", "acme") == [70, 71]
    assert ids("--until", f"{OPEN.opened_at + 3600:.0f}", "--app", "acme") == [0]
    assert ids("--app", "globex") == [int("ff" * 16, 16)]
    assert len(ids()) == 73
    assert ids("--since", "2100-01-01") == []


def test_many_pages(env: Mapping[str, str]) -> None:
    """More opens than a page holds are each exported once, in order."""
    asyncio.run(keep(env, *hourly(2500)))
    ids = [json.loads(line)["openId"] for line in export(env).stdout.splitlines()]
    assert ids == [f"{number:032x}" for number in range(2500)]


def test_a_reader_that_leaves(env: Mapping[str, str]) -> None:
    """``firstopen export | head -1`` ends the export without a word."""
    asyncio.run(keep(env, *hourly(2500)))
    command = [sys.executable, "-m", "service", "export"]
    with subprocess.Popen(
        command,
        env={"PYTHONWARNINGS": "error", **env},
        cwd=Path(env["FIRSTOPEN_CONFIG"]).parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stderr
        assert json.loads(process.stdout.readline())["openId"] == "00" * 16
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(READY_S) == 1


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--since", "yesterday"], "--since: expected RFC 3339"),
        (["--until", "2026-13-01"], "--until: expected RFC 3339"),
        (["--app", "initech"], "--app: unknown app 'initech'; configured: acme, globex"),
        (["--format", "xml"], "is not one of"),
    ],
    ids=" ".join,
)
def test_a_wrong_call(env: Mapping[str, str], args: list[str], said: str) -> None:
    done = export(env, *args)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr


def test_a_database_that_is_not_there(env: Mapping[str, str], data_dir: Path) -> None:
    """Exit code 1 and one line: it was never made, never migrated, or cannot be reached."""
    done = export(env)
    assert (done.exit_code, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert ("there is no database" in line) or ("firstopen db migrate" in line)
    assert not data_dir.exists()
    done = export({**env, "FIRSTOPEN_DATABASE_URL": "postgresql://u:swordfish@127.0.0.1:1/x"})
    assert (done.exit_code, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("firstopen: the database cannot be reached: ")
    assert "swordfish" not in line
