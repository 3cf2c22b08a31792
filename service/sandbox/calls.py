"""Record the calls to the sandbox, for tests to read.

The last 10,000 calls are recorded, without secrets: instead of `Authorization`, a call has the first twelve
characters of the key's SHA-256, which show which key was sent, if any.
"""

import hashlib
from collections import deque
from typing import Any

import msgspec
from litestar.types import Scope

from service.sandbox.clock import SandboxClock, iso
from service.sandbox.web import host_of, method_of

CALLS_MAX = 10_000
FINGERPRINT_CHARS = 12
_SECRET_HEADERS = frozenset({b"authorization", b"proxy-authorization", b"cookie", b"x-api-key"})


class Call(msgspec.Struct):
    """One request as it was received; `status` is None until an answer has begun."""

    at_ms: int
    method: str
    host: str
    path: str
    query: str
    headers: list[tuple[bytes, bytes]]
    body: bytes
    fault: str | None = None
    status: int | None = None

    def view(self) -> dict[str, Any]:
        """Return the call as JSON data for a test."""
        key = dict(self.headers).get(b"authorization", b"").removeprefix(b"Bearer ")
        return {
            "at": iso(self.at_ms),
            "method": self.method,
            "host": self.host,
            "path": self.path,
            "query": self.query,
            "headers": {
                name.decode("latin-1"): value.decode("latin-1")
                for name, value in self.headers
                if name not in _SECRET_HEADERS
            },
            "keySha256": hashlib.sha256(key).hexdigest()[:FINGERPRINT_CHARS] if key else None,
            "body": _readable(self.body),
            "status": self.status,
            "fault": self.fault,
        }


class CallLog:
    """The recorded calls, oldest first."""

    def __init__(self, clock: SandboxClock) -> None:
        self._clock = clock
        self._calls: deque[Call] = deque(maxlen=CALLS_MAX)

    def begin(self, scope: Scope, body: bytes) -> Call:
        """Record a call when it arrives, so that unanswered calls are recorded too."""
        query = scope["query_string"].decode("latin-1")
        headers = list(scope["headers"])
        call = Call(
            self._clock.now_ms(), method_of(scope), host_of(scope), scope["path"], query, headers, body
        )
        self._calls.append(call)
        return call

    def matching(self, path: str | None = None, method: str | None = None) -> list[dict[str, Any]]:
        """Return the calls with this path and method; None matches any."""
        return [
            call.view() for call in self._calls if path in {None, call.path} and method in {None, call.method}
        ]

    def clear(self) -> int:
        """Delete all recorded calls; return how many there were."""
        count = len(self._calls)
        self._calls.clear()
        return count


def _readable(body: bytes) -> Any:
    """Return a body parsed as JSON, or else as text; None if it is empty."""
    if not body:
        return None
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return body.decode("utf-8", "replace")
