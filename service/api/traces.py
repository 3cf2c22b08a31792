"""Why an open was answered as it was, and how one would be: for a backend engineer, with a server key."""

from typing import Annotated

from litestar import get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody, PathParameter
from msgspec import Meta, Struct, structs

from service.api.auth import Callers
from service.api.http import LeanRequest, strict_body
from service.api.problems import documented
from service.api.schema import CountedOperation
from service.api.wire import OpenRequest
from service.resolve.errors import InvalidField
from service.resolve.identity import TrustedProxies, normal_ip
from service.resolve.model import Answer, Caller, OpenReport
from service.resolve.resolver import Resolver
from service.resolve.trace import CandidateTrace, RungTrace, Trace

_NO_PROXIES = TrustedProxies(())


class DryRunRequest(OpenRequest, frozen=True, gc=False, kw_only=True, rename="camel"):
    """An open as it might be reported, and from where. Nothing is recorded or claimed, here or at Dub."""

    ip: Annotated[str, Meta(max_length=64, description="The device's address.")] | None = None
    user_agent: Annotated[str, Meta(max_length=2048, description="The device's User-Agent.")] | None = None

    def to_dry_report(self, caller: Caller, default_budget_ms: int) -> OpenReport:
        """Check and hand over, as if the device itself had asked; raises ``InvalidField``."""
        ip = None if self.ip is None else normal_ip(self.ip)
        if self.ip is not None and ip is None:
            raise InvalidField("ip", "expected an IPv4 or IPv6 address")
        device = structs.replace(
            caller, peer=ip, forwarded_for="", user_agent=self.user_agent or "", proxies=_NO_PROXIES
        )
        return self.to_report(device, default_budget_ms)


class TraceReply(Struct, frozen=True, kw_only=True, rename="camel"):
    """How an open came to its answer: what each rung of evidence said, and every click that was looked at."""

    open_id: str | None
    answer: Answer
    rungs: tuple[RungTrace, ...]
    candidates: tuple[CandidateTrace, ...]
    cache: str
    breaker: str
    budget_ms: int
    took_ms: float


class DryRunReply(Struct, frozen=True):
    """What an open would be answered, and why."""

    answer: Answer
    trace: TraceReply


def traces_routes(callers: Callers, resolver: Resolver, default_budget_ms: int) -> list[HTTPRouteHandler]:
    """Build the handlers over the parts they need."""

    @get(
        "/v1/opens/{openId:str}/trace",
        before_request=callers.server,
        operation_class=CountedOperation,
        operation_id="getTrace",
        summary="Ask why an open was answered as it was",
        security=[{"serverKey": []}],
        responses=documented(401, 403, 404, 429),
        tags=["Opens"],
    )
    async def get_trace(
        request: LeanRequest, open_id: Annotated[str, PathParameter(name="openId")]
    ) -> TraceReply:
        """Say what each piece of evidence said; remembered for the latest opens."""
        answer, trace = await resolver.trace(request.caller.app, open_id)
        return _reply(answer, trace)

    @post(
        "/v1/opens/dry-run",
        status_code=200,
        before_request=callers.server,
        dto=strict_body(DryRunRequest),
        return_dto=None,
        operation_class=CountedOperation,
        operation_id="dryRunOpen",
        summary="Ask how an open would be answered",
        security=[{"serverKey": []}],
        responses=documented(400, 401, 403, 413, 415, 422, 429),
        tags=["Opens"],
    )
    async def dry_run(request: LeanRequest, data: JSONBody[DryRunRequest]) -> DryRunReply:
        """Decide an open without recording or claiming anything, here or at Dub."""
        report = data.to_dry_report(request.caller, default_budget_ms)
        answer, trace = await resolver.dry_run(report)
        return DryRunReply(answer, _reply(answer, trace))

    return [get_trace, dry_run]


def _reply(answer: Answer, trace: Trace) -> TraceReply:
    return TraceReply(
        open_id=trace.open_id,
        answer=answer,
        rungs=trace.rungs,
        candidates=trace.candidates,
        cache=trace.cache,
        breaker=trace.breaker,
        budget_ms=trace.budget_ms,
        took_ms=trace.took_ms,
    )
