"""Errors in Dub's shape.

Every failure of the sandbox is a `DubError`, and only `as_reply` converts it to bytes, so that a fault, a
missing route and a refused field look the same to a client. Codes are Dub's, except `method_not_allowed` and
`payload_too_large`, which Dub leaves to its host, and `unsupported_media_type`, which only the control routes
use.
"""

import logging
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException

from service.sandbox.web import Headers, Reply, json_reply

STATUS_OF = {
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "exceeded_limit": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "invite_expired": 410,
    "payload_too_large": 413,
    "unsupported_media_type": 415,
    "unprocessable_entity": 422,
    "rate_limit_exceeded": 429,
    "internal_server_error": 500,
}
CODE_OF = {status: code for code, status in STATUS_OF.items() if code != "exceeded_limit"}
_log = logging.getLogger(__name__)
DOCS = "https://dub.co/docs/api-reference/errors#"


class DubError(Exception):
    """An error as Dub answers it: one of the codes of `STATUS_OF`, and a message for people."""

    def __init__(self, code: str, message: str, headers: Headers = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.headers = headers
        self.status = STATUS_OF[code]

    def as_reply(self) -> Reply:
        """Return the error as an HTTP answer."""
        return error_reply(self.status, self.code, self.message, self.headers)


def unprocessable(message: str) -> DubError:
    """Return the 422 error of an invalid field."""
    return DubError("unprocessable_entity", message)


def error_reply(status: int, code: str, message: str, headers: Headers = ()) -> Reply:
    """Return an answer in Dub's error shape; in `doc_url`, only the first `_` becomes `-`, as at Dub."""
    doc_url = DOCS + code.replace("_", "-", 1)
    body = {"error": {"code": code, "message": message, "doc_url": doc_url}}
    return json_reply(status, body, headers)


def code_of(status: int) -> str:
    """Return the error code of a status; a general one if Dub has none for it."""
    fallback = "internal_server_error" if status >= STATUS_OF["internal_server_error"] else "bad_request"
    return CODE_OF.get(status, fallback)


def on_error(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer any exception of a handler, Litestar's own 404 and 405 included, in Dub's shape."""
    if isinstance(error, DubError):
        reply = error.as_reply()
    elif isinstance(error, HTTPException):
        reply = error_reply(error.status_code, code_of(error.status_code), error.detail)
    else:
        _log.error("sandbox.failed", exc_info=error)
        reply = error_reply(500, "internal_server_error", f"the sandbox failed: {type(error).__name__}")
    headers = {name.decode(): value.decode() for name, value in reply.headers}
    return Response(content=reply.body, status_code=reply.status, headers=headers)
