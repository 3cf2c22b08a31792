"""Looks again for a click that Dub shows late: after 2, 10 and 30 seconds.

What can go wrong: an open that is pending for ever (the last look is final, unless Dub showed events that
could not be read: then the open is looked for anew when it is reported again); looks that use up the calls
that new opens need (a look takes a recent sync of another open); a flood of opens that are all looked for
again (bounded: beyond it, the newest are final at once); a look that outlives a stop, or an install that is
to be forgotten.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from service.aio.tasks import cancel_all
from service.attribution.answers import AnswerBuilder
from service.domain.models import NO_MATCH, Open
from service.domain.open_context import OpenContext
from service.domain.ports import IpMatcher
from service.domain.trace import MatchAttempt
from service.telemetry.background import Background

AFTER_S = (2.0, 8.0, 20.0)  # one after the other: 2, 10 and 30 s after the open
_LOOK_S = 5.0
_WAITING_MAX_BYTES = 32 * 1024 * 1024  # some 10,000 opens
_CASE_BYTES = 2500  # of one that waits, beside the characters of its report
_TOO_MANY = MatchAttempt(NO_MATCH, "too many opens are looked for again already")

Settle = Callable[[OpenContext, Open, MatchAttempt], None]


class DelayedMatching:
    """Runs looks in the background; ``clock`` is monotonic seconds, ``sleep`` waits for some."""

    def __init__(
        self,
        ip_matching: IpMatcher,
        answers: AnswerBuilder,
        certain: Callable[[OpenContext], Open | None],
        clock: Callable[[], float],
        background: Background,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._ip_matching = ip_matching
        self._answers = answers
        self._certain = certain
        self._clock = clock
        self._background = background
        self._sleep = sleep
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._waiting_bytes = 0

    def start(self, context: OpenContext, opened: Open, settle: Settle) -> Open:
        """Look again for this open's click; ``settle`` hears of one that is found, or of the end of it.

        Returns the open, final if too many are looked for already.
        """
        open_id = opened.open_id
        if open_id in self._tasks:
            return opened
        size = _size_of(context)
        if self._waiting_bytes + size > _WAITING_MAX_BYTES:
            final = self._final(context, opened, _TOO_MANY)
            settle(context, final, _TOO_MANY)
            return final
        task = self._tasks[open_id] = self._background.spawn(
            self._look(context, opened, settle), "second_look"
        )
        self._waiting_bytes += size

        def ended(_: asyncio.Task[None]) -> None:
            self._waiting_bytes -= size
            self._tasks.pop(open_id, None)

        task.add_done_callback(ended)
        return opened

    async def forget(self, open_ids: Iterable[str]) -> None:
        """Look for the clicks of these opens no more."""
        await cancel_all([self._tasks[open_id] for open_id in open_ids if open_id in self._tasks])

    async def close(self) -> None:
        """Give up what is under way; what was pending is none a minute later, for whoever asks."""
        await cancel_all(self._tasks.values())

    async def _look(self, context: OpenContext, opened: Open, settle: Settle) -> None:
        certain = partial(self._certain, context)
        attempt = _TOO_MANY
        for after_s in AFTER_S:
            await self._sleep(after_s)
            since = self._clock() - after_s / 2  # a sync made in the second half of the wait will do
            attempt = await self._ip_matching.match(
                context, _LOOK_S, since=since, claim=True, certain=certain
            )
            if attempt.click is not None or not attempt.retry:
                break
        del self._tasks[opened.open_id]  # it is settled now, and nobody's to wait for
        settle(context, self._final(context, opened, attempt), attempt)

    def _final(self, context: OpenContext, opened: Open, attempt: MatchAttempt) -> Open:
        final = MatchAttempt(
            attempt.match,
            attempt.detail,
            attempt.click,
            pending=attempt.stays_pending,
            candidates=attempt.candidates,
        )
        strongest = self._certain(context)
        return self._answers.by_address(opened.open_id, context, final, opened.source, strongest)


def _size_of(context: OpenContext) -> int:
    report = context.report
    texts = (report.deep_link, report.install_referrer, report.clipboard, report.caller.user_agent)
    return _CASE_BYTES + sum(len(text) for text in texts if text)
