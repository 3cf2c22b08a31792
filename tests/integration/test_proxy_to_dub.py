"""Calls to Dub through the proxy and the certificate authority that the environment names."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from service.app import create_app
from service.config.settings import SettingsError, parse
from service.dub.transport import proxy_for
from tests.certificates import contexts
from tests.integration.test_wire_to_dub import GOOD, RawDub, closed
from tests.support import CONFIG, ENV, LogLines, Service, running


class Proxy:
    """A forward proxy: it notes heads, answers plain requests as Dub, and tunnels CONNECT to ``port``."""

    def __init__(self, port: int = 0, refusal: bytes = b"") -> None:
        self.lines: list[str] = []
        self.headers: list[Message] = []
        self.port = port
        self.refusal = refusal
        self.writers: list[asyncio.StreamWriter] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        head = await reader.readuntil(b"\r\n\r\n")
        line, _, headers = head.partition(b"\r\n")
        self.lines.append(line.decode())
        self.headers.append(message_from_bytes(headers))
        if self.refusal or not line.startswith(b"CONNECT"):
            writer.write(self.refusal or GOOD)
            return
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        there, back = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(back)
        await asyncio.gather(_copy(reader, back), _copy(there, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)


@asynccontextmanager
async def serving(server: Proxy | RawDub, **options: object) -> AsyncIterator[int]:
    listening = await asyncio.start_server(server, "127.0.0.1", 0, **options)  # type: ignore[arg-type]
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        for writer in server.writers:
            await closed(writer)


@asynccontextmanager
async def service_of(base_url: str) -> AsyncIterator[Service]:
    async with running(create_app(parse(CONFIG, {**ENV, "DUB_BASE_URL": base_url}))) as service:
        yield service


@pytest.fixture(autouse=True)
def _no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


async def test_http_goes_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """``HTTP_PROXY`` takes the whole request, and its own user and password."""
    proxy = Proxy()
    async with serving(proxy) as port:
        monkeypatch.setenv("HTTP_PROXY", f"http://anna:secret@127.0.0.1:{port}")
        async with service_of("http://dub.example") as service:
            answer = await service.open("https://acme.link/fb-promo")
    assert answer.source == "dub"
    assert proxy.lines == ["POST http://dub.example/track/open HTTP/1.1"]
    assert proxy.headers[0]["proxy-authorization"] == "Basic YW5uYTpzZWNyZXQ="


async def test_https_goes_through_a_tunnel_to_a_private_authority(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """``SSL_CERT_FILE`` names the authority; the proxy sees a host and a port, and nothing of the call."""
    of_server, _, authority = contexts(tmp_path, "dub.example")
    dub = RawDub()
    async with serving(dub, ssl=of_server) as port, serving(Proxy(port)) as proxy_port:
        monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{proxy_port}")
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        async with service_of("https://dub.example") as service:
            answers = [await service.open("https://acme.link/x", install_id=f"install-{n}") for n in range(3)]
    assert [answer.source for answer in answers] == ["dub"] * 3
    assert dub.connections == 1
    assert len(dub.requests) == 3


async def test_hosts_in_no_proxy_are_called_directly(monkeypatch: pytest.MonkeyPatch, logs: LogLines) -> None:
    proxy = Proxy()
    async with serving(proxy) as port:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("NO_PROXY", ".internal,nobody.invalid")
        async with service_of("http://nobody.invalid") as service:
            assert (await service.open("https://acme.link/fb-promo", budget_ms=10_000)).pending
    assert [line["error"] for line in logs.events("open.degraded")] == ["DubUnreachable"]
    assert proxy.lines == []


async def test_a_proxy_that_refuses_is_dub_out_of_reach(
    monkeypatch: pytest.MonkeyPatch, logs: LogLines
) -> None:
    """The answer to CONNECT is the proxy's: nothing was sent to Dub, so the call is made once more."""
    proxy = Proxy(refusal=b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
    async with serving(proxy) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        async with service_of("https://dub.example") as service:
            assert (await service.open("https://acme.link/fb-promo", budget_ms=10_000)).pending
    assert [line["error"] for line in logs.events("open.degraded")] == ["DubUnreachable"]
    assert proxy.lines == ["CONNECT dub.example:443 HTTP/1.1"] * 2


async def test_an_authority_that_is_not_trusted_is_dub_out_of_reach(tmp_path: Path, logs: LogLines) -> None:
    of_server, _, _ = contexts(tmp_path)
    dub = RawDub()
    async with serving(dub, ssl=of_server) as port, service_of(f"https://127.0.0.1:{port}") as service:
        assert (await service.open("https://acme.link/fb-promo", budget_ms=10_000)).pending
    assert [line["error"] for line in logs.events("open.degraded")] == ["DubUnreachable"]
    assert dub.requests == []


@pytest.mark.parametrize(
    ("url", "environment", "proxy"),
    [
        ("https://api.dub.co", {}, None),
        ("https://api.dub.co", {"HTTPS_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        ("https://api.dub.co", {"https_proxy": "http://proxy:3128"}, "http://proxy:3128"),
        ("https://api.dub.co", {"HTTPS_PROXY": "proxy:3128"}, "http://proxy:3128"),
        ("https://api.dub.co", {"HTTPS_PROXY": "https://proxy"}, "https://proxy"),
        ("https://api.dub.co", {"HTTP_PROXY": "http://proxy:3128"}, None),
        ("http://api.dub.co", {"HTTPS_PROXY": "http://proxy:3128"}, None),
        ("https://api.dub.co", {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "*"}, None),
        ("https://api.dub.co", {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "a.b, dub.co"}, None),
        (
            "https://api.dub.co",
            {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "ub.co"},
            "http://proxy:3128",
        ),
        ("http://dub:8080", {"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "dub:8080"}, None),
        ("http://dub:8080", {"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "dub:80"}, "http://proxy:3128"),
        ("http://127.0.0.1:8001", {"HTTP_PROXY": "http://proxy:3128"}, None),
        ("http://[::1]:8001", {"HTTP_PROXY": "http://proxy:3128"}, None),
        ("http://dub.localhost:8001", {"HTTP_PROXY": "http://proxy:3128"}, None),
    ],
)
def test_which_proxy_a_url_takes(
    monkeypatch: pytest.MonkeyPatch, url: str, environment: dict[str, str], proxy: str | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(url) == proxy


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTPS_PROXY", "socks5://anna:secret@proxy:1080"),
        ("HTTPS_PROXY", "http://anna:sec/ret@proxy:3128"),
        ("HTTPS_PROXY", "http://"),
        ("SSL_CERT_FILE", "/no/such/authority.pem"),
        ("SSL_CERT_FILE", __file__),
    ],
)
def test_what_cannot_be_used_stops_the_start(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """The message names the variable, and repeats no password."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{name}: ") as stopped:
        create_app(parse(CONFIG, ENV))
    assert "sec" not in str(stopped.value)
