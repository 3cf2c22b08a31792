"""The fault matrix, over real sockets: each way in which Dub can fail, at each point, for all that we send.

While it lasts: the right status, in time, from the right source, and the right things queued. Afterwards:
Dub has each open, lead and sale exactly once.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from service.app import create_app
from service.config.settings import parse
from tests.certificates import contexts
from tests.durability.cases import FAULTS
from tests.durability.conftest import FAULTS as COUNT
from tests.durability.faulty import Fault, Faulty
from tests.process import free_ports, started
from tests.sandboxed import left_over
from tests.support import CONFIG, ENV, SERVER_KEY, LogLines, Service, running

BUDGET_MS = 250
MARGIN_S = 1.0
TIMEOUT_MS = 1_500  # what an unbounded wait would take
HURRY = f"""
[dub]
timeout_ms = {TIMEOUT_MS}
slow_ms = 1000
breaker_open_s = 0.1
"""
AT_DUB = {"Authorization": "Bearer dub_secret_of_acme"}
AS_SERVER = {"Authorization": f"Bearer {SERVER_KEY}"}
BROWSER = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 Chrome/126.0.0.0 Safari/537.36"
CASES = 7
SETTLED_S = 20


class Dub:
    """A sandbox of its own process, with two links per test."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=AT_DUB, timeout=20)

    async def link(self, key: str) -> None:
        body = {"domain": "acme.link", "key": key, "url": f"https://acme.com/product/{key}"}
        reply = await self.http.post("/links", json=body)
        assert reply.status_code == 200, reply.text

    async def web_click(self, key: str) -> str:
        reply = await self.http.get(f"/{key}", headers={"Host": "acme.link", "User-Agent": BROWSER})
        return reply.headers["set-cookie"].partition("=")[2].partition(";")[0]

    async def events(self, kind: str, key: str) -> list[dict[str, Any]]:
        params: dict[str, str | int] = {"event": kind, "domain": "acme.link", "key": key, "limit": 1000}
        reply = await self.http.get("/events", params=params)
        assert reply.status_code == 200, reply.text
        return [
            event for event in reply.json() if event["click"]["trigger"] == "deeplink" or kind != "clicks"
        ]


@pytest.fixture(scope="module")
def sandbox_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = free_ports()
    cwd = tmp_path_factory.mktemp("sandbox")
    with started("sandbox", "--port", str(port), "--no-demo", env={}, cwd=cwd) as process:
        process.until("Try it")
        process.until("")
        yield port


@pytest.fixture
async def dub(sandbox_port: int) -> AsyncIterator[Dub]:
    dub = Dub(sandbox_port)
    async with dub.http:
        yield dub


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext, Path]:
    return contexts(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def faulty(
    fault: Fault, sandbox_port: int, tls: tuple[ssl.SSLContext, ssl.SSLContext, Path]
) -> AsyncIterator[Faulty]:
    good, bad, _ = tls
    spared = lambda body: body.get("mode") == "deferred"  # noqa: E731  what a lead in two steps asks first
    proxy = (
        Faulty(sandbox_port, good, bad, spared) if fault.needs_tls else Faulty(sandbox_port, spared=spared)
    )
    await proxy.start()
    yield proxy
    await proxy.stop()


@pytest.fixture
async def service(
    fault: Fault,
    faulty: Faulty,
    tls: tuple[ssl.SSLContext, ssl.SSLContext, Path],
    monkeypatch: pytest.MonkeyPatch,
    logs: LogLines,  # noqa: ARG001  the log goes there, not to the terminal
) -> AsyncIterator[Service]:
    monkeypatch.setenv("SSL_CERT_FILE", str(tls[2]))
    monkeypatch.setattr("service.outbox.policy.BACKOFF_MIN_S", 0.05)
    monkeypatch.setattr("service.outbox.policy.BACKOFF_MAX_S", 0.1)
    scheme = "https" if fault.needs_tls else "http"
    env = {"DUB_BASE_URL": f"{scheme}://127.0.0.1:{faulty.port}", "FIRSTOPEN_BUDGET_MS": str(BUDGET_MS)}
    async with running(create_app(parse(CONFIG + HURRY, {**ENV, **env}))) as service:
        yield service


class Timed(msgspec.Struct):
    """A reply, and how many seconds it took."""

    reply: httpx.Response
    took_s: float

    @property
    def body(self) -> Any:
        return self.reply.json()


async def timed(asked: Awaitable[httpx.Response]) -> Timed:
    began = time.monotonic()
    reply = await asked
    return Timed(reply, time.monotonic() - began)


class Bench:
    """What one test sends: two opens, four leads, a sale; and what Dub must have of it in the end."""

    def __init__(self, service: Service, dub: Dub, number: int) -> None:
        self.service = service
        self.dub = dub
        self.known, self.fresh = f"known-{number}", f"fresh-{number}"
        self.click = self.web = ""

    async def prepare(self) -> None:
        """Make the links, and the clicks that leads are for, while all is well."""
        await self.dub.link(self.known)
        await self.dub.link(self.fresh)
        opened = await self.service.open(
            f"https://acme.link/{self.known}", install_id="install-0", budget_ms=9000
        )
        assert opened.click_id, opened
        self.click, self.web = opened.click_id, await self.dub.web_click(self.known)

    async def send(self) -> dict[str, Timed]:
        """Send everything at once."""
        asked = {
            "stale open": self.open(self.known, "install-1"),
            "parsed open": self.open(self.fresh, "install-2"),
            "lead": self.lead("lead", self.click),
            "lead in two steps": self.lead("two-steps", self.web),
            "async": self.track("async", "async"),
            "wait": self.track("wait", "wait"),
            "sale": self.sale(),
        }
        assert len(asked) == CASES
        replies = await asyncio.gather(*(timed(each) for each in asked.values()))
        return dict(zip(asked, replies, strict=True))

    def open(self, key: str, install: str) -> Awaitable[httpx.Response]:
        body = {"deepLink": f"https://acme.link/{key}?ref=1", "installId": install, "budgetMs": BUDGET_MS}
        return self.service.post("/v1/opens", json=body)

    def lead(self, customer: str, click: str) -> Awaitable[httpx.Response]:
        body = {"eventName": "Sign up", "customerExternalId": self.name(customer), "clickId": click}
        return self.service.post("/v1/leads", json=body)

    def track(self, customer: str, mode: str) -> Awaitable[httpx.Response]:
        body = {"eventName": "Sign up", "customerExternalId": self.name(customer), "clickId": self.click}
        return self.service.post("/track/lead", json={**body, "mode": mode}, headers=AS_SERVER)

    def sale(self) -> Awaitable[httpx.Response]:
        body = {"customerExternalId": self.name("sale"), "amount": 500, "clickId": self.click}
        return self.service.post("/track/sale", json=body, headers=AS_SERVER)

    def name(self, customer: str) -> str:
        return f"{customer}-{self.known}"


async def settled(what: Callable[[], Awaitable[Any]], expected: Any) -> None:
    """Ask until the answer is the expected one."""
    found: Any = None
    deadline = time.monotonic() + SETTLED_S
    while time.monotonic() < deadline:
        found = await what()
        if found == expected:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(found)


@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_an_answer_in_time_and_nothing_lost(
    service: Service, dub: Dub, faulty: Faulty, fault: Fault, record_property: Callable[[str, object], None]
) -> None:
    """Whatever goes wrong: answers inside the budget while it does, each thing once at Dub afterwards."""
    bench = Bench(service, dub, FAULTS.index(fault))
    await bench.prepare()
    await faulty.arm(fault)
    replies = await bench.send()
    assert faulty.met or fault.how in ("refuse", "stall", "untrusted")
    for kind, timed_reply in replies.items():
        limit_s = (TIMEOUT_MS if kind == "wait" else BUDGET_MS) / 1000 + MARGIN_S
        assert timed_reply.took_s < limit_s, kind
    opens_are_degraded(bench, replies)
    leads_are_queued(bench, replies, fault)
    await settled(left_over, {"open queued": 2, "lead queued": 3, "sale queued": 1})
    await faulty.clear()
    await settled(left_over, {"lead delivered": 3, "sale delivered": 1})
    await dub_has_everything_once(bench, replies, fault)
    record_property(COUNT, CASES)


def opens_are_degraded(bench: Bench, replies: dict[str, Timed]) -> None:
    for kind, key in (("stale", bench.known), ("parsed", bench.fresh)):
        answer = replies[f"{kind} open"]
        assert answer.reply.status_code == 200, answer.reply.text
        assert (answer.body["source"], answer.body["pending"]) == (kind, True)
        assert (answer.body["clickId"], answer.body["repeat"]) == (None, False)
        screen, host = ("product", "acme.com/product") if kind == "stale" else ("home", "acme.link")
        assert answer.body["route"]["screen"] == screen
        assert answer.body["route"]["url"] == f"https://{host}/{key}?ref=1"


def leads_are_queued(bench: Bench, replies: dict[str, Timed], fault: Fault) -> None:
    for kind in ("lead", "lead in two steps"):
        assert replies[kind].reply.status_code == 202, replies[kind].reply.text
        assert replies[kind].body["status"] == "queued"
    for kind in ("async", "sale"):
        reply = replies[kind].reply
        assert (reply.status_code, reply.headers["firstopen-queued"]) == (200, "true"), reply.text
    assert replies["async"].body["click"] == {"id": bench.click}
    assert (replies["async"].body["link"], replies["sale"].body["sale"]) == (None, None)
    waited = replies["wait"].reply
    assert waited.status_code == (429 if fault.name.startswith("429") else 503), waited.text
    assert ("retry-after" in waited.headers) is fault.name.startswith("429")
    assert set(waited.json()["error"]) == {"code", "message", "doc_url"}


async def dub_has_everything_once(bench: Bench, replies: dict[str, Timed], fault: Fault) -> None:
    dub = bench.dub
    opened = {
        name: msgspec.convert((await bench.service.recall(replies[name].body["openId"])).click_id, str)
        for name in ("stale open", "parsed open")
    }
    assert sorted(await clicks(dub, bench.known)) == sorted([bench.click, opened["stale open"]])
    assert await clicks(dub, bench.fresh) == [opened["parsed open"]]
    for customer, key in (("lead", "lead"), ("two-steps", "lead in two steps")):
        reply = await bench.service.get(f"/v1/leads/{replies[key].body['leadId']}")
        assert reply.json()["status"] == "delivered", customer
    # a sale with a clickId records a lead, too (dub-api.md, POST /track/sale)
    expected = {"lead": bench.click, "two-steps": bench.web, "async": bench.click, "sale": bench.click}
    if fault.handled:
        expected["wait"] = bench.click  # Dub had it, and its caller was told that nobody knows
    leads = await dub.events("leads", bench.known)
    assert sorted((lead["customer"]["externalId"], lead["click"]["id"]) for lead in leads) == sorted(
        (bench.name(customer), click) for customer, click in expected.items()
    )
    sales = await dub.events("sales", bench.known)
    assert [sale["customer"]["externalId"] for sale in sales] == [bench.name("sale")]


async def clicks(dub: Dub, key: str) -> list[str]:
    return [event["click"]["id"] for event in await dub.events("clicks", key)]
