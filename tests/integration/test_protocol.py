"""A connection whose request does not arrive in time is ended; the clock is ours to turn."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from unittest.mock import Mock

import pytest
import uvicorn
from litestar.types import ASGIApp, Receive, Scope, Send

from service.server import http_protocol as protocol
from service.server.http_protocol import ARRIVAL_MAX_S, Protocol, SharedState
from tests.support import FakeDub, Service, until

CONNECTIONS_MAX = 5
BEGUN = b"POST /v1/opens HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@asynccontextmanager
async def served(
    service: Service, unread: Callable[[], None] = lambda: None
) -> AsyncIterator[tuple[uvicorn.Server, int]]:
    """Serve the app of a test under uvicorn, in this loop, on a free port."""
    app = service._transport.app  # type: ignore[attr-defined]  # it is httpx's ASGITransport
    async with served_app(app, unread) as served_at:
        yield served_at


@asynccontextmanager
async def served_app(
    app: ASGIApp, unread: Callable[[], None] = lambda: None
) -> AsyncIterator[tuple[uvicorn.Server, int]]:
    """Serve an ASGI app under uvicorn, in this loop, on a free port."""
    server = uvicorn.Server(
        uvicorn.Config(
            app, port=0, http=Protocol, lifespan="off", log_config=None, timeout_graceful_shutdown=1
        )
    )
    server.server_state = SharedState(CONNECTIONS_MAX, unread)
    task = asyncio.create_task(server._serve())
    await until(lambda: server.started)
    try:
        yield server, server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


def connections(server: uvicorn.Server) -> list[Protocol]:
    return [each for each in server.server_state.connections if isinstance(each, Protocol)]


@pytest.mark.parametrize(
    ("begun", "message"),
    [
        (b"POST /v1/op", "body: did not arrive"),
        (BEGUN, "body: did not arrive"),
        (BEGUN + b"Content-Length: 20\r\n\r\n{", "body: did not arrive"),
        (
            BEGUN + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 20\r\n\r\n{",
            "body: did not arrive",
        ),
    ],
)
async def test_a_request_that_does_not_arrive_is_ended(
    service: Service, dub: FakeDub, begun: bytes, message: str
) -> None:
    """Half a head or half a body is waited for as long as the longest budget, and no longer."""
    async with served(service) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begun)
        await until(lambda: any(each._arriving for each in connections(server)))
        (connection,) = connections(server)
        now = asyncio.get_running_loop().time()
        connection.give_up_waiting(now + ARRIVAL_MAX_S - 1)
        assert not connection.transport.is_closing()
        connection.give_up_waiting(now + ARRIVAL_MAX_S + 1)
        reply = await reader.read()
        writer.close()
        await writer.wait_closed()
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["message"].startswith(message)
    assert reply.count(b"HTTP/1.1") == 1
    assert dub.requests == []


async def test_a_request_that_has_arrived_is_left_alone(service: Service, dub: FakeDub) -> None:
    """However long Dub takes, a request that is complete is never ended for being late."""
    dub.blocked = asyncio.Event()
    body = b'{"deepLink": "https://acme.link/fb-promo", "installId": "install-anna", "budgetMs": 9000}'
    async with served(service) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            BEGUN + b"Authorization: Bearer dub_pk_acme\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        await until(lambda: dub.requests)
        (connection,) = connections(server)
        connection.give_up_waiting(asyncio.get_running_loop().time() + 60)
        dub.blocked.set()
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        connection.give_up_waiting(asyncio.get_running_loop().time() + connection.timeout_keep_alive - 1)
        assert not connection.transport.is_closing()
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("answered_first", [True, False])
async def test_line_ends_keep_no_connection_open(
    service: Service, monkeypatch: pytest.MonkeyPatch, *, answered_first: bool
) -> None:
    """A connection that sends only line ends, at first or after an answer, ends as a silent one does."""
    async with served(service) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        if answered_first:
            writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        await until(lambda: connections(server) and connections(server)[0].is_idle)
        (connection,) = connections(server)
        received = Mock(wraps=connection.data_received)
        monkeypatch.setattr(connection, "data_received", received)
        writer.write(b"\r\n" * 100)
        await until(lambda: received.called)
        now = asyncio.get_running_loop().time()
        connection.give_up_waiting(now + connection.timeout_keep_alive - 1)
        assert not connection.transport.is_closing()
        connection.give_up_waiting(now + connection.timeout_keep_alive + 1)
        await until(connection.transport.is_closing)
        writer.close()


async def test_the_longest_idle_connection_makes_way(service: Service) -> None:
    """With too many connections the one that has waited longest for a request is closed; requests go on."""
    async with served(service) as (server, port):
        idle = []
        for _ in range(CONNECTIONS_MAX):
            idle.append(await asyncio.open_connection("127.0.0.1", port))
            await until(lambda: len(connections(server)) == len(idle))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        assert await idle[0][0].read() == b""
        for _, each in [*idle, (reader, writer)]:
            each.close()


async def test_a_connection_too_many_is_refused(service: Service, dub: FakeDub) -> None:
    """With every connection in the middle of a request, a new one is closed, and the others are answered."""
    async with served(service) as (server, port):
        busy = []
        for _ in range(CONNECTIONS_MAX):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(BEGUN)
            busy.append((reader, writer))
        await until(lambda: sum(each._arriving for each in connections(server)) == CONNECTIONS_MAX)
        reader, late = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        body = b'{"deepLink": "https://acme.link/fb-promo"}'
        for reader, writer in busy:
            writer.write(
                b"Authorization: Bearer dub_pk_acme\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
            writer.close()
        late.close()
    assert dub.requests


async def test_bodies_that_arrive_share_a_cap(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it a body is refused; once the others have ended there is room again."""
    monkeypatch.setattr(protocol, "ARRIVING_MAX_BYTES", 100)
    head = BEGUN + b"Authorization: Bearer dub_pk_acme\r\nContent-Length: 90\r\n\r\n"
    async with served(service) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + b" " * 80)
        await until(lambda: server.server_state.arriving_bytes == 80)  # type: ignore[attr-defined]
        refused, another = await asyncio.open_connection("127.0.0.1", port)
        another.write(head + b" " * 80)
        assert (await refused.readline()).startswith(b"HTTP/1.1 400 ")
        writer.write(b" " * 8 + b"{}")
        assert (await reader.readline()).startswith(b"HTTP/1.1 ")
        await until(lambda: server.server_state.arriving_bytes == 0)  # type: ignore[attr-defined]
        for each in (writer, another):
            each.close()


async def test_an_upgrade_with_bad_framing_is_a_400(service: Service) -> None:
    async with served(service) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(BEGUN + b"Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: gzip\r\n\r\nabc")
        reply = await reader.read()
        assert reply.startswith(b"HTTP/1.1 400 ")
        assert b"framing" in reply
        writer.close()


CHUNKED = BEGUN + b"Authorization: Bearer dub_pk_acme\r\nTransfer-Encoding: chunked\r\n\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "unread", "read"),
    [
        (b"nonsense\r\n\r\n", 1, 0),
        (BEGUN + b"Content-Length: -1\r\n\r\n", 1, 0),
        (LIVE + b"nonsense\r\n\r\n", 1, 0),
        (CHUNKED + b"zz\r\n", 0, 1),
        (CHUNKED + b"1\r\n{\r\nzz\r\n", 0, 1),
        (CHUNKED + b"1\r\n{\r\n0\r\n\r\n", 0, 1),
        (LIVE, 0, 0),
    ],
)
async def test_each_400_is_counted_once(service: Service, sent: bytes, unread: int, read: int) -> None:
    """By the app if it has the request, else by the protocol: all are in ``firstopen_requests_total``."""
    found = 0

    def count() -> None:
        nonlocal found
        found += 1

    async with served(service, count) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        writer.write_eof()
        reply = await reader.read()
        writer.close()
        await writer.wait_closed()
    metrics = (await service.get("/metrics")).text
    by_app = [line for line in metrics.splitlines() if "_requests_total{" in line and 'status="400"' in line]
    assert (found, sum(float(line.rpartition(" ")[2]) for line in by_app)) == (unread, read)
    assert reply.count(b"HTTP/1.1 400 ") == unread + read


async def test_head_and_body_leave_in_one_write(service: Service) -> None:
    """A usual response takes one write, also with another request behind it."""
    async with served(service) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await until(lambda: connections(server))
        (connection,) = connections(server)
        transport = connection.transport = Mock(wraps=connection.transport)
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        for _ in range(2):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert b"\r\ndate: " in head
            assert await reader.readexactly(length_of(head)) == b'{"status":"alive","degraded":[]}'
        assert transport.write.call_count == 2
        writer.close()


@pytest.mark.parametrize(
    ("method", "more", "headers", "expected", "stays_open"),
    [
        (b"GET", b"", [(b"content-length", b"2")], b"\r\n\r\nok", True),
        (b"HEAD", b"", [(b"content-length", b"2")], b"content-length: 2\r\n\r\n", True),
        (b"GET", b"", [], b"transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", True),
        (b"GET", b"", [(b"content-length", b"2"), (b"connection", b"close")], b"\r\n\r\nok", False),
        (b"GET", b"Connection: close\r\n", [(b"content-length", b"2")], b"close\r\n\r\nok", False),
    ],
)
async def test_other_responses_leave_as_uvicorn_writes_them(
    method: bytes, more: bytes, headers: list[tuple[bytes, bytes]], expected: bytes, *, stays_open: bool
) -> None:
    """HEAD has no body, a body may have no known length, and a connection that will be closed says so."""
    async with served_app(answering(headers)) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(method + b" / HTTP/1.1\r\nHost: x\r\n" + more + b"\r\n")
        await reader.readuntil(expected)
        if stays_open:
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        else:
            assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize("value", [b"1\r\ny: 2", b"1\ny: 2", b"1\0"])
async def test_a_header_carries_no_other_header(value: bytes) -> None:
    """Nothing is sent of a response with control characters in a header."""
    async with served_app(answering([(b"content-length", b"2"), (b"x", value)])) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await reader.read() == b""
        writer.close()


def answering(headers: list[tuple[bytes, bytes]]) -> ASGIApp:
    """Return an app that answers ``ok`` with these headers."""

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok", "more_body": False})

    return app


def length_of(head: bytes) -> int:
    """Return what a head says of its body's length."""
    return int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
