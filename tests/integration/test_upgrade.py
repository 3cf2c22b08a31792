"""The database of an earlier version is taken over at the first start: nothing that was accepted is lost.

Firstopen wrote the file before its schema had migrations: three opens, a claim, an erased install, and leads
that were delivered, dead, queued, and waiting for an install.
"""

import asyncio
import contextlib
import gzip
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from click.testing import CliRunner

from service.app import create_app
from service.cli.main import main
from service.config.settings import parse
from service.storage import import_v3
from service.storage.engines.sqlite import lock_folder
from service.storage.errors import DataDirTaken, ImportFailed, SecretNotListed
from service.storage.migrations import MIGRATIONS
from service.wiring.stores import Prepared, prepare
from tests.process import free_ports, started
from tests.support import CONFIG, ENV, FB_PROMO, FakeClock, FakeDub, running

FIXTURE = Path(__file__).parents[1] / "storage" / "fixtures" / "firstopen-v3.sqlite.gz"
OPENS = {
    "install-0": "3bf5e3d0d576b0b63fcf1318ffe1c943",
    "install-1": "615444d563da336a27b9d682fbb31f9c",  # with a query: encrypted
    "install-2": "32234ea747b3c9d5fb1e4bdc6a9dfc50",
}
DELIVERED = "72d3e52e4d027d99e256f1a9a2831d7e"
DEAD = "1d6d618c9fc7966328d5206ad5ad3b70"
QUEUED = ("487dd973f8c225eae190a3c89ce78d80", "25aa526816e9ecefcf0620d9f7911a67")
WAITING = "9d10a68e71c711374ce30b9c36b9cb5b"
LEFT_AT_S = 10  # seconds of the fake clock after which the file was left


@pytest.fixture
def folder(data_dir: Path) -> Path:
    data_dir.mkdir()
    (data_dir / "firstopen.sqlite").write_bytes(gzip.decompress(FIXTURE.read_bytes()))
    return data_dir


async def start(**env: str) -> Prepared:
    """Do what ``serve`` does before it serves."""
    return await prepare(parse(CONFIG, {**ENV, **env}), structlog.get_logger())


def rows(folder: Path, sql: str, name: str = "firstopen.sqlite") -> list[Any]:
    with contextlib.closing(sqlite3.connect(folder / name)) as file:
        return file.execute(sql).fetchall()


async def test_everything_is_taken_over(folder: Path) -> None:
    """Claims, erasures, entries in every state, opens; the old file is kept, and no start does it again."""
    done = await start()
    assert done.imported == import_v3.Imported(claims=1, entries=5, opens=3, undecryptable=0)
    assert [each.number for each in done.migrations] == [each.number for each in MIGRATIONS]
    assert rows(folder, "SELECT click_id FROM claims") == [("clickclaimed0000",)]
    assert rows(folder, "SELECT count(*) FROM erasures") == [(1,)]
    states = dict(rows(folder, "SELECT id, state FROM outbox"))
    assert states == {
        DELIVERED: "delivered",
        DEAD: "dead",
        WAITING: "queued",
        **dict.fromkeys(QUEUED, "queued"),
    }
    assert rows(folder, "SELECT count(*) FROM entries", "firstopen-v3.sqlite") == [(5,)]
    assert not (folder / "firstopen-v3-importing.sqlite").exists()
    assert (await start()).imported is None


@pytest.mark.usefixtures("folder")
async def test_the_service_goes_on_where_it_was(dub: FakeDub, clock: FakeClock) -> None:
    """Opens are known, a lead that is reported again is the same lead, and what was queued reaches Dub."""
    await start()
    sent: list[str] = []
    usual = dub._track_open

    async def script(request: httpx.Request) -> httpx.Response:
        if request.url.path != "/track/lead":
            return usual(request)
        body = json.loads(request.content)
        sent.append(body["customerExternalId"])
        link = {"id": "link_fb-promo", "domain": "acme.link", "key": "fb-promo", "url": "https://acme.com/x"}
        customer = {"externalId": body["customerExternalId"], "name": None, "email": None, "avatar": None}
        return httpx.Response(
            200,
            json={
                "click": {"id": body["clickId"]},
                "link": {**link, "shortLink": FB_PROMO},
                "customer": customer,
            },
        )

    dub.script = script
    clock.advance(LEFT_AT_S)
    app = create_app(parse(CONFIG, ENV), transport=dub, clock=clock, unix_time=clock.unix_time)
    async with running(app) as service:
        for number, open_id in enumerate(OPENS.values()):
            recalled = await service.recall(open_id)
            assert recalled.click_id == f"click{number:011d}"
            assert recalled.route.screen == "product"
        assert (
            await service.recall(OPENS["install-1"])
        ).route.url == "https://acme.com/product/123?to=anna-1"
        again = await service.post(
            "/v1/leads",
            json={"eventName": "Sign up", "customerExternalId": "delivered", "clickId": "click00000000000"},
        )
        assert again.json()["leadId"] == DELIVERED
        for _ in range(2000):
            if {"queued-1", "queued-2"} <= set(sent):
                break
            clock.advance(0.5)
            await asyncio.sleep(0.005)
        assert {"queued-1", "queued-2"} <= set(sent)
        assert "delivered" not in sent
        assert (await service.get(f"/v1/leads/{DEAD}")).json()["status"] == "dead"
        assert (await service.get(f"/v1/leads/{WAITING}")).json()["status"] == "queued"


async def test_another_secret_stops_the_start(folder: Path) -> None:
    """Nothing is taken over with it, and the right one is let in afterwards, alone or listed second."""
    other = "some other secret of 32 characters or more"
    with pytest.raises(SecretNotListed, match="FIRSTOPEN_SECRET=current,older"):
        await start(FIRSTOPEN_SECRET=other)
    assert not (folder / "firstopen.sqlite").exists()
    done = await start(FIRSTOPEN_SECRET=f"{other},{ENV['FIRSTOPEN_SECRET']}")
    assert done.imported == import_v3.Imported(claims=1, entries=5, opens=3, undecryptable=0)


async def test_what_cannot_be_decrypted_stays_in_the_old_file(folder: Path) -> None:
    """It is counted; everything else is taken over."""
    with contextlib.closing(sqlite3.connect(folder / "firstopen.sqlite")) as file, file:
        file.execute(
            "UPDATE entries SET sealed = CAST(x'01' || randomblob(200) AS BLOB) WHERE id = ?", QUEUED[:1]
        )
        file.execute("UPDATE opens SET record = x'0102' WHERE substr(record, 1, 1) = x'01'")
    done = await start()
    assert done.imported == import_v3.Imported(claims=1, entries=4, opens=2, undecryptable=2)
    assert rows(folder, "SELECT count(*) FROM outbox WHERE state = 'queued'") == [(2,)]
    assert rows(folder, "SELECT count(*) FROM entries", "firstopen-v3.sqlite") == [(5,)]


async def test_a_start_that_is_cut_short_is_made_up_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was copied by then; each row is there once in the end."""
    with monkeypatch.context() as cut:
        cut.setattr("service.storage.import_v3._decode", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await start()
    assert rows(folder, "SELECT count(*) FROM outbox") == [(5,)]
    done = await start()
    assert done.imported == import_v3.Imported(claims=1, entries=5, opens=3, undecryptable=0)
    for table, count in {"outbox": 5, "opens": 3, "claims": 1}.items():
        assert rows(folder, f"SELECT count(*) FROM {table}") == [(count,)]


async def test_keys_that_two_entries_share_cost_none_of_them(folder: Path) -> None:
    """The old file told reports apart by age, too: an old delivered lead may have a queued one's keys."""
    with contextlib.closing(sqlite3.connect(folder / "firstopen.sqlite")) as file, file:
        keys = file.execute("SELECT event_key FROM entries WHERE id = ?", (QUEUED[0],)).fetchone()
        file.execute("UPDATE entries SET event_key = ? WHERE id IN (?, ?)", (*keys, DELIVERED, QUEUED[1]))
    await start()
    kept = dict(rows(folder, "SELECT id, event_key FROM outbox WHERE state = 'queued'"))
    assert {*QUEUED, WAITING} == set(kept)
    assert (kept[QUEUED[0]], kept[QUEUED[1]]) == (keys[0], None)


@pytest.mark.parametrize("sql", ["DROP TABLE claims", "ALTER TABLE entries DROP COLUMN lane"])
async def test_a_file_that_cannot_be_read_is_named(folder: Path, sql: str) -> None:
    with contextlib.closing(sqlite3.connect(folder / "firstopen.sqlite")) as file, file:
        file.execute("DROP INDEX IF EXISTS entries_by_lane")
        file.execute(sql)
    with pytest.raises(ImportFailed, match="move it away"):
        await start()


async def test_the_earlier_version_still_runs(folder: Path) -> None:
    """Both lock the folder: the file is left as it is."""
    lock = lock_folder(folder / "firstopen.sqlite")
    with pytest.raises(DataDirTaken):
        await start()
    os.close(lock)
    assert (await start()).imported


def test_the_commands_leave_it_to_serve(folder: Path, tmp_path: Path) -> None:
    """status and migrate say what the file is; serve takes it over and logs what it did."""
    config = tmp_path / "firstopen.toml"
    config.write_text(CONFIG)
    env = {**ENV, "FIRSTOPEN_CONFIG": str(config), "FIRSTOPEN_DATABASE_URL": ""}
    for command in ("status", "migrate"):
        result = CliRunner().invoke(main, ["db", command], env=env)
        assert (result.exit_code, "earlier version" in result.output) == (1, True)
    assert rows(folder, "PRAGMA user_version") == [(3,)]
    port = free_ports()
    with started("serve", env={**env, "FIRSTOPEN_PORT": str(port)}, cwd=tmp_path) as process:
        logged = json.loads(process.until("store.imported"))
        process.ready(port)
        assert process.stop() == 0
    told = {name: logged[name] for name in ("claims", "entries", "opens", "undecryptable")}
    assert told == {"claims": 1, "entries": 5, "opens": 3, "undecryptable": 0}
