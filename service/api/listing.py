"""``GET /v1/opens``: list opens in time order, page by page, for a backend that exports them."""

from typing import Annotated

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter

from service.api.auth import Callers
from service.api.http import LeanRequest
from service.api.problems import documented
from service.api.schema import CountedOperation
from service.domain.errors import InvalidField
from service.domain.open_listing import LIMIT_MAX, OpenPage, Position, read_cursor, read_moment_ms
from service.domain.ports import OpenPages

_LIMIT = 100

Since = Annotated[
    str | None,
    QueryParameter(
        name="since",
        description="Only opens from this time on: RFC 3339, a date (in UTC), or Unix seconds.",
        schema_extra={"examples": ["2026-11-01", "2026-11-01T09:30:00Z", "1793525400"]},
    ),
]
After = Annotated[
    str | None,
    QueryParameter(name="after", description="The `next` of an earlier answer, to continue after it."),
]
Limit = Annotated[
    str | None,
    QueryParameter(
        name="limit",
        description="The maximum number of opens in the answer.",
        schema_extra={"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": _LIMIT},
    ),
]


def listing_routes(callers: Callers, pages: OpenPages) -> list[HTTPRouteHandler]:
    """Build the handler of ``GET /v1/opens``."""

    @get(
        "/v1/opens",
        before_request=callers.server,
        operation_class=CountedOperation,
        operation_id="listOpens",
        summary="List opens, for export",
        security=[{"serverKey": []}],
        responses=documented(400, 401, 403, 422, 429, 503),
        tags=["Opens"],
    )
    async def list_opens(
        request: LeanRequest, since: Since = None, after: After = None, limit: Limit = None
    ) -> OpenPage:
        """Return the app's opens in time order, without personal data.

        Send `since` in the first request, then `after` with each answer's `next`, while `hasMore` is true.
        Keep the last `next` to continue at any later time. Opens of the last 5 seconds are not listed yet, so
        that no page skips an open that is still being written.

        The answer of a `pending` open may change later (see `updatedAt`), within seven days at most.
        """
        start = max(_since(since), _after(after))
        return await pages.page(request.caller.app.name, start, _limit(limit))

    return [list_opens]


def _since(text: str | None) -> Position:
    if text is None:
        return Position(0)
    at_ms = read_moment_ms(text)
    if at_ms is None:
        raise InvalidField("since", "expected RFC 3339, a date such as 2026-11-01, or Unix seconds")
    return Position(at_ms)


def _after(text: str | None) -> Position:
    if text is None:
        return Position(0)
    position = read_cursor(text)
    if position is None:
        raise InvalidField("after", "expected the `next` of an earlier answer")
    return position


def _limit(text: str | None) -> int:
    if text is None:
        return _LIMIT
    digits = text.strip()
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= len(str(LIMIT_MAX))):
        raise InvalidField("limit", f"expected an integer from 1 to {LIMIT_MAX}")
    if not 1 <= int(digits) <= LIMIT_MAX:
        raise InvalidField("limit", f"expected an integer from 1 to {LIMIT_MAX}")
    return int(digits)
