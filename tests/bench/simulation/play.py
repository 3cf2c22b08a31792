"""A city's opens, answered by the real matcher over stores in memory, and by two simple rules of others."""

import heapq
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from ipaddress import ip_network
from itertools import islice
from typing import Any, Literal, TypeVar

from msgspec import Struct

from service.attribution.rate_learning import EVERY_S, PER_NETWORK
from service.domain.device_traits import traits_of_click, traits_of_open
from service.domain.learned_rates import Observation, count, of_shadow_match, rates_of
from service.domain.match_odds import NO_SIGNALS, Rates, Signals
from service.domain.match_rules import (
    Ambiguous,
    Click,
    Decision,
    FirstOpen,
    NetworkView,
    Retirement,
    Rules,
)
from service.domain.models import Link, Match
from service.domain.networks import Network, Networks
from service.domain.trace import MatchAttempt
from service.matching.matcher import Matcher
from service.storage.network_activity import CLICK_SLACK_S, CLICKS_MAX, INSTALLS_MAX
from tests.bench.simulation.city import Clicked, Days, Opened
from tests.bench.simulation.people import RELAY_LISTED

WINDOW_S = 3600
RETRIES_S = (0.0, 2.0, 10.0, 30.0)
BEGAN_MS = 1_785_000_000_000

_DAY_MS = 86_400_000
_NETWORKS = Networks(b"a secret of the simulation, of 32 characters", [RELAY_LISTED])
_NETWORKS_MAX = 500_000

Evidence = Literal["clicks", "touches"]  # Dub's clicks only; or with touches, and signals on
T = TypeVar("T")


class Given(Struct, frozen=True):
    """What a first open was answered."""

    opened: Opened
    click: str | None
    confidence: float
    reason: str | None


def at_ms(seconds: float) -> int:
    """Return a time of the city in Unix milliseconds."""
    return BEGAN_MS + int(seconds * 1000)


def network_of(ip: str) -> Network:
    """Return an address's network. The operator has listed the relay's ranges that are known."""
    return _network_of(exact(ip))


@lru_cache(_NETWORKS_MAX)
def _network_of(ip: str) -> Network:
    return _NETWORKS.of(ip)


def exact(ip: str) -> str:
    """Return an address; of an IPv6 address one of its /64: devices change the rest from time to time."""
    return ip if ":" not in ip else f"{':'.join(ip.split(':')[:4])}::"


class _Activity:
    """``ports.NetworkActivity`` in memory."""

    def __init__(self, rules: Rules, owners: Mapping[str, str]) -> None:
        self._window_ms = rules.window_s * 1000
        self._owners = owners
        self._clicks: dict[int, deque[Click]] = {}
        self._opens: dict[int, dict[str, int]] = {}  # by network: installs, the latest last
        self._retirements: dict[int, deque[Retirement]] = {}

    def add(self, network: int, click: Click) -> None:
        """Store a click that Dub shows."""
        self._clicks.setdefault(network, deque()).appendleft(click)

    def record_open(self, network: int, install: str, at_ms: int) -> None:
        """Record an open."""
        seen = self._opens.setdefault(network, {})
        seen.pop(install, None)
        seen[install] = at_ms

    def record_install(self, network: int, retirement: Retirement) -> None:
        """Record an install that certain evidence has attributed."""
        self.record_open(network, retirement.install, retirement.at_ms)
        self._retirements.setdefault(network, deque()).append(retirement)

    async def view(self, network: int, install: str, at_ms: int) -> NetworkView:
        """Return what is known of a network."""
        since_ms = at_ms - self._window_ms
        clicks = self._clicks.get(network, deque())
        slack_ms = since_ms - CLICK_SLACK_S * 1000
        while clicks and clicks[-1].at_ms < slack_ms - 120_000:
            clicks.pop()
        newest = tuple(click for click in islice(clicks, CLICKS_MAX) if click.at_ms >= slack_ms)
        owners = {each.id: self._owners[each.id] for each in newest if each.id in self._owners}
        installs = {install}
        for other, seen_ms in reversed(self._opens.get(network, {}).items()):
            if seen_ms < at_ms - 86_400_000 or len(installs) > INSTALLS_MAX:
                break
            installs.add(other)
        retirements = self._retirements.get(network, deque())
        while retirements and retirements[0].at_ms < since_ms - 120_000:
            retirements.popleft()
        return NetworkView(newest, owners, len(installs), tuple(retirements))


class _Claims:
    """``ports.Claims`` in memory."""

    def __init__(self) -> None:
        self.by_click: dict[str, str] = {}

    async def owners(self, click_ids: Sequence[str]) -> Mapping[str, str]:
        """Return the installs that have claimed these clicks."""
        return {each: self.by_click[each] for each in click_ids if each in self.by_click}

    async def claim(self, click_id: str, install: str) -> bool:
        """Claim a click."""
        return self.by_click.setdefault(click_id, install) == install

    async def release(self, click_id: str, install: str) -> None:
        """Release a click."""
        if self.by_click.get(click_id) == install:
            del self.by_click[click_id]


class Player:
    """Plays a city's days to firstopen's matching."""

    def __init__(self, rules: Rules, evidence: Evidence) -> None:
        self._evidence = evidence
        claims = _Claims()
        self._activity = _Activity(rules, claims.by_click)
        self._rates = Rates()
        self._counted: Counter[str] = Counter()
        self._said: Counter[tuple[int, int, bool]] = Counter()  # by network and day
        self._learned_ms = 0
        self._matcher = Matcher(
            activity=self._activity, claims=claims, rules=rules, rates=lambda: self._rates
        )

    def play(self, days: Days) -> list[Given]:
        """Answer the first opens that bring no stronger evidence."""
        coming = sorted(days.clicks, key=self._visible_at, reverse=True)
        agenda = [(opened.at, number, 0) for number, opened in enumerate(days.opens)]
        heapq.heapify(agenda)
        given: dict[int, Given] = {}
        while agenda:
            now, number, tries = heapq.heappop(agenda)
            opened = days.opens[number]
            if opened.first:
                while coming and self._visible_at(coming[-1]) <= now:
                    self._see(coming.pop())
            decision = self._answer(opened, first_try=not tries)
            if decision is not None:
                if opened.at >= days.scored_from:
                    click = decision.click.id if decision.click else None
                    given[number] = Given(opened, click, decision.confidence, decision.reason)
                if decision.reason in {"no_click", "no_candidate"} and tries + 1 < len(RETRIES_S):
                    heapq.heappush(agenda, (opened.at + RETRIES_S[tries + 1], number, tries + 1))
        return list(given.values())

    def _is_touched(self, click: Clicked) -> bool:
        return click.touched and self._evidence == "touches"

    def _visible_at(self, click: Clicked) -> float:
        return click.at + 1 if self._is_touched(click) else click.visible_at

    def _see(self, clicked: Clicked) -> None:
        touched = self._is_touched(clicked)
        network = network_of(clicked.ip if touched else clicked.shown_ip).key
        if network is not None:
            device = traits_of_click(clicked.user_agent, clicked.system, None)
            at = at_ms(clicked.dub_at)
            signals = Signals(*clicked.signals) if touched else NO_SIGNALS
            self._activity.add(network, Click(clicked.id, at, _link(clicked.link), "", device, signals))

    def _answer(self, opened: Opened, *, first_try: bool) -> Decision | None:
        """Answer an open; only those that bring no stronger evidence are matched."""
        asked = _first_open(opened, self._evidence)
        found = network_of(opened.ip)
        network = found.key
        if network is None:
            return Decision(reason=found.unmatchable) if opened.first and not opened.stronger else None
        if opened.first and first_try:
            self._learn(network, asked.at_ms, _told(opened), is_shadow=False)
        if opened.stronger:
            link = _link(opened.link or 0)
            if opened.first:
                observation = self._shadow_match(network, asked, link)
                self._learn(network, asked.at_ms, observation, is_shadow=True)
            self._activity.record_install(
                network, Retirement(asked.install, link.id, asked.at_ms, asked.device)
            )
            return None
        if not opened.first:
            self._activity.record_open(network, asked.install, asked.at_ms)
            return None
        return finished(self._matcher.match(network, asked))

    def _learn(self, network: int, at_ms: int, observation: Observation | None, *, is_shadow: bool) -> None:
        """Learn from a first open, as the service does; it reads the rates every minute."""
        key = (network, at_ms // _DAY_MS, is_shadow)
        if observation is None or self._said[key] >= PER_NETWORK:
            return
        self._said[key] += 1
        self._counted.update(count(observation))
        if at_ms - self._learned_ms >= EVERY_S * 1000:
            self._learned_ms = at_ms
            self._rates = rates_of(self._counted)

    def _shadow_match(self, network: int, asked: FirstOpen, certain: Link) -> Observation | None:
        decision = finished(self._matcher.preview(network, asked))
        attempt = MatchAttempt(
            Match("none", guaranteed=False),
            "",
            candidates=decision.considered,
            devices=decision.devices,
            installs=decision.installs,
        )
        return of_shadow_match(certain, attempt, is_home=asked.is_home)


def _told(opened: Opened) -> Observation:
    """Return what a first open says without a look at its network."""
    is_organic = opened.referrer == "organic" if opened.referrer else None
    return Observation(is_organic=is_organic, is_ios=opened.platform == "ios")


def finished(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as exc:
        result: T = exc.value
        return result
    raise RuntimeError("a store in memory has waited")


def play(days: Days, ambiguous: Ambiguous, evidence: Evidence = "clicks") -> list[Given]:
    """Let firstopen's matching answer the first opens that bring no stronger evidence."""
    return Player(Rules(window_s=WINDOW_S, ambiguous=ambiguous), evidence).play(days)


def _first_open(opened: Opened, evidence: Evidence) -> FirstOpen:
    device = traits_of_open(opened.platform, opened.user_agent)
    install = blake2b(opened.install.encode(), digest_size=8).hexdigest()
    installed_ms = None if opened.installed_at is None else at_ms(opened.installed_at)
    signals = Signals(*opened.signals) if evidence == "touches" else NO_SIGNALS
    return FirstOpen(install, at_ms(opened.at), device, installed_ms, signals, is_home=":" in opened.ip)


def _link(number: int) -> Link:
    return Link(f"link_{number}", "acme.link", str(number), f"https://acme.com/product/{number}")


def same_address(days: Days) -> list[Given]:
    """Answer the latest click from the open's address within the window."""
    return _simple(days, exact, by_platform=False)


def same_24_and_platform(days: Days) -> list[Given]:
    """Answer the latest click from the open's /24 (or /48) and its platform within the window."""
    return _simple(days, _broad, by_platform=True)


def _simple(days: Days, place: Callable[[str], str], *, by_platform: bool) -> list[Given]:
    clicks: dict[str, list[Clicked]] = {}
    for click in sorted(days.clicks, key=lambda click: click.dub_at):
        if click.shown_ip:
            clicks.setdefault(place(click.shown_ip), []).append(click)
    given = []
    for opened in days.opens:
        if opened.first and not opened.stronger and opened.at >= days.scored_from:
            fitting = [
                click
                for click in clicks.get(place(opened.ip), [])
                if click.visible_at <= opened.at
                and opened.at - click.at <= WINDOW_S
                and (not by_platform or click.system.lower() == opened.platform)
            ]
            given.append(Given(opened, fitting[-1].id if fitting else None, 1.0, None))
    return given


def _broad(ip: str) -> str:
    return str(ip_network(f"{ip}/{48 if ':' in ip else 24}", strict=False))
