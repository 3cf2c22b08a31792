"""The service over the embedded Dub, both in this process: what Dub finally recorded can be read back."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx
import structlog

from service.app import create_app
from service.config.settings import Settings, parse
from service.sandbox import SandboxLink, create_sandbox
from service.storage.database import Database
from service.storage.encryption import Cipher
from service.storage.engines.sqlite import SqliteEngine
from service.storage.outbox import SqlOutboxStore
from tests.support import CONFIG, ENV, FakeClock, Service, running

LINKS = (
    SandboxLink(domain="acme.link", key="fb-promo", url="https://acme.com/product/123"),
    SandboxLink(domain="acme.link", key="gift", url="https://acme.com/gift/7"),
    SandboxLink(domain="globex.link", key="x", url="https://globex.com/x"),
)
AT_DUB = {"Authorization": "Bearer dub_secret_of_acme"}
PAGE = 1000

T = TypeVar("T")


class SandboxedDub(httpx.AsyncBaseTransport):
    """An embedded Dub that can be ``away``, hold its answers (``gate``), or lose them once it has done its
    work (``loses``); by path. ``calls`` are the bodies that reached it.
    """

    def __init__(self, clock: FakeClock) -> None:
        self._app = httpx.ASGITransport(
            create_sandbox(LINKS, clock=clock.unix_time),  # type: ignore[arg-type]  # two ASGI vocabularies
            client=("127.0.0.1", 4711),
        )
        self.http = httpx.AsyncClient(transport=self._app, base_url="http://api.dub.co")
        self.away: set[str] = set()
        self.loses: set[str] = set()
        self.blocked: asyncio.Event | None = None
        self.calls: list[tuple[str, dict[str, Any]]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path in self.away:
            raise httpx.ConnectError("refused")
        if self.blocked is not None:
            await self.blocked.wait()
        self.calls.append((path, json.loads(request.content)))
        response = await self._app.handle_async_request(request)
        if path in self.loses:
            raise httpx.ReadError("reset")
        return response

    async def aclose(self) -> None:
        """Stay: a service that starts again finds the same Dub."""

    def modes(self, customer: str) -> list[str]:
        """Return how the leads of a customer came, one after another."""
        leads = [body for path, body in self.calls if path == "/track/lead"]
        return [body["mode"] for body in leads if body["customerExternalId"] == customer]

    async def events(self, kind: str) -> list[dict[str, Any]]:
        """Return all that Dub has recorded: pages, until an empty one."""
        found: list[dict[str, Any]] = []
        for page in range(1, 100):
            params: dict[str, str | int] = {"event": kind, "page": page, "limit": PAGE, "interval": "all"}
            reply = await self.http.get("/events", params=params, headers=AT_DUB)
            assert reply.status_code == 200, reply.text
            if not reply.json():
                break
            found += reply.json()
        return found

    async def leads(self) -> list[tuple[str, str]]:
        """Return customer and click of each lead that was recorded."""
        events = await self.events("leads")
        return sorted((event["customer"]["externalId"], event["click"]["id"]) for event in events)

    async def web_click(self, key: str = "fb-promo") -> str:
        """Follow a link in a browser; return the clickId."""
        headers = {
            "Host": "acme.link",
            "User-Agent": "Mozilla/5.0 (Macintosh) Chrome/126.0.0.0 Safari/537.36",
        }
        reply = await self.http.get(f"/{key}", headers=headers)
        return reply.headers["set-cookie"].partition("=")[2].partition(";")[0]

    async def set(self, **settings: Any) -> None:
        assert (await self.http.patch("/sandbox/settings", json=settings)).status_code == 200


@asynccontextmanager
async def serving(
    dub: SandboxedDub,
    clock: FakeClock,
    *,
    config: str = CONFIG,
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[Service]:
    """Run the service over this Dub, on the test's data directory."""
    settings = parse(config, {**ENV, **(env or {})})
    async with running(
        create_app(settings, transport=dub, clock=clock, unix_time=clock.unix_time)
    ) as service:
        yield service


async def lead(service: Service, customer: str, **fields: Any) -> httpx.Response:
    """Report a lead to our own API."""
    body = {"eventName": "Sign up", "customerExternalId": customer, **fields}
    return await service.post("/v1/leads", json=body)


async def eventually(service: Service, lead_id: str, status: str, *, turns: int = 400) -> dict[str, Any]:
    """Ask where a lead stands until it stands there."""
    seen: dict[str, Any] = {}
    for _ in range(turns):
        reply = await service.get(f"/v1/leads/{lead_id}")
        assert reply.status_code == 200, reply.text
        seen = reply.json()
        if seen["status"] == status:
            return seen
        await asyncio.sleep(0.01)
    raise AssertionError(f"never {status}: {seen}")


async def in_the_database(work: Callable[[Database, Settings], Awaitable[T]]) -> T:
    """Do something on the database in the test's data directory, beside the service, as a command would."""
    settings = parse(CONFIG, ENV)
    database = Database(SqliteEngine(settings.data_dir, exclusive=False), structlog.get_logger())
    await database.open()
    try:
        return await work(database, settings)
    finally:
        await database.close()


async def in_the_outbox(work: Callable[[SqlOutboxStore], Awaitable[T]]) -> T:
    """Do something on the outbox, beside the service."""
    return await in_the_database(
        lambda database, settings: work(SqlOutboxStore(database, Cipher(settings.secrets), time.time))
    )


async def left_over() -> dict[str, int]:
    """Count what the outbox of the test's data directory holds, such as ``lead queued``."""
    depths = await in_the_outbox(lambda entries: entries.depths("queued", "dead", "delivered"))
    return {f"{kind} {state}": count for (kind, state), count in depths.items()}
