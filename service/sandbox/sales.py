"""`POST /track/sale` and `/track/sale/client`: record sales.

What can go wrong: a repeat without an `invoiceId` is ignored (Dub counts it again); a repeat with one is
counted, or answered with nulls (Dub repeats its first answer); a sale of $0, or of an unknown customer, is
answered with an error (Dub answers 200 with nulls and records nothing).
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
from service.sandbox.leads import EVENT_NAME_MAX_CHARS, Name, link_of
from service.sandbox.limits import Gate
from service.sandbox.links import LinkBook, random_text
from service.sandbox.people import Customer, CustomerFields, People, add_lead, external_id_of

INVOICE_S = 7 * DAY_S
DIRECT_LEAD = "Sign up"  # default name of the lead event of a direct sale
# US cents for one cent (or yen): invented fixed rates, so that tests can rely on them.
# Amounts in any other currency count as dollars.
US_CENTS = {"eur": 1.1, "gbp": 1.25, "jpy": 0.75}

Processor = Literal["stripe", "shopify", "polar", "paddle", "apple", "revenuecat", "dub", "custom"]


class SaleFields(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The fields that the bodies of both sale routes share; `amount` is in cents."""

    amount: float
    currency: Annotated[str, msgspec.Meta(pattern="^[A-Za-z]{3}$")] = "usd"
    event_name: Annotated[str, msgspec.Meta(max_length=EVENT_NAME_MAX_CHARS)] = "Purchase"
    payment_processor: Processor = "custom"
    invoice_id: str | None = None
    metadata: dict[str, Any] | None = None
    lead_event_name: str | None = None
    click_id: str | None = None
    customer_name: Name | None = None
    customer_email: str | None = None
    customer_avatar: str | None = None


class SaleRequest(SaleFields, frozen=True, kw_only=True, rename="camel"):
    """The body of `/track/sale`; `externalId` and `customerId` are older names of `customerExternalId`."""

    customer_external_id: str | None = None
    external_id: str | None = None
    customer_id: str | None = None


class ClientSaleRequest(SaleFields, frozen=True, kw_only=True, rename="camel"):
    """The body of `/track/sale/client`, where older field names are unknown."""

    customer_external_id: str


class Sale(msgspec.Struct, frozen=True):
    """A sale with valid fields; `amount` is in US cents."""

    request: SaleFields
    customer: CustomerFields
    amount: int
    metadata: str | None


def sale_routes(gate: Gate, people: People, links: LinkBook) -> list[HTTPRouteHandler]:
    """Build the two sale routes: one for servers, one for apps."""
    desk = SaleDesk(people, links)

    @post("/track/sale", status_code=HTTP_200_OK)
    async def track_sale(request: Request[Any, Any, Any]) -> dict[str, Any]:
        """Record a sale that a server reports."""
        workspace = gate.conversions(request)
        report = fields_of(await request.body(), SaleRequest)
        ids = (report.customer_external_id, report.external_id, report.customer_id)
        return desk.track(workspace, _checked(report, *ids))

    @post("/track/sale/client", status_code=HTTP_200_OK)
    async def track_client_sale(request: Request[Any, Any, Any]) -> dict[str, Any]:
        """Record a sale that an app reports."""
        workspace = gate.client_conversions(request)
        report = fields_of(await request.body(), ClientSaleRequest)
        return desk.track(workspace, _checked(report, report.customer_external_id))

    return [track_sale, track_client_sale]


class SaleDesk:
    """Records sales by Dub's rules."""

    def __init__(self, people: People, links: LinkBook) -> None:
        self._people = people
        self._links = links
        self._store = people.store

    def track(self, workspace: str, sale: Sale) -> dict[str, Any]:
        """Record a sale, unless it is of $0, repeats an invoice, or has neither a customer nor a click."""
        request = sale.request
        nothing = {"eventName": request.event_name, "customer": None, "sale": None}
        if sale.amount <= 0:
            return nothing
        first_answer = self._first_answer(workspace, request.invoice_id)
        if first_answer is not None:
            return first_answer
        customer = self._people.find(workspace, sale.customer.external_id)
        if customer is None and not request.click_id:
            return nothing
        with self._store.transaction():
            if customer is not None:
                click = self._click_of(customer, request.lead_event_name)
                link_of(self._links, click)
            else:
                click = self._people.click(workspace, request.click_id or "")
                link_of(self._links, click)
                customer = self._people.create(workspace, sale.customer, click)
                add_lead(self._people, customer, click, request.lead_event_name or DIRECT_LEAD, None)
            self._record(customer, click, sale)
            answer = _answer(customer, sale)
            self._keep_answer(workspace, request.invoice_id, answer)
        return answer

    def _first_answer(self, workspace: str, invoice_id: str | None) -> dict[str, Any] | None:
        """Return the answer to this invoice in the last 7 days, or None."""
        if not invoice_id:
            return None
        row = self._store.one(
            "SELECT answer FROM invoices WHERE workspace = ? AND invoice_id = ? AND at > ?",
            (workspace, invoice_id, self._people.clock.now_ms() - INVOICE_S * 1_000),
        )
        return msgspec.json.decode(row["answer"], type=dict[str, Any]) if row else None

    def _keep_answer(self, workspace: str, invoice_id: str | None, answer: dict[str, Any]) -> None:
        if invoice_id:
            self._store.run(
                "INSERT OR REPLACE INTO invoices VALUES (?, ?, ?, ?)",
                (
                    *(workspace, invoice_id, self._people.clock.now_ms()),
                    msgspec.json.encode(answer).decode(),
                ),
            )

    def _click_of(self, customer: Customer, lead_event: str | None) -> Row:
        """Return the click of the customer's latest lead (with this name, if given).

        Raises a 404 if there is no such lead.
        """
        row = self._store.one(
            "SELECT c.* FROM leads e JOIN clicks c ON c.id = e.click_id"
            " WHERE e.customer_id = ? AND (? IS NULL OR e.name = ?) ORDER BY e.at DESC, e.rowid DESC LIMIT 1",
            (customer.id, lead_event, lead_event),
        )
        if row is None:
            raise DubError("not_found", f"no lead event of customer {customer.external_id}")
        return row

    def _record(self, customer: Customer, click: Row, sale: Sale) -> None:
        request = sale.request
        first = self._store.one("SELECT 1 FROM sales WHERE customer_id = ?", (customer.id,)) is None
        self._store.run(
            "INSERT INTO sales VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(random_text(16), self._people.clock.now_ms(), click["workspace"], click["id"]),
                *(click["link_id"], customer.id, request.event_name, sale.amount, "usd"),
                *(request.payment_processor, request.invoice_id or None, sale.metadata, not first),
            ),
        )
        self._store.run(
            "UPDATE links SET sales = sales + 1, sale_amount = sale_amount + ?,"
            " conversions = conversions + ? WHERE id = ?",
            (sale.amount, first, click["link_id"]),
        )


def _answer(customer: Customer, sale: Sale) -> dict[str, Any]:
    request = sale.request
    return {
        "eventName": request.event_name,
        "customer": {"id": customer.id, **customer.view()},
        "sale": {
            "amount": sale.amount,
            "currency": "usd",
            "paymentProcessor": request.payment_processor,
            "invoiceId": request.invoice_id,
            "metadata": request.metadata,
        },
    }


def _checked(report: SaleFields, *customer_ids: str | None) -> Sale:
    """Return a sale from a request's fields, in US cents; raises a 422 if one breaks Dub's limits."""
    amount = whole(report.amount, "amount", 0)
    if amount is None:
        raise unprocessable("amount: expected an integer")
    customer = CustomerFields(
        external_id_of(*customer_ids),
        report.customer_name,
        email(report.customer_email),
        report.customer_avatar,
    )
    in_usd = round(amount * US_CENTS.get(report.currency.lower(), 1))
    return Sale(report, customer, in_usd, metadata(report.metadata))
