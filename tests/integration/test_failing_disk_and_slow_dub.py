"""Disks that fail or hang, a Dub that is slow or half there: budgets are kept, and nothing is guessed."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.config.settings import parse
from tests.integration.world import (
    AS_SERVER,
    HOME,
    IPHONE_BROWSER,
    MATCHING,
    REFERRER,
    Disk,
    World,
    build,
    started_over,
)
from tests.process import finished
from tests.support import (
    ANNA,
    BEN,
    CONFIG,
    ENV,
    FB_PROMO,
    FakeClock,
    FakeDub,
    LogLines,
    Service,
    running,
    until,
)

ROOT = Path(__file__).parents[2]
PAGE_EVENTS = 1000
BUDGET_S = 0.3
IN_TIME_S = 2.0  # far less than Dub takes, far more than a budget: machines are busy
NOBODY = "0" * 32
DRY_RUN = "/v1/opens/dry-run"


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
async def world(clock: FakeClock, logs: LogLines) -> AsyncIterator[World]:  # noqa: ARG001
    async for each in build(clock):
        yield each


def click(number: int, at: float, key: str, ip: str) -> dict[str, Any]:
    when = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    link = {"id": f"link_{key}", "domain": "acme.link", "key": key, "url": f"https://acme.com/product/{key}"}
    event = {"id": f"ck{number:014d}", "timestamp": when, "url": link["url"], "ip": ip, "ua": IPHONE_BROWSER}
    event |= {"trigger": "link", "os": "iOS", "device": "Mobile", "browser": "Safari"}
    return {"event": "click", "timestamp": when, "click": event, "link": link}


async def test_nothing_is_claimed_from_half_a_window(clock: FakeClock, logs: LogLines) -> None:  # noqa: ARG001
    """While a page is missing, the click that is seen may not be the only one: the answer is pending."""
    now, dub, second_page = clock.unix_time(), FakeDub(), asyncio.Event()
    new = click(0, now - 30, "new", HOME)
    others = [
        click(number, now - 400 - number, "x", f"198.51.{number // 250}.{number % 250}")
        for number in range(1, PAGE_EVENTS)
    ]
    pages = {"1": [new, *others], "2": [click(PAGE_EVENTS, now - 1500, "old", HOME)]}

    async def events(request: httpx.Request) -> httpx.Response:
        page = request.url.params["page"]
        if page == "2":
            await second_page.wait()
        return httpx.Response(200, json=pages.get(page, []))

    dub.script = events
    config = MATCHING.replace("analytics", "min_confidence = 0\nanalytics", 1)
    async with started_over(dub, clock, config) as world:
        first = await world.launch(budget_ms=1000)
        assert (first.pending, first.click_id) == (True, None)
        for _ in range(50):
            clock.advance(0.1)
            recalled = await world.service.recall(first.open_id)
            assert (recalled.pending, recalled.click_id) == (True, None)
        second_page.set()
        found = await world.settled(first)
        assert found.click_id == new["click"]["id"]
        assert (found.route.params, found.match.candidates) == ({"id": "new"}, 2)


async def test_a_stalled_commit_holds_no_first_launch(service: Service, dub: FakeDub, disk: Disk) -> None:
    """A disk that hangs is waited for by nobody whose screen is empty: Dub is asked meanwhile."""
    await service.open(FB_PROMO, install_id="install-first")
    disk.stall()
    try:
        await service.open(FB_PROMO, install_id=ANNA)  # what is written behind now hangs
        answer = await service.open(install_referrer=REFERRER, install_id=BEN, budget_ms=5000)
    finally:
        disk.go_on()
    assert (answer.pending, answer.match.type) == (False, "install_referrer")
    assert answer.click_id
    assert dub.calls("/track/open") == 3


async def test_an_open_that_a_failing_disk_may_know_is_503(service: Service, disk: Disk) -> None:
    """Not remembered is not unknown while the disk cannot be asked; what is in memory is still told."""
    opened = await service.open(FB_PROMO, install_id=ANNA)
    disk.full = True
    pending = await service.open("https://acme.link/invite", install_id=BEN)
    await until(lambda: disk.refused)
    assert (await service.recall(opened.open_id)).click_id == opened.click_id
    assert (await service.recall(pending.open_id)).click_id == pending.click_id
    reply = await service.get(f"/v1/opens/{NOBODY}")
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "service_unavailable")
    disk.full = False

    async def unknown() -> bool:
        return (await service.get(f"/v1/opens/{NOBODY}")).status_code == 404

    for _ in range(500):
        if await unknown():
            break
        await asyncio.sleep(0.01)
    assert await unknown()


async def test_an_unusable_data_directory_costs_no_open(data_dir: Path, dub: FakeDub, logs: LogLines) -> None:
    """Lost after the boot, it is named by readiness; opens are answered, what needs it is 503, never 500."""
    await asyncio.to_thread(data_dir.write_text, "a file, where a directory should be")
    async with running(create_app(parse(CONFIG, ENV), transport=dub)) as service:
        by_link = await service.open(FB_PROMO, install_id=ANNA)
        by_referrer = await service.open(install_referrer=REFERRER, install_id=BEN)
        assert by_link.click_id
        assert by_referrer.click_id
        assert not by_link.pending
        assert not by_referrer.pending
        assert (await service.recall(by_link.open_id)).click_id == by_link.click_id
        lead = {"eventName": "Sign up", "customerExternalId": "anna", "installId": ANNA}
        forget = {"installId": ANNA}
        replies = [
            await service.get(f"/v1/opens/{NOBODY}"),
            await service.post("/v1/leads", json=lead),
            await service.get(f"/v1/leads/{NOBODY}"),
            await service.post("/v1/installs/forget", json=forget, headers=AS_SERVER),
        ]
        assert [reply.status_code for reply in replies] == [503] * 4
        assert (await service.get("/metrics")).status_code == 200
        ready = await service.get("/health/ready")
        assert ready.status_code == 200
        assert any("database" in each for each in ready.json()["degraded"])
    assert not [line for line in logs.lines if "Traceback" in json.dumps(line)]


@pytest.mark.parametrize("asked", ["dub-no-track", "dry run"])
async def test_what_leaves_no_trace_keeps_the_budget(dub: FakeDub, asked: str) -> None:
    """Dub's slowness is not the caller's: it is answered when its time is up."""
    dub.blocked = asyncio.Event()
    env = {**ENV, "FIRSTOPEN_BUDGET_MS": f"{BUDGET_S * 1000:.0f}"}
    config = f"{CONFIG}\n[dub]\ntimeout_ms = 30000\n"
    async with running(create_app(parse(config, env), transport=dub)) as service:
        async with asyncio.timeout(IN_TIME_S):
            if asked == "dry run":
                body = {"deepLink": FB_PROMO}
                reply = await service.post(DRY_RUN, json=body, headers=AS_SERVER)
                assert reply.status_code == 200
                assert reply.json()["answer"]["pending"]
            else:
                body = {"deepLink": FB_PROMO}
                reply = await service.post("/track/open", json=body, headers={"dub-no-track": "1"})
                assert reply.status_code != 500
        dub.blocked.set()
    assert dub.calls("/track/open") == 1


async def test_a_dry_run_makes_no_crowd(clock: FakeClock, logs: LogLines) -> None:  # noqa: ARG001
    """However often an operator asks, and whatever Dub does meanwhile: nobody has opened anything."""
    async for world in build(clock):
        await world.click()
        await world.fail("/track/open")
        for number in range(3):
            dry = await world.dry_run(deepLink=FB_PROMO, installId=f"install-dry{number}")
            assert dry["answer"]["pending"]
        await world.mend()
        for number in range(3):
            dry = await world.dry_run(dubDomain="acme.link", installId=f"install-dry{number}")
            assert dry["answer"]["match"]["type"] == "ip"
        before, confidence = dry["answer"]["match"], (await world.launch()).match.confidence
        assert before["confidence"] == confidence


async def test_a_dry_run_tells_dub_nothing(clock: FakeClock, logs: LogLines) -> None:  # noqa: ARG001
    """Every question to Dub asks it to record nothing, also where Dub is told the device's address."""
    config = MATCHING.replace("analytics", "trusts_forwarded_ip = true\nanalytics", 1)
    async for world in build(clock, config):
        await world.click()
        await world.dry_run(dubDomain="acme.link")
        await world.dry_run(deepLink=FB_PROMO)
        asked = (await world.dub.get("/sandbox/calls", params={"path": "/track/open"})).json()
        assert len(asked) == 2
        for call in asked:
            assert "dub-no-track" in call["headers"]
            assert call["headers"]["x-real-ip"] == call["headers"]["x-forwarded-for"] == HOME
        events = await world.service.get("/events?event=clicks&interval=all", headers=AS_SERVER)
        assert len(events.json()) == 1


async def test_the_outbox_shows_nothing_without_the_secret(
    service: Service, dub: FakeDub, data_dir: Path
) -> None:
    """What an entry carries is sealed: with another secret, it is refused by name and nothing is printed."""

    async def down(_: httpx.Request) -> httpx.Response:
        return httpx.Response(500)

    dub.script = down
    body = {"eventName": "Sign up", "customerExternalId": "anna", "clickId": "click00000000000"}
    body["customerEmail"] = "anna@example.com"
    lead_id = (await service.post("/v1/leads", json=body)).json()["leadId"]
    show = ["outbox", "show", lead_id]
    env = {
        "FIRSTOPEN_DATA_DIR": str(data_dir),
        "FIRSTOPEN_SECRET": "another secret of 32 characters or more",
    }
    status, text = await asyncio.to_thread(finished, show, ROOT, env)
    assert (status, "queued" in text) == (0, True)
    status, text = await asyncio.to_thread(finished, [*show, "--reveal"], ROOT, env)
    assert status == 2
    assert "FIRSTOPEN_SECRET" in text
    assert "Traceback" not in text
    assert "anna" not in text
    env["FIRSTOPEN_SECRET"] = ENV["FIRSTOPEN_SECRET"]
    status, text = await asyncio.to_thread(finished, [*show, "--reveal"], ROOT, env)
    assert (status, "anna@example.com" in text) == (0, True)
