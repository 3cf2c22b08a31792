"""A scripted Dub that lists click events, and a feed over it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from urllib.parse import parse_qsl

import msgspec

from service.resolve.click_feed import ClickFeed, Together
from service.resolve.events import CallBudget, EventFeed
from service.resolve.model import App
from service.resolve.networks import Networks
from service.resolve.routing import Router
from service.resolve.window import ClickWindow
from service.telemetry import Log, configure_logs
from tests.support import FakeClock

NOON = 1_785_585_600.0
APP = App("acme", ("acme.link", "go.acme.com"), Router((), default_screen="home"), dub_api_key="dub_secret")
NETWORKS = Networks(b"a secret for tests")
HOME = "203.0.113.7"
LONG_S = 60


class FakeEvents:
    """Dub's events: answers queries as Dub does, notes them, and can be held up or made to fail."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._events: list[tuple[float, float, bool, bytes]] = []
        self.queries: list[dict[str, str]] = []
        self.called_at: list[float] = []
        self.gate: asyncio.Event | None = None
        self.failures: list[Exception | bytes | None] = []  # of the next calls; None: none
        self.keeps_page: bytes | None = None

    @property
    def now(self) -> float:
        return NOON + self._clock() - 1000

    def click(
        self, click_id: str, ago_s: float = 0, *, late_s: float = 0, deleted: bool = False, ip: str = HOME
    ) -> None:
        at = self.now - ago_s
        click = {"id": click_id, "timestamp": iso(at), "os": "iOS", "ip": ip}
        link = {"id": "link_1", "domain": "acme.link", "key": "promo", "url": "https://acme.com/"}
        body = msgspec.json.encode({"event": "click", "click": click, "link": link})
        self._events.append((at, at + late_s, deleted, body))

    def odd(self, body: bytes) -> None:
        self._events.append((self.now, self.now, False, body))

    async def events(self, app: App, query: str, *, patience_s: float) -> "Stream":
        assert app.dub_api_key == "dub_secret"
        assert patience_s > 0
        asked = dict(parse_qsl(query))
        self.queries.append(asked)
        self.called_at.append(self._clock())
        answer = self._answer(asked)
        if self.gate is not None:
            await self.gate.wait()
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, Exception):
                raise failure
            if failure is not None:
                return Stream(failure)
        return Stream(self.keeps_page or answer)

    def _answer(self, asked: dict[str, str]) -> bytes:
        start, end = (datetime.fromisoformat(asked[name]).timestamp() for name in ("start", "end"))
        shown = sorted(
            (each for each in self._events if start <= each[0] <= end and each[1] <= self.now),
            key=lambda each: each[0],
        )
        limit, page = int(asked["limit"]), int(asked["page"])
        bodies = [body for _, _, deleted, body in shown[limit * (page - 1) : limit * page] if not deleted]
        return b"[" + b",".join(bodies) + b"]"


class Stream:
    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self._body), 50_000):
            yield self._body[at : at + 50_000]

    async def aclose(self) -> None:
        """Nothing is open."""


class World:
    """A feed over a fake Dub; waiting for the budget moves the clock."""

    def __init__(
        self,
        *,
        app: App = APP,
        log: Log | None = None,
        together: Together | None = None,
        beside: "World | None" = None,
    ) -> None:
        self.clock: FakeClock = beside.clock if beside else FakeClock()
        self.dub: FakeEvents = beside.dub if beside else FakeEvents(self.clock)
        self.budget = CallBudget(self.clock)
        self.sleeping: asyncio.Event | None = None
        self.window = ClickWindow(3600)
        self.feed = ClickFeed(
            app=app,
            events=EventFeed(self.dub, self.budget),
            window=self.window,
            networks=NETWORKS,
            log=log or configure_logs("critical"),
            clock=self.clock,
            wall=lambda: self.dub.now,
            sleep=self._sleep,
            together=together,
        )

    async def _sleep(self, seconds: float) -> None:
        if self.sleeping is not None:
            await self.sleeping.wait()
        self.clock.advance(seconds)
        await asyncio.sleep(0)

    @property
    def held(self) -> set[str]:
        return {click.id for click in self.window.clicks(key_of(HOME))}

    async def sync(self) -> str:
        """Sync for an open that arrives now."""
        return (await self.feed.sync(self.clock(), LONG_S)).status


def iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def key_of(ip: str) -> int:
    key = NETWORKS.of(ip).key
    assert key is not None
    return key


def seconds_between(later: str, earlier: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
