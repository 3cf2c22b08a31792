"""The bodies of the Dub-compatible API, by Dub's published pages; older field names are accepted, as at Dub.

They are validated here as Dub validates them, so that a wrong field costs no call and no deduplication key.
Dub gets the present field names, and only the fields that were sent.
"""

import json
import re
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from service.api.fields import ParseLink
from service.domain.deep_links import DEEP_LINK_MAX_CHARS
from service.domain.device_identity import platform_of
from service.domain.errors import InvalidField
from service.domain.models import Caller, Link, OpenReport

_EMAIL = re.compile(
    r"(?!\.)(?!.*\.\.)[A-Za-z0-9_'+\-.]*[A-Za-z0-9_+-]@(?:[A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}"
)
_EMAIL_MAX_CHARS = 100
_EVENT_NAME_MAX_CHARS = 255
_METADATA_MAX_CHARS = 10_000
_QUANTITY_MAX = 100
_SAFE_INTEGER_MAX = 2**53 - 1  # larger integers are not exact in JavaScript, and so at Dub

Name = Annotated[str, Meta(max_length=100)]
Url = Annotated[str, Meta(max_length=32_000)]
CustomerId = Annotated[str, Meta(min_length=1, max_length=100)]
EventName = Annotated[str, Meta(max_length=_EVENT_NAME_MAX_CHARS)]
Currency = Annotated[str, Meta(pattern="^[A-Za-z]{3}$")]
Processor = Literal["stripe", "shopify", "polar", "paddle", "apple", "revenuecat", "dub", "custom"]


class TrackOpenRequest(Struct, frozen=True, rename="camel"):
    """An open, as Dub's SDKs report it. A blank or null field is refused, as at Dub."""

    deep_link: Annotated[str, Meta(min_length=1, max_length=DEEP_LINK_MAX_CHARS)] | UnsetType = UNSET
    dub_domain: Annotated[str, Meta(min_length=1, max_length=253)] | UnsetType = UNSET

    def to_report(self, caller: Caller, budget_ms: int, parse_link: ParseLink) -> OpenReport:
        """Return the report; raises ``InvalidField`` if both fields are absent, or for a bad URL."""
        deep_link, domain = self.deep_link or None, self.dub_domain or None
        if deep_link is None and domain is None:
            raise InvalidField("deepLink", "is required (or dubDomain)")
        return OpenReport(
            caller=caller,
            deep_link=deep_link,
            link=None if deep_link is None else parse_link(deep_link, caller.app.domains),
            domain=domain,
            platform=platform_of(caller.user_agent),
            budget_ms=budget_ms,
        )


class TrackOpenReply(Struct, frozen=True, rename="camel"):
    """The click of an open and its link, both null if there is none."""

    click_id: str | None
    link: Link | None


class LeadFields(Struct, frozen=True, kw_only=True, rename="camel"):
    """The common fields of leads in the Dub-compatible API and our own."""

    event_name: str
    customer_name: Name | None = None
    customer_email: str | None = None
    customer_avatar: Url | None = None
    mode: Literal["async", "wait", "deferred"] = "async"
    event_quantity: float | None = None
    metadata: dict[str, Any] | None = None

    def checked(self, customer_id: str) -> dict[str, Any]:
        """Check what a type cannot say, and return Dub's fields; raises ``InvalidField``."""
        event_name = self.event_name.strip()
        if not 1 <= len(event_name) <= _EVENT_NAME_MAX_CHARS:
            raise InvalidField("eventName", f"expected 1 to {_EVENT_NAME_MAX_CHARS} characters")
        return _given(
            eventName=event_name,
            customerExternalId=customer_id,
            customerName=self.customer_name,
            customerEmail=_email(self.customer_email),
            customerAvatar=self.customer_avatar,
            mode=self.mode,
            eventQuantity=_whole("eventQuantity", self.event_quantity, 1, _QUANTITY_MAX),
            metadata=_metadata(self.metadata),
        )


class TrackLeadRequest(LeadFields, frozen=True, kw_only=True, rename="camel"):
    """A lead. ``externalId`` and ``customerId`` are older names of ``customerExternalId``."""

    click_id: str | None = None
    customer_external_id: CustomerId | None = None
    external_id: CustomerId | None = None
    customer_id: CustomerId | None = None

    def to_dub(self) -> dict[str, Any]:
        """Check what a type cannot say, and return Dub's fields; raises ``InvalidField``."""
        customer = _customer(self.customer_external_id, self.external_id, self.customer_id)
        return {"clickId": (self.click_id or "").strip(), **self.checked(customer)}


class TrackSaleRequest(Struct, frozen=True, kw_only=True, rename="camel"):
    """A sale; ``amount`` is in cents."""

    amount: float
    currency: Currency = "usd"
    event_name: EventName = "Purchase"
    payment_processor: Processor = "custom"
    customer_external_id: CustomerId | None = None
    external_id: CustomerId | None = None
    customer_id: CustomerId | None = None
    invoice_id: str | None = None
    metadata: dict[str, Any] | None = None
    lead_event_name: EventName | None = None
    click_id: str | None = None
    customer_name: Name | None = None
    customer_email: str | None = None
    customer_avatar: Url | None = None

    def to_dub(self) -> dict[str, Any]:
        """Check what a type cannot say, and return Dub's fields; raises ``InvalidField``."""
        return _given(
            customerExternalId=_customer(self.customer_external_id, self.external_id, self.customer_id),
            amount=_whole("amount", self.amount, 0, _SAFE_INTEGER_MAX),
            currency=self.currency,
            eventName=self.event_name,
            paymentProcessor=self.payment_processor,
            invoiceId=self.invoice_id,
            metadata=_metadata(self.metadata),
            leadEventName=self.lead_event_name,
            clickId=self.click_id,
            customerName=self.customer_name,
            customerEmail=_email(self.customer_email),
            customerAvatar=self.customer_avatar,
        )


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _customer(*names: str | None) -> str:
    found = next((name for name in names if name is not None), None)
    if found is None:
        raise InvalidField("customerExternalId", "is required")
    return found


def is_email(address: str) -> bool:
    """Return True for an e-mail address that Dub accepts."""
    return len(address) <= _EMAIL_MAX_CHARS and _EMAIL.fullmatch(address) is not None


def _email(address: str | None) -> str | None:
    if address is not None and not is_email(address):
        raise InvalidField(
            "customerEmail", f"expected an e-mail address of at most {_EMAIL_MAX_CHARS} characters"
        )
    return address


def _whole(field: str, number: float | None, low: int, high: int) -> int | None:
    """Return a number as an integer; raises ``InvalidField`` if it is out of bounds or not whole (1.0 is)."""
    if number is None:
        return None
    if not low <= number <= high or number != int(number):
        raise InvalidField(field, f"expected an integer from {low} to {high}")
    return int(number)


def _metadata(metadata: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return metadata; raises ``InvalidField`` if its JSON, as JavaScript writes it, is too long for Dub.

    The length counts UTF-16 units: an emoji has two.
    """
    if metadata is not None:
        try:
            text = json.dumps(metadata, ensure_ascii=False, separators=(",", ":"))
        except RecursionError as exc:
            raise InvalidField("metadata", "is nested too deeply") from exc
        if len(text.encode("utf-16-le", "surrogatepass")) // 2 > _METADATA_MAX_CHARS:
            raise InvalidField("metadata", f"expected at most {_METADATA_MAX_CHARS} characters as JSON")
    return metadata
