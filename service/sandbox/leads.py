"""`POST /track/lead` and `/track/lead/client`: record leads.

What can go wrong: the sandbox is more lenient than Dub, which stores the deduplication key even of a lead
that it answers with 404 (so that a retry gets a 200 and is lost); a `deferred` call reads or stores that key;
a repeat is counted.
"""

from sqlite3 import Row
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, post
from litestar.handlers import HTTPRouteHandler
from litestar.status_codes import HTTP_200_OK

from service.sandbox.clock import DAY_S
from service.sandbox.errors import DubError, unprocessable
from service.sandbox.fields import email, fields_of, metadata, whole
from service.sandbox.limits import Gate
from service.sandbox.links import Link, LinkBook
from service.sandbox.people import CustomerFields, People, add_lead, external_id_of
from service.sandbox.urls import short_link

DEDUPLICATION_S = 7 * DAY_S
EVENT_NAME_MAX_CHARS = 255
QUANTITY_MAX = 100

Name = Annotated[str, msgspec.Meta(max_length=100)]


class LeadFields(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The fields that the bodies of both lead routes share."""

    event_name: str
    customer_name: Name | None = None
    customer_email: str | None = None
    customer_avatar: str | None = None
    mode: Literal["async", "wait", "deferred"] = "async"
    event_quantity: float | None = None
    metadata: dict[str, Any] | None = None


class LeadRequest(LeadFields, frozen=True, kw_only=True, rename="camel"):
    """The body of `/track/lead`; `externalId` and `customerId` are older names of `customerExternalId`."""

    click_id: str | None = None
    customer_external_id: str | None = None
    external_id: str | None = None
    customer_id: str | None = None


class ClientLeadRequest(LeadFields, frozen=True, kw_only=True, rename="camel"):
    """The body of `/track/lead/client`: `clickId` is required, and older field names are unknown."""

    click_id: str
    customer_external_id: str


class Lead(msgspec.Struct, frozen=True):
    """A lead with valid fields."""

    event_name: str
    click_id: str
    customer: CustomerFields
    deferred: bool
    quantity: int
    metadata: str | None


def lead_routes(gate: Gate, people: People, links: LinkBook) -> list[HTTPRouteHandler]:
    """Build the two lead routes: one for servers, one for apps."""
    desk = LeadDesk(people, links)

    @post("/track/lead", status_code=HTTP_200_OK)
    async def track_lead(request: Request[Any, Any, Any]) -> dict[str, Any]:
        """Record a lead that a server reports."""
        workspace = gate.conversions(request)
        report = fields_of(await request.body(), LeadRequest)
        ids = (report.customer_external_id, report.external_id, report.customer_id)
        return desk.track(workspace, _checked(report, report.click_id, *ids))

    @post("/track/lead/client", status_code=HTTP_200_OK)
    async def track_client_lead(request: Request[Any, Any, Any]) -> dict[str, Any]:
        """Record a lead that an app reports."""
        workspace = gate.client_conversions(request)
        report = fields_of(await request.body(), ClientLeadRequest)
        return desk.track(workspace, _checked(report, report.click_id, report.customer_external_id))

    return [track_lead, track_client_lead]


class LeadDesk:
    """Records leads by Dub's rules, with its steps in Dub's order."""

    def __init__(self, people: People, links: LinkBook) -> None:
        self._people = people
        self._links = links

    def track(self, workspace: str, lead: Lead) -> dict[str, Any]:
        """Record a lead; its deduplication key is stored before its click is looked up, as at Dub."""
        customer = self._people.find(workspace, lead.customer.external_id)
        click_id = lead.click_id or (customer.click_id if customer else "")
        if not click_id:
            raise DubError("bad_request", "clickId is empty, and no such customer is known")
        if not lead.deferred and not self._is_first(workspace, lead):
            return _reply(click_id, None, (customer or lead.customer).view())
        click = self._people.click(workspace, click_id)
        link = link_of(self._links, click)
        with self._people.store.transaction():
            customer = customer or self._people.create(workspace, lead.customer, click)
            for _ in range(0 if lead.deferred else lead.quantity):
                add_lead(self._people, customer, click, lead.event_name, lead.metadata)
        return _reply(click_id, link, customer.view())

    def _is_first(self, workspace: str, lead: Lead) -> bool:
        """Store the deduplication key; return True if it was not in use."""
        now = self._people.clock.now_ms()
        event = lead.event_name.lower().replace(" ", "-")
        touched = self._people.store.run(
            "INSERT INTO lead_keys VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET at = excluded.at WHERE at <= ?",
            (workspace, lead.customer.external_id, event, now, now - DEDUPLICATION_S * 1_000),
        )
        return touched == 1


def link_of(links: LinkBook, click: Row) -> Link:
    """Return the link of a click; raises a 404 if it is deleted or disabled."""
    link = links.by_id(click["link_id"])
    if link is None or link.spec.disabled:
        raise DubError("not_found", f"the link of click {click['id']} is deleted or disabled")
    return link


def _checked(report: LeadFields, click_id: str | None, *customer_ids: str | None) -> Lead:
    """Return a lead from a request's fields; raises a 422 if one breaks Dub's limits."""
    event_name = report.event_name.strip()
    if not 1 <= len(event_name) <= EVENT_NAME_MAX_CHARS:
        raise unprocessable(f"eventName: expected 1 to {EVENT_NAME_MAX_CHARS} characters")
    quantity = whole(report.event_quantity, "eventQuantity", 1, QUANTITY_MAX)
    return Lead(
        event_name=event_name,
        click_id=(click_id or "").strip(),
        customer=CustomerFields(
            external_id_of(*customer_ids),
            report.customer_name,
            email(report.customer_email),
            report.customer_avatar,
        ),
        deferred=report.mode == "deferred",
        quantity=1 if quantity is None else quantity,
        metadata=metadata(report.metadata),
    )


def _reply(click_id: str, link: Link | None, customer: dict[str, str | None]) -> dict[str, Any]:
    return {"click": {"id": click_id}, "link": _view(link) if link else None, "customer": customer}


def _view(link: Link) -> dict[str, str | None]:
    spec = link.spec
    return {
        "id": link.id,
        "domain": spec.domain,
        "key": spec.key,
        "shortLink": short_link(spec.domain, spec.key),
        "url": spec.url,
        "partnerId": spec.partner_id,
        "programId": spec.program_id,
        "tenantId": spec.tenant_id,
        "externalId": spec.external_id,
    }
