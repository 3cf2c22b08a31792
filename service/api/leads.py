"""``/v1/leads``: report sign-ups and other leads, and ask for their status."""

from typing import Annotated, Any

from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, JSONBody, PathParameter
from msgspec import Meta, structs

from service.api.auth import Callers
from service.api.dub_compat.bodies import LeadFields, is_email
from service.api.http import JSONReply, LeanRequest, strict_body
from service.api.problems import documented
from service.api.schema import CountedOperation
from service.api.wire import required_install_id
from service.attribution.leads import LeadAnswer, LeadReport, Leads, LeadStatus
from service.domain.errors import InvalidField

_ACCEPTED = 202
_IDEMPOTENCY_KEY_MAX_CHARS = 255

IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        description="Names this report, so that it can be repeated safely: the same key and body get the same"
        " lead for 7 days, the same key with another body gets 422.",
    ),
]


class LeadRequest(LeadFields, frozen=True, kw_only=True, rename="camel"):
    """A sign-up. Exactly one of clickId, openId and installId is required: it names the click to credit."""

    customer_external_id: Annotated[
        str, Meta(min_length=1, max_length=100, description="The customer's id in your system.")
    ]
    click_id: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    open_id: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    install_id: (
        Annotated[
            str,
            Meta(
                min_length=8,
                max_length=128,
                description="As the app reports it. A lead of an install that has reported no open yet is"
                " queued, and sent when an open arrives, within 6 days.",
            ),
        ]
        | None
    ) = None

    def to_report(self, idempotency_key: str | None) -> LeadReport:
        """Validate what types cannot express, and return the report; raises ``InvalidField``."""
        given = [name for name in (self.click_id, self.open_id, self.install_id) if name is not None]
        if len(given) != 1:
            problem = "is required (or one of openId and installId)" if not given else "expected only one of"
            raise InvalidField(
                "clickId", problem if not given else f"{problem} clickId, openId and installId"
            )
        install_id = None if self.install_id is None else required_install_id(self.install_id)
        email = (self.customer_email or "").strip()
        ignored = ("customerEmail",) if email and not is_email(email) else ()
        lead = structs.replace(self, customer_email=None if ignored or not email else email)
        body = lead.checked(self.customer_external_id)
        return LeadReport(
            body=body,
            click_id=self.click_id,
            open_id=self.open_id,
            install_id=install_id,
            idempotency_key=_checked_key(idempotency_key),
            ignored=ignored,
        )


def leads_routes(callers: Callers, leads: Leads, budget_ms: int) -> list[HTTPRouteHandler]:
    """Build the handlers of ``/v1/leads``."""

    @post(
        "/v1/leads",
        status_code=200,
        before_request=callers.leads,
        dto=strict_body(LeadRequest),
        return_dto=None,
        operation_class=CountedOperation,
        operation_id="reportLead",
        summary="Report a sign-up",
        security=[{"publishableKey": []}, {"serverKey": []}],
        responses={**_accepted(), **documented(400, 401, 403, 404, 413, 415, 422, 429, 503)},
        tags=["Leads"],
    )
    async def report_lead(
        request: LeanRequest, data: JSONBody[LeadRequest], idempotency_key: IdempotencyKey = None
    ) -> Response[LeadAnswer]:
        """Credit a sign-up to a click. It is stored first: 200 if Dub has accepted it already, else 202.

        A report with the same `customerExternalId` and `eventName` within 7 days is a repeat: the answer has
        only the `leadId` of the first report and its present status. A lead that became a dead letter may be
        reported again.

        A `customerEmail` that Dub would refuse is dropped and named in the header `Firstopen-Ignored`; the
        lead is still accepted.

        A publishable key is allowed only if the app's settings have `leads = "client"`.
        """
        report = data.to_report(idempotency_key)
        answer = await leads.report(request.caller.app, report, budget_ms / 1000)
        reply = JSONReply(answer, status_code=_ACCEPTED if answer.status == "queued" else None)
        if report.ignored:
            reply.headers["Firstopen-Ignored"] = ", ".join(report.ignored)
        return reply

    @get(
        "/v1/leads/{leadId:str}",
        before_request=callers.leads,
        operation_class=CountedOperation,
        operation_id="getLead",
        summary="Get the status of a lead",
        security=[{"publishableKey": []}, {"serverKey": []}],
        responses=documented(400, 401, 403, 404, 429, 503),
        tags=["Leads"],
    )
    async def get_lead(
        request: LeanRequest, lead_id: Annotated[str, PathParameter(name="leadId")]
    ) -> LeadStatus:
        """Return whether a lead is queued, delivered or dead, and why."""
        return await leads.status(request.caller.app, lead_id)

    return [report_lead, get_lead]


def _checked_key(key: str | None) -> str | None:
    """Return an Idempotency-Key, or None if it is blank; raises ``InvalidField`` if it is too long."""
    key = (key or "").strip()
    if len(key) > _IDEMPOTENCY_KEY_MAX_CHARS:
        raise InvalidField("Idempotency-Key", f"expected at most {_IDEMPOTENCY_KEY_MAX_CHARS} characters")
    return key or None


def _accepted() -> dict[int, Any]:
    return {
        _ACCEPTED: ResponseSpec(
            LeadAnswer, generate_examples=False, description="Stored; it will be sent to Dub."
        )
    }
