"""The attacks: each is made on a target, and returns what it came to."""

import asyncio
import contextlib
import math
import time
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import httpx
from msgspec import json

from tests.attack.lab import KEY, SERVER_KEY, DeliveryResult, Target, with_key
from tests.unit.test_wrapped_links import HARD

LIVE_MAX_MS = 50.0  # the longest wait beside an attack on a parser
ROUNDS = 8  # at most, until one is quick: a parser that holds the loop does in each, other processes do not
GOOD_OPENS, GOOD_S, GOOD_SHARE = 200, 10.0, 0.98
BAD_OPENS = 15
DESCRIPTORS, IDLE = 256, 300
MEMORY_MB = 32  # [cache] memory_mb of the service that is filled
MEMORY_MARGIN_MB = 64  # beside it: what 16 requests at a time, SQLite and fragmentation take
LONG_OPENS, LONG_CHARS = 20_000, 950
HUGE_OPENS, HUGE_CHARS = 2_500, 31_900
FILLED_WITHIN_S = 100

_GOOD = "https://acme.link/fb-promo"
_BODY_BYTES = 60_000  # for a field, of the 64 KiB of a body
_JSON = {"Content-Type": "application/json"}
_SMUGGLED = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
_HEAD = (
    b"POST /v1/opens HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer dub_pk_acme\r\n"
    b"Content-Type: application/json\r\n"
)
_LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"
_UPGRADE = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
_FRAMINGS = {
    "CL and TE": b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE and CL": b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a list of lengths": b"Content-Length: 2, 2\r\n\r\n{}",
    "a signed length": b"Content-Length: +2\r\n\r\n{}",
    "a negative length": b"Content-Length: -1\r\n\r\n{}",
    "a hexadecimal length": b"Content-Length: 0x2\r\n\r\n{}",
    "a length beyond 64 bits": b"Content-Length: 99999999999999999999999\r\n\r\n{}",
    "an unknown TE": b"Transfer-Encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "TE: gzip": b"Transfer-Encoding: gzip\r\n\r\n{}",
    "TE: chunked, identity": b"Transfer-Encoding: chunked, identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "two TE": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "TE with a control character": b"Transfer-Encoding: \x0bchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "a space before a colon": b"Transfer-Encoding : chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "a space in a name": b"Content Length: 2\r\n\r\n{}",
    "obs-fold of TE": b"Transfer-Encoding:\r\n chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "obs-fold of a length": b"Content-Length: 2\r\n 2\r\n\r\n{}",
    "a carriage return in a value": b"X: a\rb\r\nContent-Length: 2\r\n\r\n{}",
    "a NUL in a value": b"X: a\0b\r\nContent-Length: 2\r\n\r\n{}",
    "a line feed in a value": b"X: a\nb\r\nContent-Length: 2\r\n\r\n{}",
    "a chunk of 0x2": b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n",
    "a chunk of -2": b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
    "a chunk beyond 64 bits": b"Transfer-Encoding: chunked\r\n\r\n10000000000000002\r\n{}\r\n0\r\n\r\n",
    "a chunk that is too long": b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}xx\r\n0\r\n\r\n",
    "an upgrade with TE: gzip": _UPGRADE + b"Transfer-Encoding: gzip\r\n\r\n{}",
    "an upgrade with two lengths": _UPGRADE + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "an upgrade with bad chunks": _UPGRADE + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
}
_FORMS = {name: _HEAD + rest for name, rest in _FRAMINGS.items()} | {
    "a preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a method that is none": b"G(T /health/live HTTP/1.1\r\nHost: x\r\n\r\n",
    "a space in a path": b"GET /health/ live HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
    "a first line that is folded": b"GET /health/live HTTP/1.1\r\n X: y\r\nHost: x\r\n\r\n",
}


def unauthenticated_body(target: Target) -> DeliveryResult:
    """Send 64 kB of escapes that never end: without a key, and with one."""
    body = b'["' + b'\\"' * 32_700
    problems, best = [], math.inf
    for _ in range(ROUNDS):
        target.longest_ms()
        for key, expected in (("", 401), (f"Bearer {KEY}", 400)):
            reply = target.http.post("/v1/opens", content=body, headers={**_JSON, "Authorization": key})
            if reply.status_code != expected:
                problems.append(f"{reply.status_code} for {key or 'no key'}, not {expected}")
        best = min(best, target.longest_ms())
        if best <= LIVE_MAX_MS:
            break
    else:
        problems.append(f"/health/live waited {best:.0f} ms, more than {LIVE_MAX_MS:.0f}")
    return DeliveryResult("64 kB of escapes, with and without a key", problems, best)


def bad_answers(target: Target, kind: str) -> DeliveryResult:
    """Report opens of links that Dub answers badly, then of a good one: those are Dub's to answer."""
    for number in range(1, BAD_OPENS + 1):
        target.open(deepLink=f"https://acme.link/bad{kind}-{number}", installId=f"install-bad-{number:04}")
    sources = []
    began = time.monotonic()
    for number in range(GOOD_OPENS):
        time.sleep(max(0.0, began + number * GOOD_S / GOOD_OPENS - time.monotonic()))
        sources.append(target.open(deepLink=_GOOD, installId=f"install-good-{number:04}")["source"])
    share = sources.count("dub") / GOOD_OPENS
    problems = [] if share >= GOOD_SHARE else [f"only {share:.0%} of good opens are Dub's"]
    return DeliveryResult(
        f"{BAD_OPENS} opens that Dub answers with {kind}, {share:.0%} of {GOOD_OPENS} good ones", problems
    )


def nothing_queued(target: Target) -> DeliveryResult:
    """Ask what is still queued of the bad opens, a minute later."""
    queued = target.metric("firstopen_outbox_entries")
    problems = [f"{queued:.0f} entries are queued"] if queued else []
    return DeliveryResult(f"{queued:.0f} entries queued a minute later", problems)


def line_ends(target: Target) -> DeliveryResult:
    """Hold more connections than there are descriptors, which only send line ends; others are answered."""
    problems = []
    with contextlib.ExitStack() as stack:
        held = []
        for _ in range(IDLE):
            with contextlib.suppress(OSError):
                sock = stack.enter_context(target.connect())
                sock.sendall(b"\r\n")
                held.append(sock)
        for sock in held:
            with contextlib.suppress(OSError):
                sock.sendall(b"\r\n")
        target.longest_ms()
        for number in range(50):
            try:
                reply = target.anybody.post(
                    "/v1/opens",
                    json={"deepLink": _GOOD, "installId": f"install-{number:04}"},
                    headers=with_key(KEY),
                    timeout=2,
                )
            except httpx.HTTPError as exc:
                problems.append(f"another is not answered: {type(exc).__name__}")
                break
            if reply.status_code != 200:
                problems.append(f"another gets {reply.status_code}")
    return DeliveryResult(f"{IDLE} connections at ulimit -n {DESCRIPTORS}, 50 opens beside them", problems)


def memory(target: Target) -> DeliveryResult:
    """Fill everything that is remembered with long links."""
    for number in range(200):  # what any process takes once it is used is no attack's
        target.open(deepLink=_GOOD, installId=f"install-first-{number:04}")
    before = target.rss_mb()
    try:
        refused = asyncio.run(asyncio.wait_for(_fill(target.port), FILLED_WITHIN_S))
    except TimeoutError:
        return DeliveryResult(
            "", [f"not every open was answered within {FILLED_WITHIN_S} s: a busy machine?"]
        )
    growth = target.rss_mb() - before
    most = MEMORY_MB + MEMORY_MARGIN_MB
    problems = [f"{refused} opens were not answered 200"] if refused else []
    if growth > most:
        problems.append(f"grew by {growth:.0f} MB, more than {MEMORY_MB} + {MEMORY_MARGIN_MB}")
    return DeliveryResult(
        f"{LONG_OPENS:,} opens of {LONG_CHARS} characters, {HUGE_OPENS:,} of {HUGE_CHARS:,}: +{growth:.0f} MB"
        f" (memory_mb {MEMORY_MB}, margin {MEMORY_MARGIN_MB})",
        problems,
    )


async def _fill(port: int) -> int:
    def links() -> Iterator[str]:
        for number in range(LONG_OPENS):
            yield f"https://acme.link/long{number}?q=".ljust(LONG_CHARS, "x")
        for number in range(HUGE_OPENS):
            yield f"https://acme.link/huge{number}?q=".ljust(HUGE_CHARS, "y")

    left = enumerate(links())
    refused = 0

    async def report() -> None:
        nonlocal refused
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number, link in left:
            body = json.encode({"deepLink": link, "installId": f"install-{number:06}"})
            writer.write(_HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]))
            refused += not head.startswith(b"http/1.1 200 ")
        writer.close()

    await asyncio.gather(*(report() for _ in range(16)))
    return refused


def keys(target: Target) -> DeliveryResult:
    """Knock with no key, wrong keys, several keys, and keys of the other kind."""
    posts = {
        "/v1/opens": KEY,
        "/v1/opens/dry-run": SERVER_KEY,
        "/v1/installs/forget": SERVER_KEY,
        "/track/open": KEY,
    }
    posts |= {"/track/lead": SERVER_KEY, "/track/sale": SERVER_KEY}
    problems, count = [], 0
    for path, right in posts.items():
        other = SERVER_KEY if right == KEY else KEY
        wrong = [
            "",
            "Bearer",
            "Basic x",
            f"Bearer {right}x",
            f"Bearer {right[:-1]}",
            f"Bearer {right.upper()}",
        ]
        wrong += [
            right,
            f"Bearer {right}, Bearer {right}",
            "Bearer dub_secret_of_acme",
            "Bearer " + "x" * 5000,
        ]
        cases: list[tuple[list[str], int]] = [([each], 401) for each in wrong]
        cases += [([f"Bearer {right}"] * number, 401) for number in (2, 3)]
        cases += [(["Bearer x", "Bearer y", f"Bearer {right}"], 401), ([f"Bearer {other}"], 403)]
        for values, expected in cases:
            count += 1
            headers = [(b"Authorization", value.encode()) for value in values]
            reply = target.anybody.post(path, headers=headers, json={"deepLink": _GOOD})
            if reply.status_code != expected:
                problems.append(
                    f"{path} {[value[:30] for value in values]}: {reply.status_code}, not {expected}"
                )
    body = {"eventName": "Sign up", "customerExternalId": "anna", "clickId": "w" * 16}
    for path in ("/v1/leads", "/track/lead/client", "/track/sale/client"):  # leads = "server" by default
        count += 1
        status = target.http.post(path, json={**body, "amount": 1}).status_code
        if status != 403:
            problems.append(f"{path} with a publishable key: {status}, not 403")
    return DeliveryResult(f"{count} wrong or several keys, keys of the other kind", problems)


def smuggling(target: Target) -> DeliveryResult:
    """Send requests that proxies and servers may take apart differently, each with another behind it."""
    problems = []
    for name, form in _FORMS.items():
        answer = target.raw(form + _SMUGGLED)
        if answer.count(b"HTTP/1.1 ") > 1:
            problems.append(f"{name}: two answers")
        elif answer and not answer.startswith(b"HTTP/1.1 400 "):
            problems.append(f"{name}: {answer[:12].decode('latin-1')}")
    if target.raw(_LIVE + b"Connection: close\r\n\r\n").count(b"HTTP/1.1 200 ") != 1:
        problems.append("a good request behind all that is not answered")
    return DeliveryResult(f"{len(_FORMS)} requests with a bad framing", problems)


_SPOOFED = "198.51.100.66"
_FORWARDED = [
    {"X-Forwarded-For": _SPOOFED},
    {"X-Forwarded-For": f"{_SPOOFED}, 127.0.0.1"},
    {"X-Forwarded-For": f"127.0.0.1, {_SPOOFED}"},
    {"X-Forwarded-For": f"[{_SPOOFED}]:80"},
    {"X-Forwarded-For": f"::ffff:{_SPOOFED}"},
    {"X-Forwarded-For": f"{_SPOOFED}:4711"},
    {"X-Forwarded-For": ", " * 2000 + _SPOOFED},
    {"X-Forwarded-For": f"unknown, {_SPOOFED}"},
    {"X-Real-IP": _SPOOFED},
    {"Forwarded": f"for={_SPOOFED}"},
    {"True-Client-IP": _SPOOFED},
    {"CF-Connecting-IP": _SPOOFED},
    {"X-Client-IP": _SPOOFED},
]


def forwarded_by_a_stranger(target: Target) -> DeliveryResult:
    """Name another address to a service that trusts none of us."""
    return _believed(target, [(headers, "127.0.0.1") for headers in _FORWARDED])


def forwarded_through_a_proxy(target: Target) -> DeliveryResult:
    """Write an address to the left of the one that a trusted proxy (this process) adds; or a bad one."""
    client = "203.0.113.9"
    cases = [
        ({"X-Forwarded-For": f"{_SPOOFED}, {client}"}, client),
        ({"X-Forwarded-For": f"{_SPOOFED}, junk, {client}"}, client),
        ({"X-Forwarded-For": f"{_SPOOFED}, {client}, 127.0.0.1"}, client),
        ({"X-Forwarded-For": f"{_SPOOFED}, junk"}, "127.0.0.1"),
        ({"X-Forwarded-For": f"{_SPOOFED}, 127.0.0.1\t, {client}:80"}, client),
        ({"X-Forwarded-For": client, "X-Real-IP": _SPOOFED, "Forwarded": f"for={_SPOOFED}"}, client),
    ]
    return _believed(target, cases)


def _believed(target: Target, cases: list[tuple[dict[str, str], str]]) -> DeliveryResult:
    problems = []
    for number, (headers, expected) in enumerate(cases):
        body = {"deepLink": "https://acme.link/whose", "installId": f"install-whose-{number:03}"}
        route = target.http.post("/v1/opens", json=body, headers=headers).json()["route"]
        if route["params"].get("ip") != expected:
            problems.append(
                f"{ {name: text[:60] for name, text in headers.items()} }: {route}, not {expected}"
            )
    return DeliveryResult(f"{len(cases)} schemes; Dub is told which address was believed", problems)


def parsers(target: Target) -> DeliveryResult:
    """Fill each field that is parsed with the worst texts, as long as they may be."""
    problems, count, worst = [], 0, 0.0
    for fields, headers in _worst_texts():
        count += 1
        text = {name: value[:40] for name, value in fields.items()}
        best = math.inf
        for turn in range(ROUNDS):
            body = {"installId": f"install-{turn}-{count:05}", "budgetMs": 100, **fields}
            target.longest_ms()
            reply = target.http.post("/v1/opens", content=json.encode(body), headers={**_JSON, **headers})
            best = min(best, target.longest_ms())
            if reply.status_code != 200:
                problems.append(f"{text}: {reply.status_code}")
            if best <= LIVE_MAX_MS:
                break
        else:
            problems.append(f"/health/live waited {best:.0f} ms beside {text}, more than {LIVE_MAX_MS:.0f}")
        worst = max(worst, best)
    return DeliveryResult(f"{count} texts at full size", problems, worst)


def _worst_texts() -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Yield the fields and the headers of one open after another."""
    for piece in HARD:
        for field, chars in (("deepLink", 32_000), ("installReferrer", 8_192), ("clipboard", 2_048)):
            start = "https://acme.link/" if field == "deepLink" else "https://x.example/?u="
            size = min(chars, _BODY_BYTES // len(piece.encode()) * len(piece))
            yield {field: (start + piece * chars)[:size]}, {}
        if piece.isascii():
            agent = f"Mozilla/5.0 (Linux; Android 14; {piece * 16_000}"[:16_000].strip()
            hops = f"x{piece * 8_000}"[:8_000].strip()
            yield {"deepLink": _GOOD}, {"User-Agent": agent, "X-Forwarded-For": hops}
    for name in ("budgetMs", "installedAt", "appVersion", "installId"):
        yield {name: "9" * 60_000}, {}


def events(target: Target) -> DeliveryResult:
    """Ask for the events of another app's domain; what is asked of Dub names our own only."""
    foreign = "globex.link"
    queries = [
        f"domain={foreign}",
        f"domain=acme.link,{foreign}",
        f"domain=acme.link&domain={foreign}",
        f"domain={foreign}&domain=acme.link",
        f"domain=-acme.link&domain=-{foreign}",
        "domain=-acme.link",
        f"domain=-{foreign}",
        f"domain=acme.link%2C{foreign}",
        f"domain=acme.link%26domain%3D{foreign}",
        f"dom%61in={foreign}",
        f"domain[]={foreign}",
        f"domains={foreign}",
        f"DOMAIN={foreign}",
        f"domain=acme.link;domain={foreign}",
        f"domain=acme.link%00{foreign}",
        f"domain=acme.link%0d%0aHost: {foreign}",
        "domain=",
        "domain=,",
        "key=x",
        "linkId=link_of_globex",
        f"url=https://{foreign}",
        "workspaceId=other&projectSlug=other",
    ]
    problems = []
    for query in queries:
        reply = _events(target, query)
        if reply.status_code == 200:
            asked = parse_qs(urlsplit(reply.json()[0]["asked"].removeprefix("GET ")).query)
            if asked.get("domain") != ["acme.link"] or {"workspaceId", "projectSlug"} & asked.keys():
                problems.append(f"{query}: Dub was asked {asked}")
        elif reply.status_code not in (400, 403, 422):
            problems.append(f"{query}: {reply.status_code}")
    if target.anybody.get("/events", headers=with_key(KEY)).status_code != 403:
        problems.append("a publishable key may read events")
    return DeliveryResult(f"{len(queries)} ways to read another app's events", problems)


def _events(target: Target, query: str) -> httpx.Response:
    """Ask until this second's analytics calls are not spent."""
    while True:
        reply = target.anybody.get(f"/events?{query}", headers=with_key(SERVER_KEY))
        if reply.status_code != 429:
            return reply
        time.sleep(0.2)


def sandbox_pages(target: Target) -> DeliveryResult:
    """Control the sandbox from a page of another origin, and under another name that leads to it."""
    problems, count = [], 0
    calls = ["clock", "faults", "settings"]
    attacks: list[tuple[str, dict[str, str]]] = [
        ("a page's origin", {"Origin": "https://evil.example", **_JSON}),
        ("an opaque origin", {"Origin": "null", **_JSON}),
        ("the port of another page", {"Origin": "http://127.0.0.1:1", **_JSON}),
        ("plain text", {"Content-Type": "text/plain"}),
        ("a form", {"Content-Type": "application/x-www-form-urlencoded"}),
        ("no type", {}),
        ("a rebound name", {"Host": "evil.example", **_JSON}),
        ("a rebound name with the port", {"Host": f"evil.example:{target.port}", **_JSON}),
        ("a name that begins alike", {"Host": "127.0.0.1.evil.example", **_JSON}),
    ]
    for call in calls:
        method = "PATCH" if call == "settings" else "POST"
        for name, headers in attacks:
            count += 1
            reply = target.anybody.request(
                method, f"/sandbox/{call}", content=b'{"advanceS": 3600}', headers=headers
            )
            if reply.status_code not in (403, 415):
                problems.append(f"{name}: {method} /sandbox/{call} gets {reply.status_code}")
    before = target.anybody.post("/sandbox/clock", json={"advanceS": 1})
    if before.status_code >= 300:
        problems.append(f"the developer's own call gets {before.status_code}")
    return DeliveryResult(f"{count} forged calls", problems)
