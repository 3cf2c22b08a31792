"""The faults of the matrix: what goes wrong, at which point, and whether Dub had done its work."""

import json
import time
from collections.abc import Callable
from email.utils import formatdate

from tests.durability.faulty import Fault

HTML = b"<!doctype html><title>Bad gateway</title><h1>Bad gateway</h1>"
BIG = b'{"clickId": "x", "link": null, "padding": "' + b"x" * 2_000_000 + b'"}'
WAIT_S = 0.4
AS_HTML = "Content-Type: text/html\r\n"
AS_JSON = "Content-Type: application/json\r\n"

Answer = Callable[[bytes], tuple[int, str, bytes]]


def _error(status: int, code: str, headers: Callable[[], str] = str) -> Answer:
    body = json.dumps({"error": {"code": code, "message": "no", "doc_url": "https://dub.co"}}).encode()
    return lambda _: (status, AS_JSON + headers(), body)


def _body(body: bytes, headers: str = AS_JSON) -> Answer:
    return lambda _: (200, headers, body)


def _throttled(form: Callable[[], str]) -> Answer:
    return _error(429, "rate_limit_exceeded", lambda: f"Retry-After: {form()}\r\n")


def _wrong_types(asked: bytes) -> tuple[int, str, bytes]:
    """Answer with Dub's fields and types that are not its."""
    if b"deepLink" in asked:
        return 200, AS_JSON, b'{"clickId": 3, "link": {"id": 1, "domain": [], "key": null, "url": {}}}'
    if b"amount" in asked:
        return 200, AS_JSON, b'{"eventName": 1, "customer": "anna", "sale": []}'
    return 200, AS_JSON, b'{"click": "x", "link": [], "customer": "anna"}'


ANSWERS: dict[str, Answer] = {
    "500": _error(500, "internal_server_error"),
    "503": _error(503, "service_unavailable"),
    "HTML instead of JSON": _body(HTML, AS_HTML),
    "truncated JSON": _body(b'{"clickId": "x", "li'),
    "wrong types": _wrong_types,
    "a 2 MB body": _body(BIG),
}
THROTTLES: dict[str, Answer] = {
    "429 in Unix ms": _throttled(lambda: f"{(time.time() + WAIT_S) * 1000:.0f}"),
    "429 in Unix ms gone by": _throttled(lambda: f"{(time.time() - 60) * 1000:.0f}"),
    "429 in seconds": _throttled(lambda: "1"),
    "429 with a date": _throttled(lambda: formatdate(time.time() + 1, usegmt=True)),
    "429 with garbage": _throttled(lambda: "soon, perhaps"),
    "429 without a time": _error(429, "rate_limit_exceeded"),
}

FAULTS = [
    Fault("refuse", "before connect", "refuse"),
    Fault("reset", "before connect", "reset"),
    Fault("reset", "before headers", "reset"),
    Fault("reset", "before headers", "reset", handled=True),
    Fault("reset", "mid-body", "reset", handled=True),
    Fault("stall", "before connect", "stall"),
    Fault("stall", "before headers", "stall"),
    Fault("stall", "before headers", "stall", handled=True),
    Fault("stall", "mid-body", "stall", handled=True),
    Fault("slow trickle", "before headers", "trickle", handled=True),
    Fault("slow trickle", "mid-body", "trickle", handled=True),
    Fault("cut off", "before headers", "end"),
    Fault("cut off", "mid-body", "end", handled=True),
    *(Fault(name, "before headers", answer=answer) for name, answer in {**ANSWERS, **THROTTLES}.items()),
    *(Fault(name, "mid-body", handled=True, answer=answer) for name, answer in ANSWERS.items()),
    Fault("TLS: a certificate of somebody else's", "before connect", "untrusted"),
    Fault("TLS: none", "before connect", "plain text"),
    Fault("TLS: stalled", "before connect", "stall"),
]
