"""Learn each app's rates from its first opens, over all replicas.

What can go wrong: somebody invents opens to make matching too sure or too shy (a network counts
``PER_NETWORK`` times a day in a process, and ``domain.learned_rates`` bounds each rate); the database is down
(the rates known so far hold); a new replica decides by the defaults (it reads the rates before the first
open, if the database answers); a process is killed (it loses what it counted since its last write, which
changes an estimate by a little).
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping

from service.aio.tasks import cancel_all
from service.domain.errors import StoreFailed
from service.domain.learned_rates import LearnedRate, Observation, count, learned_rates, rates_of
from service.domain.match_odds import DEFAULT_RATES, Rates
from service.domain.open_context import OpenContext
from service.domain.ports import KeptRates
from service.telemetry import Metrics
from service.telemetry.background import Background

PER_NETWORK = 3
EVERY_S = 60.0
_NETWORKS_MAX = 50_000  # some 10 MB; beyond that no other network counts on this day
_DAY_S = 86_400


class RateLearning:
    """Counts observations and holds the rates in force. ``clock`` is monotonic seconds."""

    def __init__(
        self,
        kept: KeptRates,
        metrics: Metrics,
        clock: Callable[[], float],
        background: Background,
    ) -> None:
        self._kept = kept
        self._metrics = metrics
        self._clock = clock
        self._background = background
        self._rates: dict[str, Rates] = {}
        self._read_counts: Mapping[str, Mapping[str, int]] = {}
        self._counted: dict[str, Counter[str]] = {}  # since they were last written, by app
        self._by_network: dict[tuple[str, int, bool], int] = {}  # of this day
        self._day_began = clock()
        self._read_at = clock()
        self._task: asyncio.Task[None] | None = None

    def rates(self, app: str) -> Rates:
        """Return what matching assumes of an app's installs."""
        self.refresh()
        return self._rates.get(app, DEFAULT_RATES)

    def learned(self, app: str) -> tuple[LearnedRate, ...]:
        """Return the rates in force, for people to read."""
        return learned_rates(self._read_counts.get(app, {}))

    def observe_first_open(self, context: OpenContext, *, has_link: bool) -> None:
        """Count the platform and the install referrer of an install's first open.

        ``has_link``: a link or click in the report led to it, so it is not organic, whatever its referrer
        says. Call it when the open's network is known.
        """
        report = context.report
        if not context.is_first_open or report.platform not in ("ios", "android"):
            return
        is_organic = context.chain.is_organic
        if report.install_referrer is not None and has_link:
            is_organic = False
        self.add(context, Observation(is_organic=is_organic, is_ios=report.platform == "ios"))

    def add(self, context: OpenContext, observation: Observation, *, is_shadow: bool = False) -> None:
        """Count what an open says, unless its network has said enough today."""
        network = context.network
        if network is None:
            return
        if self._clock() - self._day_began >= _DAY_S:
            self._by_network, self._day_began = {}, self._clock()
        key = (context.app.name, network, is_shadow)
        earlier = self._by_network.get(key, 0)
        if earlier < PER_NETWORK and (earlier or len(self._by_network) < _NETWORKS_MAX):
            self._by_network[key] = earlier + 1
            self._counted.setdefault(context.app.name, Counter()).update(count(observation))

    async def start(self) -> None:
        """Read the rates."""
        self._read_at = self._clock()
        await self._read()

    def refresh(self) -> None:
        """Write what was counted and read the rates again in the background, once a minute at most."""
        if self._clock() - self._read_at < EVERY_S or (self._task is not None and not self._task.done()):
            return
        self._read_at = self._clock()
        self._write()
        self._task = self._background.spawn(self._read(), "rate_learning")

    async def close(self) -> None:
        """Write what was counted, and stop."""
        if self._task is not None:
            await cancel_all([self._task])
        self._write()

    def _write(self) -> None:
        counted, self._counted = self._counted, {}
        for app, counts in sorted(counted.items()):  # replicas lock rows in one order
            self._kept.add(app, counts)

    async def _read(self) -> None:
        try:
            counted = await self._kept.read()
        except StoreFailed:
            return  # the rates known so far hold
        self._read_counts = counted
        self._rates = {app: rates_of(counts) for app, counts in counted.items()}
        self._metrics.learned_rate.clear()  # of apps without opens in the last months
        self._metrics.rate_observations.clear()
        for app in counted:
            for each in self.learned(app):
                self._metrics.learned_rate.labels(app, each.name).set(each.value)
                self._metrics.rate_observations.labels(app, each.name).set(each.observations)
