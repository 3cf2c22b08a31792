"""Connections to Dub, many of them: kept, shared out, given up, and secured for the right name."""

import asyncio
import socket
import ssl
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from aiohappyeyeballs import AddrInfoType

from service.dub.connections import Answer, ConnectionPool, Target, composed
from service.dub.transport import LeanTransport, open_transport, posting_over
from tests.certificates import contexts
from tests.integration.byte_server import REQUEST, Server, nobody, pool_over, reply, until

pytestmark = pytest.mark.both_loops


async def test_one_connection_serves_one_call_after_another() -> None:
    """Calls that come together each have their own; later ones take those."""
    server = Server(reply(b"abc"))
    async with pool_over(server) as pool:
        for _ in range(5):
            await pool.ask(REQUEST, nobody)
        assert server.connections == 1
        await asyncio.gather(*(pool.ask(REQUEST, nobody) for _ in range(8)))
        assert server.connections == 8
        await asyncio.gather(*(pool.ask(REQUEST, nobody) for _ in range(8)))
        assert (server.connections, server.requests) == (8, 21)


@pytest.mark.parametrize(
    "pieces",
    [
        [reply(b"abc", b"Connection: close")],
        [reply(b"abc") + reply(b"somebody else's")],
        [reply(b"abc") + b"garbage"],
        [reply(b"abc"), reply(b"somebody else's")],
        [reply(b"abc"), b""],
        [b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc"],
    ],
    ids=["it says so", "two at once", "garbage behind", "one more, later", "closed behind", "HTTP/1.0"],
)
async def test_a_connection_in_doubt_is_not_used_again(pieces: list[bytes]) -> None:
    """An answer that nobody asked for is nobody's: the next call has a connection of its own."""
    server = Server(pieces)
    async with pool_over(server) as pool:
        for number in range(3):
            assert (await pool.ask(REQUEST, nobody)).body == b"abc"
            await until(lambda: server.ended == number + 1)  # noqa: B023  it is waited for here
    assert server.connections == 3


async def test_an_idle_connection_ends() -> None:
    """After its time it is closed, asked for again or not."""
    server = Server(reply(b"abc"))
    async with pool_over(server, keepalive_s=0.05) as pool:
        await asyncio.gather(*(pool.ask(REQUEST, nobody) for _ in range(3)))
        await until(lambda: server.ended == 3)
        await pool.ask(REQUEST, nobody)
        assert server.connections == 4


async def test_who_gives_up_closes_its_connection() -> None:
    """The late answer of a call that was cancelled reaches nobody."""
    server = Server([], reply(b"the second's"))
    async with pool_over(server) as pool:
        first = asyncio.create_task(pool.ask(REQUEST, nobody))
        await until(lambda: server.requests == 1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert (await pool.ask(REQUEST, nobody)).body == b"the second's"
        await until(lambda: server.ended == 1)
    assert server.connections == 2


@pytest.mark.parametrize("is_secure", [False, True], ids=["plain", "TLS"])
async def test_who_gives_up_while_connecting_leaves_nothing(tmp_path: Path, is_secure: bool) -> None:  # noqa: FBT001
    """Whenever a call is cancelled, its connection is closed, and the next call has a sound one."""
    tls = trusting = None
    if is_secure:
        tls, _, trusted = contexts(tmp_path, "localhost")
        trusting = ssl.create_default_context(cafile=trusted)
    server = Server(reply(b"abc"))
    listening = await asyncio.start_server(server, "127.0.0.1", 0, ssl=tls)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        for turns in range(40):
            pool = ConnectionPool("localhost", port, trusting, 60)
            call = asyncio.create_task(pool.ask(REQUEST, nobody))
            for _ in range(turns):
                await asyncio.sleep(0.0005)
            call.cancel()
            with suppress(asyncio.CancelledError):
                await call
            assert (await pool.ask(REQUEST, nobody)).body == b"abc"
            pool.close()
        await until(lambda: server.ended == server.connections)


async def test_close_ends_what_is_idle_and_what_comes_back() -> None:
    """A pool that is closed keeps no connection, neither of before nor of a call under way."""
    server = Server(reply(b"abc"))
    async with pool_over(server) as pool:
        await pool.ask(REQUEST, nobody)
        under_way = asyncio.create_task(pool.ask(REQUEST, nobody))
        await asyncio.sleep(0)
        pool.close()
        assert (await under_way).body == b"abc"
        await until(lambda: server.ended == server.connections)


async def test_a_name_is_resolved_again_when_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address serves for a minute, unless connecting to it fails; another of the name is tried, too."""
    server = Server(reply(b"abc", b"Connection: close"))
    async with pool_over(server) as pool:
        closed, here = ("127.0.0.1", 9), ("127.0.0.1", server.port)
        resolver = _Resolver(closed, here)
        monkeypatch.setattr(pool, "_resolve", resolver)
        for _ in range(3):
            assert (await pool.ask(REQUEST, nobody)).body == b"abc"
        assert resolver.asked == 1
        resolver.addresses = (closed,)
        pool._resolved_until = 0.0
        for _ in range(2):
            with pytest.raises(OSError, match="Connect call failed"):
                await pool.ask(REQUEST, nobody)
        assert resolver.asked == 3
        resolver.addresses = (here,)
        together = await asyncio.gather(*(pool.ask(REQUEST, nobody) for _ in range(4)))
        assert [each.body for each in together] == [b"abc"] * 4
        assert resolver.asked == 4


async def test_a_lookup_is_everybodys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who gives up does not end it for the others, and its failure is everybody's at once."""
    server = Server(reply(b"abc"))
    async with pool_over(server) as pool:
        resolver = _Resolver(("127.0.0.1", server.port))
        resolver.may_answer.clear()
        monkeypatch.setattr(pool, "_resolve", resolver)
        first, *others = [asyncio.create_task(pool.ask(REQUEST, nobody)) for _ in range(4)]
        await until(lambda: resolver.asked == 1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        resolver.error = socket.gaierror("no such name")
        resolver.may_answer.set()
        failed = await asyncio.gather(*others, return_exceptions=True)
        assert [type(each) for each in failed] == [socket.gaierror] * 3
        resolver.error = None
        assert (await pool.ask(REQUEST, nobody)).body == b"abc"
        assert resolver.asked == 2


async def test_a_pool_that_is_closed_waits_for_no_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for it hears so, as an error of the connection's."""
    server = Server(reply(b"abc"))
    async with pool_over(server) as pool:
        resolver = _Resolver()
        resolver.may_answer.clear()
        monkeypatch.setattr(pool, "_resolve", resolver)
        call = asyncio.create_task(pool.ask(REQUEST, nobody))
        await until(lambda: resolver.asked == 1)
        pool.close()
        with pytest.raises(ConnectionAbortedError):
            await call


async def test_all_addresses_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are shared out over a name's addresses."""
    one, other = (Server(reply(b"abc", b"Connection: close")) for _ in range(2))
    async with pool_over(one) as pool, pool_over(other):
        resolver = _Resolver(("127.0.0.1", one.port), ("127.0.0.1", other.port))
        monkeypatch.setattr(pool, "_resolve", resolver)
        for _ in range(6):
            await pool.ask(REQUEST, nobody)
    assert (one.requests, other.requests) == (3, 3)


class _Resolver:
    """Knows addresses of the name, and counts."""

    def __init__(self, *addresses: tuple[str, int]) -> None:
        self.addresses = addresses
        self.asked = 0
        self.error: OSError | None = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self) -> list[AddrInfoType]:
        self.asked += 1
        await asyncio.sleep(0.01)
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", each) for each in self.addresses]


async def test_tls_is_for_the_name_that_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate of somebody trusted, for this very name, and nothing else."""
    tls, _, trusted = contexts(tmp_path, "localhost")
    trusting = ssl.create_default_context(cafile=trusted)
    server = Server(reply(b"abc"))
    listening = await asyncio.start_server(server, "127.0.0.1", 0, ssl=tls)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        for host, context in (("localhost", ssl.create_default_context()), ("127.0.0.1", trusting)):
            with pytest.raises(ssl.SSLCertVerificationError):
                await ConnectionPool(host, port, context, 60).ask(REQUEST, nobody)
        assert server.requests == 0
        pool = ConnectionPool("localhost", port, trusting, 60)
        for _ in range(3):
            assert (await pool.ask(REQUEST, nobody)).body == b"abc"
        assert (server.requests, server.connections) == (3, 1)
        pool.close()
        await until(lambda: server.ended == 1)
        whole = ConnectionPool("localhost.", port, trusting, 60)  # as one writes a name that is whole
        monkeypatch.setattr(whole, "_resolve", _Resolver(("127.0.0.1", port)))
        assert (await whole.ask(REQUEST, nobody)).body == b"abc"
        whole.close()


class _Between(httpx.AsyncBaseTransport):
    """What a tracer is: a transport of httpx's before ours."""

    def __init__(self, inner: LeanTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._inner.handle_async_request(request)


@pytest.mark.parametrize("is_between", [False, True], ids=["plain", "traced"])
async def test_a_call_is_the_same_traced_or_not(is_between: bool) -> None:  # noqa: FBT001
    """The same request, the same answer, and who may ask again hears of the first byte all the same."""
    server = Server(reply(b"abc", b"Retry-After: 9"), [reply(b"abc")[:-1], b""])
    async with pool_over(server):
        ours = open_transport(60)
        post = posting_over(_Between(ours) if is_between else ours)
        url, heard = f"http://127.0.0.1:{server.port}/track/open", list[int]()
        wanted = composed(Target.of(url), {"X-Who": "anna"}, b"{}")
        server.request_bytes = len(wanted)
        answer = await post(url, {"X-Who": "anna"}, b"{}", lambda: heard.append(1))
        assert (answer, set(heard)) == (Answer(200, "9", b"abc"), {1})
        heard.clear()
        with pytest.raises(ConnectionResetError):
            await post(url, {"X-Who": "anna"}, b"{}", lambda: heard.append(1))
        assert heard
        assert [each.lower() for each in server.received] == [wanted.lower()] * 2
        await ours.aclose()
