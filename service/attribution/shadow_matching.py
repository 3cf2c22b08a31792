"""Run matching in the shadow of first opens whose link is certain, to measure how often it is right.

Half a minute to a minute after such an open was answered, its install is matched as if it had opened without
a link, nothing is claimed, and the result is counted (``domain.calibration``, ``domain.learned_rates``).

What can go wrong: shadow matches use up the Dub calls or the database that opens need (they run one after
another; those of an app within half a minute share a sync; more than ``WAITING_MAX`` are left out); a shadow
match is better than a real one, because the install's own evidence has changed something (a certain open
claims nothing, and uses up clicks for other installs only); somebody's clipboard stays in memory (what waits
has no texts).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from msgspec import structs

from service.aio.tasks import cancel_all
from service.attribution.rate_learning import RateLearning
from service.domain.calibration import ShadowMatch, compare_with
from service.domain.learned_rates import of_shadow_match
from service.domain.models import Link, Open
from service.domain.open_context import OpenContext
from service.domain.ports import IpMatcher, KeptCalibration
from service.telemetry import Metrics
from service.telemetry.background import Background

WAIT_S = 30.0  # until the last attempt of ``delayed_matching``, too: Dub may show a click late
WAITING_MAX = 128  # of all apps; about 0.5 MB
_ATTEMPT_S = 5.0
_CERTAIN = frozenset({"deep_link", "install_referrer", "clipboard"})


class ShadowMatching:
    """Compares matching with certain evidence, in the background. ``clock`` is monotonic seconds."""

    def __init__(
        self,
        ip_matching: IpMatcher,
        kept: KeptCalibration,
        rates: RateLearning,
        metrics: Metrics,
        clock: Callable[[], float],
        background: Background,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._ip_matching = ip_matching
        self._kept = kept
        self._rates = rates
        self._metrics = metrics
        self._clock = clock
        self._background = background
        self._sleep = sleep
        self._waiting: dict[str, tuple[OpenContext, Link]] = {}  # by device
        self._batch: dict[str, tuple[OpenContext, Link]] = {}  # those that are matched next
        self._task: asyncio.Task[None] | None = None

    def observe(self, context: OpenContext, opened: Open) -> None:
        """Match an open later, if its link is certain and it is the first of an install."""
        link = opened.link
        if link is None or not opened.match.guaranteed or not _is_first(context, opened):
            return
        if len(self._waiting) + len(self._batch) >= WAITING_MAX:
            return
        self._waiting.setdefault(context.device, (_without_texts(context), link))
        if self._task is None or self._task.done():
            self._task = self._background.spawn(self._run(), "shadow_matching")

    def forget(self, devices: Iterable[str]) -> None:
        """Leave out what these devices have opened."""
        for device in devices:
            self._waiting.pop(device, None)
            self._batch.pop(device, None)

    async def close(self) -> None:
        """Stop; the opens that wait are not counted."""
        if self._task is not None:
            await cancel_all([self._task])

    async def _run(self) -> None:
        while self._waiting:
            self._batch, self._waiting = self._waiting, {}
            await self._sleep(WAIT_S)
            try:
                await self._match_batch()
            finally:
                self._batch = {}

    async def _match_batch(self) -> None:
        since = self._clock() - WAIT_S / 2  # a sync from the second half of the wait is recent enough
        found: dict[str, list[ShadowMatch]] = {}
        failing: set[str] = set()
        while self._batch:
            context, link = self._batch.pop(next(iter(self._batch)))
            app = context.app.name
            if app in failing:
                continue
            attempt = await self._ip_matching.match(
                context, _ATTEMPT_S, since=since, claim=False, certain=_nothing_certain, asks_dub=False
            )
            if attempt.pending:
                failing.add(app)  # Dub or the database does not answer: do not wait for it again
            is_home = self._ip_matching.network_of(app, context.ip).is_home
            observation = of_shadow_match(link, attempt, is_home=is_home)
            if observation is not None and not attempt.pending:
                self._rates.add(context, observation, is_shadow=True)
            shadow = compare_with(link, attempt)
            if shadow is not None:
                found.setdefault(app, []).append(shadow)
        for app, matches in found.items():
            self._count(app, matches)

    def _count(self, app: str, matches: list[ShadowMatch]) -> None:
        for each in matches:
            self._metrics.shadow_matches.add(app, each.outcome)
            if each.percent is not None:
                self._metrics.shadow_confidence.labels(app, each.outcome).observe(each.percent / 100)
        self._kept.add(app, matches)


def _is_first(context: OpenContext, opened: Open) -> bool:
    """Return True if this is the first open of an install, and might have been matched without its link.

    Dub matches forwarded addresses itself: such an open would be sent there once more.
    """
    return opened.match.type in _CERTAIN and context.is_first_open and not context.app.trusts_forwarded_ip


def _without_texts(context: OpenContext) -> OpenContext:
    """Return a copy that is matched alike, and holds nothing that the app reported of links and clipboard."""
    report = structs.replace(context.report, deep_link=None, link=None, install_referrer=None, clipboard=None)
    return structs.replace(context, report=report, link=None, url=None, known_chain=None, earlier=None)


def _nothing_certain() -> None:
    """Return None: the open is matched as if nothing were certain."""
