"""A window of a million clicks: what it weighs, what it costs a match, how long it holds the event loop.

Run as ``python -m tests.bench.simulation.speed ROUNDS`` in a process of its own, so that its memory is the
window's; prints one line of JSON. Times are CPU time: a busy machine takes turns away, not work.
"""

import asyncio
import gc
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from random import Random

import msgspec
from msgspec import Struct

from service.background import Background
from service.resolve.click_feed import ClickFeed
from service.resolve.events import CallBudget, EventFeed
from service.resolve.identity import Identity, TrustedProxies, answer_key
from service.resolve.matcher import Matcher
from service.resolve.matching import Click, Decision, FirstOpen, Rules
from service.resolve.model import App, Link
from service.resolve.networks import Networks
from service.resolve.routing import Router
from service.resolve.traits import Traits, traits_of_open
from service.resolve.window import ClickWindow
from service.telemetry import Metrics, configure_logs
from tests.bench.simulation.play import BEGAN_MS, MemoryClaims

MANY, FEW = 1_000_000, 1000
LINKS = 10_000
WINDOW_S = 3600

_AT_A_TIME = 200
_SETS = 10  # of FEW opens, in a round
_PAGES = 20  # of a sync into the full window
_PAGE_EVENTS = 1000
_NOW_MS = BEGAN_MS + WINDOW_S * 1000
_AGENT = "Acme/12 CFNetwork/1568.100.1 Darwin/24.0.0"
_BROWSER = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
    " Version/18.1 Mobile/15E148 Safari/604.1"
)
_DEVICE = Traits("ios", "iphone", 18)
_SECRET = b"a secret of the bench, of 32 characters"


class Measured(Struct, frozen=True):
    """What this process prints."""

    memory_mb: float
    ratios: list[float]  # matched first opens per second, many clicks over few
    rate: float  # of matched first opens per second and core, with many
    held_ms: float  # the longest turn of the event loop, in CPU time
    problems: list[str]


class _Report(Struct, rename="camel"):
    install_id: str
    dub_domain: str


class _Match(Struct, rename="camel"):
    type: str
    guaranteed: bool
    candidates: int
    age_s: int
    confidence: float


class _Reply(Struct, rename="camel"):
    click_id: str | None
    link: Link | None
    match: _Match


class Service:
    """From a reported open to its answer, as the service does it, without HTTP and disk."""

    def __init__(self, networks: Networks, window: ClickWindow) -> None:
        self._matcher = Matcher(networks=networks, window=window, claims=MemoryClaims(), rules=Rules())
        self._identity = Identity([_SECRET])
        self._proxies = TrustedProxies(["127.0.0.0/8"])
        self._decode = msgspec.json.Decoder(_Report).decode
        self._encode = msgspec.json.Encoder().encode
        self.matched = 0

    async def report(self, body: bytes, forwarded_for: str) -> bytes:
        """Answer one first open."""
        report = self._decode(body)
        ip = self._proxies.client_ip("127.0.0.1", forwarded_for)
        device = self._identity.device("acme", report.install_id, None, _AGENT)
        answer_key("acme", device, f"first:{report.dub_domain}")
        opened = FirstOpen(device, _NOW_MS, traits_of_open("ios", _AGENT))
        decision = await self._matcher.match(ip, opened)
        self.matched += decision.click is not None
        return self._encode(_reply(decision))


def _reply(decision: Decision) -> _Reply:
    click = decision.click
    match = _Match(
        type="ip" if click else "none",
        guaranteed=False,
        candidates=decision.candidates,
        age_s=decision.age_s,
        confidence=decision.confidence,
    )
    return _Reply(click.id if click else None, click.link if click else None, match)


def _ip(number: int) -> str:
    """Return an address of its own for each number, all over the public space."""
    spread = number * 2_654_435_761 % (1 << 24)
    return f"8.{spread >> 16}.{spread >> 8 & 255}.{spread & 255}"


def _links() -> list[Link]:
    return [
        Link(f"link_{number:024d}", "acme.link", f"promo-{number}", f"https://acme.com/product/{number}")
        for number in range(LINKS)
    ]


def _fill(window: ClickWindow, networks: Networks, clicks: int) -> float:
    """Put clicks in, each from a network of its own; return the longest turn in seconds of CPU."""
    links = _links()
    longest = 0.0
    for first in range(0, clicks, _AT_A_TIME):
        began = time.thread_time()
        for number in range(first, min(first + _AT_A_TIME, clicks)):
            key = networks.of(_ip(number)).key
            at_ms = BEGAN_MS + number * WINDOW_S * 1000 // clicks
            link = msgspec.structs.replace(links[number % LINKS])
            window.add(key or 0, Click(f"{number:016d}", at_ms, link, "", _DEVICE))
        longest = max(longest, time.thread_time() - began)
    return longest


def _rss_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6


async def _take_turns(networks: Networks, full: ClickWindow, rounds: int) -> tuple[list[float], float, int]:
    """Match opens in both windows, turn by turn; return the ratios, the full one's rate, and the misses."""
    random = Random(1)
    fresh = iter(random.sample(range(MANY), rounds * _SETS * FEW))
    ratios, spent_in_all, missed = [], 0.0, 0
    for _ in range(rounds):
        few_s = many_s = 0.0
        for _ in range(_SETS):
            small = ClickWindow(WINDOW_S)
            _fill(small, networks, FEW)
            with_few, with_many = Service(networks, small), Service(networks, full)
            few_s += await _timed(with_few, random.sample(range(FEW), FEW))
            many_s += await _timed(with_many, [next(fresh) for _ in range(FEW)])
            missed += 2 * FEW - with_few.matched - with_many.matched
        ratios.append(few_s / many_s)
        spent_in_all += many_s
    return ratios, rounds * _SETS * FEW / spent_in_all, missed


async def _timed(service: Service, numbers: Sequence[int]) -> float:
    bodies = [
        (b'{"installId":"install-%d","dubDomain":"acme.link","platform":"ios"}' % number, _ip(number))
        for number in numbers
    ]
    began = time.process_time()
    for body, ip in bodies:
        await service.report(body, ip)
    return time.process_time() - began


class _Dub:
    """Fills ``DubEvents``: pages of clicks in Dub's shape, then an empty one."""

    def __init__(self) -> None:
        self._pages = iter([_page(number) for number in range(_PAGES)])

    async def events(self, app: App, query: str, *, patience_s: float) -> "_Stream":  # noqa: ARG002  a port's
        return _Stream(next(self._pages, b"[]"))


class _Stream:
    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body

    async def aclose(self) -> None:
        """Nothing is open."""


def _page(number: int) -> bytes:
    """Return a page as large as Dub's are: some 2 KB an event."""
    rest = {f"field{index}": f"some value of a link, the {index}." for index in range(40)}
    return msgspec.json.encode([_event(number * _PAGE_EVENTS + index, rest) for index in range(_PAGE_EVENTS)])


def _event(number: int, rest: dict[str, str]) -> dict[str, object]:
    link = {"id": f"link_{number % LINKS:024d}", "domain": "acme.link", "key": f"promo-{number % LINKS}"}
    click = {
        "id": f"synced{number:010d}",
        "timestamp": "2026-07-25T18:15:00.000Z",
        "url": f"https://acme.com/product/1?utm_source=mail&ref={number}",
        "ip": _ip(number),
        "os": "iOS",
        "device": "Mobile",
        "browser": "Safari",
        "ua": f"{_BROWSER} app/{number % 5000}",
        "trigger": "link",
    }
    return {
        "event": "click",
        "timestamp": "Sat Jul 25 2026 18:15:00 GMT+0000 (Coordinated Universal Time)",
        "click": click,
        "link": {**link, "url": "https://acme.com/product/1", **rest},
    }


async def _longest_turn(networks: Networks, window: ClickWindow) -> float:
    """Sync pages into the window while another task takes every turn that it can get."""
    log, metrics = configure_logs("critical"), Metrics()
    background = Background(log, metrics.background_failures)
    feed = ClickFeed(
        app=App("acme", ("acme.link",), Router((), default_screen="home"), dub_api_key="x"),
        events=EventFeed(_Dub(), CallBudget(lambda: time.monotonic() * 1e6), background),
        window=window,
        networks=networks,
        log=log,
        unreadable=metrics.events_unreadable,
        background=background,
        clock=time.monotonic,
        wall=lambda: _NOW_MS / 1000,
    )
    syncing = asyncio.create_task(feed.sync(time.monotonic(), 600))
    longest = 0.0
    while not syncing.done():
        began = time.thread_time()
        await asyncio.sleep(0)
        longest = max(longest, time.thread_time() - began)
    outcome = await syncing
    if not outcome.is_final:
        raise RuntimeError(f"the sync ended as {outcome}")
    return longest


def _empty(window: ClickWindow) -> float:
    """Let everything expire; return the longest step in seconds of CPU."""
    longest, more = 0.0, True
    while more:
        began = time.thread_time()
        more = window.expire(_NOW_MS + 2 * WINDOW_S * 1000)
        longest = max(longest, time.thread_time() - began)
    return longest


def main() -> None:
    """Measure, and print it."""
    rounds = int(sys.argv[1])
    networks = Networks(_SECRET)
    gc.collect()
    gc.freeze()  # modules are not the window's; all that it makes is looked at
    before = _rss_mb()
    window = ClickWindow(WINDOW_S, clicks_max=MANY + _PAGES * _PAGE_EVENTS)
    held = _fill(window, networks, MANY)
    gc.collect()
    memory_mb = _rss_mb() - before
    problems = [] if len(window) == MANY else [f"{len(window):,} clicks are held, not {MANY:,}"]
    ratios, rate, missed = asyncio.run(_take_turns(networks, window, rounds))
    if missed:
        problems.append(f"{missed} opens were not matched")
    held = max(held, asyncio.run(_longest_turn(networks, window)))
    if len(window) < MANY + _PAGES * _PAGE_EVENTS:
        problems.append(f"the sync left {len(window):,} clicks")
    held = max(held, _empty(window))
    measured = Measured(memory_mb, ratios, rate, held * 1000, problems)
    sys.stdout.write(msgspec.json.encode(measured).decode() + "\n")


if __name__ == "__main__":
    main()
