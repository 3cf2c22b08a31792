"""A sign-up, credited to the click of the open or install that it names."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from service.resolve.conversions import Conversion, Conversions
from service.resolve.credit import may_get_click, open_to_credit
from service.resolve.errors import DubRefused, FirstopenError, InvalidField, UnknownOpen
from service.resolve.identity import Identity
from service.resolve.model import App, Open
from service.resolve.owed import Dead, Delivered, Outbox
from service.resolve.ports import Journal
from service.resolve.resolver import Resolver

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class LeadReport(Struct, frozen=True, kw_only=True):
    """A lead by Dub's field names, and exactly one of whose it is."""

    body: dict[str, Any]
    click_id: str | None
    open_id: str | None
    install_id: str | None


class LeadAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """``status`` is how far it got; ``click``, ``link`` and ``customer`` are Dub's, once it is delivered."""

    lead_id: str | None
    status: Literal["delivered", "queued", "organic"]
    click: Mapping[str, Any] | msgspec.UnsetType | None = msgspec.UNSET
    link: Mapping[str, Any] | msgspec.UnsetType | None = msgspec.UNSET
    customer: Mapping[str, Any] | msgspec.UnsetType | None = msgspec.UNSET


class LeadStatus(Struct, frozen=True, rename="camel"):
    """Where a lead stands."""

    lead_id: str
    status: Literal["queued", "delivered", "dead"]
    reason: str | None


class Leads:
    """Takes leads of our own API: written down before anything is sent."""

    def __init__(
        self,
        *,
        conversions: Conversions,
        outbox: Outbox,
        resolver: Resolver,
        journal: Journal,
        identity: Identity,
    ) -> None:
        self._conversions = conversions
        self._outbox = outbox
        self._resolver = resolver
        self._journal = journal
        self._identity = identity

    async def report(self, app: App, lead: LeadReport, budget_s: float) -> LeadAnswer:
        """Take a lead, and wait for Dub as long as the budget lasts.

        Raises ``UnknownOpen``, ``NotConfigured``, ``StoreFailed``, or ``DubRefused`` for what Dub refuses
        for good (it is among the dead letters then).
        """
        opened = await self._open_of(app, lead)
        waits = opened is not None and may_get_click(opened)
        if opened is not None and opened.click_id is None and not waits:
            return LeadAnswer(lead_id=None, status="organic")
        body, open_id = lead.body, ""
        if opened is None:
            body = {**body, "clickId": lead.click_id}
        elif opened.click_id is not None:
            body = {**body, "clickId": opened.click_id}
        else:
            open_id = opened.open_id
        conversion = Conversion(kind="lead", body=body, open_id=open_id)
        entry = self._conversions.entry(app, conversion, waits_for=open_id, whose=self._whose(app, lead))
        verdict = await self._outbox.submit(entry, wait_s=budget_s, drops=_nothing)
        match verdict:
            case Delivered(answer=answer):
                dubs = _decode(answer)
                return LeadAnswer(
                    lead_id=entry.id,
                    status="delivered",
                    click=dubs.get("click"),
                    link=dubs.get("link"),
                    customer=dubs.get("customer"),
                )
            case Dead(error=DubRefused() as error):
                raise error
        if open_id:
            await self._look_again(open_id)
        return LeadAnswer(lead_id=entry.id, status="queued")

    async def status(self, app: App, lead_id: str) -> LeadStatus:
        """Say where a lead stands; raises ``UnknownOpen`` or ``StoreFailed``."""
        status = await self._outbox.status(lead_id)
        if status is None or status.app != app.name or status.kind != "lead":
            raise UnknownOpen("leadId: no such lead of this app, or it is forgotten by now")
        return LeadStatus(lead_id, status.state, status.reason or None)

    async def _open_of(self, app: App, lead: LeadReport) -> Open | None:
        """Find the open that a lead names; ``None`` if it names a click."""
        if lead.click_id is not None:
            return None
        if lead.open_id is not None:
            opened = await self._resolver.find(lead.open_id)
            if opened is None or opened.app != app.name:
                raise UnknownOpen("openId: no such open of this app, or it is forgotten by now")
            return opened
        if lead.install_id is None:
            raise InvalidField("clickId", "is required (or one of openId and installId)")
        opens = await self._journal.of_device(self._identity.devices(app.name, lead.install_id))
        opened = open_to_credit([each for each in opens if each.app == app.name])
        if opened is None:
            raise UnknownOpen("installId: no open of this install is known, or it is forgotten by now")
        return opened

    def _whose(self, app: App, lead: LeadReport) -> str:
        """Return what the lead is forgotten by, where its install is."""
        if lead.install_id is not None:
            return self._identity.devices(app.name, lead.install_id)[0]
        return lead.open_id or ""

    async def _look_again(self, open_id: str) -> None:
        """Let a lead go whose open got its click while the lead was written down."""
        opened = await self._resolver.find(open_id)
        if opened is not None and not may_get_click(opened):
            self._outbox.let_go(open_id)


def _nothing(_: FirstopenError) -> bool:
    return False
