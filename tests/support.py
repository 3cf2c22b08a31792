"""What tests share: a scripted Dub, a client that speaks the wire contract, a clock that stands still."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import msgspec
import structlog
from litestar import Litestar

from service.domain.models import Answer
from service.telemetry import Metrics, flush_logs
from service.telemetry.background import Background

KEY = "dub_pk_acme"
OTHER_KEY = "dub_pk_globex"
SERVER_KEY = "server-key-of-acme"
ANNA = "install-anna"
BEN = "install-ben"
FB_PROMO = "https://acme.link/fb-promo"
IPHONE = "Acme/12 CFNetwork/1568 Darwin/24.0.0"

ENV = {
    "FIRSTOPEN_SECRET": "a secret for tests of 32 characters or more",
    "ACME_DUB_API_KEY": "dub_secret_of_acme",
    "ACME_SERVER_KEYS": "server-key-of-acme,an-older-one",
}
CONFIG = """
[apps.acme]
publishable_keys = ["dub_pk_acme"]
dub_api_key_env = "ACME_DUB_API_KEY"
server_keys_env = "ACME_SERVER_KEYS"
domains = ["acme.link", "go.acme.com"]
default_screen = "home"
leads = "client"
schemes = ["acme"]
ip_matching = "off"

[[apps.acme.routes]]
pattern = "https://acme.com/product/:id"
screen = "product"

[[apps.acme.routes]]
pattern = "https://acme.com/invite/:from"
screen = "invite"
min_version = "2.10"
fallback = "update_invite"

[[apps.acme.routes]]
pattern = "https://acme.com/gift/:id"
screen = "gift"
min_version = "3"

[[apps.acme.routes]]
pattern = "acme://product/:id"
screen = "product"

[[apps.acme.routes]]
pattern = "https://acme.link/fb-promo"
screen = "promo"

[apps.globex]
publishable_keys = ["dub_pk_globex"]
domains = ["globex.link"]
default_screen = "start"
leads = "client"
"""

_QUICK_TURNS = 2000

Handler = Callable[[httpx.Request], Awaitable[httpx.Response]]


def background() -> Background:
    """Return what starts tasks, for parts that are built alone."""
    return Background(structlog.get_logger(), Metrics().background_failures)


class FakeClock:
    """Monotonic seconds that move only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.broken: Exception | None = None

    def __call__(self) -> float:
        if self.broken is not None:
            raise self.broken
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds

    async def sleep(self, seconds: float) -> None:
        """Wait until somebody has advanced this clock far enough."""
        until = self() + seconds
        while self() < until:  # noqa: ASYNC110  the clock is somebody else's to move
            await asyncio.sleep(0.001)

    def unix_time(self) -> float:
        """Unix seconds, moving along."""
        return 1_785_585_600 + self()


class FakeDub(httpx.AsyncBaseTransport):
    """A Dub that knows some links, tells devices apart by User-Agent, and obeys a script.

    ``script`` (if set) answers every call instead; ``gate`` (if set) holds every answer until it opens.
    """

    def __init__(self) -> None:
        self.links = {
            "acme.link/fb-promo": "https://acme.com/product/123",
            "acme.link/Fb-Promo": "https://acme.com/product/999",
            "acme.link/invite": "https://acme.com/invite/anna",
            "acme.link/gift": "https://acme.com/gift/7",
            "acme.link/_root": "https://acme.com/",
            "acme.link/summer": "https://acme.com/category/shoes?sort=new&size=42",
            "acme.link/evil": "javascript:alert(1)",
            "acme.link/own": "acme://product/5",
            "go.acme.com/fb-promo": "https://acme.com/product/55",
            "globex.link/x": "https://globex.com/x",
        }
        self.requests: list[httpx.Request] = []
        self.script: Handler | None = None
        self.blocked: asyncio.Event | None = None
        self.closed = False
        self._clicks: dict[tuple[str, str], str] = {}

    def calls(self, path: str) -> int:
        return sum(request.url.path == path for request in self.requests)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.blocked is not None:
            await self.blocked.wait()
        if self.script is not None:
            return await self.script(request)
        answer = self._track_open(request)
        if "dub-no-track" in request.headers and answer.status_code == 200:
            return httpx.Response(200, json={**answer.json(), "clickId": None})
        return answer

    async def aclose(self) -> None:
        self.closed = True

    def _track_open(self, request: httpx.Request) -> httpx.Response:
        url = httpx.URL(json.loads(request.content)["deepLink"])
        domain, key = url.host, url.raw_path.partition(b"?")[0].decode()[1:] or "_root"
        destination = self.links.get(f"{domain}/{key}")
        if destination is None:
            return httpx.Response(404, json={"error": {"code": "not_found", "message": "x", "doc_url": "y"}})
        who = (f"{domain}/{key}", request.headers["User-Agent"])
        click_id = self._clicks.setdefault(who, f"click{len(self._clicks):011d}")
        link = {"id": f"link_{key}", "domain": domain, "key": key, "url": destination}
        return httpx.Response(200, json={"clickId": click_id, "link": link})


class Service(httpx.AsyncClient):
    """The service, spoken to over HTTP as an app would."""

    def __init__(self, app: Litestar, ip: str = "127.0.0.1") -> None:
        super().__init__(
            transport=httpx.ASGITransport(cast("Any", app), client=(ip, 4711), raise_app_exceptions=False),
            base_url="http://firstopen",
            headers={"Authorization": f"Bearer {KEY}", "User-Agent": IPHONE},
        )

    async def report(self, body: Mapping[str, Any] | bytes, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.post(
            "/v1/opens", content=content, headers={"Content-Type": "application/json", **_named(headers)}
        )

    async def open(
        self, deep_link: str | None = None, headers: Mapping[str, str] | None = None, **fields: Any
    ) -> Answer:
        body = {"deepLink": deep_link, **{_camel(name): value for name, value in fields.items()}}
        response = await self.report(body, **(headers or {}))
        assert response.status_code == 200, response.text
        return msgspec.json.decode(response.content, type=Answer)

    async def recall(self, open_id: str) -> Answer:
        response = await self.get(f"/v1/opens/{open_id}")
        assert response.status_code == 200, response.text
        return msgspec.json.decode(response.content, type=Answer)


@asynccontextmanager
async def running(app: Litestar) -> AsyncIterator[Service]:
    """Run the app's lifespan in one task (fixtures are set up and torn down in two) and speak to it."""
    up, down = asyncio.Event(), asyncio.Event()

    async def live() -> None:
        async with app.lifespan():
            up.set()
            await down.wait()

    life = asyncio.create_task(live())
    waiting = asyncio.create_task(up.wait())
    await asyncio.wait([life, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        if not life.done():
            async with Service(app) as service:
                yield service
    finally:
        down.set()
        await life


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until a condition holds."""
    for turn in range(10_000):
        if condition():
            return
        await asyncio.sleep(0 if turn < _QUICK_TURNS else 0.002)
    raise AssertionError("it never came to that")


class LogLines(io.TextIOWrapper):
    """A stream that remembers the log lines written to it, as text and as events."""

    def __init__(self) -> None:
        self.raw = io.BytesIO()
        super().__init__(self.raw, encoding="utf-8", write_through=True)

    @property
    def text(self) -> str:
        flush_logs()
        return self.raw.getvalue().decode()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == name]


def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part.title() for part in tail)


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
