"""`POST /track/sale` and `/track/sale/client`.

What can go wrong: a repeat without an `invoiceId` swallowed (Dub counts it again); a repeat with one counted;
a sale for nobody answered with an error, where Dub says 200 and records nothing.
"""

from sqlite3 import Row
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, post
from litestar.handlers import HTTPRouteHandler
from litestar.status_codes import HTTP_200_OK

from service.sandbox.errors import DubError, unprocessable
from service.sandbox.fields import email, fields_of, metadata, whole
from service.sandbox.leads import EVENT_NAME_MAX_CHARS, Name
from service.sandbox.limits import Gate
from service.sandbox.links import random_text
from service.sandbox.people import Customer, CustomerFields, People, add_lead, external_id_of

Processor = Literal["stripe", "shopify", "polar", "paddle", "apple", "revenuecat", "dub", "custom"]


class SaleRequest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The body of both sale routes; `amount` is in cents."""

    amount: float
    currency: Annotated[str, msgspec.Meta(pattern="^[A-Za-z]{3}$")] = "usd"
    event_name: Annotated[str, msgspec.Meta(max_length=EVENT_NAME_MAX_CHARS)] = "Purchase"
    payment_processor: Processor = "custom"
    customer_external_id: str | None = None
    external_id: str | None = None
    customer_id: str | None = None
    invoice_id: str | None = None
    metadata: dict[str, Any] | None = None
    lead_event_name: str | None = None
    click_id: str | None = None
    customer_name: Name | None = None
    customer_email: str | None = None
    customer_avatar: str | None = None


class Sale(msgspec.Struct, frozen=True):
    """A sale whose fields are within their bounds."""

    request: SaleRequest
    customer: CustomerFields
    amount: int
    currency: str
    metadata: str | None


def sale_routes(gate: Gate, people: People) -> list[HTTPRouteHandler]:
    """Build the two sale routes: one for servers, one for apps."""
    desk = SaleDesk(people)

    @post("/track/sale", status_code=HTTP_200_OK)
    async def track_sale(request: Request[Any, Any, Any]) -> dict[str, Any]:
        """Record a sale that a server reports."""
        workspace = gate.conversions(request)
        return desk.track(workspace, _checked(await request.body()))

    @post("/track/sale/client", status_code=HTTP_200_OK)
    async def track_client_sale(request: Request[Any, Any, Any]) -> dict[str, Any]:
        """Record a sale that an app reports."""
        workspace = gate.client_conversions(request)
        return desk.track(workspace, _checked(await request.body()))

    return [track_sale, track_client_sale]


class SaleDesk:
    """Takes sales in."""

    def __init__(self, people: People) -> None:
        self._people = people
        self._store = people.store

    def track(self, workspace: str, sale: Sale) -> dict[str, Any]:
        """Record a sale, unless its invoice was recorded before or nobody is known to have bought."""
        request = sale.request
        nothing = {"eventName": request.event_name, "customer": None, "sale": None}
        if request.invoice_id and self._store.one(
            "SELECT 1 FROM sales WHERE workspace = ? AND invoice_id = ?", (workspace, request.invoice_id)
        ):
            return nothing
        with self._store.together():
            customer = self._people.find(workspace, sale.customer.external_id)
            if customer is not None:
                click = self._click_of(customer, request.lead_event_name)
            elif request.click_id:
                click = self._people.click(workspace, request.click_id)
                customer = self._people.create(workspace, sale.customer, click)
                if request.lead_event_name:
                    add_lead(self._people, customer, click, request.lead_event_name, None)
            else:
                return nothing
            self._record(customer, click, sale)
        return {
            "eventName": request.event_name,
            "customer": {"id": customer.id, **customer.view()},
            "sale": {
                "amount": sale.amount,
                "currency": sale.currency,
                "paymentProcessor": request.payment_processor,
                "invoiceId": request.invoice_id,
                "metadata": request.metadata,
            },
        }

    def _click_of(self, customer: Customer, lead_event: str | None) -> Row:
        """Return the click of the customer's latest lead (of that name), or else the one they came by."""
        row = self._store.one(
            "SELECT c.* FROM leads e JOIN clicks c ON c.id = e.click_id"
            " WHERE e.customer_id = ? AND (? IS NULL OR e.name = ?) ORDER BY e.at DESC, e.rowid DESC LIMIT 1",
            (customer.id, lead_event, lead_event),
        )
        if row is None and lead_event is not None:
            raise DubError("not_found", f"no lead event {lead_event} of customer {customer.external_id}")
        row = row or self._store.one("SELECT * FROM clicks WHERE id = ?", (customer.click_id,))
        if row is None:
            raise LookupError(customer.click_id)
        return row

    def _record(self, customer: Customer, click: Row, sale: Sale) -> None:
        request = sale.request
        first = self._store.one("SELECT 1 FROM sales WHERE customer_id = ?", (customer.id,)) is None
        self._store.run(
            "INSERT INTO sales VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(random_text(16), self._people.clock.now_ms(), click["workspace"], click["id"]),
                *(click["link_id"], customer.id, request.event_name, sale.amount, sale.currency),
                *(request.payment_processor, request.invoice_id or None, sale.metadata, not first),
            ),
        )
        self._store.run(
            "UPDATE links SET sales = sales + 1, sale_amount = sale_amount + ?,"
            " conversions = conversions + ? WHERE id = ?",
            (sale.amount, first, click["link_id"]),
        )


def _checked(body: bytes) -> Sale:
    """Hold a request to Dub's limits."""
    request = fields_of(body, SaleRequest)
    amount = whole(request.amount, "amount", 0)
    if amount is None:
        raise unprocessable("amount: expected an integer")
    customer = CustomerFields(
        external_id_of(request.customer_external_id, request.external_id, request.customer_id),
        request.customer_name,
        email(request.customer_email),
        request.customer_avatar,
    )
    return Sale(request, customer, amount, request.currency.lower(), metadata(request.metadata))
