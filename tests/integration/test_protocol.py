"""A connection whose request does not arrive in time is ended; the clock is ours to turn."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn

from service.protocol import ARRIVAL_MAX_S, Protocol
from tests.support import FakeDub, Service, until

BEGUN = b"POST /v1/opens HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@asynccontextmanager
async def served(service: Service) -> AsyncIterator[tuple[uvicorn.Server, int]]:
    """Serve the app of a test under uvicorn, in this loop, on a free port."""
    app = service._transport.app  # type: ignore[attr-defined]  # it is httpx's ASGITransport
    server = uvicorn.Server(
        uvicorn.Config(
            app, port=0, http=Protocol, lifespan="off", log_config=None, timeout_graceful_shutdown=1
        )
    )
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
    dub.gate = asyncio.Event()
    body = b'{"deepLink": "https://acme.link/fb-promo", "installId": "install-anna", "budgetMs": 9000}'
    async with served(service) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            BEGUN + b"Authorization: Bearer dub_pk_acme\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        await until(lambda: dub.requests)
        (connection,) = connections(server)
        connection.give_up_waiting(asyncio.get_running_loop().time() + 60)
        dub.gate.set()
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        connection.give_up_waiting(asyncio.get_running_loop().time() + 60)
        assert not connection.transport.is_closing()
        writer.close()
        await writer.wait_closed()
