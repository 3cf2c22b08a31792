"""A full disk and a damaged file under a real process: leads are refused in words, and opens go on."""

import json
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.storage.engines.sqlite import FILE
from tests.durability.processes import AS_APP, AS_SERVER, FB_PROMO, Killable, Sandbox, beside_a_sandbox

NOTICED_S = 10


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[tuple[Killable, Sandbox]]:
    with beside_a_sandbox(tmp_path) as both:
        yield both


class Asked:
    """What is asked of the service, one thing after another."""

    def __init__(self, service: Killable) -> None:
        self.http = httpx.Client(base_url=service.url, headers=AS_APP, timeout=20)
        self._customers = 0

    def open(self, install: str) -> dict[str, Any]:
        reply = self.http.post(
            "/v1/opens", json={"deepLink": FB_PROMO, "installId": install, "budgetMs": 5000}
        )
        assert reply.status_code == 200, reply.text
        answer: dict[str, Any] = reply.json()
        return answer

    def lead(self, click_id: str) -> httpx.Response:
        self._customers += 1
        customer = f"customer-{self._customers}"
        body = {"eventName": "Sign up", "customerExternalId": customer, "clickId": click_id}
        return self.http.post("/v1/leads", json=body)

    def track(self, path: str, click_id: str) -> httpx.Response:
        self._customers += 1
        body = {"customerExternalId": f"customer-{self._customers}", "clickId": click_id, "eventName": "Buy"}
        more = {"amount": 5} if "sale" in path else {}
        return self.http.post(path, json={**body, **more}, headers=AS_SERVER)

    def degraded(self) -> list[str]:
        reply = self.http.get("/health/ready")
        assert reply.status_code == 200
        named: list[str] = reply.json()["degraded"]
        return named


@pytest.fixture
def asked(ours: tuple[Killable, Sandbox]) -> Iterator[Asked]:
    asked = Asked(ours[0])
    with asked.http:
        yield asked


def allow(service: Killable, size: int) -> None:
    """Let no file of the process grow beyond a size, in bytes: at 0 its disk is full."""
    pid = service.processes[-1].popen.pid
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@contextmanager
def no_room() -> Iterator[None]:
    """Start processes whose disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def events(service: Killable, name: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in service.logs().splitlines() if line.startswith("{"))
    return [line for line in lines if line["event"] == name]


def refused(reply: httpx.Response) -> None:
    """A 503 in Dub's shape that says why, and nothing of the file or the person."""
    assert reply.status_code == 503, reply.text
    error = reply.json()["error"]
    assert set(error) == {"code", "message", "doc_url"}
    assert error["code"] == "service_unavailable"
    assert "database" in error["message"]
    assert "customer" not in error["message"]


def test_a_full_disk_refuses_leads_and_answers_opens(ours: tuple[Killable, Sandbox], asked: Asked) -> None:
    """Leads, on both wires, and sales get a 503 and are not sent; opens get their clicks. When there is room
    again, leads are accepted, and the opens of meanwhile are written down: they outlive a kill.
    """
    service, sandbox = ours
    click_id = asked.open("install-anna")["clickId"]
    assert asked.lead(click_id).status_code == 200
    assert asked.degraded() == []
    allow(service, 0)
    for _ in range(3):
        refused(asked.lead(click_id))
    refused(asked.track("/track/lead", click_id))
    refused(asked.track("/track/sale", click_id))
    meanwhile = asked.open("install-ben")
    assert meanwhile["source"] == "dub"
    assert len(meanwhile["clickId"]) == 16
    assert any("database" in name and "leads" in name for name in asked.degraded())
    allow(service, resource.RLIM_INFINITY)
    assert asked.lead(click_id).status_code == 200
    assert asked.degraded() == []
    assert asked.http.get(f"/v1/opens/{meanwhile['openId']}").json()["clickId"] == meanwhile["clickId"]
    service.kill()
    service.start()
    service.ready()
    with httpx.Client(base_url=service.url, headers=AS_APP, timeout=20) as http:
        again = http.get(f"/v1/opens/{meanwhile['openId']}").json()
        body = {"eventName": "Sign up", "customerExternalId": "ben", "installId": "install-ben"}
        assert http.post("/v1/leads", json=body).status_code == 200
    assert again["clickId"] == meanwhile["clickId"]
    assert len(sandbox.events("leads")) == 3
    assert sandbox.events("sales") == []
    service.stop()
    assert [line["level"] for line in events(service, "store.failing")] == ["error"]
    assert [line["lost"] for line in events(service, "store.recovered")] == [0]


def test_a_disk_that_is_full_at_boot(tmp_path: Path) -> None:
    """The service starts, answers opens and names what is wrong; leads are taken once there is room."""
    with beside_a_sandbox(tmp_path) as (service, _):
        service.stop()
        for path in service.data.iterdir():
            path.unlink()
        with no_room():
            service.start()
        service.ready()
        asked = Asked(service)
        with asked.http:
            click_id = asked.open("install-anna")["clickId"]
            assert len(click_id) == 16
            refused(asked.lead(click_id))
            assert any("database" in name for name in asked.degraded())
            allow(service, resource.RLIM_INFINITY)
            assert asked.lead(click_id).status_code == 200
            assert asked.degraded() == []
        service.stop()
        assert len(events(service, "store.failing")) == 1


def test_a_damaged_file_at_boot(tmp_path: Path) -> None:
    """The service starts and answers opens; leads are refused until the file is put aside."""
    with beside_a_sandbox(tmp_path) as (service, _):
        service.stop()
        for path in service.data.iterdir():
            path.unlink()
        (service.data / FILE).write_bytes(os.urandom(16_384))
        service.start()
        service.ready()
        asked = Asked(service)
        with asked.http:
            click_id = asked.open("install-anna")["clickId"]
            assert len(click_id) == 16
            refused(asked.lead(click_id))
            assert asked.http.get(f"/v1/opens/{'0' * 32}").status_code == 503  # nobody can say
            assert any("database" in name for name in asked.degraded())
            (service.data / FILE).rename(service.data / "aside")
            assert asked.lead(click_id).status_code == 200
            assert asked.degraded() == []
        service.stop()
        assert len(events(service, "store.failing")) == 1


@pytest.mark.parametrize("damage", ["overwritten", "removed"])
def test_a_file_that_is_damaged_in_use(ours: tuple[Killable, Sandbox], asked: Asked, damage: str) -> None:
    """A moment later no lead is acknowledged any more that a restart would not find; opens go on."""
    service, _ = ours
    click_id = asked.open("install-anna")["clickId"]
    assert asked.lead(click_id).status_code == 200
    for path in list(service.data.iterdir()):
        if damage == "removed":
            path.unlink()
        elif path.name in (FILE, f"{FILE}-wal"):
            path.write_bytes(os.urandom(path.stat().st_size))
    deadline = time.monotonic() + NOTICED_S
    while (reply := asked.lead(click_id)).status_code == 200 and time.monotonic() < deadline:
        time.sleep(0.05)
    refused(reply)
    refused(asked.lead(click_id))
    assert asked.open("install-ben")["clickId"]
    assert any("database" in name for name in asked.degraded())
    service.stop()
    assert len(events(service, "store.failing")) == 1
