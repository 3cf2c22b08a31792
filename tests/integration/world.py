"""Phones, their browsers, a Dub that lives on, and a service that may be started anew over the same disk."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import httpx
import pytest

from service.app import create_app
from service.config.settings import parse
from service.domain.models import Answer
from service.sandbox import SandboxLink, SandboxSettings, create_sandbox
from service.storage.engines.sqlite import SqliteEngine
from tests.support import ANNA, CONFIG, ENV, SERVER_KEY, FakeClock, Service, running

HOME = "203.0.113.7"
IPHONE_BROWSER = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
    " Version/18.0 Mobile/15E148 Safari/604.1"
)
IN_APP_BROWSER = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
    " Mobile/15E148 [FBAN/FBIOS;FBAV/450.0;FBDV/iPhone14,5;FBMD/iPhone;FBSN/iOS;FBSV/18.0]"
)
ANOTHER_IN_APP_BROWSER = IN_APP_BROWSER.replace("iPhone14,5", "iPhone15,4")
PIXEL_BROWSER = (
    "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/126.0.0.0 Mobile Safari/537.36"
)
LINKS = (
    SandboxLink(domain="acme.link", key="fb-promo", url="https://acme.com/product/123"),
    SandboxLink(domain="acme.link", key="invite", url="https://acme.com/invite/anna"),
)
MATCHING = CONFIG.replace('ip_matching = "off"\n', "analytics_calls_per_s = 100\n")
AS_SERVER = {"Authorization": f"Bearer {SERVER_KEY}"}
REFERRER = "deepLink=https%3A%2F%2Facme.link%2Ffb-promo"

_TURNS = 2000
_TURN_S = 0.002
_DISK_TURNS = 25


@dataclass
class World:
    """Phones, their browsers, and time."""

    service: Service
    dub: httpx.AsyncClient
    clock: FakeClock

    async def click(
        self, key: str = "fb-promo", ip: str = HOME, user_agent: str = IPHONE_BROWSER, query: str = ""
    ) -> None:
        headers = {"Host": "acme.link", "X-Real-IP": ip, "User-Agent": user_agent}
        reply = await self.dub.get(f"/{key}{query}", headers=headers)
        assert reply.status_code in (200, 302), reply.text

    async def launch(
        self, install_id: str | None = ANNA, ip: str = HOME, platform: str = "ios", **fields: Any
    ) -> Answer:
        self.clock.advance(0.01)
        return await self.service.open(
            dub_domain="acme.link",
            install_id=install_id,
            platform=platform,
            headers={"X-Forwarded-For": ip},
            **fields,
        )

    async def lead(self, customer: str = "anna", **subject: str) -> httpx.Response:
        body = {"eventName": "Sign up", "customerExternalId": customer, **subject}
        return await self.service.post("/v1/leads", json=body)

    async def lead_status(self, lead_id: str) -> dict[str, Any]:
        reply = await self.service.get(f"/v1/leads/{lead_id}")
        assert reply.status_code == 200, reply.text
        return cast("dict[str, Any]", reply.json())

    async def dry_run(self, **fields: Any) -> dict[str, Any]:
        self.clock.advance(0.01)
        body = {"ip": HOME, "platform": "ios", "installId": "install-dry", **fields}
        reply = await self.service.post("/v1/opens/dry-run", json=body, headers=AS_SERVER)
        assert reply.status_code == 200, reply.text
        return cast("dict[str, Any]", reply.json())

    async def calls(self, path: str) -> int:
        return len((await self.dub.get("/sandbox/calls", params={"path": path})).json())

    async def fail(self, *routes: str) -> None:
        """Let Dub answer 500 on these routes, until it is mended."""
        for route in routes:
            await self.dub.post("/sandbox/faults", json={"route": route, "status": 500})

    async def mend(self) -> None:
        await self.dub.delete("/sandbox/faults")

    async def settle(self, answer: Answer, seconds: float) -> Answer:
        """Let time pass, and ask again: a moment later, if a look is still on its way to the disk."""
        for _ in range(int(seconds)):
            self.clock.advance(1)
            await asyncio.sleep(0.02)
        for _ in range(_DISK_TURNS):
            answer = await self.service.recall(answer.open_id)
            if not answer.pending:
                break
            await asyncio.sleep(0.02)
        return answer

    async def eventually(self, condition: Callable[[], Awaitable[bool]], step_s: float = 0.1) -> None:
        """Let time pass until a condition holds."""
        for _ in range(_TURNS):
            if await condition():
                return
            self.clock.advance(step_s)
            await asyncio.sleep(_TURN_S)
        raise AssertionError("it never came to that")

    async def settled(self, answer: Answer) -> Answer:
        """Let time pass until an open is not pending any more."""

        async def done() -> bool:
            return not (await self.service.recall(answer.open_id)).pending

        await self.eventually(done)
        return await self.service.recall(answer.open_id)

    async def lead_is(self, lead_id: str, status: str) -> dict[str, Any]:
        """Let time pass until a lead stands where it should."""

        async def there() -> bool:
            return bool((await self.lead_status(lead_id))["status"] == status)

        await self.eventually(there, step_s=0.5)
        return await self.lead_status(lead_id)


def embedded_dub(clock: FakeClock, **settings: Any) -> httpx.ASGITransport:
    dub = create_sandbox(
        LINKS,
        api_keys=(ENV["ACME_DUB_API_KEY"],),
        clock=clock.unix_time,
        sleep=clock.sleep,
        settings=SandboxSettings(**settings),
    )
    return httpx.ASGITransport(cast("Any", dub))


@asynccontextmanager
async def started_over(
    dub: httpx.AsyncBaseTransport,
    clock: FakeClock,
    config: str = MATCHING,
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[World]:
    """Start the service over this Dub and the test's disk; again, and it is a restart."""
    app = create_app(
        parse(config, {**ENV, **(env or {})}),
        transport=dub,
        clock=clock,
        unix_time=clock.unix_time,
        sleep=clock.sleep,
    )
    async with (
        running(app) as service,
        httpx.AsyncClient(transport=dub, base_url="http://localhost") as client,
    ):
        yield World(service, client, clock)


async def build(
    clock: FakeClock, config: str = MATCHING, env: Mapping[str, str] | None = None, **sandbox: Any
) -> AsyncIterator[World]:
    async with started_over(embedded_dub(clock, **sandbox), clock, config, env) as world:
        yield world


class Disk:
    """Lets commits fail (``full``) or hang (``stalled``)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.refused = 0
        self._goes_on = threading.Event()
        self._goes_on.set()
        commit = SqliteEngine._committed

        def watched(engine: SqliteEngine, units: Any) -> Any:
            self._goes_on.wait(10)
            if self.full:
                self.refused += 1
                raise sqlite3.OperationalError("database or disk is full")
            return commit(engine, units)

        monkeypatch.setattr(SqliteEngine, "_committed", watched)

    def stall(self) -> None:
        self._goes_on.clear()

    def go_on(self) -> None:
        self._goes_on.set()
