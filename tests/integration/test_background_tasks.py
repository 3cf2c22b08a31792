"""No task that runs beside requests fails unseen: the log names the line, a metric counts it."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
import structlog

from service.app import create_app
from service.config.settings import parse
from service.domain.errors import NotFound
from service.telemetry import Metrics
from service.telemetry.background import Background
from tests.integration.world import AS_SERVER, HOME, MATCHING, embedded_dub
from tests.support import ANNA, ENV, FakeClock, FakeDub, LogLines, Service, running, until


class Mistake(Exception):
    """Something that nobody foresaw."""


async def counted(service: Service, task: str) -> bool:
    text = (await service.get("/metrics")).text
    return f'firstopen_background_failures_total{{task="{task}"}} 1.0' in text


async def test_a_later_look_that_fails(clock: FakeClock, logs: LogLines) -> None:
    """It is reported, and the open is answered as before."""

    async def broken(_: float) -> None:
        raise Mistake

    app = create_app(
        parse(MATCHING, ENV),
        transport=embedded_dub(clock),
        clock=clock,
        unix_time=clock.unix_time,
        sleep=broken,
    )
    async with running(app) as service:
        opened = await service.open(
            dub_domain="acme.link", install_id=ANNA, platform="ios", headers={"X-Forwarded-For": HOME}
        )
        await until(lambda: logs.events("background.failed"))
        (line,) = logs.events("background.failed")
        assert (line["task"], line["error"], line["level"]) == ("second_look", "Mistake", "error")
        assert line["where"].startswith("test_background_tasks.py:")
        assert await counted(service, "second_look")
        assert (await service.recall(opened.open_id)).open_id == opened.open_id


class CutShort(httpx.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"["
        raise Mistake


async def test_a_page_of_events_that_fails(service: Service, dub: FakeDub, logs: LogLines) -> None:
    """It is reported although its reader only sees it cut short."""

    async def script(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=CutShort(), headers={"Content-Type": "application/json"})

    dub.script = script
    reply = await service.get("/events", headers=AS_SERVER)
    assert reply.content in (b"[", b"") or reply.status_code >= 500
    await until(lambda: logs.events("background.failed"))
    assert [line["task"] for line in logs.events("background.failed")] == ["events_page"]
    assert await counted(service, "events_page")


async def test_only_what_nobody_expects_is_reported(logs: LogLines) -> None:
    """Its owner gets a task's exception as usual; an expected one and a cancellation are no mistakes."""
    metrics = Metrics()
    background = Background(structlog.get_logger(), metrics.background_failures)

    async def raising(exc: Exception) -> None:
        raise exc

    with pytest.raises(NotFound):
        await background.spawn(raising(NotFound("openId")), "one", expected=NotFound)
    endless = background.spawn(asyncio.Event().wait(), "two")
    await asyncio.sleep(0)
    endless.cancel()
    with pytest.raises(asyncio.CancelledError):
        await endless
    assert not logs.lines
    with pytest.raises(Mistake):
        await background.spawn(raising(Mistake("personal")), "three", expected=NotFound)
    await until(lambda: logs.lines)
    assert [(line["event"], line["task"]) for line in logs.lines] == [("background.failed", "three")]
    assert "personal" not in logs.text
    assert metrics.background_failures.labels("three")._value.get() == 1
