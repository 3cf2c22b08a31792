"""``/v1/opens``: report that an app was opened, and get the screen to show and the click to credit."""

from typing import Annotated

import msgspec
from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import JSONBody, PathParameter

from service.api.auth import Callers
from service.api.direct import direct
from service.api.http import JSONReply, LeanRequest, lenient_body
from service.api.problems import documented
from service.api.schema import CountedOperation, OpenOperation
from service.api.wire import EXAMPLE_ANSWER, OpenRequest
from service.attribution.resolver import Resolver
from service.domain.models import Answer
from service.telemetry import Metrics


def opens_routes(
    callers: Callers,
    resolver: Resolver,
    default_budget_ms: int,
    metrics: Metrics,
    request_class: type[LeanRequest],
) -> list[HTTPRouteHandler]:
    """Build the handlers of ``/v1/opens``."""
    body = lenient_body(OpenRequest)

    async def report_open(request: LeanRequest, data: JSONBody[OpenRequest]) -> Response[Answer]:
        """Return the screen to show and the click to credit."""
        report = data.to_report(request.caller, default_budget_ms, resolver.parse_link)
        reply = JSONReply(await resolver.resolve(report))
        if report.ignored:
            reply.headers["Firstopen-Ignored"] = ", ".join(report.ignored)
            for field in report.ignored:
                metrics.ignored_fields.add(field)
        return reply

    @get(
        "/v1/opens/{openId:str}",
        before_request=callers.publishable,
        operation_class=CountedOperation,
        operation_id="getOpen",
        summary="Get an open's answer again",
        security=[{"publishableKey": []}],
        responses={**_answered(), **documented(400, 401, 404, 429)},
        tags=["Opens"],
    )
    async def get_open(request: LeanRequest, open_id: Annotated[str, PathParameter(name="openId")]) -> Answer:
        """Return the present answer of an earlier open. A pending open may have a ``clickId`` by now."""
        return await resolver.recall(request.caller.app, open_id)

    documented_post = post(
        "/v1/opens",
        status_code=200,
        before_request=callers.publishable_uncounted,
        dto=body,
        return_dto=None,
        middleware=[
            direct(
                report_open,
                request_class=request_class,
                before_request=callers.publishable_uncounted,
                decode=body.decode,
            )
        ],
        operation_class=OpenOperation,
        operation_id="reportOpen",
        summary="Report an app open",
        security=[{"publishableKey": []}],
        responses={**_answered(), **documented(400, 401, 403, 413, 415, 429)},
        tags=["Opens"],
    )
    return [documented_post(report_open), get_open]


def _answered() -> dict[int, ResponseSpec]:
    """Describe an answer in the OpenAPI document, with an example."""
    example = Example(value=msgspec.to_builtins(EXAMPLE_ANSWER))
    return {
        200: ResponseSpec(
            Answer, generate_examples=False, description="The screen to show, and why.", examples=[example]
        )
    }
