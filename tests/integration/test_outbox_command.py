"""``firstopen outbox``: what has not reached Dub, for the operator who is asked why."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from click.testing import CliRunner, Result

from service.cli.main import main
from service.domain.outbox_entries import Entry, Kind, State
from service.storage.database import Database
from service.storage.encryption import Cipher
from service.storage.engines.sqlite import SqliteEngine
from service.storage.outbox import SqlOutboxStore
from service.telemetry import configure_logs
from tests.process import finished, free_ports, started
from tests.support import CONFIG, ENV

SECRET = ENV["FIRSTOPEN_SECRET"]
PERSON = "anna@example.com"
LEAD = {
    "kind": "lead",
    "body": {"eventName": "Sign up", "customerExternalId": "anna", "customerEmail": PERSON},
}
STATES: tuple[State, ...] = ("queued", "delivered", "dead")

T = TypeVar("T")
Command = Callable[..., Result]


def at_the_store(folder: Path, work: Callable[[SqlOutboxStore], Awaitable[T]], secret: str = SECRET) -> T:
    """Do something to the outbox as its process would."""

    async def run() -> T:
        database = Database(SqliteEngine(folder, exclusive=False), configure_logs("critical"))
        await database.open()
        try:
            return await work(SqlOutboxStore(database, Cipher([secret]), time.time))
        finally:
            await database.close()

    return asyncio.run(run())


def put(folder: Path, name: str, state: State = "queued", **fields: Any) -> None:
    """Put an entry into the outbox."""
    now = time.time()
    given: dict[str, Any] = {
        "kind": "lead",
        "ordering_key": name,
        "created": now,
        "next_try": now + 600,
        **fields,
    }
    entry = Entry(id=name, app="acme", payload=json.dumps(LEAD).encode(), **given)

    async def work(entries: SqlOutboxStore) -> None:
        await entries.add(entry, leased=False)
        if state != "queued":
            entries.finish(entry, state, "Dub refused it: 404 not_found" if state == "dead" else "")

    at_the_store(folder, work)


def depths(folder: Path) -> dict[tuple[Kind, State], int]:
    return at_the_store(folder, lambda entries: entries.depths(*STATES))


@pytest.fixture
def env(tmp_path: Path, data_dir: Path) -> Mapping[str, str]:
    config = tmp_path / "firstopen.toml"
    config.write_text(CONFIG)
    return {**ENV, "FIRSTOPEN_CONFIG": str(config), "FIRSTOPEN_DATA_DIR": str(data_dir)}


@pytest.fixture
def outbox(env: Mapping[str, str]) -> Command:
    """Run ``firstopen outbox`` with arguments, in this process."""

    def run(*args: str, **more: str | None) -> Result:
        return CliRunner().invoke(main, ["outbox", *args], env={**env, **more})

    return run


def row(text: str, name: str) -> list[str]:
    """Return the cells of the table's row that begins with a name."""
    lines = [line.replace("│", " ").split() for line in text.splitlines()]
    return next(cells[1:] for cells in lines if cells and cells[0] == name)


def test_an_empty_outbox_says_so(outbox: Command, data_dir: Path) -> None:
    """Zeros, and no age."""
    at_the_store(data_dir, lambda entries: entries.depths(*STATES))
    result = outbox()
    assert result.exit_code == 0
    assert row(result.output, "all") == ["0", "0", "0", "0"]
    assert "oldest queued: none" in result.output


def test_the_overview(outbox: Command, data_dir: Path) -> None:
    """Counts by kind and state, the age of the oldest, dead letters with id and reason; nothing personal."""
    put(data_dir, "a" * 32, created=time.time() - 7300)
    put(data_dir, "b" * 32, kind="open")
    put(data_dir, "c" * 32, "dead")
    put(data_dir, "d" * 32, "delivered")
    put(data_dir, "e" * 32, depends_on_open="f" * 32, kind="lead")
    result = outbox()
    assert result.exit_code == 0
    assert row(result.output, "opens") == ["1", "0", "0", "0"]
    assert row(result.output, "leads") == ["2", "1", "1", "0"]
    assert row(result.output, "sales") == ["0", "0", "0", "0"]
    assert row(result.output, "all") == ["3", "1", "1", "0"]
    assert "oldest queued: 2 h old" in result.output
    dead = next(line for line in result.output.splitlines() if "c" * 32 in line)
    assert "Dub refused it: 404 not_found" in dead
    waiting = next(line for line in result.output.splitlines() if "e" * 32 in line)
    assert f"waits for open {'f' * 32}" in waiting
    assert "anna" not in result.output


def test_one_entry_is_shown_without_the_person(outbox: Command, data_dir: Path) -> None:
    """What an operator needs to know, and nothing that it carries; no secret is needed for that."""
    put(data_dir, "one", "dead")
    for more in ({}, {"FIRSTOPEN_SECRET": None}, {"FIRSTOPEN_SECRET": "some other secret of 32 characters"}):
        result = outbox("show", "one", **more)
        assert result.exit_code == 0, result.output
        for told in ("one", "lead", "acme", "dead", "404 not_found"):
            assert told in result.output
        assert "anna" not in result.output


def test_one_entry_is_revealed_when_asked(outbox: Command, data_dir: Path) -> None:
    """All that it carries, as JSON; nothing once it is delivered."""
    put(data_dir, "one", "dead")
    put(data_dir, "two", "delivered")
    revealed = outbox("show", "one", "--reveal")
    assert revealed.exit_code == 0
    assert json.loads(revealed.output[revealed.output.index("{") :]) == LEAD
    delivered = outbox("show", "two", "--reveal")
    assert "content  deleted" in delivered.output
    assert "anna" not in delivered.output


@pytest.mark.parametrize("secret", [None, "some other secret of 32 characters or so"])
def test_the_wrong_secret_reveals_nothing(outbox: Command, data_dir: Path, secret: str | None) -> None:
    """It names the setting, and the entry stays as it is."""
    put(data_dir, "one", "dead")
    result = outbox("show", "one", "--reveal", FIRSTOPEN_SECRET=secret)
    assert result.exit_code == 2
    assert "FIRSTOPEN_SECRET" in result.output
    assert "anna" not in result.output
    assert depths(data_dir) == {("lead", "dead"): 1}


def test_an_older_secret_still_reveals(outbox: Command, data_dir: Path) -> None:
    """After a rotation, entries sealed before it open."""
    put(data_dir, "one", "dead")
    result = outbox(
        "show", "one", "--reveal", FIRSTOPEN_SECRET=f"the secret of today - 32 characters,{SECRET}"
    )
    assert PERSON in result.output


def test_a_dead_letter_is_sent_again(outbox: Command, data_dir: Path) -> None:
    """One of them by its id: queued again, due now; the others stay."""
    for name in ("one", "two", "three"):
        put(data_dir, name, "dead")
    result = outbox("retry", "two")
    assert (result.exit_code, result.output) == (0, "1 queued again\n")
    assert depths(data_dir) == {("lead", "dead"): 2, ("lead", "queued"): 1}
    due = at_the_store(data_dir, lambda entries: entries.take_due("lead", ["acme"], 10))
    assert [entry.id for entry in due] == ["two"]


def test_a_dead_letter_is_given_up(outbox: Command, data_dir: Path) -> None:
    """Its content is gone, the reason stays, and it cannot be sent again."""
    put(data_dir, "refused", "dead")
    assert outbox("discard", "refused", "--reason", "a click of a test").output == "discarded\n"
    shown = outbox("show", "refused", "--reveal").output
    assert "discarded: a click of a test" in shown
    assert PERSON not in shown
    assert row(outbox().output, "leads") == ["0", "0", "0", "1"]
    assert outbox("retry", "refused").exit_code == 2


def test_all_dead_letters_are_sent_again(outbox: Command, data_dir: Path) -> None:
    """Every one, and nothing else; doing it twice does nothing."""
    for name in ("one", "two", "three"):
        put(data_dir, name, "dead")
    put(data_dir, "delivered", "delivered")
    assert outbox("retry", "--all").output == "3 queued again\n"
    again = outbox("retry", "--all")
    assert (again.exit_code, again.output) == (0, "0 queued again\n")
    assert depths(data_dir) == {("lead", "queued"): 3, ("lead", "delivered"): 1}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["show", "nobodys"], "no entry 'nobodys'"),
        (["show"], "Missing argument"),
        (["retry"], "expected an ID, or --all"),
        (["retry", "one", "--all"], "expected an ID, or --all"),
        (["retry", "nobodys"], "no dead letter 'nobodys'"),
        (["retry", "queued"], "no dead letter 'queued'"),
        (["discard", "queued", "--reason", "a test"], "no dead letter 'queued'"),
        (["discard", "queued", "--reason", " "], "--reason: expected 1 to 200 printable characters"),
        (["bury"], "No such command"),
    ],
    ids=" ".join,
)
def test_a_wrong_call_says_what_is_expected(
    outbox: Command, data_dir: Path, args: Sequence[str], said: str
) -> None:
    """Exit status 2, one sentence, nothing changed."""
    put(data_dir, "queued")
    result = outbox(*args)
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output
    assert depths(data_dir) == {("lead", "queued"): 1}


@pytest.mark.parametrize("args", [[], ["show", "one"], ["retry", "--all"]], ids=" ".join)
def test_where_there_is_no_outbox(outbox: Command, data_dir: Path, args: Sequence[str]) -> None:
    """It names the setting and the directory, and makes nothing there."""
    result = outbox(*args)
    assert result.exit_code == 2
    assert "FIRSTOPEN_DATA_DIR" in result.output
    assert str(data_dir) in result.output
    assert not data_dir.exists()


def test_a_damaged_file_is_named(outbox: Command, data_dir: Path) -> None:
    """One sentence with the path, no traceback."""
    data_dir.mkdir()
    (data_dir / "firstopen.sqlite").write_bytes(b"nonsense" * 1000)
    result = outbox()
    assert result.exit_code == 2
    assert "firstopen.sqlite" in result.output
    assert "Traceback" not in result.output


def test_a_wrong_setting_is_named(outbox: Command) -> None:
    """As for every other command."""
    result = outbox(FIRSTOPEN_CONFIG="/nowhere/firstopen.toml")
    assert result.exit_code == 2
    assert "FIRSTOPEN_CONFIG" in result.output


def test_beside_a_running_service(tmp_path: Path) -> None:
    """What serve has queued and buried is listed while it runs, and a retried letter goes within seconds."""
    port = free_ports(2)
    env = {"FIRSTOPEN_PORT": str(port), "FIRSTOPEN_DATA_DIR": str(tmp_path / "data")}
    secret = "the demo's secret known to everybody"
    with started("serve", env=env, cwd=tmp_path) as process:
        process.ready(port)
        with httpx.Client(headers={"Authorization": "Bearer dub_pk_acme"}, timeout=20) as http:
            base, dub = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"
            opened = http.post(
                f"{base}/v1/opens",
                json={"deepLink": f"http://acme.localhost:{port + 1}/press", "installId": "install-anna"},
            ).json()
            body = {**LEAD["body"], "clickId": opened["clickId"]}  # type: ignore[dict-item]  # a literal of two kinds
            buried = {"kind": "lead", "body": body}
            now = time.time()
            entry = Entry(
                id="buried",
                app="acme",
                kind="lead",
                ordering_key="anna",
                created=now,
                next_try=now + 600,
                payload=json.dumps(buried).encode(),
            )

            async def bury(entries: SqlOutboxStore) -> None:
                await entries.add(entry, leased=False)
                entries.finish(entry, "dead", "by a test")

            at_the_store(tmp_path / "data", bury, secret)
            status, said = finished(["outbox"], tmp_path, env)
            assert (status, row(said, "leads")) == (0, ["0", "0", "1", "0"])
            status, said = finished(["outbox", "retry", "--all"], tmp_path, env)
            assert (status, said) == (0, "1 queued again")
            deadline = time.monotonic() + 10
            while http.get(f"{base}/v1/leads/buried").json()["status"] != "delivered":
                assert time.monotonic() < deadline
                time.sleep(0.05)
            leads = http.get(f"{dub}/events", params={"event": "leads"}).json()
        assert [event["customer"]["externalId"] for event in leads] == ["anna"]
        assert process.stop() == 0
