"""Webhooks follow a configuration that is read again: the next delivery uses it, and the outbox explains."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web
from click.testing import CliRunner
from standardwebhooks.webhooks import Webhook

from service.app import Service as App
from service.app import create_app
from service.cli.main import main
from service.config.files import ConfigFiles
from service.wiring import config_watch
from tests.integration.test_webhooks import soon, with_hook
from tests.receiver import HOOK, OLD_SECRET, SECRET, Received, Receiver, receiver
from tests.support import ANNA, BEN, CONFIG, ENV, FB_PROMO, FakeClock, FakeDub, Service, running

__all__ = ["soon"]  # the fixture: retries come soon

CAROL = "install-carol"
THREE_DAYS_S = 3 * 86_400


class Installation:
    """A service with a webhook, its two files, and its clock."""

    def __init__(self, app: App, service: Service, folder: Path, clock: FakeClock) -> None:
        self.service = service
        self.env = {**ENV, "FIRSTOPEN_CONFIG": str(folder / "firstopen.toml")}
        self._reload = app.reload
        self._folder = folder
        self._clock = clock

    async def configure(self, config: str, url: str = "", secret: str = SECRET) -> None:
        """Write the files as an operator would, send the SIGHUP, and wait until they are in force."""
        _write(self._folder, config, url, secret)
        line = 'firstopen_config_reloads_total{outcome="applied"}'
        before = await self.metric(line)
        assert self._reload is not None
        self._reload()  # SIGHUP calls it

        async def applied() -> bool:
            return await self.metric(line) > before

        await self.eventually(applied)

    async def metric(self, line: str) -> float:
        text = (await self.service.get("/metrics")).text
        return next((float(each.split()[-1]) for each in text.splitlines() if each.startswith(line)), 0.0)

    async def eventually(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Let time pass until a condition holds."""
        for _ in range(2000):
            if await condition():
                return
            self._clock.advance(0.05)
            await asyncio.sleep(0.005)
        raise AssertionError("it never came to that")

    async def passes(self, seconds: float) -> None:
        """Let so much time pass."""
        until = self._clock() + seconds

        async def passed() -> bool:
            return self._clock() >= until

        await self.eventually(passed)

    async def asked(self, backend: Receiver) -> None:
        """Let time pass until a backend has got a request."""

        async def there() -> bool:
            return bool(backend.requests)

        await self.eventually(there)

    async def has(self, backend: Receiver, count: int) -> list[Received]:
        """Let time pass until a backend has taken so many events; return them."""

        async def there() -> bool:
            return len(backend.events) >= count

        await self.eventually(there)
        return backend.events

    async def queued(self, state: str, count: int) -> None:
        """Let time pass until so many webhooks are queued (``entries``) or dead (``dead_entries``)."""

        async def so_many() -> bool:
            return await self.metric(f'firstopen_outbox_{state}{{kind="webhook"}}') == count

        await self.eventually(so_many)

    async def outbox(self, *args: str) -> str:
        """Return what ``firstopen outbox`` prints."""
        result = await asyncio.to_thread(CliRunner().invoke, main, ["outbox", *args], env=self.env)
        assert result.exit_code == 0, result.output
        return result.output


def _write(folder: Path, config: str, url: str, secret: str) -> None:
    (folder / ".env").write_text(f"ACME_WEBHOOK_URL={url}\nACME_WEBHOOK_SECRET={secret}\n")
    (folder / "firstopen.toml").write_text(config)


@pytest.fixture
async def backend() -> AsyncIterator[Receiver]:
    async with receiver() as each:
        yield each


@pytest.fixture
async def other() -> AsyncIterator[Receiver]:
    async with receiver() as each:
        yield each


@pytest.fixture
async def here(
    dub: FakeDub,
    clock: FakeClock,
    tmp_path: Path,
    backend: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Installation]:
    monkeypatch.setattr(config_watch, "CHECK_S", 60)  # only what is asked for is read
    _write(tmp_path, with_hook(CONFIG), backend.url, SECRET)
    loaded = ConfigFiles({**ENV, "FIRSTOPEN_CONFIG": str(tmp_path / "firstopen.toml")}).read()
    app = create_app(
        loaded.settings,
        transport=dub,
        clock=clock,
        unix_time=clock.unix_time,
        sleep=clock.sleep,
        loaded=loaded,
    )
    async with running(app) as service:
        yield Installation(app, service, tmp_path, clock)


def signature(event: Received, secret: str) -> str:
    """Return the signature that a request must have; its time is that of the clock of the test."""
    sent_at = datetime.fromtimestamp(int(event.headers["webhook-timestamp"]), UTC)
    return Webhook(secret).sign(event.id, sent_at, event.body.decode())


async def refused(_: Received) -> web.StreamResponse:
    return web.Response(status=503)


async def test_what_is_queued_goes_to_the_new_url(
    here: Installation, backend: Receiver, other: Receiver
) -> None:
    """What the endpoint before it refused, and what follows, reaches the other in order."""
    backend.script = refused
    first = await here.service.open(FB_PROMO, install_id=ANNA)
    await here.asked(backend)
    await here.configure(with_hook(CONFIG), other.url)
    await here.has(other, 1)
    tried = len(backend.requests)
    second = await here.service.open(FB_PROMO, install_id=BEN)
    events = await here.has(other, 2)
    assert [each.event["data"]["openId"] for each in events] == [first.open_id, second.open_id]
    assert (len(backend.requests), backend.taken) == (tried, [])


async def test_the_next_delivery_is_signed_with_the_new_secret(here: Installation, backend: Receiver) -> None:
    """Also that of an event that was queued, and refused, under the one before."""

    async def knows_the_new_secret(received: Received) -> web.StreamResponse:
        is_signed = received.headers["webhook-signature"] == signature(received, OLD_SECRET)
        return web.Response(status=204 if is_signed else 401)

    backend.script = knows_the_new_secret
    await here.service.open(FB_PROMO, install_id=ANNA)
    await here.asked(backend)
    assert backend.taken == []
    await here.configure(with_hook(CONFIG), backend.url, OLD_SECRET)
    await here.has(backend, 1)
    await here.service.open(FB_PROMO, install_id=BEN)
    await here.has(backend, 2)


async def test_a_new_list_of_events_decides_from_then_on(here: Installation, backend: Receiver) -> None:
    """What happened before the change is sent as it was queued; what happens later, as the list says."""
    backend.script = refused
    first = await here.service.open(FB_PROMO, install_id=ANNA)
    await here.queued("entries", 1)
    erasures = HOOK + 'events = ["install.erased"]\n'
    await here.configure(with_hook(CONFIG, erasures), backend.url)
    await here.service.open(FB_PROMO, install_id=BEN)
    backend.script = None
    (event,) = await here.has(backend, 1)
    assert event.event["data"]["openId"] == first.open_id
    await here.configure(with_hook(CONFIG, HOOK + 'events = ["open.matched"]\n'), backend.url)
    third = await here.service.open(FB_PROMO, install_id=CAROL)
    events = await here.has(backend, 2)
    assert [each.event["data"]["openId"] for each in events] == [first.open_id, third.open_id]


async def test_the_events_of_a_removed_webhook_wait_for_it(here: Installation, backend: Receiver) -> None:
    """They are not sent, and the outbox says why; new ones are not queued. Once it is back, they are sent."""
    backend.script = refused
    opened = await here.service.open(FB_PROMO, install_id=ANNA)
    await here.queued("entries", 1)
    await here.configure(CONFIG, backend.url)
    await here.service.open(FB_PROMO, install_id=BEN)
    await here.passes(1)
    tried = len(backend.requests)
    await here.passes(2)  # retries come every 50 ms
    assert len(backend.requests) == tried
    assert await here.metric('firstopen_outbox_entries{kind="webhook"}') == 1
    assert "apps.acme.webhook is not configured" in await here.outbox()
    backend.script = None
    await here.configure(with_hook(CONFIG), backend.url)
    (event,) = await here.has(backend, 1)
    assert event.event["data"]["openId"] == opened.open_id
    await here.queued("entries", 0)


async def test_the_events_of_a_removed_webhook_end_as_dead_letters(
    here: Installation, backend: Receiver, clock: FakeClock
) -> None:
    """After three days, with the reason; they can be sent when it is back."""
    backend.script = refused
    opened = await here.service.open(FB_PROMO, install_id=ANNA)
    await here.asked(backend)
    await here.configure(CONFIG, backend.url)
    clock.advance(THREE_DAYS_S + 1)
    await here.queued("dead_entries", 1)
    assert "expired: WebhookFailed: status 503" in await here.outbox()
    backend.script = None
    await here.configure(with_hook(CONFIG), backend.url)
    assert "1 queued again" in await here.outbox("retry", "--all")
    (event,) = await here.has(backend, 1)
    assert event.event["data"]["openId"] == opened.open_id
