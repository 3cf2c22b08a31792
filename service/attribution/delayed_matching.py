"""Repeat the match attempt for a click that may appear late at Dub: after 2, 10 and 30 seconds.

What can go wrong: an open stays pending for ever (the last attempt is final, unless Dub's events could not be
decoded: then the next report of the open starts new attempts); attempts use up the calls that new opens need
(an attempt uses the recent sync of another open); too many opens wait for attempts (their memory is bounded;
further opens become final immediately); an attempt runs after a stop, or after its install was erased.
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

AFTER_S = (2.0, 8.0, 20.0)  # pauses before the attempts, which start 2, 10 and 30 s after the open
_ATTEMPT_S = 5.0
_WAITING_MAX_BYTES = 32 * 1024 * 1024  # about 10,000 opens
_CONTEXT_BYTES = 2500  # memory of one waiting open, without the texts of its report
_TOO_MANY = MatchAttempt(NO_MATCH, "too many opens wait for further match attempts")

Settle = Callable[[OpenContext, Open, MatchAttempt], None]


class DelayedMatching:
    """Runs further match attempts in the background. ``clock`` is monotonic seconds."""

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
        """Schedule further attempts to match an open, and call ``settle`` with the final result.

        Returns the open; if too many opens wait for attempts, it is final, and ``settle`` was called.
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
            self._run(context, opened, settle), "second_look"
        )
        self._waiting_bytes += size

        def ended(_: asyncio.Task[None]) -> None:
            self._waiting_bytes -= size
            self._tasks.pop(open_id, None)

        task.add_done_callback(ended)
        return opened

    async def forget(self, open_ids: Iterable[str]) -> None:
        """Cancel the attempts for these opens."""
        await cancel_all([self._tasks[open_id] for open_id in open_ids if open_id in self._tasks])

    async def close(self) -> None:
        """Cancel all attempts. Their opens have no click, and stay pending for at most a minute."""
        await cancel_all(self._tasks.values())

    async def _run(self, context: OpenContext, opened: Open, settle: Settle) -> None:
        certain = partial(self._certain, context)
        attempt = _TOO_MANY
        for after_s in AFTER_S:
            await self._sleep(after_s)
            since = self._clock() - after_s / 2  # a sync from the second half of the pause is recent enough
            attempt = await self._ip_matching.match(
                context, _ATTEMPT_S, since=since, claim=True, certain=certain
            )
            if not attempt.retry:
                break
        del self._tasks[opened.open_id]  # settled: ``forget`` must not cancel it any more
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
    return _CONTEXT_BYTES + sum(len(text) for text in texts if text)
