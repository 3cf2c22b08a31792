"""``/v1/opens``: report that an app was opened, and get the screen to show and the click to credit."""

from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import JSONBody, PathParameter

from service.api.auth import Callers
from service.api.direct import Direct, unless_failed
from service.api.http import JSONReply, LeanRequest, lenient_body
from service.api.outgoing import Outgoing
from service.api.problems import documented
from service.api.schema import CountedOperation, OpenOperation
from service.api.wire import EXAMPLE_ANSWER, OpenRequest
from service.attribution.device_sessions import DeviceSessions
from service.attribution.resolver import Resolver
from service.domain.models import Answer, Caller
from service.telemetry import Metrics

PATH = "/v1/opens"

AnswerOpen = Callable[[Caller, OpenRequest], Awaitable[JSONReply]]

_BODY = lenient_body(OpenRequest)


def answering_opens(
    resolver: Resolver, sessions: DeviceSessions, default_budget_ms: int, metrics: Metrics
) -> AnswerOpen:
    """Return the function that answers a reported open."""

    async def answer_open(caller: Caller, data: OpenRequest) -> JSONReply:
        report = data.to_report(caller, default_budget_ms, resolver.parse_link)
        if report.test_device is not None:
            report = await sessions.checked(report)
        answer = await resolver.resolve(report)
        if report.test_device is not None:
            sessions.answered(report, answer)
        reply = JSONReply(answer)
        if report.ignored:
            reply.headers["Firstopen-Ignored"] = ", ".join(report.ignored)
            for field in report.ignored:
                metrics.ignored_fields.add(field)
        return reply

    return answer_open


def direct_opens(
    answer_open: AnswerOpen, callers: Callers, clock: Callable[[], float], outgoing: Outgoing
) -> Direct:
    """Return what answers most reports of opens, in place of Litestar."""
    return Direct(PATH, answer_open, callers=callers, decode=_BODY.decode, clock=clock, outgoing=outgoing)


def opens_routes(callers: Callers, resolver: Resolver, answer_open: AnswerOpen) -> list[HTTPRouteHandler]:
    """Build the handlers of ``/v1/opens``."""

    @post(
        PATH,
        status_code=200,
        before_request=unless_failed(callers.publishable_uncounted),
        dto=_BODY,
        return_dto=None,
        operation_class=OpenOperation,
        operation_id="reportOpen",
        summary="Report an app open",
        security=[{"publishableKey": []}],
        responses={**_answered(), **documented(400, 401, 403, 413, 415, 429)},
        tags=["Opens"],
    )
    async def report_open(request: LeanRequest, data: JSONBody[OpenRequest]) -> Response[Answer]:
        """Return the screen to show and the click to credit."""
        return await answer_open(request.caller, data)

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

    return [report_open, get_open]


def _answered() -> dict[int, ResponseSpec]:
    """Describe an answer in the OpenAPI document, with an example."""
    example = Example(value=msgspec.to_builtins(EXAMPLE_ANSWER))
    return {
        200: ResponseSpec(
            Answer, generate_examples=False, description="The screen to show, and why.", examples=[example]
        )
    }
