"""Whatever anybody sends, parsing it is linear in its length and never holds the event loop for long.

Each parser gets its worst inputs at full size and at a quarter of it. Times are CPU time of the thread that
runs the event loop, so a busy machine does not show; the longest of each kind is printed (``pytest -s``).
"""

import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from service.api.dub_compat.bodies import TrackLeadRequest
from service.api.dub_compat.event_filters import events_query
from service.api.http import BODY_MAX_BYTES, strict_body
from service.app import create_app
from service.config.settings import parse
from service.domain.device_identity import (
    TrustedProxies,
    canonical_install_id,
    platform_of,
    upstream_user_agent,
)
from service.domain.device_traits import traits_of
from service.domain.evidence import link_in_referrer
from service.domain.networks import Networks
from service.domain.route_patterns import forms_of
from service.domain.routing import parse_version
from service.domain.urls import merge, split_dub_id
from service.domain.wrapped_links import find_deep_link
from service.dub.click_events import (
    PAGE_MAX_BYTES,
    ClickEvent,
    carried_query,
    in_slices,
    read_events,
    split_page,
)
from service.dub.client import retry_after_s
from service.dub.event_time import read_time_ms
from service.dub.transport import ANSWER_MAX_BYTES
from service.dub.wire import decode_error, decode_opened
from service.matching.click_sync import PAGE_EVENTS
from tests.integration.world import embedded_dub
from tests.support import CONFIG, ENV, SERVER_KEY, FakeClock, Service, running

HARD_STOP_S = 0.08  # no parser comes near it: each takes under 20 ms
SLACK_S = 0.01  # for what does not grow: a request's own cost, a cache that is cold
GROWTH = 8  # for four times the input: linear is 4

# Pieces that are repeated up to the size of the input.
PIECES = [
    *("a", "é", "\U0001f600", " ", "\n", "\t ", "\u200b", "\x00", "\x85", "\ud83d"),
    *("%", "%25", "%41", "%c3%a9", "%zz", "+", "/", "//", "\\", ".", "..", "-", "_", ":", ";", ",", "#", "@"),
    *(
        "?",
        "&",
        "=",
        "a=b&",
        "&&",
        "?a=",
        "a=%41&",
        "%&",
        "%41&",
        "dub_id=x&",
        "pw=x&",
        "deepLink=",
        "referrer=deepLink%3D",
    ),
    *("www.", "a.", "xn--", "xn--a.", "1.", "0x", "[", "]", "(", "<", '"', "'", "{", "acme.link:1", "a@a."),
    *("http:", "http://", "https://acme.link/", "https://acme.link/a ", "acme.link/ ", "(acme.link/)"),
    *("acme:", "Android ", "Android; ", "Android 1; a;", "OS 1_1 ", "iPhone1,", "Darwin/1.", "Version/1"),
    *("wv;", "en-us;", "1", "1.1.", "-1", "1e", "T00:00", "Mon, ", "Mon Jan 01 ", "+0000 ", "::", "1:"),
    *("127.0.0.1,", "::1,", "limit=1&", "domain=acme.link,", "referrer=deepLink%3D"),
]
LEAD = b'{"eventName": "x", "customerExternalId": "x", '
# How bodies begin, what they repeat and how they end.
BODIES: dict[str, tuple[bytes, bytes, bytes]] = {
    "an unterminated text of escapes": (b'["', rb"\"", b""),
    "a text of escapes": (b'{"deepLink": "', rb"\"", b'"}'),
    "escaped letters": (b'{"deepLink": "', rb"\u0061", b'"}'),
    "halves of emoji": (b'{"deepLink": "', rb"\ud83d", b'"}'),
    "lists in lists": (b"", b"[", b""),
    "lists in lists of an unknown field": (b'{"x": ', b"[", b"}"),
    "objects in objects": (b"", b'{"a":', b""),
    "an integer": (b'{"budgetMs": 1', b"0", b"}"),
    "a fraction": (b'{"budgetMs": 0.', b"1", b"}"),
    "an exponent": (b'{"budgetMs": 1e', b"9", b"}"),
    "integers": (b'{"x": [1', b",1", b"]}"),
    "floats": (b'{"x": [1', b",1e5", b"]}"),
    "texts": (b'{"platform": 1, "x": [""', b',""', b"]}"),
    "one key": (b'{"budgetMs": "x"', b',"budgetMs":1', b"}"),
    "white space": (b"{", b" ", b"}"),
    "braces": (b"", b"{}", b""),
    "not UTF-8": (b'{"x": "', b"\xff", b'"}'),
    "half of UTF-8": (b'{"x": "', b"\xc3\xa9", b"\xc3"),
    "a wrong field, then a lone surrogate": (b'{"amount": "x", "y": "', rb"\u0061", rb'\ud83d"}'),
    "metadata": (
        b'{"eventName": "x", "customerExternalId": "x", "clickId": "x", "metadata": {"a": [',
        b"[],",
        b"1]}}",
    ),
    "metadata in depth": (b'{"eventName": "x", "customerExternalId": "x", "metadata": {"a": ', b"[", b"1}}"),
    "an e-mail address": (
        b'{"eventName": "x", "customerExternalId": "x", "customerEmail": "',
        b"a.",
        b'@a.b"}',
    ),
    "an e-mail domain": (b'{"eventName": "x", "customerExternalId": "x", "customerEmail": "a@', b"a.", b'"}'),
}
ROUTES = {
    "/v1/opens": "app",
    "/v1/opens/dry-run": "server",
    "/v1/leads": "app",
    "/v1/installs/forget": "server",
    "/track/open": "app",
    "/track/lead": "server",
    "/track/sale": "server",
}
TEXT_FIELDS = {
    "deepLink": 32_000,
    "installReferrer": 8192,
    "clipboard": 2048,
    "dubDomain": 253,
    "installId": 128,
    "platform": 32_000,
    "appVersion": 64,
    "budgetMs": 32_000,
    "installedAt": 32_000,
}
HEADERS = ("User-Agent", "X-Forwarded-For", "Authorization", "Content-Type")
HEADER_CHARS = 60_000  # the server takes heads to 64 KiB

EVENT = {
    "event": "click",
    "timestamp": "TEXT",
    "click": {
        "id": "c" * 16,
        "timestamp": "TEXT",
        "url": "https://acme.com/?TEXT",
        "ip": "203.0.113.7",
        "ua": "TEXT",
    },
    "link": {"id": "link_1", "domain": "acme.link", "key": "x", "url": "https://acme.com/?xTEXT"},
}
TEXTS = 5  # in it
ACME = ("acme.link", "go.acme.com")
_read_lead = strict_body(TrackLeadRequest).decode


def repeated(piece: str, size: int) -> str:
    return (piece * (size // len(piece) + 1))[:size]


def in_a_body(text: str) -> str:
    """Return as much of a text as a request has room for."""
    return text.encode("utf-8", "replace")[: BODY_MAX_BYTES - 100].decode("utf-8", "ignore")


def page_of(piece: str, size: int) -> bytes:
    """Return a page of as many events as Dub puts on one, with this text wherever an event has text."""
    escaped = len(json.dumps(piece)) - 2  # characters of JSON for this piece
    room = size // PAGE_EVENTS - len(json.dumps(EVENT)) - 10
    text = repeated(piece, int(0.95 * room / TEXTS * len(piece) / escaped))
    event = json.loads(json.dumps(EVENT).replace("TEXT", json.dumps(text)[1:-1]))
    return json.dumps([event] * PAGE_EVENTS).encode()


# What is parsed, and to what length it comes.
PARSERS: dict[str, tuple[Callable[[str], object], int]] = {
    "traits of a User-Agent": (traits_of.__wrapped__, 64_000),
    "platform of a User-Agent": (platform_of, 64_000),
    "User-Agent for Dub": (lambda text: upstream_user_agent(text, "device"), 64_000),
    "X-Forwarded-For": (lambda text: TrustedProxies(["127.0.0.0/8"]).client_ip("127.0.0.1", text), 64_000),
    "install referrer": (link_in_referrer, 8192),
    "installId": (canonical_install_id, 32_000),
    "appVersion": (parse_version.__wrapped__, 32_000),
    "path of a short link": (
        lambda text: find_deep_link(f"https://acme.link/{in_a_body(text)}", ACME),
        32_000,
    ),
    "query of a short link": (
        lambda text: find_deep_link(f"https://acme.link/x?{in_a_body(text)}", ACME),
        32_000,
    ),
    "forms of a URL": (lambda text: forms_of(f"https://acme.com/?{text}"), 32_000),
    "dub_id of a URL": (lambda text: split_dub_id(f"https://acme.com/?{text}"), 32_000),
    "merged queries": (lambda text: merge(f"https://acme.com/?{text}", text), 32_000),
    "query of a clicked URL": (
        lambda text: carried_query(f"https://acme.com/?{text}", [f"https://acme.com/?x{text}"]),
        4000,
    ),
    "Retry-After": (lambda text: retry_after_s(text, 1_785_585_600.0), 64_000),
    "date of an event": (read_time_ms, 64_000),
    "filters of /events": (lambda text: events_query(text.encode(), ACME), 64_000),
    "metadata": (
        lambda text: _read_lead(
            json.dumps({"customerExternalId": "x", "eventName": "x", "metadata": {text: text}}).encode()
        ),
        30_000,
    ),
    "Dub's answer to an open": (
        lambda text: decode_opened(json.dumps({"clickId": text, "link": text}).encode()),
        ANSWER_MAX_BYTES // 12,
    ),
    "Dub's error": (
        lambda text: decode_error(json.dumps({"error": {"code": text, "message": text}}).encode()),
        ANSWER_MAX_BYTES // 12,
    ),
}


class Longest:
    """Measures calls, and holds them to linear growth."""

    def __init__(self) -> None:
        self.found: list[tuple[float, str]] = []

    async def hold(self, what: str, size: int, call: Callable[[int], Awaitable[object]]) -> None:
        """Call with this size and a quarter of it; a measure that is too long is taken again, twice."""
        for _ in range(3):
            quarter, whole = await self._timed(call, size // 4), await self._timed(call, size)
            if whole < HARD_STOP_S and whole <= GROWTH * quarter + SLACK_S:
                break
        else:
            raise AssertionError(f"{what}: {quarter * 1000:.1f} ms, and {whole * 1000:.1f} ms at full size")
        self.found.append((whole, what))

    async def _timed(self, call: Callable[[int], Awaitable[object]], size: int) -> float:
        began = time.thread_time()
        await call(size)
        return time.thread_time() - began


@pytest.fixture
def longest(request: pytest.FixtureRequest) -> Iterator[Longest]:
    measured = Longest()
    yield measured
    seconds, what = max(measured.found)
    name = request.node.name
    print(f"\nlongest turn of {len(measured.found)}, {name}: {seconds * 1000:.1f} ms, {what}")  # noqa: T201


@pytest.fixture
async def anyone(clock: FakeClock) -> AsyncIterator[Service]:
    """The service with matching, over an embedded Dub; nothing is logged."""
    config = CONFIG.replace('ip_matching = "off"\n', "")
    app = create_app(
        parse(config, ENV), transport=embedded_dub(clock), clock=clock, unix_time=clock.unix_time
    )
    async with running(app) as service:
        yield service


@pytest.mark.parametrize("route", ROUTES)
async def test_bodies(anyone: Service, longest: Longest, route: str) -> None:
    """Bodies at their limit, well and badly formed, with the right key: each is answered without a 5xx."""
    headers = {"Content-Type": "application/json"}
    if ROUTES[route] == "server":
        headers["Authorization"] = f"Bearer {SERVER_KEY}"
    for name, (head, piece, tail) in BODIES.items():

        async def send(size: int, head: bytes = head, piece: bytes = piece, tail: bytes = tail) -> None:
            body = head + piece * ((size - len(head) - len(tail)) // len(piece)) + tail
            reply = await anyone.post(route, content=body, headers=headers)
            assert reply.status_code in (200, 202, 400, 403, 404, 422), reply.text[:200]

        await longest.hold(f"{route}: {name}", BODY_MAX_BYTES, send)


async def test_a_body_without_a_key(anyone: Service, longest: Longest) -> None:
    """It is not looked at: 401."""
    head, piece, _ = BODIES["an unterminated text of escapes"]

    async def send(size: int) -> None:
        body = head + piece * ((size - len(head)) // len(piece))
        assert (await anyone.report(body, Authorization="")).status_code == 401

    await longest.hold("without a key", BODY_MAX_BYTES, send)


@pytest.mark.parametrize("field", TEXT_FIELDS)
async def test_fields_of_an_open(anyone: Service, longest: Longest, field: str) -> None:
    """Each text field at its limit, and beyond it at the body's."""
    for piece in PIECES:
        for size in {TEXT_FIELDS[field], 32_000}:

            async def send(size: int, piece: str = piece) -> None:
                body = json.dumps({field: repeated(piece, size)}, ensure_ascii="\ud83d" in piece)
                reply = await anyone.report(body.encode()[:BODY_MAX_BYTES])
                assert reply.status_code in (200, 400, 403, 413), reply.text[:200]

            await longest.hold(f"{field}: {piece!a}", size, send)


@pytest.mark.parametrize("header", HEADERS)
async def test_headers(anyone: Service, longest: Longest, header: str) -> None:
    """Each header that is read, as long as the server takes it; X-Forwarded-For may come often, too."""
    for piece in PIECES:

        async def send(size: int, piece: str = piece) -> None:
            value = repeated(piece, size).encode("latin-1", "replace").translate(None, b"\r\n\0")
            headers = [*anyone.headers.raw, (b"Content-Type", b"application/json")]
            reply = await anyone.post(
                "/v1/opens",
                content=b'{"installId": "install-anna"}',
                headers=[*headers, (header.encode(), value)],
            )
            assert reply.status_code in (200, 401, 415)

        await longest.hold(f"{header}: {piece!a}", HEADER_CHARS, send)


async def test_many_headers(anyone: Service, longest: Longest) -> None:
    """As many headers as fit: joining those of one name is no quadratic work that shows."""
    for name in (b"X-Forwarded-For", b"Authorization", b"Content-Type"):

        async def send(size: int, name: bytes = name) -> None:
            headers = [(name, b"1")] * (size // (len(name) + 5))
            reply = await anyone.post("/v1/opens", content=b"{}", headers=headers)
            assert reply.status_code in (200, 401, 415)

        await longest.hold(f"many headers: {name.decode()}", HEADER_CHARS, send)


@pytest.mark.parametrize("parser", PARSERS)
async def test_parsers(longest: Longest, parser: str) -> None:
    """What is not reached by one request: what Dub says, and what waits behind a cache."""
    call, size = PARSERS[parser]
    for piece in PIECES:

        async def parsed(size: int, piece: str = piece) -> None:
            with contextlib.suppress(Exception):  # how long it takes is what counts
                call(repeated(piece, size))

        await longest.hold(f"{parser}: {piece!a}", size, parsed)


async def test_pages_of_events(longest: Longest) -> None:
    """A page is split in one turn of the loop, and read in slices of one turn each."""
    networks = Networks(b"a secret")

    async def split(size: int) -> None:
        split_page(pages[size])

    async def read(size: int) -> None:
        for event in read_events(next(in_slices(events[size]))):
            if isinstance(event, ClickEvent):
                event.seen(networks)

    for piece in PIECES[: PIECES.index("\ud83d")] + PIECES[PIECES.index("\ud83d") + 1 :]:
        sizes = (PAGE_MAX_BYTES, PAGE_MAX_BYTES // 4)
        pages = {size: page_of(piece, size) for size in sizes}
        await longest.hold(f"a page: {piece!a}", PAGE_MAX_BYTES, split)
        events = {size: split_page(pages[size]) for size in sizes}
        await longest.hold(f"a slice of a page: {piece!a}", PAGE_MAX_BYTES, read)
