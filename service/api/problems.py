"""Map errors to HTTP statuses and codes, and build error responses in Dub's format."""

import math
from typing import Any, cast

import msgspec
from litestar import Request
from litestar.exceptions import HTTPException
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.types import Scope

from service.api.http import CALLER, JSONReply, rate_limit_headers
from service.api.wire import Problem, ProblemDetail
from service.domain.errors import (
    BodyTooLarge,
    CallerError,
    CompatLinkNotFound,
    DubRefused,
    DubThrottled,
    FirstopenError,
    ForeignDomain,
    InvalidField,
    LinkUnavailable,
    MalformedBody,
    MissingKey,
    NotConfigured,
    NotFound,
    OverBudget,
    QuotaUsedUp,
    RateLimited,
    StoreFailed,
    TooManySessions,
    TooManyWaiting,
    TooManyWatchers,
    UnsupportedBody,
    WrongKey,
    WrongKind,
)
from service.domain.models import Caller
from service.telemetry import Event, Log, where

STATUS_OF: dict[type[CallerError], int] = {
    MalformedBody: 400,
    BodyTooLarge: 413,
    UnsupportedBody: 415,
    InvalidField: 422,
    MissingKey: 401,
    WrongKey: 401,
    ForeignDomain: 403,
    WrongKind: 403,
    CompatLinkNotFound: 404,
    OverBudget: 429,
    TooManyWaiting: 429,
    TooManySessions: 429,
    TooManyWatchers: 429,
    QuotaUsedUp: 429,
    RateLimited: 429,
    NotFound: 404,
}

CODE_OF = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "payload_too_large",
    415: "unsupported_media_type",
    422: "unprocessable_entity",
    429: "rate_limit_exceeded",
    500: "internal_server_error",
    503: "service_unavailable",
}

_EXAMPLES = {
    400: (
        "The body is not JSON, or is nested too deeply.",
        "body: is not JSON: JSON is malformed: invalid character (byte 0)",
    ),
    401: ("The key is missing, or belongs to no app.", "Authorization: no app has this publishable key"),
    403: ("Not allowed for this app or key.", "dubDomain: is not one of this app's domains"),
    404: ("This app has no such record.", "openId: this app has no such open, or it was deleted"),
    409: ("Another link has this key.", "Duplicate key: this short link already exists."),
    413: ("The body is over 64 KiB.", "body: must be at most 65536 bytes"),
    415: ("The body is not sent as JSON.", "Content-Type: expected application/json"),
    429: ("Too many calls, here or at Dub.", "rate limit: 20 requests per second from this address"),
    422: ("A field is missing or out of bounds.", "customerExternalId: expected text of 1 to 100 characters"),
    503: ("The service is not available.", "the service is stopping: send no new requests"),
}

REFUSED = "firstopen.refused"  # key in a request's scope: the ``RateLimited`` to answer a failed request with

_DOCS = "https://dub.co/docs/api-reference/errors#"
_OURS = 500
_KEY_REFUSED = 401


def problem(status: int, message: str) -> Problem:
    """Build an error body; ``doc_url`` has Dub's format (the code, with its first ``_`` as ``-``)."""
    code = CODE_OF[status]
    return Problem(ProblemDetail(code, message, _doc_url(code)))


def problem_reply(status: int, message: str, headers: dict[str, str] | None = None) -> JSONReply:
    """Build an error response."""
    return JSONReply(problem(status, message), status_code=status, headers=headers)


def _doc_url(code: str) -> str:
    return _DOCS + code.replace("_", "-", 1)


def _retry_after(seconds: float) -> dict[str, str]:
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def _headers(exc: CallerError) -> dict[str, str] | None:
    match exc:
        case RateLimited(rate_limit_status=rate_limit_status):
            return {**_retry_after(rate_limit_status.reset_s), **rate_limit_headers(rate_limit_status)}
        case OverBudget() | TooManyWaiting() | TooManyWatchers() | QuotaUsedUp():
            return _retry_after(exc.retry_after_s)
    return None


def documented(*statuses: int) -> dict[int, ResponseSpec]:
    """Return OpenAPI descriptions of these error statuses, each with an example."""
    return {
        status: ResponseSpec(
            Problem,
            generate_examples=False,
            description=_EXAMPLES[status][0],
            examples=[Example(value=msgspec.to_builtins(problem(status, _EXAMPLES[status][1])))],
        )
        for status in statuses
    }


async def count_failed(exc: Exception, scope: Scope) -> None:
    """Count a request that failed before it was counted, such as one with an unreadable body.

    This is Litestar's ``after_exception`` hook. If the rate limit is exceeded, the answer is a 429 instead.
    """
    context = cast("dict[str, Any]", scope)
    caller: Caller | None = context.get(CALLER)
    if isinstance(exc, RateLimited) or caller is None or caller.rate_limit is None:
        return
    if caller.rate_limit.rate_limit_status is None:
        try:
            await caller.check_rate_limit()
        except RateLimited as limited:
            context[REFUSED] = limited


class Problems:
    """The exception handler of the whole app. Bugs are logged."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def __call__(self, request: Request[Any, Any, Any], exc: Exception) -> JSONReply:
        """Return an error response in Dub's format. Litestar's messages are replaced by our own."""
        exc = cast("dict[str, Any]", request.scope).get(REFUSED, exc)
        if isinstance(exc, CallerError):
            return problem_reply(STATUS_OF[type(exc)], str(exc), _headers(exc))
        if isinstance(exc, FirstopenError):
            return self._upstream(exc)
        if isinstance(exc, HTTPException) and exc.status_code < _OURS:
            return self._litestars(request, exc)
        self._log.error(
            Event.REQUEST_FAILED, path=_template(request), error=type(exc).__name__, where=where(exc)
        )
        return problem_reply(500, "internal error; see the log of firstopen")

    def _upstream(self, exc: FirstopenError) -> JSONReply:
        """Return the response for an error from Dub or the database, for a lead, a sale or events."""
        match exc:
            case DubRefused(status=status) if status != _KEY_REFUSED:
                return JSONReply(
                    Problem(ProblemDetail(exc.code, exc.message, _doc_url(exc.code))), status_code=status
                )
            case DubThrottled():
                return problem_reply(429, "Dub's rate limit is reached", _retry_after(exc.retry_after_s))
            case LinkUnavailable():
                message = "the link is not created yet; ask for it again"
                return problem_reply(503, message, _retry_after(exc.retry_after_s))
            case DubRefused():
                message = "Dub refuses this app's Dub API key"
            case NotConfigured():
                message = "this app has no Dub API key"
            case StoreFailed():
                message = "the database is not available: nothing was accepted"
            case _:
                message = "Dub cannot be reached"
        self._log.warning(Event.UPSTREAM_FAILED, error=type(exc).__name__, detail=str(exc))
        return problem_reply(503, message)

    def _litestars(self, request: Request[Any, Any, Any], exc: HTTPException) -> JSONReply:
        status = exc.status_code
        match status:
            case 404:
                return problem_reply(404, "this path does not exist")
            case 405:
                allow = ", ".join(sorted((exc.headers or {}).get("allow", "").split(", ")))
                return problem_reply(405, f"this path does not accept {request.method}", {"Allow": allow})
            case 413:
                return problem_reply(413, "body: is too large")
            case 400 if "host" in exc.detail.lower():
                return problem_reply(400, "Host: is not a host name")
            case _ if status in CODE_OF:
                return problem_reply(status, "the request could not be read")
        return problem_reply(400, "the request could not be read")


def _template(request: Request[Any, Any, Any]) -> str:
    """Return the route's template, which contains no values of the caller."""
    return str(request.scope.get("path_template") or "unrouted")
