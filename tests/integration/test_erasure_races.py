"""An erased install stays erased, whatever was under way for it: nothing of it is kept or answered."""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from service.app import create_app
from service.config.settings import parse
from service.storage.engines.sqlite import FILE
from tests.support import (
    ANNA,
    BEN,
    CONFIG,
    ENV,
    FB_PROMO,
    SERVER_KEY,
    FakeClock,
    FakeDub,
    Service,
    running,
    until,
)

NO_CLICK = (None, "none")


def content(data_dir: Path) -> bytes:
    return b"".join(path.read_bytes() for path in data_dir.glob("firstopen.sqlite*"))


@pytest.fixture
async def world(dub: FakeDub, clock: FakeClock) -> AsyncIterator[Service]:
    async with running(
        create_app(parse(CONFIG, ENV), transport=dub, clock=clock, unix_time=clock.unix_time)
    ) as service:
        yield service
        if dub.blocked is not None:
            dub.blocked.set()


async def erase(service: Service, install_id: str = ANNA) -> dict[str, int]:
    headers = {"Authorization": f"Bearer {SERVER_KEY}"}
    response = await service.post("/v1/installs/forget", json={"installId": install_id}, headers=headers)
    assert response.status_code == 200, response.text
    found: dict[str, int] = response.json()
    return found


async def is_gone(service: Service, open_id: str) -> None:
    """Assert that an open is not found, now or after everything under way has ended."""
    for _ in range(3):
        assert (await service.get(f"/v1/opens/{open_id}")).status_code == 404
        await asyncio.sleep(0.06)  # longer than a write behind waits


async def test_erased_while_dub_is_asked(world: Service, dub: FakeDub) -> None:
    """The open is answered without a click, and is not found afterwards."""
    dub.blocked = asyncio.Event()
    opening = asyncio.create_task(world.open(FB_PROMO, install_id=ANNA, budget_ms=5000))
    await until(lambda: dub.requests)
    await erase(world)
    dub.blocked.set()
    opened = await opening
    assert (opened.click_id, opened.match.type) == NO_CLICK
    assert opened.route.screen
    await is_gone(world, opened.open_id)


async def test_erased_after_the_budget_and_before_dub_answers(world: Service, dub: FakeDub) -> None:
    """A late answer of Dub's settles nothing for an install that was erased meanwhile."""
    dub.blocked = asyncio.Event()
    opening = asyncio.create_task(world.open(FB_PROMO, install_id=ANNA, budget_ms=100))
    await until(lambda: dub.requests)
    opened = await opening
    assert opened.pending
    await erase(world)
    dub.blocked.set()
    await is_gone(world, opened.open_id)


async def test_erased_while_the_outbox_replays(world: Service, dub: FakeDub, clock: FakeClock) -> None:
    """A replay that Dub answers after the erasure leaves nothing."""

    async def away(_: httpx.Request) -> httpx.Response:
        return httpx.Response(503)

    dub.script = away
    opened = await world.open(FB_PROMO, install_id=ANNA)
    assert opened.pending
    dub.script, dub.blocked = None, asyncio.Event()
    before = len(dub.requests)

    def is_replayed() -> bool:
        clock.advance(0.2)
        return len(dub.requests) > before

    await until(is_replayed)
    await erase(world)
    dub.blocked.set()
    await is_gone(world, opened.open_id)
    assert (await erase(world))["outbox"] == 0


@pytest.mark.parametrize("others", [0, 3])
async def test_a_later_open_is_a_new_install(world: Service, clock: FakeClock, others: int) -> None:
    """After its erasure the same id is another install, and other installs are untouched."""
    kept = [await world.open(FB_PROMO, install_id=f"install-{number:04}") for number in range(others)]
    ben = await world.open(FB_PROMO, install_id=BEN)
    first = await world.open(FB_PROMO, install_id=ANNA)
    await erase(world)
    await is_gone(world, first.open_id)
    clock.advance(1)
    again = await world.open(FB_PROMO, install_id=ANNA)
    assert again.open_id != first.open_id
    assert not again.repeat
    assert (await world.recall(again.open_id)).open_id == again.open_id
    for opened in [*kept, ben]:
        assert (await world.recall(opened.open_id)).click_id == opened.click_id


async def test_erased_ids_leave_the_files(world: Service, data_dir: Path) -> None:
    """Neither the database nor its write-ahead log holds the open's id after the erasure."""
    opened = await world.open("https://acme.link/never-seen?who=anna", install_id=ANNA)
    await world.recall(opened.open_id)
    await asyncio.sleep(0.1)
    short = bytes.fromhex(opened.open_id)
    assert short in content(data_dir)
    await erase(world)
    assert short not in content(data_dir)


async def test_nothing_waits_for_a_long_query_beside_an_erasure(world: Service, data_dir: Path) -> None:
    """SQLite cannot empty its log while a query reads it: it is emptied when the query has ended."""
    opened = await world.open("https://acme.link/never-seen?who=anna", install_id=ANNA)
    await world.recall(opened.open_id)
    await asyncio.sleep(0.1)
    short = bytes.fromhex(opened.open_id)
    with contextlib.closing(sqlite3.connect(data_dir / FILE)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM opens").fetchall()
        began = time.monotonic()
        await erase(world)
        lead = {"eventName": "Sign up", "customerExternalId": "ben", "installId": BEN}
        headers = {"Authorization": f"Bearer {SERVER_KEY}"}
        reply = await world.post("/v1/leads", json=lead, headers=headers)
        assert reply.status_code == 202, reply.text
        assert time.monotonic() - began < 2  # SQLite would wait for 5 s
        assert short in content(data_dir)
    await until(lambda: short not in content(data_dir))
