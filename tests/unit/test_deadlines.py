"""Deadlines: each is called once, in time, unless it is cancelled."""

import asyncio

from service.aio.deadlines import TICK_S, Deadlines


async def test_a_deadline_that_is_not_kept_is_called_once() -> None:
    """Not before its last tick, not late, not twice."""
    deadlines, loop = Deadlines(), asyncio.get_running_loop()
    called: list[float] = []
    began = loop.time()
    deadlines.add(0.05, lambda: called.append(loop.time() - began))
    await asyncio.sleep(0.15)
    assert len(called) == 1
    assert called[0] + 0.001 >= 0.05 - TICK_S


async def test_a_deadline_that_is_cancelled_is_never_called() -> None:
    """Cancelling one keeps the others of its tick; cancelling one that has passed does nothing."""
    deadlines = Deadlines()
    called: list[str] = []
    kept = deadlines.add(0.02, lambda: called.append("kept"))
    deadlines.add(0.02, lambda: called.append("missed"))
    deadlines.cancel(kept)
    await asyncio.sleep(0.06)
    deadlines.cancel(kept)
    assert called == ["missed"]


async def test_no_time_is_now() -> None:
    """A deadline of nothing is called at the loop's next turns."""
    deadlines = Deadlines()
    called = asyncio.Event()
    deadlines.add(0, called.set)
    await asyncio.wait_for(called.wait(), 1)


async def test_nothing_is_kept_of_what_is_over() -> None:
    """Ticks that are over take no memory, and kept deadlines none until then."""
    deadlines = Deadlines()
    for _ in range(1000):
        deadlines.cancel(deadlines.add(0.02, lambda: None))
    assert all(not waiting for waiting in deadlines._due.values())
    await asyncio.sleep(0.06)
    assert not deadlines._due
