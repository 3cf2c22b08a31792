"""The configuration changes under load, on two replicas: every open is answered, and by the new settings."""

import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

import httpx
import pytest

from tests.replicas.processes import CONFIG, IPHONE, KEY, Replica, World, until

FRESH_S = 2.0  # after this time, no replica answers by the earlier settings
LINK = "https://acme.link/fb-promo"
MAINTENANCE = "\n[apps.acme.gate]\nmaintenance = true\n"
OLD_BUILDS = '\n[apps.acme.gate]\nmin_supported_version = "2"\n'
BAD = "\n[apps.acme.gate]\nmaintenance = maybe\n"


class Answered(NamedTuple):
    """One open under load."""

    at: float
    port: int
    status: int
    gate: str | None


class Load:
    """Phones that report opens to one replica all the time: half of them repeats."""

    def __init__(self, replica: Replica) -> None:
        self.answers: list[Answered] = []
        self._replica = replica
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def has_answered_after(self, when: float) -> bool:
        return bool(self.answers) and self.answers[-1].at > when

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _run(self) -> None:
        headers = {"Authorization": f"Bearer {KEY}", "User-Agent": IPHONE}
        number = 0
        with httpx.Client(base_url=self._replica.base, headers=headers, timeout=20) as http:
            while not self._ends.is_set():
                number += 1
                install = f"install-{self._replica.port}-{number // 2}"
                body = {"deepLink": LINK, "installId": install, "appVersion": "1.5"}
                at = time.monotonic()
                reply = http.post("/v1/opens", json=body)
                gate = reply.json().get("gate")
                self.answers.append(
                    Answered(at, self._replica.port, reply.status_code, gate["kind"] if gate else None)
                )


@pytest.fixture
def loads(world: World) -> Iterator[list[Load]]:
    with Load(world.here) as here, Load(world.there) as there:
        yield [here, there]


def put(file: Path, text: str, *, by_rename: bool) -> float:
    """Write the file as an editor does (in place, or by a rename); return when, in monotonic seconds."""
    if by_rename:
        new = file.with_name("new.toml")
        new.write_text(text)
        new.rename(file)
    else:
        file.write_text(text)
    return time.monotonic()


def test_a_gate_is_in_force_within_two_seconds_and_no_open_fails(
    world: World, loads: list[Load], tmp_path: Path
) -> None:
    """Maintenance, a minimum version, a bad file and the end of it all, while both replicas are busy."""
    file = tmp_path / "firstopen.toml"
    steps = [
        (CONFIG + MAINTENANCE, "maintenance"),
        (CONFIG + OLD_BUILDS, "update"),
        (CONFIG + BAD, "update"),
        (CONFIG, None),
    ]
    for number, (text, expected) in enumerate(steps):
        written = put(file, text, by_rename=bool(number % 2))
        fresh = written + FRESH_S
        for load in loads:
            until(partial(load.has_answered_after, fresh + 0.2))
            after = [each for each in load.answers if each.at > fresh]
            assert {each.gate for each in after} == {expected}, text
        for replica in (world.here, world.there):
            rejected = any("not in force" in each for each in replica.degraded())
            assert rejected == text.endswith(BAD)
    answers = [each for load in loads for each in load.answers]
    assert {each.status for each in answers} == {200}
    assert {each.port for each in answers} == {world.here.port, world.there.port}
    assert len(answers) > 100


def test_sighup_reads_the_file_at_once_and_ends_nothing(world: World) -> None:
    """``kill -HUP`` reads the configuration again, even if no file seems to have changed."""
    before = [each.metric("firstopen_config_reloads_total") for each in (world.here, world.there)]
    world.here.process.popen.send_signal(signal.SIGHUP)
    until(lambda: world.here.metric("firstopen_config_reloads_total") == before[0] + 1)
    assert world.here.open(deepLink=LINK, installId="install-anna")["route"]["screen"] == "home"
    assert world.there.metric("firstopen_config_reloads_total") == before[1]
