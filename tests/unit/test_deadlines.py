"""Deadlines: each is called once, in time, unless it is cancelled."""

import asyncio
import time

from service.aio.deadlines import TICK_S, Deadlines, IdleDeadlines


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


async def test_an_idle_loop_counts_all_time() -> None:
    """A deadline is called once, in time; one that is taken back never."""
    deadlines, loop = IdleDeadlines(), asyncio.get_running_loop()
    called: list[float] = []
    began = loop.time()
    deadlines.add(0.05, lambda: called.append(loop.time() - began))
    deadlines.cancel(deadlines.add(0.02, lambda: called.append(0)))
    await asyncio.sleep(0.2)
    assert len(called) == 1
    assert called[0] + 0.001 >= 0.05 - 0.003
    assert not deadlines._due


async def test_a_busy_loop_counts_little() -> None:
    """Turns that take longer than the deadline do not end it: there are at least ten."""
    deadlines = IdleDeadlines()
    called: list[int] = []
    turns = 0
    deadlines.add(0.05, lambda: called.append(turns))
    while not called:
        time.sleep(0.06)  # noqa: ASYNC251  this is what is not counted
        turns += 1
        await asyncio.sleep(0)
    assert turns >= 10
