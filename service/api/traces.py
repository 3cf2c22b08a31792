"""Explain how an open was decided, and decide an open in a dry run. Both need a server key."""

from typing import Annotated

from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody, PathParameter
from msgspec import Meta, Struct, structs

from service.api.auth import Callers
from service.api.fields import FieldReader, ParseLink
from service.api.http import JSONReply, LeanRequest, lenient_body
from service.api.problems import documented
from service.api.schema import CountedOperation
from service.api.wire import OpenRequest
from service.attribution.device_sessions import DeviceSessions
from service.attribution.resolver import Resolver
from service.domain.device_identity import TrustedProxies, normal_ip
from service.domain.errors import InvalidField
from service.domain.match_rules import CandidateTrace
from service.domain.models import Answer, Caller, OpenReport
from service.domain.trace import EvidenceTrace, Trace

IP_MAX_CHARS = 64
USER_AGENT_MAX_CHARS = 2048
SEEN_ADDRESS = "Firstopen-Seen-Address"

_NO_PROXIES = TrustedProxies(())


class DryRunRequest(OpenRequest, frozen=True, gc=False, kw_only=True, rename="camel"):
    """An open to decide in a dry run, with the device's IP address and User-Agent."""

    ip: Annotated[str, Meta(max_length=IP_MAX_CHARS, description="The device's address.")] | None = None
    user_agent: (
        Annotated[str, Meta(max_length=USER_AGENT_MAX_CHARS, description="The device's User-Agent.")] | None
    ) = None

    def to_dry_report(self, caller: Caller, default_budget_ms: int, parse_link: ParseLink) -> OpenReport:
        """Return the report that the device itself would make; raises ``InvalidField`` for a bad ``ip``."""
        read = FieldReader()
        ip = read.text("ip", self.ip, IP_MAX_CHARS)
        normal = None if ip is None else normal_ip(ip)
        if read.ignored or (ip is not None and normal is None):
            raise InvalidField("ip", "expected an IPv4 or IPv6 address")
        user_agent = read.text("userAgent", self.user_agent, USER_AGENT_MAX_CHARS) or ""
        device = structs.replace(
            caller, peer=normal, forwarded_for="", user_agent=user_agent, proxies=_NO_PROXIES
        )
        report = self.to_report(device, default_budget_ms, parse_link)
        return structs.replace(report, ignored=(*report.ignored, *read.ignored))


class TraceReply(Struct, frozen=True, kw_only=True, rename="camel"):
    """How an open was decided: the outcome of each piece of evidence, and every click that was considered."""

    open_id: str | None
    answer: Answer
    evidence: tuple[EvidenceTrace, ...]
    candidates: tuple[CandidateTrace, ...]
    ignored: tuple[str, ...]
    cache: str
    breaker: str
    budget_ms: int
    took_ms: float


class DryRunReply(Struct, frozen=True):
    """The answer that an open would get, and its trace."""

    answer: Answer
    trace: TraceReply


def traces_routes(
    callers: Callers, resolver: Resolver, sessions: DeviceSessions, default_budget_ms: int
) -> list[HTTPRouteHandler]:
    """Build the handlers of traces and dry runs."""

    @get(
        "/v1/opens/{openId:str}/trace",
        before_request=callers.server,
        operation_class=CountedOperation,
        operation_id="getTrace",
        summary="Get the trace of an open",
        security=[{"serverKey": []}],
        responses=documented(400, 401, 403, 404, 429),
        tags=["Opens"],
    )
    async def get_trace(
        request: LeanRequest, open_id: Annotated[str, PathParameter(name="openId")]
    ) -> TraceReply:
        """Return the outcome of each piece of evidence. Traces are kept for the latest opens only."""
        answer, trace = await resolver.trace(request.caller.app, open_id)
        return _reply(answer, trace)

    @post(
        "/v1/opens/dry-run",
        status_code=200,
        before_request=callers.server,
        dto=lenient_body(DryRunRequest),
        return_dto=None,
        operation_class=CountedOperation,
        operation_id="dryRunOpen",
        summary="Decide an open in a dry run",
        security=[{"serverKey": []}],
        responses=documented(400, 401, 403, 413, 415, 422, 429),
        tags=["Opens"],
    )
    async def dry_run(request: LeanRequest, data: JSONBody[DryRunRequest]) -> Response[DryRunReply]:
        """Decide an open without recording or claiming anything, here or at Dub.

        The response header `Firstopen-Seen-Address` has the address that this request came from: behind
        proxies it shows whether they are configured rightly.
        """
        report = data.to_dry_report(request.caller, default_budget_ms, resolver.parse_link)
        report = await sessions.checked(report)
        answer, trace = await resolver.dry_run(report)
        seen = request.caller.ip
        return JSONReply(
            DryRunReply(answer, _reply(answer, trace)), headers={} if seen is None else {SEEN_ADDRESS: seen}
        )

    return [get_trace, dry_run]


def _reply(answer: Answer, trace: Trace) -> TraceReply:
    return TraceReply(
        open_id=trace.open_id,
        answer=answer,
        evidence=trace.evidence,
        candidates=trace.candidates,
        ignored=trace.ignored,
        cache=trace.cache,
        breaker=trace.breaker,
        budget_ms=trace.budget_ms,
        took_ms=trace.took_ms,
    )
