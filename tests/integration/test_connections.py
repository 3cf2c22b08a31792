"""Connections to Dub, on real sockets: whose answer is whose, where one ends, and when one is used again."""

import asyncio
from itertools import pairwise
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.dub.connections import ANSWER_MAX_BYTES, Answer, Connection, Target, composed
from service.resolve.errors import DubGarbled
from tests.integration.byte_server import CHUNKED, HEAD, REQUEST, Server, nobody, pool_over, reply, until

pytestmark = pytest.mark.both_loops

CHUNK = b"ff\r\n" + b"x" * 255 + b"\r\n"
LONG = b"x" * (ANSWER_MAX_BYTES + 1)


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
