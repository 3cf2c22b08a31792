"""Connections to Dub, on real sockets: whose answer is whose, where one ends, and when one is used again."""

import asyncio
import datetime as dt
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import cast

import httpx
import pytest
from aiohappyeyeballs import AddrInfoType
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from service.dub.connections import ANSWER_MAX_BYTES, Answer, Connection, ConnectionPool, Target, composed
from service.dub.transport import LeanTransport, open_transport, posting_over
from service.resolve.errors import DubGarbled

pytestmark = pytest.mark.both_loops

REQUEST = composed(Target.of("http://127.0.0.1/track/open"), {"X-Who": "anna"}, b"{}")
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
CHUNK = b"ff\r\n" + b"x" * 255 + b"\r\n"
LONG = b"x" * (ANSWER_MAX_BYTES + 1)


def reply(body: bytes, *headers: bytes) -> bytes:
    return (
        HEAD + b"".join(each + b"\r\n" for each in headers) + b"Content-Length: %d\r\n\r\n" % len(body) + body
    )


class Server:
    """Answers each request with the next of its replies, in these pieces; ``b""`` closes."""

    def __init__(self, *replies: list[bytes] | bytes) -> None:
        self.replies = [[each] if isinstance(each, bytes) else each for each in replies]
        self.requests = 0
        self.request_bytes = len(REQUEST)
        self.received: list[bytes] = []
        self.connections = 0
        self.ended = 0
        self.writers: list[asyncio.StreamWriter] = []
        self.port = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError, RuntimeError):  # uvloop's
            while True:
                self.received.append(await reader.readexactly(self.request_bytes))
                pieces = self.replies[min(self.requests, len(self.replies) - 1)]
                self.requests += 1
                for piece in pieces:
                    if not piece:
                        writer.close()
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.001 if len(pieces) > 1 else 0)
        self.ended += 1
        writer.close()


@asynccontextmanager
async def pool_over(
    server: Server, *, keepalive_s: float = 60.0, host: str = "127.0.0.1"
) -> AsyncIterator[ConnectionPool]:
    mishaps: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, mishap: mishaps.append(mishap))
    listening = await asyncio.start_server(server, host, 0)
    server.port = listening.sockets[0].getsockname()[1]
    pool = ConnectionPool(host, server.port, None, keepalive_s)
    try:
        yield pool
    finally:
        pool.close()
        listening.close()
        for writer in server.writers:
            writer.close()
    assert not mishaps


def nobody() -> None:
    pass


async def until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not met():  # noqa: ASYNC110  the server has no event for each of these
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("pieces", "body"),
    [
        ([reply(b"abc")], b"abc"),
        ([reply(b"")], b""),
        ([CHUNKED], b"abcde"),
        ([bytes([each]) for each in CHUNKED], b"abcde"),
        ([bytes([each]) for each in reply(b"abc")], b"abc"),
        ([HEAD + b"\r\nabc", b"de", b""], b"abcde"),
        ([HEAD + b"\r\n", b""], b""),
        ([b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nRetry-After: 9\r\n\r\n", reply(b"abc")], b"abc"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + reply(b"abc")], b"abc"),
        ([reply(b"x" * ANSWER_MAX_BYTES)], b"x" * ANSWER_MAX_BYTES),
        ([b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc"], b"abc"),
        ([b"HTTP/1.1 103 Early Hints\r\nContent-Length: 9\r\n\r\n" + HEAD + b"\r\nabc", b""], b"abc"),
        ([CHUNKED[:-2] + b"Retry-After: 9\r\n\r\n"], b"abcde"),
    ],
    ids=[
        *("a length", "an empty body", "chunks", "chunks, a byte at a time", "a length, a byte at a time"),
        *("until the end", "nothing until the end", "early hints", "to be continued", "as long as may be"),
        *("HTTP/1.0", "a hint with a length", "trailers"),
    ],
)
async def test_an_answer_ends_where_it_says(pieces: list[bytes], body: bytes) -> None:
    """By its length, by its last chunk, or with the connection; interim answers are none."""
    async with pool_over(Server(pieces)) as pool:
        assert await pool.ask(REQUEST, nobody) == Answer(200, "", body)
        assert await pool.ask(REQUEST, nobody) == Answer(200, "", body)


@pytest.mark.parametrize(
    "pieces",
    [
        [b""],
        [HEAD, b""],
        [reply(b"abc")[:-1], b""],
        [CHUNKED[:-2], b""],
        [CHUNKED[:-7], b""],
        [b"\x15\x03\x01\x00\x02\x02\x46"],
        [b"220 mail.example ESMTP\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nabc"],
        [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"],
        [b"HTTP/1.1 104 Odd\r\nContent-Length: 3\r\n\r\nEVI" + reply(b"abc")],
    ],
    ids=[
        *(
            "nothing",
            "half a head",
            "one byte short",
            "half a last chunk",
            "half a chunk",
            "TLS",
            "another protocol",
        ),
        *("two lengths", "a length and chunks", "a negative length", "an upgrade", "a hint with a body"),
    ],
)
async def test_an_answer_cut_short_is_none(pieces: list[bytes]) -> None:
    """What ends too early, or is no HTTP answer with one end, is an error of the connection's."""
    server = Server(pieces)
    async with pool_over(server) as pool:
        with pytest.raises(OSError, match=r"closed|HTTP"):
            async with asyncio.timeout(5):
                await pool.ask(REQUEST, nobody)
        await until(lambda: server.ended == 1)


@pytest.mark.parametrize(
    "pieces",
    [
        [reply(LONG)],
        [HEAD + b"\r\n" + LONG],
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[CHUNK * 100] * 12],
        [HEAD, *[b"X-Much: " + b"y" * 1000 + b"\r\n"] * 100],
        [b"HTTP/1.1 103 Early Hints\r\nX: " + b"y" * 1000 + b"\r\n\r\n"] * 100,
        [CHUNKED[:-2] + b"X-Trailer: ", *[b"y" * 50_000] * 20],
        [CHUNKED[:-2], *[b"X-Trailer: y\r\n" * 4000] * 20],
        [CHUNKED[:-5] + b"1;x=", *[b"y" * 50_000] * 20],
    ],
    ids=[
        *("a length", "until the end", "chunks", "a head", "hints without end"),
        *("a long trailer", "many trailers", "a chunk's extension"),
    ],
)
async def test_an_answer_has_bounds(pieces: list[bytes]) -> None:
    """Whoever sends without end is hung up on."""
    server = Server(pieces)
    async with pool_over(server) as pool:
        with pytest.raises(DubGarbled, match="over"):
            await pool.ask(REQUEST, nobody)
        await until(lambda: server.ended == 1)


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
    tls, trusting = _certificate(tmp_path, "localhost") if is_secure else (None, None)
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


async def test_the_first_byte_is_told() -> None:
    """Who may ask again only if nothing was answered learns of the first byte, and not before."""
    server = Server([], [b"H", b""])
    async with pool_over(server) as pool:
        heard: list[int] = []
        silent = asyncio.create_task(pool.ask(REQUEST, lambda: heard.append(1)))
        await until(lambda: server.requests == 1)
        server.writers[0].close()
        with pytest.raises(ConnectionResetError):
            await silent
        assert not heard
        with pytest.raises(ConnectionResetError):
            await pool.ask(REQUEST, lambda: heard.append(2))
        assert heard == [2]


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
    tls, trusting = _certificate(tmp_path, "localhost")
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


def _certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a server's context with a certificate of its own, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    named = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(named)
        .issuer_name(named)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = folder / "certificate.pem"
    file.write_bytes(private + public)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cadata=public.decode())


@pytest.mark.parametrize(
    ("url", "host", "port", "is_secure", "start"),
    [
        (
            "https://api.dub.co/track/open",
            "api.dub.co",
            443,
            True,
            b"POST /track/open HTTP/1.1\r\nHost: api.dub.co",
        ),
        ("http://[::1]:8001/x", "::1", 8001, False, b"POST /x HTTP/1.1\r\nHost: [::1]:8001"),
        ("http://dub", "dub", 80, False, b"POST / HTTP/1.1\r\nHost: dub"),
        (
            "https://bücher.example/é",
            "xn--bcher-kva.example",
            443,
            True,
            b"POST /%C3%A9 HTTP/1.1\r\nHost: xn--bcher-kva.example",
        ),
    ],
)
def test_where_a_url_leads(url: str, host: str, port: int, is_secure: bool, start: bytes) -> None:  # noqa: FBT001
    """Names in ASCII, IPv6 in brackets where HTTP wants them, the scheme's port unless it says another."""
    start += b"\r\nAccept-Encoding: identity\r\n"
    assert Target.of(url) == Target(host, port, is_secure, start)


@pytest.mark.parametrize("value", ["a\r\nX-Other: b", "a\nb", "a\rb", "a\0b", "a\x7f", "caf\u00e9", "\ud800"])
def test_a_header_is_one_line_of_ascii(value: str) -> None:
    """Nobody's text becomes another header."""
    with pytest.raises(ValueError):  # noqa: PT011  its subclass for text that is no ASCII
        composed(Target.of("http://dub/"), {"User-Agent": value}, b"")


async def test_a_reset_is_no_answers_end() -> None:
    """An answer without a length ends when the other side is done, not when the connection breaks."""
    for broken, expected in ((ConnectionResetError(), None), (None, Answer(200, "", b"abc"))):
        connection = Connection()
        connection.connection_made(_Wire())
        asking = asyncio.ensure_future(connection.ask(REQUEST, nobody))
        await asyncio.sleep(0)
        connection.data_received(HEAD + b"\r\nabc")
        connection.connection_lost(broken)
        [answer] = await asyncio.gather(asking, return_exceptions=True)
        assert answer == expected or (isinstance(answer, ConnectionResetError) and expected is None)


async def test_a_connection_is_over_as_soon_as_the_other_side_is_done() -> None:
    """Also in the turn of the loop that hears of it: nobody takes it any more."""
    connection = Connection()
    connection.connection_made(_Wire())
    asking = asyncio.ensure_future(connection.ask(REQUEST, nobody))
    await asyncio.sleep(0)
    connection.data_received(reply(b"abc"))
    await asking
    assert connection.reusable
    connection.eof_received()
    assert not connection.reusable


async def test_retry_after_is_the_first() -> None:
    """As it came; there is one, or the first counts."""
    limited = b"HTTP/1.1 429 No\r\nretry-after: 7\r\nRetry-After: 9\r\nContent-Length: 0\r\n\r\n"
    async with pool_over(Server(limited, reply(b""))) as pool:
        assert await pool.ask(REQUEST, nobody) == Answer(429, "7", b"")
        assert await pool.ask(REQUEST, nobody) == Answer(200, "", b"")


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


class _Wire(asyncio.Transport):
    """A transport that only remembers whether it was ended."""

    ended = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def abort(self) -> None:
        self.ended = True

    close = abort


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(0, 400), max_size=8))
def test_whatever_comes_is_an_answer_or_an_error(noise: bytes, cuts: list[int]) -> None:
    """However an answer and noise behind it are cut up, the answer is the first's, or there is none."""
    stream = CHUNKED + noise
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})

    async def run() -> None:
        connection, wire = Connection(), _Wire()
        connection.connection_made(wire)
        asking = asyncio.ensure_future(connection.ask(REQUEST, nobody))
        await asyncio.sleep(0)
        for start, end in pairwise(edges):
            connection.data_received(stream[start:end])
        assert await asking == Answer(200, "", b"abcde")
        if noise.strip(b"\r\n"):
            assert not connection.reusable

    asyncio.run(run())


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=1, max_size=300))
def test_noise_is_no_answer(noise: bytes) -> None:
    """Anything else than HTTP raises nothing but what ``ask`` says."""

    async def run() -> None:
        connection, wire = Connection(), _Wire()
        connection.connection_made(wire)
        asking = asyncio.ensure_future(connection.ask(REQUEST, nobody))
        await asyncio.sleep(0)
        connection.data_received(noise)
        connection.connection_lost(None)
        try:
            await asking
        except (OSError, DubGarbled):
            return
        raise AssertionError(cast("object", noise))

    asyncio.run(run())
