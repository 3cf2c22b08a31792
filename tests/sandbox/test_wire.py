"""Faults that only a real connection shows: a real uvicorn on a free port, raw sockets against it."""

import asyncio
import errno
import json
import socket
from collections.abc import AsyncIterator

import httpx
import pytest
import uvicorn

from service.sandbox import create_sandbox
from tests.sandbox.support import LINKS, PROMO

BODY = json.dumps({"deepLink": PROMO}).encode()
REQUEST = (
    b"POST /track/open HTTP/1.1\r\nhost: localhost\r\nuser-agent: raw\r\ncontent-length: %d\r\n\r\n%s"
    % (
        len(BODY),
        BODY,
    )
)


class Server:
    """A sandbox behind a real socket."""

    def __init__(self, server: uvicorn.Server, port: int, http: httpx.AsyncClient) -> None:
        self.server = server
        self.port = port
        self.http = http

    async def fault(self, **fields: object) -> None:
        assert (await self.http.post("/sandbox/faults", json=fields)).status_code == 201

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send the open on a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(REQUEST)
        await writer.drain()
        return reader, writer

    async def clicks(self) -> int:
        """Return how many clicks were recorded."""
        params = {"domain": "acme.link", "key": "fb-promo"}
        link = await self.http.get("/links/info", params=params, headers={"authorization": "Bearer x"})
        return int(link.json()["clicks"])


@pytest.fixture(params=["httptools", "h11"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    config = uvicorn.Config(
        create_sandbox(LINKS), http=request.param, ws="none", log_config=None, proxy_headers=False
    )
    running = uvicorn.Server(config)
    task = asyncio.create_task(running.serve(sockets=[sock]))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        yield Server(running, port, http)
    running.should_exit = True
    await asyncio.wait_for(task, 10)


async def test_reset_before_a_byte(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """`reset: before` is a TCP reset with no answer, has no effect, and the server says nothing of it."""
    await server.fault(route="/track/open", reset="before")
    reader, writer = await server.raw()
    with pytest.raises(ConnectionResetError) as raised:
        await reader.read()
    writer.close()
    assert raised.value.errno == errno.ECONNRESET
    assert await server.clicks() == 0
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_handled_reset_has_its_effect(server: Server) -> None:
    """With `handled` the click is recorded although the connection was reset."""
    await server.fault(route="/track/open", reset="before", handled=True)
    with pytest.raises(httpx.ReadError):
        await server.http.post("/track/open", content=BODY)
    assert await server.clicks() == 1


async def test_broken_off_in_the_body(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """`reset: midBody` promises a whole body, sends half of it and closes."""
    await server.fault(route="/track/open", reset="midBody")
    reader, writer = await server.raw()
    head, _, body = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
    writer.close()
    promised = next(line for line in head.lower().splitlines() if line.startswith(b"content-length"))
    assert head.startswith(b"HTTP/1.1 200")
    assert int(promised.split(b":")[1]) // 2 == len(body) > 0
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_stall_until_the_client_leaves(server: Server) -> None:
    """A stalled call holds nothing once its client is gone, and never took effect."""
    await server.fault(route="/track/open", stall=True)
    reader, writer = await server.raw()
    while not (await server.http.get("/sandbox/calls")).json():
        pass
    stalled = set(server.server.server_state.tasks)
    assert len(stalled) == 1
    assert not reader.at_eof()
    writer.close()
    await writer.wait_closed()
    _, held = await asyncio.wait(stalled, timeout=10)
    assert not held
    (call,) = (await server.http.get("/sandbox/calls")).json()
    assert call["status"] is None
    assert await server.clicks() == 0


async def test_stall_until_the_fault_is_cleared(server: Server) -> None:
    """A stalled call is answered on its connection when the fault is taken away."""
    await server.fault(route="/track/open", stall=True)
    reader, writer = await server.raw()
    while not (await server.http.get("/sandbox/calls")).json():
        pass
    assert (await server.http.delete("/sandbox/faults")).status_code == 200
    assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_trickle_arrives_whole(server: Server) -> None:
    """A trickled answer is slow, in many pieces, and complete."""
    await server.fault(route="/track/open", trickleMs=1)
    response = await server.http.post("/track/open", content=BODY)
    assert response.json()["link"]["id"] == "link_promo"


async def test_connection_stays_usable(server: Server) -> None:
    """After faults that leave the connection alone, the next call on it works."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for fault in ({"status": 503}, {"truncate": True}, {"html": True}, {"throttle": True}, {"trickleMs": 1}):
        await server.fault(route="/track/open", times=1, **fault)
        writer.write(REQUEST)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        length = next(line for line in head.lower().splitlines() if line.startswith(b"content-length"))
        await reader.readexactly(int(length.split(b":")[1]))
    writer.write(REQUEST)
    assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_the_edges_headers_count_behind_uvicorn(server: Server) -> None:
    """Behind uvicorn, loopback may still say whose address and country a call has."""
    phone = {"x-real-ip": "203.0.113.7", "x-vercel-ip-country": "DE"}
    await server.http.post("/track/open", content=BODY, headers=phone)
    events = (await server.http.get("/events", headers={"authorization": "Bearer x"})).json()
    assert [(e["click"]["country"], e["click"]["ip"]) for e in events] == [("DE", "")]
