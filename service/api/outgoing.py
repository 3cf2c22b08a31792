"""Add CORS and rate-limit headers to every response, count it and time it.

This is Litestar's ``before_send`` hook, which runs for each response: answers, errors, preflights, and 404s
of unknown paths. Litestar's own ``OPTIONS`` handlers answer preflights; they need no key.
"""

from collections.abc import Callable
from typing import Any, cast

from litestar.types import Message, Scope

from service.api.http import CALLER, rate_limit_headers
from service.domain.models import Caller
from service.telemetry import Metrics

_PREFLIGHT_MAX_AGE_S = b"86400"
_READABLE = b"Firstopen-Ignored, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, Retry-After"

Headers = list[tuple[bytes, bytes]]


def _cors(methods: bytes, headers: bytes) -> Headers:
    """Return headers that allow any web page, without cookies: scripts send their key in a header."""
    return [
        (b"access-control-allow-origin", b"*"),
        (b"access-control-allow-methods", methods),
        (b"access-control-allow-headers", headers),
    ]


_OUR_PREFLIGHTS = _cors(b"GET, POST, OPTIONS", b"Content-Type, Authorization, Idempotency-Key")
_OURS = [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", _READABLE)]
_DUBS = _cors(b"POST, OPTIONS", b"Content-Type, Authorization")
_DUBS_EVENTS = _cors(b"GET, OPTIONS", b"Content-Type, Authorization")


class Outgoing:
    """The ``before_send`` hook. ``clock`` is monotonic seconds: a time ends when the response begins."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._requests = metrics.requests
        self._seconds = metrics.request_seconds
        self._clock = clock

    async def __call__(self, message: Message, scope: Scope) -> None:
        """Add the headers to a response before it is sent, and count it."""
        if message["type"] != "http.response.start":
            return
        context = cast("dict[str, Any]", scope)
        is_preflight = context["method"] == "OPTIONS"
        headers = cors_headers(context["path"], is_preflight=is_preflight)
        if is_preflight and headers:
            headers = [*headers, (b"access-control-max-age", _PREFLIGHT_MAX_AGE_S)]
        route, status = context.get("path_template") or "unrouted", str(message["status"])
        method = "any" if route == "unrouted" else context["method"]  # a path's methods are few
        arrived = context.get("arrived")  # in tests, only requests that were authenticated have it
        if arrived is not None:
            self._seconds.labels(route, method, f"{status[0]}xx").observe(self._clock() - arrived)
        headers = self.counted(route, status, context.get(CALLER), headers)
        if headers:
            message["headers"] = [*message["headers"], *headers]

    def timer(self, route: str, method: str) -> Callable[[float], None]:
        """Return the function that records how many seconds a good answer to such a request took."""
        return self._seconds.labels(route, method, "2xx").observe

    def counted(self, route: str, status: str, caller: Caller | None, headers: Headers) -> Headers:
        """Count a response; return the headers, with those of the caller's rate limit."""
        self._requests.add(route, status)
        limit = None if caller is None else caller.rate_limit
        if limit is None or limit.rate_limit_status is None:
            return headers
        limits = rate_limit_headers(limit.rate_limit_status)
        return [*headers, *((name.lower().encode(), value.encode()) for name, value in limits.items())]


def cors_headers(path: str, *, is_preflight: bool) -> Headers:
    """Return the CORS headers of a path; none for paths that are not for web pages.

    Browsers read the allowed methods and headers only in preflights; Dub sends them with every response.
    """
    if path.startswith("/v1/"):
        return _OUR_PREFLIGHTS if is_preflight else _OURS
    if path.startswith("/track/"):
        return _DUBS
    return _DUBS_EVENTS if path.startswith("/events") else []
