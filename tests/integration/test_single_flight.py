"""One open, one call to Dub: whoever waits, gives up or comes late."""

import asyncio
from collections.abc import Callable

from tests.support import ANNA, FB_PROMO, FakeDub, LogLines, Service


async def until(condition: Callable[[], object], *, times: int = 1000) -> None:
    """Let the loop turn until a condition holds."""
    for _ in range(times):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")


async def test_a_thousand_reports_of_one_open_are_one_call(service: Service, dub: FakeDub) -> None:
    """1,000 concurrent reports of one open reach Dub once, and get one click; all but one are repeats."""
    dub.gate = asyncio.Event()
    reports = [asyncio.create_task(service.open(FB_PROMO, install_id=ANNA)) for _ in range(1000)]
    await until(lambda: dub.requests, times=100_000)
    dub.gate.set()
    answers = await asyncio.gather(*reports)
    assert dub.calls("/track/open") == 1
    assert len({answer.click_id for answer in answers}) == 1
    assert len({answer.open_id for answer in answers}) == 1
    assert sum(not answer.repeat for answer in answers) == 1


async def test_concurrent_devices_stay_apart(service: Service, dub: FakeDub) -> None:
    """Opens of one link by different devices at once are different calls and different clicks."""
    dub.gate = asyncio.Event()
    reports = [asyncio.create_task(service.open(FB_PROMO, install_id=f"install-{n}")) for n in range(50)]
    await until(lambda: len(dub.requests) == 50, times=100_000)
    dub.gate.set()
    answers = await asyncio.gather(*reports)
    assert len({answer.click_id for answer in answers}) == 50


async def test_a_caller_that_gives_up_cancels_nothing(service: Service, dub: FakeDub) -> None:
    """The first caller's disconnect does not end the call for the second."""
    dub.gate = asyncio.Event()
    first = asyncio.create_task(service.open(FB_PROMO, install_id=ANNA))
    await until(lambda: dub.requests)
    second = asyncio.create_task(service.open(FB_PROMO, install_id=ANNA))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    dub.gate.set()
    answer = await second
    assert answer.click_id
    assert dub.calls("/track/open") == 1


async def test_each_caller_waits_its_own_budget(service: Service, dub: FakeDub, logs: LogLines) -> None:
    """A short budget is answered from the URL while a long one waits on; both are one open."""
    dub.gate = asyncio.Event()
    patient = asyncio.create_task(service.open(FB_PROMO, install_id=ANNA, budget_ms=10_000))
    await until(lambda: dub.requests)
    hasty = await service.open(FB_PROMO, install_id=ANNA, budget_ms=100)
    assert (hasty.pending, hasty.source, hasty.click_id) == (True, "parsed", None)
    assert (hasty.route.screen, hasty.route.url) == ("promo", FB_PROMO)
    assert not patient.done()
    dub.gate.set()
    answer = await patient
    assert answer.click_id
    assert answer.open_id == hasty.open_id
    assert dub.calls("/track/open") == 1
    assert len(logs.events("open.late")) == 1


async def test_a_late_success_still_settles_the_open(service: Service, dub: FakeDub, logs: LogLines) -> None:
    """A click that comes after the budget is found through the openId, and by the next report."""
    dub.gate = asyncio.Event()
    late = await service.open(FB_PROMO, install_id=ANNA, budget_ms=100)
    assert (late.pending, late.click_id) == (True, None)
    assert await service.recall(late.open_id) == late
    dub.gate.set()
    await until(lambda: logs.events("open.resolved"))
    settled = await service.recall(late.open_id)
    assert (settled.pending, settled.source, settled.route.screen) == (False, "dub", "product")
    assert settled.click_id
    again = await service.open(FB_PROMO, install_id=ANNA)
    assert (again.click_id, again.repeat) == (settled.click_id, True)
    assert dub.calls("/track/open") == 1
