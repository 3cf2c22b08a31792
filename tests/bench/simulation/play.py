"""The city's opens, answered: by the real matching, and by two simple rules that others use."""

import asyncio
import heapq
from collections.abc import Callable, Sequence
from hashlib import blake2b
from ipaddress import ip_network
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog
from msgspec import Struct

from service.domain.device_traits import traits_of_click, traits_of_open
from service.domain.match_rules import Ambiguous, Click, Decision, FirstOpen, Retirement, Rules
from service.domain.models import BY_DEEP_LINK, NO_MATCH, Link, Open
from service.domain.networks import Networks
from service.matching.matcher import Matcher
from service.storage.claims import ClaimStore
from service.storage.clicks import ClickStore
from service.storage.database import Database
from service.storage.encryption import Cipher
from service.storage.engines.sqlite import SqliteEngine
from service.storage.network_activity import NetworkActivity
from service.storage.opens import SqlOpenStore
from tests.bench.simulation.city import RELAY_LISTED, Clicked, Days, Opened

WINDOW_S = 3600
RETRIES_S = (0.0, 2.0, 10.0, 30.0)
BEGAN_MS = 1_785_000_000_000


class Given(Struct, frozen=True):
    """What a first open was answered."""

    opened: Opened
    click: str | None
    confidence: float
    reason: str | None


def play(days: Days, ambiguous: Ambiguous) -> list[Given]:
    """Let firstopen's matching answer the first opens that bring no stronger evidence."""
    return asyncio.run(_play(days, ambiguous))


def at_ms(seconds: float) -> int:
    """Return a time of the city in Unix milliseconds."""
    return BEGAN_MS + int(seconds * 1000)


def networks() -> Networks:
    """Return the networks as an operator would configure them: with the relay's ranges that are known."""
    return Networks(b"a secret of the simulation, of 32 characters", [RELAY_LISTED])


class _Service:
    """What answers the opens: matching, and the database that they are written to."""

    def __init__(self, database: Database, ambiguous: Ambiguous) -> None:
        rules = Rules(window_s=WINDOW_S, ambiguous=ambiguous)
        cipher = Cipher(["a secret of the simulation"])
        self.now = 0.0  # seconds of the city
        self._networks = networks()
        self._clicks = ClickStore(database, cipher, "acme", "all")
        self._opens = SqlOpenStore(database, cipher, clock=self._unix_time, unix_time=self._unix_time)
        self._ids = count()
        self._activity = NetworkActivity(database, self._clicks, "acme", rules)
        claims = ClaimStore(database, self._unix_time)
        self._matcher = Matcher(activity=self._activity, claims=claims, rules=rules)

    async def see(self, clicks: Sequence[Clicked]) -> None:
        """Store clicks that Dub shows."""
        seen = []
        for clicked in clicks:
            network = self._networks.of(clicked.shown_ip).key
            if network is not None:
                device = traits_of_click(clicked.user_agent, clicked.system, None)
                at = at_ms(clicked.dub_at)
                seen.append((network, Click(clicked.id, at, _link(clicked.link), "", device)))
        await self._clicks.add(seen)

    async def answer(self, opened: Opened) -> Decision | None:
        """Answer an open; only those that bring no stronger evidence are matched."""
        asked = _first_open(opened)
        network = self._networks.of(opened.ip)
        link = _link(opened.link or 0) if opened.stronger else None
        decision = None
        if network.key is not None:
            self._activity.record_open(network.key, asked.install, asked.at_ms)
            if link is not None and asked.device.system:
                retirement = Retirement(asked.install, link.id, asked.at_ms, asked.device)
                self._activity.record_install(network.key, retirement)
            elif opened.first and link is None:
                decision = await self._matcher.match(network.key, asked)
        elif opened.first and link is None:
            decision = Decision(reason=network.unmatchable)
        self._keep(asked, network.key, link)
        return decision

    def _keep(self, asked: FirstOpen, network: int | None, link: Link | None = None) -> None:
        opened = Open(
            app="acme",
            open_id=f"{next(self._ids):032x}",
            device=asked.install,
            link=link,
            match=NO_MATCH if link is None else BY_DEEP_LINK,
            opened_at=asked.at_ms / 1000,
            repeat_until=0,
        )
        traits = None if link is None or not asked.device.system else asked.device
        self._opens.keep(bytes(16), opened, network, traits)

    def _unix_time(self) -> float:
        return BEGAN_MS / 1000 + self.now


async def _play(days: Days, ambiguous: Ambiguous) -> list[Given]:
    with TemporaryDirectory() as folder:
        database = Database(SqliteEngine(Path(folder)), structlog.get_logger())
        await database.open()
        given = await _answered(days, _Service(database, ambiguous))
        await database.close()
    return given


async def _answered(days: Days, service: _Service) -> list[Given]:
    coming = sorted(days.clicks, key=lambda click: click.visible_at, reverse=True)
    agenda = [(opened.at, number, 0) for number, opened in enumerate(days.opens)]
    heapq.heapify(agenda)
    given: dict[int, Given] = {}
    while agenda:
        service.now, number, tries = heapq.heappop(agenda)
        opened = days.opens[number]
        if opened.first and not opened.stronger:
            shown = []
            while coming and coming[-1].visible_at <= service.now:
                shown.append(coming.pop())
            await service.see(shown)
        decision = await service.answer(opened)
        if decision is not None:
            click = decision.click.id if decision.click else None
            given[number] = Given(opened, click, decision.confidence, decision.reason)
            if decision.reason in {"no_click", "no_candidate"} and tries + 1 < len(RETRIES_S):
                heapq.heappush(agenda, (opened.at + RETRIES_S[tries + 1], number, tries + 1))
    return list(given.values())


def _first_open(opened: Opened) -> FirstOpen:
    device = traits_of_open(opened.platform, opened.user_agent)
    install = blake2b(opened.install.encode(), digest_size=8).hexdigest()
    return FirstOpen(install, at_ms(opened.at), device)


def _link(number: int) -> Link:
    return Link(f"link_{number}", "acme.link", str(number), f"https://acme.com/product/{number}")


def same_address(days: Days) -> list[Given]:
    """Answer the latest click from the open's address within the window."""
    return _simple(days, _exact, by_platform=False)


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
        if opened.first and not opened.stronger:
            fitting = [
                click
                for click in clicks.get(place(opened.ip), [])
                if click.visible_at <= opened.at
                and opened.at - click.at <= WINDOW_S
                and (not by_platform or click.system.lower() == opened.platform)
            ]
            given.append(Given(opened, fitting[-1].id if fitting else None, 1.0, None))
    return given


def _exact(ip: str) -> str:
    """Return the address, of IPv6 the /64: a device's own address changes from one request to the next."""
    return ip if ":" not in ip else str(ip_network(f"{ip}/64", strict=False))


def _broad(ip: str) -> str:
    return str(ip_network(f"{ip}/{48 if ':' in ip else 24}", strict=False))
