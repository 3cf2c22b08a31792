"""The city's opens, answered: by the real matching, and by two simple rules that others use."""

import asyncio
import heapq
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_network

from msgspec import Struct

from service.resolve.matcher import Matcher
from service.resolve.matching import Ambiguous, Click, FirstOpen, Rules
from service.resolve.model import Link
from service.resolve.networks import Networks
from service.resolve.traits import traits_of_click, traits_of_open
from service.resolve.window import ClickWindow
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


class MemoryClaims:
    """Fills ``Claims``: one click, one install, as long as this lives."""

    def __init__(self) -> None:
        self.owner: dict[str, str] = {}

    async def owners(self, click_ids: Sequence[str]) -> Mapping[str, str]:
        return {each: self.owner[each] for each in click_ids if each in self.owner}

    async def claim(self, click_id: str, install: str) -> bool:
        return self.owner.setdefault(click_id, install) == install

    async def release(self, click_id: str, install: str) -> None:
        if self.owner.get(click_id) == install:
            del self.owner[click_id]


def play(days: Days, ambiguous: Ambiguous) -> list[Given]:
    """Let firstopen's matching answer the first opens that bring no stronger evidence."""
    return asyncio.run(_play(days, ambiguous))


def at_ms(seconds: float) -> int:
    """Return a time of the city in Unix milliseconds."""
    return BEGAN_MS + int(seconds * 1000)


def networks() -> Networks:
    """Return the networks as an operator would configure them: with the relay's ranges that are known."""
    return Networks(b"a secret of the simulation, of 32 characters", [RELAY_LISTED])


async def _play(days: Days, ambiguous: Ambiguous) -> list[Given]:
    named = networks()
    window = ClickWindow(WINDOW_S)
    matcher = Matcher(
        networks=named,
        window=window,
        claims=MemoryClaims(),
        rules=Rules(window_s=WINDOW_S, ambiguous=ambiguous),
    )
    coming = sorted(days.clicks, key=lambda click: click.visible_at, reverse=True)
    agenda = [(opened.at, number, 0) for number, opened in enumerate(days.opens)]
    heapq.heapify(agenda)
    given: dict[int, Given] = {}
    while agenda:
        now, number, tries = heapq.heappop(agenda)
        while coming and coming[-1].visible_at <= now:
            _add(window, named, coming.pop())
        window.expire(at_ms(now))
        opened = days.opens[number]
        asked = _first_open(opened)
        if opened.stronger:
            matcher.saw(opened.ip, opened.install, asked.at_ms)
            await matcher.retire(opened.ip, asked, _link(opened.link or 0).id)
        elif not opened.first:
            matcher.saw(opened.ip, opened.install, asked.at_ms)
        else:
            decision = await matcher.match(opened.ip, asked)
            click = decision.click.id if decision.click else None
            given[number] = Given(opened, click, decision.confidence, decision.reason)
            if decision.reason in {"no_click", "no_candidate"} and tries + 1 < len(RETRIES_S):
                heapq.heappush(agenda, (opened.at + RETRIES_S[tries + 1], number, tries + 1))
    return list(given.values())


def _add(window: ClickWindow, named: Networks, clicked: Clicked) -> None:
    network = named.of(clicked.shown_ip)
    if network.key is not None:
        device = traits_of_click(clicked.user_agent, clicked.system, None)
        window.add(network.key, Click(clicked.id, at_ms(clicked.dub_at), _link(clicked.link), "", device))


def _first_open(opened: Opened) -> FirstOpen:
    device = traits_of_open(opened.platform, opened.user_agent)
    return FirstOpen(opened.install, at_ms(opened.at), device)


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
