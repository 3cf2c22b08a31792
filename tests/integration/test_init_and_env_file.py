"""``firstopen init`` and the ``.env`` that it writes, with the real commands as real processes."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.process import finished, free_ports, started

CONFIG = """
[apps.acme]
publishable_keys = ["dub_pk_acme"]
server_keys_env = "ACME_SERVER_KEYS"
dub_api_key_env = "ACME_DUB_API_KEY"
domains = ["acme.link"]
default_screen = "home"

[server]
drain_ms = 0
"""
SECRET = "a secret for tests of 32 characters or more"
WARNING = "config.env_file_readable"


def write(folder: Path, *lines: str) -> dict[str, str]:
    """Write a configuration and a ``.env``, and return the environment that names them."""
    folder.mkdir(exist_ok=True)
    (folder / "firstopen.toml").write_text(CONFIG)
    env_file = folder / ".env"
    env_file.write_text("\n".join([f"FIRSTOPEN_SECRET='{SECRET}'", *lines]))
    env_file.chmod(0o600)
    return {"FIRSTOPEN_CONFIG": str(folder / "firstopen.toml")}


def test_init_writes_all_that_serve_needs(tmp_path: Path) -> None:
    """After init, FIRSTOPEN_CONFIG is the one variable to set, and the secret is in the .env alone."""
    status, text = finished(["init"], tmp_path)
    assert (status, ".env with a new FIRSTOPEN_SECRET" in text) == (0, True)
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    found = re.search(r"^FIRSTOPEN_SECRET=(\w{64})$", (tmp_path / ".env").read_text(), re.MULTILINE)
    assert found
    assert "export FIRSTOPEN_CONFIG=firstopen.toml" in text
    port = free_ports()
    env = {"FIRSTOPEN_CONFIG": "firstopen.toml", "FIRSTOPEN_PORT": str(port)}
    status, routes = finished(["routes"], tmp_path, env)
    assert (status, "https://acme.com/product/:id" in routes) == (0, True)
    with started("serve", env=env, cwd=tmp_path) as process:
        process.ready(port)
        assert process.stop() == 0
        printed = "\n".join(process.rest())
    assert WARNING not in printed
    assert found[1] not in printed + text + (tmp_path / "firstopen.toml").read_text()


def test_init_leaves_an_env_file_with_a_secret_as_it_is(tmp_path: Path) -> None:
    """A secret is never replaced: what is stored under it could not be read any more."""
    (tmp_path / ".env").write_text(f"FIRSTOPEN_SECRET='{SECRET}'  # mine")
    status, text = finished(["init"], tmp_path)
    assert (status, ".env is left as it is; next:" in text) == (0, True)
    assert (tmp_path / ".env").read_text() == f"FIRSTOPEN_SECRET='{SECRET}'  # mine"


@pytest.mark.parametrize("before", ["OTHER=1", "OTHER=1\nFIRSTOPEN_SECRET=\n", ""])
def test_init_says_how_to_add_a_secret(tmp_path: Path, before: str) -> None:
    """A .env without a secret is left as it is; the command that init prints adds one."""
    (tmp_path / ".env").write_text(before)
    status, text = finished(["init"], tmp_path)
    assert (status, ".env is left as it is, and has no FIRSTOPEN_SECRET; next:" in text) == (0, True)
    assert (tmp_path / ".env").read_text() == before
    (command,) = [line for line in text.splitlines() if "printf" in line]
    secret = "0123456789abcdef" * 4
    subprocess.run(
        command.replace("openssl rand -hex 32", f"echo {secret}"), shell=True, cwd=tmp_path, check=True
    )
    text = (tmp_path / ".env").read_text()
    assert text == f"{before}\nFIRSTOPEN_SECRET={secret}\n"


def test_init_writes_nothing_where_it_cannot_write_both(tmp_path: Path) -> None:
    """A firstopen.toml or an unreadable .env that is there stops it before it writes the other file."""
    (tmp_path / "firstopen.toml").write_text("# mine")
    status, text = finished(["init"], tmp_path)
    assert (status, "firstopen.toml exists already; it is left as it is" in text) == (2, True)
    assert not (tmp_path / ".env").exists()
    (tmp_path / "firstopen.toml").unlink()
    (tmp_path / ".env").write_text("hidden")
    status, text = finished(["init"], tmp_path)
    assert (status, ".env:1: expected NAME=value" in text, "hidden" in text) == (2, True, False)
    assert not (tmp_path / "firstopen.toml").exists()


@pytest.mark.parametrize("command", ["serve", "routes", "open", "outbox"])
def test_every_command_reads_the_env_file(tmp_path: Path, command: str) -> None:
    """It is the one beside FIRSTOPEN_CONFIG's file, wherever the command runs; a bad line stops each."""
    env = write(tmp_path / "conf", "FIRSTOPEN_BUDGET_MS=9", "ACME_SERVER_KEYS=k", "ACME_DUB_API_KEY=k")
    (tmp_path / ".env").write_text("not this one")
    status, text = finished([command], tmp_path, env)
    assert (status, "FIRSTOPEN_BUDGET_MS: expected an integer" in text) == (2, True)
    write(tmp_path / "conf", "ACME_DUB_API_KEY='hidden")
    status, text = finished([command], tmp_path, env)
    assert (status, "conf/.env:2: expected NAME=value" in text) == (2, True)
    assert "hidden" not in text
    assert "Traceback" not in text


def test_the_environment_wins(tmp_path: Path) -> None:
    """A variable that the environment sets is not read from the file."""
    env = write(tmp_path, "FIRSTOPEN_BUDGET_MS=9")
    assert finished(["routes"], tmp_path, env)[0] == 2
    assert finished(["routes"], tmp_path, {**env, "FIRSTOPEN_BUDGET_MS": "500"})[0] == 0


def test_keys_come_from_the_env_file(tmp_path: Path) -> None:
    """A service and a command beside it share keys and port, with FIRSTOPEN_CONFIG as the only variable."""
    port = free_ports()
    keys = ("ACME_SERVER_KEYS=dub_sk_acme", 'export ACME_DUB_API_KEY="dub_x"')
    unreachable = f"DUB_BASE_URL=http://127.0.0.1:{free_ports()}"
    env = write(tmp_path, *keys, f"FIRSTOPEN_PORT={port}", unreachable)
    with started("serve", env=env, cwd=tmp_path) as process:
        process.ready(port)
        status, text = finished(["open", "https://acme.link/promo"], tmp_path, env)
    assert (status, "screen  home" in text) == (0, True), text


def test_libraries_read_the_env_file_too(tmp_path: Path) -> None:
    """OpenTelemetry reads its variables from the process's environment, so they are set there."""
    env = write(tmp_path, "ACME_SERVER_KEYS=k", "ACME_DUB_API_KEY=k", "OTEL_TRACES_EXPORTER=bogus")
    status, text = finished(["serve"], tmp_path, {**env, "FIRSTOPEN_PORT": str(free_ports())})
    assert (status, "OTEL_TRACES_EXPORTER: expected none" in text) == (2, True), text


def test_an_env_file_that_everybody_may_read_is_a_warning(tmp_path: Path) -> None:
    """One line in the log names the file, and none of its values."""
    port = free_ports()
    env = write(tmp_path, "ACME_SERVER_KEYS=k", "ACME_DUB_API_KEY=k", f"FIRSTOPEN_PORT={port}")
    (tmp_path / ".env").chmod(0o644)
    with started("serve", env=env, cwd=tmp_path) as process:
        line = json.loads(process.until(WARNING))
        process.ready(port)
        assert process.stop() == 0
        printed = "\n".join(process.rest())
    assert (line["level"], line["file"]) == ("warning", str(tmp_path / ".env"))
    assert printed.count(WARNING) == 1
    assert SECRET not in printed


def test_the_demo_reads_no_env_file(tmp_path: Path) -> None:
    """Without FIRSTOPEN_CONFIG there is no folder to read it from."""
    (tmp_path / ".env").write_text("not NAME=value\n")
    port = free_ports(2)
    with started("serve", env={"FIRSTOPEN_PORT": str(port)}, cwd=tmp_path) as process:
        process.ready(port)
