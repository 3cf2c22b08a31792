"""Looks again for a click that Dub shows late: after 2, 10 and 30 seconds.

What can go wrong: an open that is pending for ever (the last look is final, unless Dub showed events that
could not be read: then the open is looked for anew when it is reported again); looks that use up the calls
that new opens need (a look takes a recent sync of another open); a flood of opens that are all looked for
again (bounded: beyond it, the newest are final at once); a look that outlives a stop, or an install that is
to be forgotten.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial

from service.attribution.answers import Openings
from service.domain.models import NO_MATCH, Open
from service.domain.open_context import Case
from service.domain.ports import FirstLaunch
from service.domain.trace import Look
from service.telemetry.background import Background

AFTER_S = (2.0, 8.0, 20.0)  # one after the other: 2, 10 and 30 s after the open
_LOOK_S = 5.0
_WAITING_MAX_BYTES = 32 * 1024 * 1024  # some 10,000 opens
_CASE_BYTES = 2500  # of one that waits, beside the characters of its report
_TOO_MANY = Look(NO_MATCH, "too many opens are looked for again already")

Settle = Callable[[Case, Open, Look], None]


class SecondLooks:
    """Runs looks in the background; ``clock`` is monotonic seconds, ``sleep`` waits for some."""

    def __init__(
        self,
        first_launch: FirstLaunch,
        openings: Openings,
        certain: Callable[[Case], Open | None],
        clock: Callable[[], float],
        background: Background,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._first_launch = first_launch
        self._openings = openings
        self._certain = certain
        self._clock = clock
        self._background = background
        self._sleep = sleep
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._waiting_bytes = 0

    def start(self, case: Case, opened: Open, settle: Settle) -> Open:
        """Look again for this open's click; ``settle`` hears of one that is found, or of the end of it.

        Returns the open, final if too many are looked for already.
        """
        open_id = opened.open_id
        if open_id in self._tasks:
            return opened
        size = _size_of(case)
        if self._waiting_bytes + size > _WAITING_MAX_BYTES:
            final = self._final(case, opened, _TOO_MANY)
            settle(case, final, _TOO_MANY)
            return final
        task = self._tasks[open_id] = self._background.spawn(self._look(case, opened, settle), "second_look")
        self._waiting_bytes += size

        def ended(_: asyncio.Task[None]) -> None:
            self._waiting_bytes -= size
            self._tasks.pop(open_id, None)

        task.add_done_callback(ended)
        return opened

    async def forget(self, open_ids: Iterable[str]) -> None:
        """Look for the clicks of these opens no more."""
        await _give_up([self._tasks[open_id] for open_id in open_ids if open_id in self._tasks])

    async def close(self) -> None:
        """Give up what is under way; what was pending is none a minute later, for whoever asks."""
        await _give_up(list(self._tasks.values()))

    async def _look(self, case: Case, opened: Open, settle: Settle) -> None:
        certain = partial(self._certain, case)
        look = _TOO_MANY
        for after_s in AFTER_S:
            await self._sleep(after_s)
            since = self._clock() - after_s / 2  # a sync made in the second half of the wait will do
            look = await self._first_launch.look(case, _LOOK_S, since=since, claim=True, certain=certain)
            if look.click is not None or not look.again:
                break
        del self._tasks[opened.open_id]  # it is settled now, and nobody's to wait for
        settle(case, self._final(case, opened, look), look)

    def _final(self, case: Case, opened: Open, look: Look) -> Open:
        final = Look(
            look.match, look.detail, look.click, pending=look.stays_pending, candidates=look.candidates
        )
        strongest = self._certain(case)
        return self._openings.by_address(opened.open_id, case, final, opened.source, strongest)


def _size_of(case: Case) -> int:
    report = case.report
    texts = (report.deep_link, report.install_referrer, report.clipboard, report.caller.user_agent)
    return _CASE_BYTES + sum(len(text) for text in texts if text)


async def _give_up(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
