"""A backend that receives webhooks: a real HTTP server on a free port, which fails when told to."""

import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from aiohttp import web
from msgspec import Struct
from standardwebhooks.webhooks import Webhook

SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDC2FVsBQIhrs="
OLD_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="


class Received(Struct, frozen=True):
    """One request to the backend."""

    id: str
    event: dict[str, Any]
    headers: dict[str, str]
    body: bytes

    @property
    def type(self) -> str:
        found: str = self.event["type"]
        return found

    def verify(self, secret: str = SECRET) -> Any:
        """Verify the request as a backend would; raises ``WebhookVerificationError``."""
        return Webhook(secret).verify(self.body, self.headers)


Script = Callable[[Received], Awaitable[web.StreamResponse]]


class Receiver:
    """A backend. ``script`` (if set) answers; ``requests`` are all requests, also those that it refused."""

    def __init__(self) -> None:
        self.script: Script | None = None
        self.requests: list[Received] = []
        self.taken: list[Received] = []
        self.paths: list[str] = []
        self._runner: web.AppRunner | None = None
        self.port = 0
        self._arrived = asyncio.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks"

    @property
    def events(self) -> list[Received]:
        """Return what it has taken, each id once, in the order of arrival."""
        return list({each.id: each for each in reversed(self.taken)}.values())[::-1]

    def types(self) -> list[str]:
        return [each.type for each in self.events]

    def times(self) -> Counter[str]:
        """Count how often each id was taken."""
        return Counter(each.id for each in self.taken)

    async def up(self) -> None:
        """Listen, on the same port as before."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def down(self) -> None:
        """Stop listening, and drop connections. Nobody must be connecting: asyncio would not close that."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def has(self, count: int, within_s: float = 20) -> list[Received]:
        """Wait until it has taken so many events; return them."""
        await self.until(lambda: len(self.events) >= count, within_s)
        return self.events

    async def asked(self, count: int, within_s: float = 20) -> list[Received]:
        """Wait until so many requests came; return them."""
        await self.until(lambda: len(self.requests) >= count, within_s)
        return self.requests

    async def until(self, condition: Callable[[], bool], within_s: float) -> None:
        """Wait until a condition holds, which is looked at with each request."""
        async with asyncio.timeout(within_s), self._arrived:
            await self._arrived.wait_for(condition)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        received = Received(request.headers["webhook-id"], json.loads(body), {**request.headers}, body)
        self.requests.append(received)
        self.paths.append(request.path)
        async with self._arrived:
            self._arrived.notify_all()
        try:
            answer = web.Response(status=204) if self.script is None else await self.script(received)
        except ConnectionResetError:
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        if answer.status < 300:
            self.taken.append(received)
        async with self._arrived:
            self._arrived.notify_all()
        return answer


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    """Start a backend, and stop it whatever happens."""
    backend = Receiver()
    await backend.up()
    try:
        yield backend
    finally:
        await backend.down()


HOOK = """
[apps.acme.webhook]
url_env = "ACME_WEBHOOK_URL"
secret_env = "ACME_WEBHOOK_SECRET"
allow_private_targets = true
"""


def bad_day(backend: Receiver, seed: int) -> Script:
    """Fail, redirect, reset or be slow, by chance, in a third of all requests."""
    chance = random.Random(seed)

    async def script(_: Received) -> web.StreamResponse:
        dice = chance.random()
        if dice < 0.1:
            return web.Response(status=500)
        if dice < 0.15:
            return web.Response(status=307, headers={"Location": f"{backend.url}/elsewhere"})
        if dice < 0.2:
            raise ConnectionResetError
        if dice < 0.3:
            await asyncio.sleep(0.2)
        return web.Response(status=202)

    return script


_OF_A_LEAD = ("open.matched", "lead.delivered")


class Reports:
    """An app's installs and their leads, and what its backend must have heard of them."""

    def __init__(self) -> None:
        self.leads: dict[str, str] = {}  # customers with acknowledged leads, by openId
        self._reported = asyncio.Condition()

    async def report(self, http: httpx.AsyncClient, base: Callable[[], str], install: str) -> None:
        """Open, and report a lead that names the open; again until that is acknowledged.

        A lead is committed after the open that it names. An open whose process dies within 50 ms is not.
        """
        while True:
            try:
                reply = await http.post(
                    f"{base()}/v1/opens",
                    json={"deepLink": "https://acme.link/fb-promo", "installId": install, "budgetMs": 5000},
                )
                opened = reply.json()
                if opened["clickId"] is None:
                    continue
                lead = {"eventName": "Sign up", "customerExternalId": install, "openId": opened["openId"]}
                reply = await http.post(f"{base()}/v1/leads", json=lead)
                if reply.status_code in (200, 202):
                    self.leads[opened["openId"]] = install
                    async with self._reported:
                        self._reported.notify_all()
                    return
            except httpx.TransportError:
                await asyncio.sleep(0.1)

    async def reach(self, count: int) -> None:
        """Wait until so many leads are acknowledged."""
        async with self._reported:
            await self._reported.wait_for(lambda: len(self.leads) >= count)

    async def heard(self, backend: Receiver, within_s: float) -> None:
        """Wait until the backend has heard of all."""
        try:
            await backend.until(lambda: not self.missing(backend), within_s)
        except TimeoutError:
            raise AssertionError(f"not heard of: {self.missing(backend)}") from None

    def missing(self, backend: Receiver) -> set[tuple[str, str]]:
        """Return what the backend has not heard of, by type and openId."""
        heard = {(each.type, each.event["data"]["openId"]) for each in backend.events}
        return {(event, open_id) for open_id in self.leads for event in _OF_A_LEAD} - heard

    def check(self, backend: Receiver) -> None:
        """Check that each event has one id, is signed, and is in order for its install."""
        places: dict[tuple[str, str], list[int]] = defaultdict(list)
        for place, event in enumerate(backend.events):
            event.verify()
            places[event.type, event.event["data"]["openId"]].append(place)
        assert max(map(len, places.values())) == 1
        for open_id in self.leads:
            assert places["open.matched", open_id] < places["lead.delivered", open_id]
