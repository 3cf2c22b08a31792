"""Birth and death, in order."""

import asyncio

import httpx

from service.app import create_app
from service.config.settings import parse
from tests.support import ANNA, CONFIG, ENV, FB_PROMO, FakeClock, FakeDub, LogLines, Service, running


class OrderedDub(FakeDub):
    """Writes down when it is asked, answers and is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.order.append("asked")
        response = await super().handle_async_request(request)
        self.order.append("answered")
        return response

    async def aclose(self) -> None:
        self.order.append("closed")
        await super().aclose()


async def test_a_stop_is_the_reverse_of_birth(logs: LogLines) -> None:
    """An open under way to Dub settles before the connection to Dub closes, and "stopped" comes last."""
    dub = OrderedDub()
    dub.blocked = asyncio.Event()
    async with running(create_app(parse(CONFIG, ENV), transport=dub)) as service:
        assert (await service.open(FB_PROMO, install_id=ANNA, budget_ms=100)).pending
        assert dub.order == ["asked"]
        asyncio.get_running_loop().call_later(0.05, dub.blocked.set)
    assert dub.order == ["asked", "answered", "closed"]
    names = [line["event"] for line in logs.lines]
    assert names.index("service.started") == names.count("store.migrated") > 0
    assert names.index("open.resolved") < names.index("service.stopped") == len(names) - 1


async def test_a_stop_does_not_wait_for_a_dub_that_never_answers() -> None:
    """What is under way is given up when its time to stop is over."""
    dub = OrderedDub()
    dub.blocked = asyncio.Event()
    settings = parse(CONFIG + "[server]\nstop_ms = 50\n", ENV)
    async with running(create_app(settings, transport=dub)) as service:
        await service.open(FB_PROMO, install_id=ANNA, budget_ms=100)
    assert dub.order == ["asked", "closed"]


async def test_a_mistake_of_ours_is_a_500_in_dubs_shape(
    service: Service, dub: FakeDub, clock: FakeClock, logs: LogLines
) -> None:
    """A bug of ours is a 500 that gives nothing away, and the log names the line, not the values."""
    clock.broken = ValueError("private text")
    response = await service.report({"deepLink": FB_PROMO, "installId": ANNA})
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_server_error"
    (line,) = logs.events("request.failed")
    assert (line["path"], line["error"]) == ("/v1/opens", "ValueError")
    assert "support.py:" in line["where"]
    assert "private" not in logs.text + response.text
    assert dub.requests == []
