"""One open, one call to Dub: whoever waits, gives up or comes late."""

import asyncio
from collections.abc import AsyncIterator

import httpx

from tests.support import ANNA, FB_PROMO, FakeClock, FakeDub, LogLines, Service, until


async def test_a_thousand_reports_of_one_open_are_one_call(service: Service, dub: FakeDub) -> None:
    """1,000 concurrent reports of one open reach Dub once, and get one click; all but one are repeats."""
    dub.blocked = asyncio.Event()
    reports = [
        asyncio.create_task(service.open(FB_PROMO, install_id=ANNA, budget_ms=10_000)) for _ in range(1000)
    ]
    await until(lambda: dub.requests)
    dub.blocked.set()
    answers = await asyncio.gather(*reports)
    assert dub.calls("/track/open") == 1
    assert len({answer.click_id for answer in answers}) == 1
    assert len({answer.open_id for answer in answers}) == 1
    assert sum(not answer.repeat for answer in answers) == 1


async def test_concurrent_devices_stay_apart(service: Service, dub: FakeDub) -> None:
    """Opens of one link by different devices at once are different calls and different clicks."""
    dub.blocked = asyncio.Event()
    reports = [asyncio.create_task(service.open(FB_PROMO, install_id=f"install-{n}")) for n in range(50)]
    await until(lambda: len(dub.requests) == 50)
    dub.blocked.set()
    answers = await asyncio.gather(*reports)
    assert len({answer.click_id for answer in answers}) == 50


async def test_a_caller_that_gives_up_cancels_nothing(service: Service, dub: FakeDub) -> None:
    """The first caller's disconnect does not end the call for the second."""
    dub.blocked = asyncio.Event()
    first = asyncio.create_task(service.open(FB_PROMO, install_id=ANNA))
    await until(lambda: dub.requests)
    second = asyncio.create_task(service.open(FB_PROMO, install_id=ANNA))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    dub.blocked.set()
    answer = await second
    assert answer.click_id
    assert dub.calls("/track/open") == 1


async def test_each_caller_waits_its_own_budget(service: Service, dub: FakeDub, logs: LogLines) -> None:
    """A short budget is answered from the URL while a long one waits on; both are one open."""
    dub.blocked = asyncio.Event()
    patient = asyncio.create_task(service.open(FB_PROMO, install_id=ANNA, budget_ms=10_000))
    await until(lambda: dub.requests)
    hasty = await service.open(FB_PROMO, install_id=ANNA, budget_ms=100)
    assert (hasty.pending, hasty.source, hasty.click_id) == (True, "parsed", None)
    assert (hasty.route.screen, hasty.route.url) == ("promo", FB_PROMO)
    assert not patient.done()
    dub.blocked.set()
    answer = await patient
    assert answer.click_id
    assert answer.open_id == hasty.open_id
    assert dub.calls("/track/open") == 1
    assert len(logs.events("open.late")) == 1


async def test_a_late_success_still_settles_the_open(service: Service, dub: FakeDub, logs: LogLines) -> None:
    """A click that comes after the budget is found through the openId, and by the next report."""
    dub.blocked = asyncio.Event()
    late = await service.open(FB_PROMO, install_id=ANNA, budget_ms=100)
    assert (late.pending, late.click_id) == (True, None)
    assert await service.recall(late.open_id) == late
    dub.blocked.set()
    await until(lambda: logs.events("open.resolved"))
    settled = await service.recall(late.open_id)
    assert (settled.pending, settled.source, settled.route.screen) == (False, "dub", "product")
    assert settled.click_id
    again = await service.open(FB_PROMO, install_id=ANNA)
    assert (again.click_id, again.repeat) == (settled.click_id, True)
    assert dub.calls("/track/open") == 1


async def test_the_answer_leaves_before_the_budget_does(service: Service, dub: FakeDub) -> None:
    """A Dub that says nothing costs a caller its budget and no more; time already spent counts."""
    dub.blocked = asyncio.Event()
    loop = asyncio.get_running_loop()
    began = loop.time()
    answers = await asyncio.gather(
        *[service.open(FB_PROMO, install_id=f"install-{n}", budget_ms=300) for n in range(20)]
    )
    assert loop.time() - began < 0.6
    assert all(answer.pending for answer in answers)


async def test_time_spent_before_the_decision_counts(
    service: Service, dub: FakeDub, clock: FakeClock
) -> None:
    """The budget counts from the headers: a body that took all of it leaves no time to wait for Dub."""
    dub.blocked = asyncio.Event()

    async def slow_body() -> AsyncIterator[bytes]:
        yield b'{"deepLink": "https://acme.link/fb-promo", '
        clock.advance(9)
        yield b'"installId": "install-anna", "budgetMs": 9000}'

    began = asyncio.get_running_loop().time()
    response = await service.post(
        "/v1/opens", content=slow_body(), headers={"Content-Type": "application/json"}
    )
    assert response.json()["pending"]
    assert asyncio.get_running_loop().time() - began < 2


async def test_two_hundred_late_callers_are_one_line(service: Service, dub: FakeDub, logs: LogLines) -> None:
    """One open is late once, however many wait for it."""
    dub.blocked = asyncio.Event()
    await asyncio.gather(*[service.open(FB_PROMO, install_id=ANNA, budget_ms=100) for _ in range(200)])
    assert len(logs.events("open.late")) == 1


async def test_a_late_404_does_not_unmake_a_link(service: Service, dub: FakeDub) -> None:
    """A 404 that was asked for before somebody else's 200 is not remembered against the link."""
    slow = asyncio.Event()

    async def first_404_then_200(_: httpx.Request) -> httpx.Response:
        if len(dub.requests) == 1:
            await slow.wait()
            return httpx.Response(404, json={"error": {"code": "not_found"}})
        link = {"id": "link_1", "domain": "acme.link", "key": "new", "url": "https://acme.com/product/1"}
        return httpx.Response(200, json={"clickId": "c" * 16, "link": link})

    dub.script = first_404_then_200
    early = asyncio.create_task(service.open("https://acme.link/new", install_id="install-1"))
    await until(lambda: dub.requests)
    assert (await service.open("https://acme.link/new", install_id="install-2")).click_id
    slow.set()
    assert (await early).match.type == "none"
    assert (await service.open("https://acme.link/new", install_id="install-3")).click_id
