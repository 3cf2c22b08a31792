"""Webhooks go to public addresses only, whatever DNS says, and a bad receiver cannot hold or flood us."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from service.domain.errors import WebhookFailed
from service.domain.webhooks import Endpoint
from service.webhooks.sender import ANSWER_MAX_BYTES, WebhookSender
from service.wiring.calls_out import webhook_sender
from tests.receiver import Received, Receiver, receiver

KEYS = (b"k" * 32,)
NAME = "hooks.acme.example"
BODY = b'{"type": "open.matched"}'
PRIVATE = "its address is not public"
LOOPBACK, ELSEWHERE = "127.0.0.1", "127.0.0.2"


@pytest.fixture
async def backend() -> AsyncIterator[Receiver]:
    async with receiver() as each:
        yield each


@pytest.fixture
async def sender() -> AsyncIterator[WebhookSender]:
    each = webhook_sender(time.time)
    yield each
    await each.close()


class Names:
    """DNS: what a name resolves to, at each lookup the next; the last one stays."""

    def __init__(self) -> None:
        self.answers: list[list[str]] = []
        self.asked: list[str] = []

    def look_up(self, host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        self.asked.append(host)
        addresses = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            (
                socket.AF_INET6 if ":" in each else socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                "",
                (each, port, 0, 0) if ":" in each else (each, port),
            )
            for each in addresses
        ]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    found = Names()
    monkeypatch.setattr("service.webhooks.sender.socket.getaddrinfo", found.look_up)
    monkeypatch.setattr("service.webhooks.sender._DNS_CACHE_S", 0.01)
    return found


async def refused(sender: WebhookSender, url: str) -> str:
    with pytest.raises(WebhookFailed) as failed:
        await sender.send(Endpoint(url, KEYS), "msg_1", BODY)
    return str(failed.value)


@pytest.mark.parametrize(
    "addresses",
    [
        [LOOPBACK],
        ["10.1.2.3"],
        ["169.254.169.254"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["1.1.1.1", LOOPBACK],
        [LOOPBACK, "1.1.1.1"],
    ],
)
async def test_names_that_lead_inside_are_refused(
    sender: WebhookSender, backend: Receiver, names: Names, addresses: list[str]
) -> None:
    """One address that is not public is enough, and nothing is sent to any of them."""
    names.answers = [addresses]
    assert PRIVATE in await refused(sender, f"http://{NAME}:{backend.port}/")
    assert names.asked == [NAME]
    assert backend.requests == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "10.0.0.1", "169.254.169.254", "localhost"]
)
async def test_literal_addresses_inside_are_refused(
    sender: WebhookSender, backend: Receiver, host: str
) -> None:
    """They never reach a resolver; ``localhost`` does, the real one."""
    assert PRIVATE in await refused(sender, f"http://{host}:{backend.port}/")
    assert backend.requests == []


async def test_the_address_that_was_checked_is_the_one_that_is_used(
    sender: WebhookSender, backend: Receiver, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is rebound between two requests is checked again; between check and use it is not asked."""
    monkeypatch.setattr("service.webhooks.sender.is_public", lambda address: address == LOOPBACK)
    monkeypatch.setattr("service.webhooks.sender._KEEPALIVE_S", 0.001)
    names.answers = [[LOOPBACK], [ELSEWHERE]]
    url = f"http://{NAME}:{backend.port}/"
    assert (await sender.send(Endpoint(url, KEYS), "msg_1", BODY)).status == 204
    assert names.asked == [NAME]  # once for check and connection
    await asyncio.sleep(0.05)  # the connection and the cached address are gone
    assert PRIVATE in await refused(sender, url)
    assert names.asked == [NAME, NAME]
    assert len(backend.requests) == 1


async def test_private_targets_may_be_allowed(sender: WebhookSender, backend: Receiver, names: Names) -> None:
    """For a backend in the same network."""
    names.answers = [[LOOPBACK]]
    endpoint = Endpoint(f"http://{NAME}:{backend.port}/", KEYS, allow_private=True)
    assert (await sender.send(endpoint, "msg_1", BODY)).status == 204


async def test_redirects_are_not_followed(sender: WebhookSender, backend: Receiver) -> None:
    """Not even to itself: the answer is the redirect."""

    async def script(_: Received) -> web.StreamResponse:
        return web.Response(status=308, headers={"Location": f"{backend.url}/elsewhere"})

    backend.script = script
    assert (await sender.send(Endpoint(backend.url, KEYS, allow_private=True), "msg_1", BODY)).status == 308
    assert backend.paths == ["/hooks"]


async def test_an_answer_without_end_is_not_read(sender: WebhookSender) -> None:
    """A kilobyte is enough; the connection is closed then."""
    sent = 0
    closed = asyncio.Event()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
                await writer.drain()
                sent += 4096
        except ConnectionError:
            closed.set()

    async with await asyncio.start_server(flood, LOOPBACK, 0) as server:
        port = server.sockets[0].getsockname()[1]
        endpoint = Endpoint(f"http://{LOOPBACK}:{port}/", KEYS, allow_private=True)
        assert (await sender.send(endpoint, "msg_1", BODY)).status == 200
        async with asyncio.timeout(10):
            await closed.wait()
    assert ANSWER_MAX_BYTES < 4096 < sent


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("30", 30.0), (" 7 ", 7.0), ("soon", None), ("", None), ("-1", None), ("9" * 500, 999_999_999.0)],
)
async def test_retry_after_is_read(
    sender: WebhookSender, backend: Receiver, header: str, seconds: float | None
) -> None:
    """Seconds, or a date; anything else is as if it was not there."""

    async def script(_: Received) -> web.StreamResponse:
        return web.Response(status=503, headers={"Retry-After": header})

    backend.script = script
    endpoint = Endpoint(backend.url, KEYS, allow_private=True)
    assert (await sender.send(endpoint, "msg_1", BODY)).retry_after_s == seconds


async def test_a_date_in_retry_after_is_read(backend: Receiver) -> None:
    """Counted from now, never below zero."""

    async def script(_: Received) -> web.StreamResponse:
        return web.Response(status=429, headers={"Retry-After": "Sun, 29 Nov 2026 07:10:30 GMT"})

    backend.script = script
    for now, seconds in ((1_795_936_200.0, 30.0), (1_795_936_900.0, 0.0)):
        sender = webhook_sender(lambda now=now: now)  # type: ignore[misc]
        endpoint = Endpoint(backend.url, KEYS, allow_private=True)
        assert (await sender.send(endpoint, "msg_1", BODY)).retry_after_s == seconds
        await sender.close()


async def test_a_stalled_name_server_does_not_stop_other_lookups(
    sender: WebhookSender, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lookups of webhooks have threads of their own, and end at the time limit of an attempt."""
    goes_on = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stall(*_: Any, **__: Any) -> list[Any]:
        asyncio.run_coroutine_threadsafe(goes_on.wait(), loop).result(10)
        return []

    monkeypatch.setattr("service.webhooks.sender.TIMEOUT_S", 0.2)
    monkeypatch.setattr("service.webhooks.sender.socket.getaddrinfo", stall)
    endpoints = [Endpoint(f"https://{number}.{NAME}/", KEYS) for number in range(8)]
    answers = await asyncio.gather(
        *(sender.send(each, "msg_1", BODY) for each in endpoints), return_exceptions=True
    )
    assert {str(each) for each in answers} == {"no answer within 0 s"}
    assert names.asked == []
    assert await loop.run_in_executor(None, lambda: "free") == "free"  # as lookups of Dub's name are
    goes_on.set()


@pytest.mark.parametrize("problem", ["nobody listens", "TLS"])
async def test_messages_have_no_url(sender: WebhookSender, backend: Receiver, problem: str) -> None:
    """The path may be a secret, and messages are logged and kept."""
    url = f"{backend.url.replace('http:', 'https:')}/secret-path"
    if problem == "nobody listens":
        await backend.down()
    with pytest.raises(WebhookFailed) as failed:
        await sender.send(Endpoint(url, KEYS, allow_private=True), "msg_1", BODY)
    assert "secret-path" not in str(failed.value)
    assert "127.0.0.1" not in str(failed.value)
