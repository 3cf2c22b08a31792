"""A backend that receives webhooks: a real HTTP server on a free port, which fails when told to."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

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
        """Stop listening, and drop connections."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def has(self, count: int, within_s: float = 20) -> list[Received]:
        """Wait until it has taken so many events; return them."""
        await self._until(lambda: len(self.events) >= count, within_s)
        return self.events

    async def asked(self, count: int, within_s: float = 20) -> list[Received]:
        """Wait until so many requests came; return them."""
        await self._until(lambda: len(self.requests) >= count, within_s)
        return self.requests

    async def _until(self, condition: Callable[[], bool], within_s: float) -> None:
        async with asyncio.timeout(within_s), self._arrived:
            await self._arrived.wait_for(condition)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        received = Received(request.headers["webhook-id"], json.loads(body), {**request.headers}, body)
        self.requests.append(received)
        self.paths.append(request.path)
        async with self._arrived:
            self._arrived.notify_all()
        answer = web.Response(status=204) if self.script is None else await self.script(received)
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
