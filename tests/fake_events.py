"""A scripted Dub that lists click events, and a feed over it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import httpx
import msgspec

from service.domain.models import App
from service.domain.networks import Networks
from service.domain.routing import Router
from service.dub.click_events import DubClicks
from service.dub.event_feed import CallBudget, EventFeed
from service.matching.click_sync import ClickSync
from service.storage.database import Database
from service.telemetry import Log, Metrics, configure_logs
from tests.databases import Kept
from tests.support import FakeClock, background

NOON = 1_785_585_600.0
APP = App("acme", ("acme.link", "go.acme.com"), Router((), default_screen="home"), dub_api_key="dub_secret")
NETWORKS = Networks(b"a secret for tests")
HOME = "203.0.113.7"
LONG_S = 60
DAY_S = 86_400


class FakeEvents:
    """Dub's events: answers queries as Dub does, notes them, and can be held up or made to fail.

    What it does as the real one (all from dub-api.md, "GET /events"):

    - ``start`` and ``end`` are widened to whole days, in UTC, and swapped where they are the wrong way round;
    - the newest events come first unless ``sortOrder=asc``; a page has 100 unless ``limit`` says otherwise,
      which may be 1000 at most;
    - events of deleted links are left out after paging, so that a page may be short;
    - an event's own ``timestamp`` is a JavaScript date text, that of its click ISO 8601.
    """

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._events: list[_Event] = []
        self.queries: list[dict[str, str]] = []
        self.called_at: list[float] = []
        self.blocked: asyncio.Event | None = None
        self.failures: list[Exception | bytes | None] = []  # of the next calls; None: none
        self.keeps_page: bytes | None = None
        self.writes_times = True  # False: "?" in place of every timestamp
        self.ignores_order = False  # True: always oldest first
        self.meanwhile: Callable[[], None] | None = None  # happens after each answer

    @property
    def now(self) -> float:
        return NOON + self._clock() - 1000

    def click(
        self, click_id: str, ago_s: float = 0, *, late_s: float = 0, deleted: bool = False, ip: str = HOME
    ) -> None:
        """Note a click that was made ``ago_s`` seconds ago, and shows up ``late_s`` seconds after it was."""
        at = self.now - ago_s
        click = {"id": click_id, "timestamp": iso(at), "os": "iOS", "trigger": "link", "ip": ip}
        link = {"id": "link_1", "domain": "acme.link", "key": "promo", "url": "https://acme.com/product/123"}
        fields = {"event": "click", "timestamp": javascript(at), "click": click, "link": link}
        self._events.append(_Event(at, at + late_s, deleted, fields))

    def odd(self, fields: Any) -> None:
        """Note an event of now with something else in its place."""
        self._events.append(_Event(self.now, self.now, False, fields))  # noqa: FBT003

    async def events(self, app: App, query: str, *, queue_timeout_s: float) -> "Stream":
        assert app.dub_api_key == "dub_secret"
        assert queue_timeout_s > 0
        return Stream(await self._page(dict(parse_qsl(query))))

    async def handle(self, request: httpx.Request) -> httpx.Response:
        """Answer over HTTP; there is nothing but ``/events``."""
        if request.url.path != "/events":
            return httpx.Response(404, json={"error": {"code": "not_found", "message": "x", "doc_url": "y"}})
        return httpx.Response(200, content=await self._page(dict(request.url.params)))

    async def _page(self, asked: dict[str, str]) -> bytes:
        self.queries.append(asked)
        self.called_at.append(self._clock())
        answer = self.answer(asked)
        if self.meanwhile is not None:
            self.meanwhile()
        if self.blocked is not None:
            await self.blocked.wait()
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, Exception):
                raise failure
            if failure is not None:
                return failure
        return self.keeps_page or answer

    def answer(self, asked: dict[str, str]) -> bytes:
        """Return the page that a query asks for."""
        start, end = sorted(datetime.fromisoformat(asked[name]).timestamp() for name in ("start", "end"))
        first_day, last_day = start // DAY_S, end // DAY_S
        shown = sorted(
            (
                each
                for each in self._events
                if first_day <= each.at // DAY_S <= last_day and each.visible_at <= self.now
            ),
            key=lambda each: each.at,
            reverse=asked.get("sortOrder", "desc") == "desc" and not self.ignores_order,
        )
        limit, page = int(asked.get("limit", "100")), int(asked.get("page", "1"))
        assert 1 <= limit <= 1000
        events = shown[limit * (page - 1) : limit * page]
        return msgspec.json.encode([self._written(each) for each in events if not each.deleted])

    def _written(self, event: "_Event") -> Any:
        if self.writes_times:
            return event.fields
        return {**event.fields, "timestamp": "?", "click": {**event.fields["click"], "timestamp": "?"}}


class _Event(NamedTuple):
    at: float  # Unix seconds
    visible_at: float
    deleted: bool
    fields: Any


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
        database: Database,
        *,
        app: App = APP,
        log: Log | None = None,
        beside: "World | None" = None,
        scope: str = "all",
    ) -> None:
        self.kept = Kept(database, scope=scope)
        self.clock: FakeClock = beside.clock if beside else FakeClock()
        self.dub: FakeEvents = beside.dub if beside else FakeEvents(self.clock)
        self.budget = CallBudget(self.clock)
        self.sleeping: asyncio.Event | None = None
        self.metrics = Metrics()
        self.feed = ClickSync(
            app=app,
            source=DubClicks(EventFeed(self.dub, self.budget, background())),
            clicks=self.kept.store,
            window_s=3600,
            networks=NETWORKS,
            log=log or configure_logs("critical"),
            unreadable=self.metrics.events_unreadable,
            clock=self.clock,
            unix_time=lambda: self.dub.now,
            background=background(),
            sleep=self._sleep,
        )

    async def _sleep(self, seconds: float) -> None:
        if self.sleeping is not None:
            await self.sleeping.wait()
        self.clock.advance(seconds)
        await asyncio.sleep(0)

    async def held(self) -> set[str]:
        """Return which clicks are stored of one network."""
        return {click.id for click in await self.kept.clicks(key_of(HOME))}

    async def stored(self) -> set[str]:
        """Return which clicks are stored."""
        return await self.kept.click_ids()

    async def sync(self) -> str:
        """Sync for an open that arrives now."""
        return (await self.feed.sync(self.clock(), LONG_S)).status


def iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def javascript(at: float) -> str:
    """Write a time as JavaScript writes a date as text, on a server that runs in UTC."""
    return f"{datetime.fromtimestamp(at, UTC):%a %b %d %Y %H:%M:%S} GMT+0000 (Coordinated Universal Time)"


def key_of(ip: str) -> int:
    key = NETWORKS.of(ip).key
    assert key is not None
    return key


def seconds_between(later: str, earlier: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
