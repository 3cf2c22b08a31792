"""Accept leads and credit them to the click of the open or install that they name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import msgspec
from msgspec import Struct

from service.attribution.conversion_delivery import Conversion, ConversionDelivery
from service.attribution.lead_credit import LeadCredit, may_get_click
from service.attribution.resolver import Resolver
from service.domain.device_identity import Identity
from service.domain.errors import DubRefused, FirstopenError, InvalidField, NotFound, TooManyWaiting
from service.domain.models import App, Open
from service.domain.outbox_entries import DeadLetter, Delivered, LeadKeys, Repeat, install_name
from service.domain.ports import Outbox

WAITING_MAX = 50_000  # leads of an app whose install has reported no open yet

_COUNT_EVERY_S = 10.0
_encode = msgspec.json.Encoder(order="deterministic").encode


class LeadReport(Struct, frozen=True, kw_only=True):
    """A reported lead: Dub's fields, and exactly one of ``click_id``, ``open_id`` and ``install_id``."""

    body: dict[str, Any]
    click_id: str | None
    open_id: str | None
    install_id: str | None
    idempotency_key: str | None = None
    ignored: tuple[str, ...] = ()  # fields that were sent and cannot be used


class LeadClick(Struct, frozen=True):
    """The click that got the credit."""

    id: str


class LeadLink(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """The link of that click, as Dub describes it."""

    id: str
    domain: str
    key: str
    short_link: str
    url: str
    partner_id: str | None = None
    program_id: str | None = None
    tenant_id: str | None = None
    external_id: str | None = None


class LeadCustomer(Struct, frozen=True, kw_only=True, rename="camel"):
    """The customer, as Dub recorded it."""

    external_id: str | None = None
    name: str | None = None
    email: str | None = None
    avatar: str | None = None


class LeadAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """The answer to a lead. ``click``, ``link`` and ``customer`` are Dub's, present if it is delivered.

    A repeated lead is answered with the ``lead_id`` and present status of the first report.
    """

    lead_id: str | None
    status: Literal["delivered", "queued", "organic"]
    click: LeadClick | msgspec.UnsetType = msgspec.UNSET
    link: LeadLink | msgspec.UnsetType | None = msgspec.UNSET
    customer: LeadCustomer | msgspec.UnsetType = msgspec.UNSET


class _Delivered(Struct, frozen=True):
    """Dub's answer to a lead, of which ``dub.wire`` has checked the shape."""

    click: LeadClick
    link: LeadLink | None
    customer: LeadCustomer


_decode = msgspec.json.Decoder(_Delivered).decode


class LeadStatus(Struct, frozen=True, rename="camel"):
    """The present status of a lead."""

    lead_id: str
    status: Literal["queued", "delivered", "dead"]
    reason: str | None


@dataclass(slots=True)
class _Count:
    """A cached number of waiting leads, valid until a time in monotonic seconds."""

    leads: int
    until: float


class Leads:
    """Accepts leads of our own API. Each is stored in the outbox before it is sent.

    What can go wrong: a lead arrives before the open of its install, because the phone was offline (the lead
    waits; if too many wait, it is refused with an explanation); an open is settled while its lead is being
    stored, so that its release misses the lead (the open is checked again afterwards).
    """

    def __init__(
        self,
        *,
        conversions: ConversionDelivery,
        outbox: Outbox,
        resolver: Resolver,
        credit: LeadCredit,
        identity: Identity,
        clock: Callable[[], float],
    ) -> None:
        self._conversions = conversions
        self._outbox = outbox
        self._resolver = resolver
        self._credit = credit
        self._identity = identity
        self._clock = clock
        self._waiting: dict[str, _Count] = {}

    async def report(self, app: App, lead: LeadReport, budget_s: float) -> LeadAnswer:
        """Store a lead, send it, and wait for Dub for up to ``budget_s`` seconds.

        A repeated lead is not sent again. Raises ``InvalidField``, ``NotFound``, ``TooManyWaiting``,
        ``NotConfigured``, ``StoreFailed``, or ``DubRefused`` if Dub refuses the lead permanently (it is then
        a dead letter).
        """
        opened = await self._open_of(app, lead)
        click_id = lead.click_id if opened is None else opened.click_id
        if opened is not None and click_id is None and not may_get_click(opened):
            return LeadAnswer(lead_id=None, status="organic")
        if opened is None and click_id is None:
            await self._count_waiting(app)
            budget_s = 0  # its open may be hours away
        conversion = _conversion(lead, opened, click_id)
        depends_on_open = self._dependency(app, lead) if click_id is None else ""
        subject, keys = self._subject(app, lead, opened), self._keys(app, lead)
        entry = self._conversions.entry(
            app, conversion, depends_on_open=depends_on_open, subject=subject, keys=keys
        )
        result = await self._outbox.submit(entry, wait_s=budget_s, drops=_drops_none)
        match result:
            case Delivered(answer=answer):
                dubs = _decode(answer)
                return LeadAnswer(
                    lead_id=entry.id,
                    status="delivered",
                    click=dubs.click,
                    link=dubs.link,
                    customer=dubs.customer,
                )
            case DeadLetter(error=DubRefused() as error):
                raise error
            case Repeat(same_body=False):
                raise InvalidField("Idempotency-Key", "was used for a lead with another body")
            case Repeat(entry_id=entry_id, state="delivered" | "queued" as state):
                return LeadAnswer(lead_id=entry_id, status=state)
        if depends_on_open:
            await self._release_if_settled(app, lead, depends_on_open)
        return LeadAnswer(lead_id=entry.id, status="queued")

    async def status(self, app: App, lead_id: str) -> LeadStatus:
        """Return a lead's status; raises ``NotFound`` or ``StoreFailed``."""
        status = await self._outbox.status(lead_id)
        if status is None or status.app != app.name or status.kind != "lead":
            raise NotFound("leadId: this app has no such lead, or it was deleted")
        state = "dead" if status.state == "discarded" else status.state  # for the caller, it never arrives
        return LeadStatus(lead_id, state, status.reason or None)

    async def _open_of(self, app: App, lead: LeadReport) -> Open | None:
        """Return the open that a lead names; None if it names a click, or an install without an open yet.

        Raises ``NotFound``, ``InvalidField`` or ``StoreFailed``.
        """
        if lead.click_id is not None:
            return None
        if lead.open_id is not None:
            opened = await self._resolver.find_credited(lead.open_id)
            if opened is None or opened.app != app.name:
                raise NotFound("openId: this app has no such open, or it was deleted")
            return opened
        if lead.install_id is None:
            raise InvalidField("clickId", "is required (or one of openId and installId)")
        return await self._credit.open_of(app, lead.install_id)

    def _dependency(self, app: App, lead: LeadReport) -> str:
        """Return the entry's ``depends_on_open``: the install if the lead names one, else the open."""
        if lead.install_id is None:
            return lead.open_id or ""
        return install_name(self._identity.devices(app.name, lead.install_id)[0])

    def _keys(self, app: App, lead: LeadReport) -> LeadKeys:
        """Return the deduplication keys. A deferred lead has no event key, because Dub records no event."""
        hashed, event, idempotency, body = partial(self._identity.lead_key, app.name), "", "", ""
        if lead.body["mode"] != "deferred":
            folded = lead.body["eventName"].lower().replace(" ", "-")  # Dub's own rule
            event = hashed("event", f"{lead.body['customerExternalId']}\0{folded}")
        if lead.idempotency_key is not None:
            idempotency = hashed("idempotency", lead.idempotency_key)
            body = hashed("body", _encode(lead).decode())
        return LeadKeys(event, idempotency, body)

    def _subject(self, app: App, lead: LeadReport, opened: Open | None) -> str:
        """Return the device hash by which an erasure finds the lead, or "" if it names only a click."""
        if lead.install_id is not None:
            return self._identity.devices(app.name, lead.install_id)[0]
        return "" if opened is None else opened.device

    async def _release_if_settled(self, app: App, lead: LeadReport, depends_on_open: str) -> None:
        """Release a lead if its open was settled while the lead was being stored."""
        opened = await self._open_of(app, lead)
        if opened is not None and not may_get_click(opened):
            self._outbox.release_dependents(depends_on_open)

    async def _count_waiting(self, app: App) -> None:
        """Count a lead that waits for its install's first open; raises ``TooManyWaiting``.

        One lead reads the number from the database every 10 seconds; in between, released leads still count.
        """
        known = self._waiting.setdefault(app.name, _Count(0, self._clock()))
        if known.until <= self._clock():
            known.until = self._clock() + _COUNT_EVERY_S
            try:
                known.leads = await self._outbox.waiting(app.name)
            except BaseException:
                known.until = self._clock()
                raise
        if known.leads >= WAITING_MAX:
            raise TooManyWaiting("installId: too many leads of this app wait for opens that have not arrived")
        known.leads += 1


def _conversion(lead: LeadReport, opened: Open | None, click_id: str | None) -> Conversion:
    """Return the payload to store: the click, or the open or install to find it by when it is sent."""
    if click_id is not None:
        # A match that is not guaranteed may be superseded before the lead is sent: check the open again then.
        may_change = opened is not None and not opened.match.guaranteed
        open_id = opened.open_id if opened is not None and may_change else ""
        return Conversion(
            kind="lead",
            body={**lead.body, "clickId": click_id},
            open_id=open_id,
            named_open_id="" if opened is None else opened.open_id,
            is_test=opened is not None and opened.is_test,
        )
    if lead.install_id is not None:
        return Conversion(kind="lead", body=lead.body, install_id=lead.install_id)
    return Conversion(kind="lead", body=lead.body, open_id=lead.open_id or "")


def _drops_none(_: FirstopenError) -> bool:
    return False
