"""Our side of the wire to Dub, on real sockets: what goes out, what comes back, and how it fails."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from service.app import create_app
from service.config.settings import parse
from service.dub import transport
from tests.support import ANNA, CONFIG, ENV, LogLines, Service, running, until

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

BODY = b'{"clickId": "cccccccccccccccc", "link": null}'
OK = b"HTTP/1.1 200 OK\r\n"
GOOD = OK + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
WHOLE_CHUNK = b"%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"


class RawDub:
    """A server of bytes: it reads a request's head and body, writes what it is told to, and counts."""

    def __init__(self, reply: bytes = GOOD, *, then: str = "keep") -> None:
        self.reply = reply
        self.then = then
        self.connections = 0
        self.requests: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                )
                self.requests.append(head + await reader.readexactly(length))
                writer.write(self.reply)
                await writer.drain()
                if self.then == "reset":
                    writer.transport.abort()
                elif self.then == "close":
                    writer.close()
                if self.then != "keep":
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


@asynccontextmanager
async def service_over(dub: RawDub, extra: str = "") -> AsyncIterator[Service]:
    server = await asyncio.start_server(dub, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = parse(CONFIG + extra, {**ENV, "DUB_BASE_URL": f"http://127.0.0.1:{port}/prefix/"})
    try:
        async with running(create_app(settings)) as service:
            yield service
    finally:
        server.close()
        for writer in dub.writers:
            await closed(writer)


async def test_what_goes_out_is_the_link_and_the_device(logs: LogLines) -> None:  # noqa: ARG001
    """One POST under the base URL's path, with five headers, none of them the caller's."""
    dub = RawDub()
    async with service_over(dub) as service:
        await service.open(
            "https://acme.link/fb-promo?utm_source=x", install_id=ANNA, headers={"Cookie": "a=1"}
        )
    head, _, body = dub.requests[0].partition(b"\r\n\r\n")
    request_line, *headers = head.split(b"\r\n")
    assert request_line == b"POST /prefix/track/open HTTP/1.1"
    assert {line.split(b":")[0].lower() for line in headers} == {
        b"host",
        b"accept-encoding",
        b"content-type",
        b"content-length",
        b"user-agent",
    }
    assert body == b'{"deepLink":"https://acme.link/fb-promo"}'


async def test_connections_are_kept_and_bounded(logs: LogLines) -> None:  # noqa: ARG001
    """One after another, opens share a connection; at once, they use no more than allowed."""
    dub = RawDub()
    async with service_over(dub, "[dub]\nin_flight_max = 3\n") as service:
        for number in range(5):
            await service.open("https://acme.link/x", install_id=f"install-{number}")
        assert dub.connections == 1
        await asyncio.gather(
            *[service.open("https://acme.link/x", install_id=f"together-{n}") for n in range(20)]
        )
        assert len(dub.requests) == 25
        assert dub.connections <= 3


async def test_idle_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that no call uses for a while is closed; the next call opens another one."""
    monkeypatch.setattr(transport, "_KEEPALIVE_S", 0.05)
    dub = RawDub()
    async with service_over(dub) as service:
        await service.open("https://acme.link/x", install_id="install-0")
        await asyncio.wait_for(dub.writers[0].wait_closed(), 5)
        await service.open("https://acme.link/x", install_id="install-1")
        assert dub.connections == 2


async def test_an_answer_that_no_call_asked_for_is_nobodys() -> None:
    """What arrives on an idle connection, such as a proxy's 408, does not answer the next call."""
    dub = RawDub()
    server = await asyncio.start_server(dub, "127.0.0.1", 0)
    calls = transport.AiohttpTransport("http://127.0.0.1")
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/track/open"
    try:
        assert (await calls.post(url, {}, b"{}", lambda: None)).status == 200
        dub.writers[0].write(GOOD.replace(b"200 OK", b"408 Request Timeout"))
        await until(lambda: calls._idle[0].protocol.should_close)
        assert (await calls.post(url, {}, b"{}", lambda: None)).status == 200
        assert dub.connections == 2
    finally:
        await calls.aclose()
        server.close()
        for writer in dub.writers:
            await closed(writer)


async def test_dubs_cookies_are_not_kept(logs: LogLines) -> None:  # noqa: ARG001
    """A cookie that Dub, or somebody between, sets for one person is never sent with another's open."""
    dub = RawDub(GOOD.replace(b"\r\nContent", b"\r\nSet-Cookie: who=anna; Path=/\r\nContent", 1))
    async with service_over(dub) as service:
        await service.open("https://acme.link/x", install_id="install-1")
        await service.open("https://acme.link/x", install_id="install-2")
    assert b"cookie" not in dub.requests[1].lower()


@pytest.mark.parametrize(
    ("reply", "then"),
    [
        (CHUNKED + WHOLE_CHUNK + b"\r\n", "keep"),
        (CHUNKED + WHOLE_CHUNK + b"X-Trailer: 1\r\n\r\n", "keep"),
        (OK + b"\r\n" + BODY, "close"),
        (GOOD.replace(b"HTTP/1.1", b"HTTP/1.0"), "keep"),
        (HINTS + HINTS + GOOD, "keep"),
    ],
    ids=["chunks", "a trailer", "until the end", "HTTP/1.0", "early hints"],
)
async def test_an_answer_is_read_in_each_form_of_http(reply: bytes, then: str) -> None:
    """An answer ends by its length, its last chunk or with the connection; interim answers are skipped."""
    async with service_over(RawDub(reply, then=then)) as service:
        answer = await service.open("https://acme.link/some", install_id=ANNA)
    assert answer.click_id == "c" * 16


async def test_answers_of_every_form_follow_each_other_on_a_connection(logs: LogLines) -> None:  # noqa: ARG001
    """Each is read by itself: its status, its length or chunks, and what came before it."""
    unknown = b'{"error": {"code": "not_found", "message": "", "doc_url": ""}}'
    not_found = b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n" % len(unknown) + unknown
    dub = RawDub()
    replies = [GOOD, CHUNKED + WHOLE_CHUNK + b"X-Trailer: 1\r\n\r\n", not_found, HINTS + GOOD, GOOD]
    async with service_over(dub) as service:
        for number, dub.reply in enumerate(replies * 2):
            answer = await service.open(f"https://acme.link/{number}", install_id=ANNA)
            assert answer.click_id == (None if dub.reply is not_found else "c" * 16)
            assert not answer.pending
    assert dub.connections == 1


@pytest.mark.parametrize(
    "reply",
    [
        GOOD + GOOD.replace(b"cccccccccccccccc", b"dddddddddddddddd"),
        GOOD.replace(b"\r\nContent", b"\r\nConnection: close\r\nContent", 1),
        GOOD.replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
    ids=["two answers at once", "Connection: close", "HTTP/1.0"],
)
async def test_a_connection_that_may_not_be_used_again_is_not(reply: bytes) -> None:
    """An answer that no call asked for is not taken for the next call's."""
    dub = RawDub(reply)
    async with service_over(dub) as service:
        for number in range(3):
            answer = await service.open("https://acme.link/some", install_id=f"install-{number}")
            assert answer.click_id == "c" * 16
    assert dub.connections == 3


async def test_a_late_answer_is_nobodys() -> None:
    """A call that is given up does not leave its late answer to the next call."""
    dub = RawDub(b"")
    async with service_over(dub, "[dub]\ntimeout_ms = 100\n") as service:
        given_up = await service.open("https://acme.link/some", install_id="install-1", budget_ms=10_000)
        assert given_up.pending
        dub.writers[0].write(GOOD.replace(b"cccccccccccccccc", b"dddddddddddddddd"))
        dub.reply = GOOD
        answer = await service.open("https://acme.link/some", install_id="install-2", budget_ms=10_000)
    assert answer.click_id == "c" * 16


@pytest.mark.parametrize(
    ("reply", "then", "error"),
    [
        (b"", "reset", "DubUnreachable"),
        (b"", "close", "DubUnreachable"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "close", "DubUnreachable"),
        (GOOD[:-9], "close", "DubUnreachable"),
        (GOOD[:-9], "reset", "DubUnreachable"),
        (CHUNKED + WHOLE_CHUNK[:-3], "close", "DubUnreachable"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "close", "InvalidDubResponse"),
        (b"220 mail.example ESMTP\r\n\r\n", "close", "InvalidDubResponse"),
        (OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "keep", "InvalidDubResponse"),
        (OK + b"Content-Length: -1\r\n\r\nabc", "keep", "InvalidDubResponse"),
        (OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc", "keep", "InvalidDubResponse"),
        (OK + b"X-Long: " + b"y" * 100_000, "keep", "InvalidDubResponse"),
        (OK + b"X-Many: y\r\n" * 1000, "keep", "InvalidDubResponse"),
        (CHUNKED + b"100000\r\n" + b" " * 1_000_000, "keep", "InvalidDubResponse"),
        (CHUNKED + WHOLE_CHUNK + b"X-Trailer: " + b"y" * 100_000, "keep", "InvalidDubResponse"),
        (OK + b"\r\n" + b" " * 1_000_000, "keep", "InvalidDubResponse"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", "keep", "InvalidDubResponse"),
        (b"HTTP/1.1 200 Tr\xe8s bien\r\nContent-Length: 2\r\n\r\n{}", "keep", "InvalidDubResponse"),
        (b"HTTP/1.1 404 No\r\nContent-Length: 6\r\n\r\n<html>", "keep", "InvalidDubResponse"),
        (b"HTTP/1.1 302 Go\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n", "keep", "DubFailed"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "keep", "DubFailed"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n" + b" " * 2_000_000,
            "keep",
            "InvalidDubResponse",
        ),
        (GOOD.replace(b"cccccccccccccccc", b""), "close", "DubUnreachable"),
        (
            b'HTTP/1.1 200 OK\r\nContent-Length: 29\r\n\r\n{"clickId": "", "link": null}',
            "keep",
            "InvalidDubResponse",
        ),
    ],
)
async def test_every_failure_degrades_under_its_own_name(
    logs: LogLines, reply: bytes, then: str, error: str
) -> None:
    """However Dub's side fails, the open is answered, and the log tells what happened."""
    async with service_over(RawDub(reply, then=then)) as service:
        answer = await service.open("https://acme.link/some", install_id=ANNA)
    assert (answer.pending, answer.source, answer.click_id) == (True, "parsed", None)
    assert [line["error"] for line in logs.events("open.degraded")] == [error]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://nobody.invalid", "https://127.0.0.1:{port}"])
async def test_no_connection_degrades(logs: LogLines, url: str) -> None:
    """Refused, unresolvable, or TLS with a server that speaks none: unreachable, and an answer."""

    async def speak_plainly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await closed(writer)

    async with await asyncio.start_server(speak_plainly, "127.0.0.1", 0) as plain:
        port = plain.sockets[0].getsockname()[1]
        settings = parse(CONFIG, {**ENV, "DUB_BASE_URL": url.format(port=port)})
        async with running(create_app(settings)) as service:
            answer = await service.open("https://acme.link/some", install_id=ANNA, budget_ms=10_000)
    assert answer.pending
    assert [line["error"] for line in logs.events("open.degraded")] == ["DubUnreachable"]


@pytest.mark.parametrize("reply", [b"", GOOD[:-9]], ids=["before the head", "in the body"])
async def test_a_dub_that_stalls_is_given_up(logs: LogLines, reply: bytes) -> None:
    """A call that does not end is ended, wherever it hangs; the caller has long had its answer."""
    dub = RawDub(reply)
    async with service_over(dub, "[dub]\ntimeout_ms = 300\n") as service:
        began = asyncio.get_running_loop().time()
        answer = await service.open("https://acme.link/some", install_id=ANNA, budget_ms=100)
        assert asyncio.get_running_loop().time() - began < 0.3
        assert answer.pending
        assert not logs.events("open.degraded")
        patient = await service.open("https://acme.link/some", install_id=ANNA, budget_ms=10_000)
        assert patient.open_id == answer.open_id
    assert [line["error"] for line in logs.events("open.degraded")] == ["DubTimedOut"]


async def test_a_slow_trickle_is_given_up_too(logs: LogLines) -> None:
    """A byte now and then does not keep a call alive."""
    ended = asyncio.Event()

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        with suppress(ConnectionError):
            for byte in GOOD:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.05)
        await closed(writer)
        ended.set()

    server = await asyncio.start_server(trickle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = parse(
        CONFIG + "[dub]\ntimeout_ms = 300\n", {**ENV, "DUB_BASE_URL": f"http://127.0.0.1:{port}"}
    )
    async with server, running(create_app(settings)) as service:
        assert (await service.open("https://acme.link/some", install_id=ANNA, budget_ms=10_000)).pending
        await ended.wait()
    assert [line["error"] for line in logs.events("open.degraded")] == ["DubTimedOut"]
