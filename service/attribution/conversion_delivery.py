"""Leads and sales on their way to Dub.

Dub sets a lead's deduplication key before it looks the click up (``/track/lead``): a lead answered 404
would be swallowed when it is sent again. So a lead is asked for as ``deferred`` first, which checks the
click and burns nothing; only then is it sent for good, and a null link means that it was recorded before.
A click that a deep-link open of ours got a moment ago is known for certain: such a lead goes in one step.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from service.attribution.lead_credit import LeadCredit, may_get_click
from service.domain.errors import (
    DubRefused,
    DubTimedOut,
    DubUnavailable,
    FirstopenError,
    NoOpen,
    NotConfigured,
)
from service.domain.models import App, Open
from service.domain.outbox_entries import DeadLetter, Delivered, DeliveryResult, Entry, LeadKeys, RetryLater
from service.domain.ports import ConversionProvider, Outbox

# When Dub is asked again for what it does not know yet, in seconds after the report. The click of a web
# redirect may take some seconds to be found, an open's is known at once: a click that is still unknown after
# 22 s was invented, and has cost four calls. A customer may be reported a moment after the first sale.
_CLICK_LOOKS_AT_S = (2.0, 7.0, 22.0)
_CUSTOMER_LOOKS_AT_S = (2.0, 10.0, 35.0, 60.0)
_LOOK_AFTER_OPEN_EVERY_S = (
    30.0  # an open that is settled lets its leads go; this is for what a crash swallows
)
_LOOK_FOR_OPEN_MAX_S = 900.0  # there may be many leads whose install never reports an open
_QUEUE_TIMEOUT_S = 10.0
_OURS_TO_MEND = frozenset({401, 403})  # Dub's word on our key or plan: an operator mends it, nothing is lost
_NOT_FOUND = 404
_NO_KEYS = LeadKeys()
_ORGANIC = "organic: the open turned out to have no click"

_encode = msgspec.json.Encoder().encode
_decode_json = msgspec.json.Decoder().decode


class Conversion(Struct, frozen=True, kw_only=True):
    """A lead or sale as it is written down: Dub's fields, and whose click it is."""

    kind: Literal["lead", "sale"]
    body: dict[str, Any]
    open_id: str = ""  # the open whose click goes in
    install_id: str = ""  # or the install whose click goes in
    one_step_until: float = 0  # Unix seconds


_decode = msgspec.json.Decoder(Conversion).decode


class UnknownCustomer(FirstopenError):
    """Dub knows no such customer, and was given no click: it records nothing."""


class ConversionDelivery:
    """Sends what an app or its backend reports, with the app's own Dub API key.

    ``find_open`` recalls an open by its id, ``credit`` finds an install's,
    ``known_for_s`` for how many seconds more Dub knows a click at once; ``ordering_key`` hashes whose it is;
    ``unix_time`` is Unix seconds.
    """

    def __init__(
        self,
        *,
        dub: ConversionProvider,
        outbox: Outbox,
        apps: Mapping[str, App],
        find_open: Callable[[str], Awaitable[Open | None]],
        credit: LeadCredit,
        known_for_s: Callable[[str], float],
        ordering_key: Callable[[str, str], str],
        new_id: Callable[[], str],
        unix_time: Callable[[], float],
        timeout_s: float,
    ) -> None:
        self._dub = dub
        self._outbox = outbox
        self._apps = apps
        self._find_open = find_open
        self._credit = credit
        self._known_for_s = known_for_s
        self._lane = ordering_key
        self._new_id = new_id
        self._unix_time = unix_time
        self._timeout_s = timeout_s

    def entry(
        self,
        app: App,
        conversion: Conversion,
        *,
        depends_on_open: str = "",
        subject: str = "",
        keys: LeadKeys = _NO_KEYS,
    ) -> Entry:
        """Write a conversion as an entry of the outbox; raises ``NotConfigured``."""
        if not app.dub_api_key:
            raise NotConfigured(f"apps.{app.name}.dub_api_key_env: no Dub API key is set for this app")
        now = self._unix_time()
        known_s = self._known_for_s(conversion.body.get("clickId", ""))
        if known_s > 0:
            conversion = msgspec.structs.replace(conversion, one_step_until=now + known_s)
        return Entry(
            id=self._new_id(),
            app=app.name,
            kind=conversion.kind,
            ordering_key=self._lane(app.name, conversion.body["customerExternalId"]),
            depends_on_open=depends_on_open,
            subject=subject,
            keys=keys,
            created=now,
            next_try=now + _LOOK_AFTER_OPEN_EVERY_S if depends_on_open else now,
            payload=_encode(conversion),
        )

    async def report(
        self, app: App, kind: Literal["lead", "sale"], body: dict[str, Any], budget_s: float
    ) -> tuple[bytes, bool]:
        """Take a lead or sale on Dub's own wire; return Dub's JSON, and whether it is only queued yet.

        Raises ``NotConfigured``, ``StoreFailed``, ``DubRefused`` (nothing is queued then), and with
        ``mode: "wait"`` a ``DubUnavailable``, since its caller asked to hear of it.
        """
        waits = body.get("mode") == "wait"

        def drops(error: FirstopenError) -> bool:
            return waits or (isinstance(error, DubRefused) and error.status != 401)  # noqa: PLR2004  our key

        entry = self.entry(app, Conversion(kind=kind, body=body))
        wait_s = self._timeout_s if waits else budget_s
        result = await self._outbox.submit(entry, wait_s=wait_s, drops=drops)
        match result:
            case Delivered(answer=answer):
                return _without_our_invoice(answer, body, entry.id), False
            case RetryLater(answer=answer) if answer:
                return answer, True
            case RetryLater(error=error) | DeadLetter(error=FirstopenError() as error) if drops(error):
                raise error
            case None if waits:
                await self._outbox.abandon(entry.id)
                raise DubTimedOut(f"no answer within {wait_s:g} s")
        return _queued(kind, body), True

    async def deliver(self, entry: Entry) -> DeliveryResult:
        """Send an entry once, and say what became of it."""
        conversion = _decode(entry.payload)
        app = self._apps.get(entry.app)
        if app is None or not app.dub_api_key:
            return RetryLater(NotConfigured(f"apps.{entry.app} is not configured, or has no Dub API key"))
        body = conversion.body
        if conversion.open_id or conversion.install_id:
            credited = await self._credited(app, entry, conversion)
            if not isinstance(credited, str):
                return credited
            body = {**body, "clickId": credited}
        try:
            return await self._send(app, entry, conversion, body)
        except DubUnavailable as exc:
            return RetryLater(exc)
        except DubRefused as exc:
            return self._refused(entry, exc)

    async def _credited(
        self, app: App, entry: Entry, conversion: Conversion
    ) -> str | RetryLater | DeadLetter:
        """Return the click of the open or install that a lead names, or what that means for the lead."""
        if conversion.open_id:
            opened = await self._find_open(conversion.open_id)
            if opened is None:
                known: str | None = conversion.body.get("clickId")
                return known or DeadLetter("the open that it names is forgotten")
        else:
            opened = await self._credit.open_of(app, conversion.install_id)
            if opened is None:
                return RetryLater(NoOpen("no open of its install has arrived yet"), _next_look_s(entry))
        if opened.click_id is not None:
            return opened.click_id
        if may_get_click(opened):
            missing = DubUnavailable("the open it belongs to has no answer of Dub's yet")
            return RetryLater(missing, _LOOK_AFTER_OPEN_EVERY_S)
        return DeadLetter(_ORGANIC, organic=True)

    async def _send(
        self, app: App, entry: Entry, conversion: Conversion, body: dict[str, Any]
    ) -> DeliveryResult:
        if conversion.kind == "sale":
            return await self._sell(app, entry, body)
        one_step = entry.attempts == 0 and self._unix_time() < conversion.one_step_until
        return Delivered(await self._lead(app, body, one_step=one_step))

    async def _lead(self, app: App, body: dict[str, Any], *, one_step: bool) -> bytes:
        if not one_step and body.get("mode") != "deferred":
            deferred = _encode({**body, "mode": "deferred"})
            await self._dub.track_lead(app, deferred, queue_timeout_s=_QUEUE_TIMEOUT_S)
        return await self._dub.track_lead(app, _encode(body), queue_timeout_s=_QUEUE_TIMEOUT_S)

    async def _sell(self, app: App, entry: Entry, body: dict[str, Any]) -> DeliveryResult:
        """Send a sale; without an invoiceId it gets the entry's, so that sending it twice counts once.

        A repeated invoiceId gets Dub's first answer again, so an answer without a customer has two reasons:
        an amount of 0, which Dub never records, and a customer whom Dub does not know, or not yet.
        """
        sale = {"invoiceId": entry.id, **body}
        answer = await self._dub.track_sale(app, _encode(sale), queue_timeout_s=_QUEUE_TIMEOUT_S)
        if body["amount"] <= 0 or _decode_json(answer)["customer"] is not None:
            return Delivered(answer)
        error = UnknownCustomer("Dub knows no such customer yet")
        after_s = self._look_again_s(entry)
        if after_s is None and await self._outbox.has_waiting_in(entry.ordering_key):
            after_s = _next_look_s(entry)  # the customer's lead waits for an open
        return (
            DeadLetter("Dub knows no such customer", error)
            if after_s is None
            else RetryLater(error, after_s, answer)
        )

    def _refused(self, entry: Entry, exc: DubRefused) -> DeliveryResult:
        if exc.status in _OURS_TO_MEND:
            return RetryLater(exc)
        after_s = self._look_again_s(entry) if exc.status == _NOT_FOUND else None
        return DeadLetter(f"Dub refused it: {exc}", exc) if after_s is None else RetryLater(exc, after_s)

    def _look_again_s(self, entry: Entry) -> float | None:
        """Return in how many seconds to ask again for a click or customer that Dub does not know.

        ``None``: not any more. What is sent late, after an outage, has waited long enough.
        """
        age_s = self._unix_time() - entry.created
        attempts_s = _CUSTOMER_LOOKS_AT_S if entry.kind == "sale" else _CLICK_LOOKS_AT_S
        return next((at_s - age_s for at_s in attempts_s if at_s > age_s), None)


def _next_look_s(entry: Entry) -> float:
    """Return in how many seconds to look again for an open that has not arrived."""
    return min(_LOOK_AFTER_OPEN_EVERY_S * 2.0 ** min(entry.attempts, 16), _LOOK_FOR_OPEN_MAX_S)


def _without_our_invoice(answer: bytes, body: dict[str, Any], entry_id: str) -> bytes:
    """Show no invoiceId that the caller did not give."""
    if "invoiceId" in body or entry_id.encode() not in answer:
        return answer
    shown = _decode_json(answer)
    shown["sale"]["invoiceId"] = None
    return _encode(shown)


def _queued(kind: str, body: Mapping[str, Any]) -> bytes:
    """Answer in Dub's shape for what Dub has not seen yet."""
    if kind == "sale":
        return _encode({"eventName": body["eventName"], "customer": None, "sale": None})
    customer = {
        "name": body.get("customerName"),
        "email": body.get("customerEmail"),
        "avatar": body.get("customerAvatar"),
        "externalId": body["customerExternalId"],
    }
    return _encode({"click": {"id": body.get("clickId", "")}, "link": None, "customer": customer})
