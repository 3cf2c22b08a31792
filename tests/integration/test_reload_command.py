"""``firstopen reload``: says whether the file is in force, and if not, why."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.process import finished, free_ports, started
from tests.support import CONFIG, ENV


class Installation(NamedTuple):
    """A service that runs, its file, and the environment of its commands."""

    file: Path
    env: dict[str, str]

    def reload(self, *args: str, **more: str) -> tuple[int, str]:
        return finished(["reload", *args], self.file.parent, {**self.env, **more})


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Installation]:
    port = free_ports()
    file = tmp_path / "firstopen.toml"
    file.write_text(CONFIG)
    env = {
        **ENV,
        "FIRSTOPEN_CONFIG": str(file),
        "FIRSTOPEN_PORT": str(port),
        "DUB_BASE_URL": "http://127.0.0.1:9",
    }
    with started("serve", env=env, cwd=tmp_path) as process:
        process.ready(port)
        yield Installation(file, env)


def test_it_waits_until_the_service_uses_the_file(here: Installation) -> None:
    """A change is confirmed by its revision; what needs a restart is named; secrets are not needed."""
    status, before = here.reload()
    assert (status, "needs a restart" in before) == (0, False)
    here.file.write_text(CONFIG + "\n[apps.acme.gate]\nmaintenance = true\n[cache]\nmemory_mb = 64\n")
    status, after = here.reload(FIRSTOPEN_SECRET="", ACME_SERVER_KEYS="", ACME_DUB_API_KEY="")
    assert status == 2, after  # an empty secret is a mistake, an absent one is not
    without = {name: value for name, value in here.env.items() if not name.startswith("ACME")}
    del without["FIRSTOPEN_SECRET"]
    status, after = finished(["reload"], here.file.parent, without)
    assert status == 0, after
    assert after.splitlines()[1:] == ["needs a restart: cache.memory_mb"]
    revisions = re.findall(r"revision (\w+)", before + after)
    assert len(set(revisions)) == 2


def test_a_bad_file_is_named_and_the_service_goes_on(here: Installation) -> None:
    """An invalid file, or a failing route test: exit code 2, before the service is asked."""
    here.file.write_text(CONFIG.replace("default_screen", "default_sreen", 1))
    status, printed = here.reload()
    assert status == 2
    assert "apps.acme: unknown setting `default_sreen`" in printed
    assert "The service keeps the settings that it has." in printed


def test_a_file_that_only_the_service_refuses(here: Installation) -> None:
    """The service reads the file with its own environment, where a variable may be missing: exit code 1."""
    here.file.write_text(CONFIG.replace('"ACME_SERVER_KEYS"', '"NEW_KEYS"'))
    status, printed = here.reload(NEW_KEYS="server-key-new")
    assert status == 1
    assert (
        "refuses the file: apps.acme.server_keys_env: the environment variable NEW_KEYS is not set" in printed
    )


def test_a_service_that_is_away_or_uses_another_file(here: Installation, tmp_path: Path) -> None:
    """Exit code 1, with what was found instead."""
    other = tmp_path / "other.toml"
    other.write_text(CONFIG + "\n# another\n")
    status, printed = here.reload(FIRSTOPEN_CONFIG=str(other))
    assert (status, "uses another file: revision" in printed) == (1, True)
    nobody = f"http://127.0.0.1:{free_ports()}"
    assert here.reload("--url", nobody) == (1, f"firstopen: no firstopen answers at {nobody}")
    without = {name: value for name, value in here.env.items() if name != "FIRSTOPEN_CONFIG"}
    status, printed = finished(["reload"], tmp_path, without)
    assert (status, "the demo reads no file" in printed) == (2, True)
