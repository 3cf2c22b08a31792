"""Looks again for a click that Dub shows late: after 2, 10 and 30 seconds.

What can go wrong: an open that is pending for ever (the last look is final); a flood of opens that are all
looked for again (bounded: beyond it, the newest are final at once); a look that outlives a stop.
"""

import asyncio
from collections.abc import Awaitable, Callable

from service.resolve.case import Case
from service.resolve.model import Open
from service.resolve.openings import Openings
from service.resolve.ports import FirstLaunch, Look

AFTER_S = (2.0, 8.0, 20.0)  # one after the other: 2, 10 and 30 s after the open
_LOOK_S = 5.0
_WAITING_MAX = 20_000


class SecondLooks:
    """Runs looks in the background; ``sleep`` is for tests to replace."""

    def __init__(
        self,
        first_launch: FirstLaunch,
        openings: Openings,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._first_launch = first_launch
        self._openings = openings
        self._clock = clock
        self._sleep = sleep
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, case: Case, opened: Open, settle: Callable[[Case, Open], None]) -> None:
        """Look again for this open's click; ``settle`` hears of one that is found, or of the end of it."""
        if len(self._tasks) >= _WAITING_MAX:
            return
        task = asyncio.create_task(self._look(case, opened, settle))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self, case: Case, opened: Open, settle: Callable[[Case, Open], None]) -> None:
        look: Look | None = None
        for after_s in AFTER_S:
            await self._sleep(after_s)
            look = await self._first_launch.look(case, _LOOK_S, since=self._clock(), claim=True)
            if look.click is not None or not look.again:
                break
        if look is not None and (look.click is not None or opened.pending):
            final = Look(look.match, look.detail, look.click, candidates=look.candidates)
            settle(case, self._openings.by_address(opened.open_id, case, final, opened.source))
