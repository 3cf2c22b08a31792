"""HTTP helpers of the sandbox: the visitor of a request, and answers as bytes.

Headers that Dub's edge sets (`X-Real-IP`, `X-Vercel-IP-*`) contain a visitor's address and location. They are
trusted from loopback peers only, so that a test can simulate many phones and other hosts cannot. Like Dub,
the sandbox ignores `X-Forwarded-For`.
"""

import hashlib
from collections.abc import Callable, Iterable
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec
from litestar.types import Receive, Scope, Send

Headers = Iterable[tuple[bytes, bytes]]
NO_TRACK = "dub-no-track"
_EU_CODES = "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK"
EU = frozenset(_EU_CODES.split())
UNKNOWN = "Unknown"


class Reply(msgspec.Struct, frozen=True):
    """A complete HTTP answer."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""


def json_reply(status: int, body: Any, headers: Headers = ()) -> Reply:
    """Return a JSON answer."""
    return Reply(status, ((b"content-type", b"application/json"), *headers), msgspec.json.encode(body))


def html_reply(status: int, html: str, headers: Headers = ()) -> Reply:
    """Return an HTML answer."""
    return Reply(status, ((b"content-type", b"text/html; charset=utf-8"), *headers), html.encode())


async def send_reply(send: Send, reply: Reply, *, head_only: bool = False) -> None:
    """Send an answer in one piece."""
    length = (b"content-length", str(len(reply.body)).encode())
    bodiless = reply.status in {204, 304}
    headers = reply.headers if bodiless else (*reply.headers, length)
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    body = b"" if head_only or bodiless else reply.body
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def read_body(receive: Receive, limit: int) -> bytes | None:
    """Read a request's body; None if it is larger than `limit` bytes or the client disconnected."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            return None
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def header(scope: Scope, name: bytes) -> str:
    """Return a request header, or "" if it was not sent."""
    for key, value in scope["headers"]:
        if key == name:
            return value.decode("latin-1")
    return ""


def method_of(scope: Scope) -> str:
    """Return the request's method."""
    return str(scope.get("method"))


def host_of(scope: Scope) -> str:
    """Return a request's host, normalized like a link's domain: lower case, no port, no leading `www.`."""
    host = header(scope, b"host").lower()
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.removeprefix("www.")


class Visitor(msgspec.Struct, frozen=True, dict=True):
    """The visitor of a request, as Dub sees them."""

    ip: str
    user_agent: str
    referer: str
    country: str
    region: str
    city: str
    continent: str
    no_track: bool

    @cached_property
    def identity(self) -> str:
        """Return the hash of IP and User-Agent by which Dub identifies a device."""
        return hashlib.sha256(f"{self.ip}-{self.user_agent}".encode()).hexdigest()

    @property
    def shown_ip(self) -> str:
        """Return the address as in `/events`: empty for people in the EU."""
        return "" if self.country in EU else self.ip


def visitor_of(scope: Scope) -> Visitor:
    """Read the visitor's address, device and location from a request."""
    client = scope.get("client")
    peer = _address(client[0]) if client else None
    trusted = peer is None or peer.is_loopback
    ask: Callable[[bytes], str] = (lambda name: header(scope, name)) if trusted else (lambda _: "")
    country = ask(b"x-vercel-ip-country").upper() or UNKNOWN
    region = ask(b"x-vercel-ip-country-region").upper()
    return Visitor(
        ip=str(_address(ask(b"x-real-ip")) or peer or "127.0.0.1"),
        user_agent=header(scope, b"user-agent"),
        referer=header(scope, b"referer"),
        country=country,
        region=f"{country}-{region}" if region else UNKNOWN,
        city=unquote(ask(b"x-vercel-ip-city")) or UNKNOWN,
        continent=ask(b"x-vercel-ip-continent").upper() or ("EU" if country in EU else UNKNOWN),
        no_track=asks_no_track(scope),
    )


def asks_no_track(scope: Scope) -> bool:
    """Return True if the request has a `dub-no-track` header or query parameter, whatever its value."""
    if any(key == NO_TRACK.encode() for key, _ in scope["headers"]):
        return True
    query = scope["query_string"].decode("latin-1")
    return NO_TRACK in query and any(key == NO_TRACK for key, _ in parse_qsl(query, keep_blank_values=True))


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Parse an address, IPv4-mapped forms as IPv4; None for anything else (an in-process test client)."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
