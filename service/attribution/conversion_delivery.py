"""Deliver leads and sales to Dub.

Dub (``/track/lead``) sets a lead's deduplication key before it looks up the click: a lead answered with 404
would be dropped as a duplicate when it is sent again. So a lead is first sent as ``deferred``, which checks
the click without setting the key, and only then for real. A null link then means that Dub recorded the lead
before. If Dub returned the click to one of our opens a moment ago, Dub knows it: the first step is skipped.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from service.attribution.lead_credit import LeadCredit, may_get_click
from service.attribution.webhook_events import ReportedLead, WebhookEvents
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

# When to retry for a click or customer that Dub does not know yet, in seconds after the report. Dub may need
# some seconds to find the click of a web redirect, but knows an open's click immediately: a click that is
# unknown after 22 s does not exist, and has cost four calls. A customer may be reported just after a sale.
_CLICK_RETRIES_AT_S = (2.0, 7.0, 22.0)
_CUSTOMER_RETRIES_AT_S = (2.0, 10.0, 35.0, 60.0)
_RETRY_FOR_OPEN_S = 30.0  # a settled open releases its leads; this covers a release that a crash prevented
_RETRY_FOR_OPEN_MAX_S = 900.0  # there may be many leads whose install never reports an open
_QUEUE_TIMEOUT_S = 10.0
_OPERATOR_ERRORS = frozenset({401, 403})  # wrong key or plan: retried until an operator corrects it
_NOT_FOUND = 404
_NO_KEYS = LeadKeys()
_ORGANIC = "organic: the open has no click"

_encode = msgspec.json.Encoder().encode
_decode_json = msgspec.json.Decoder().decode


class Conversion(Struct, frozen=True, kw_only=True):
    """The payload of a lead's or sale's outbox entry: Dub's fields, and how to find the click."""

    kind: Literal["lead", "sale"]
    body: dict[str, Any]
    open_id: str = ""  # credit the click of this open
    install_id: str = ""  # credit the click of this install
    named_open_id: str = ""  # the open that the lead named, or of the install that it named
    is_test: bool = False  # that open is one of a test device
    one_step_until: float = 0  # Unix seconds: until then Dub certainly knows the click


_decode = msgspec.json.Decoder(Conversion).decode


class UnknownCustomer(FirstopenError):
    """Dub does not know the customer of a sale, and recorded nothing."""


class ConversionDelivery:
    """Sends leads and sales of an app or its backend, with the app's own Dub API key.

    ``find_open`` returns an open by its id; ``credit`` finds the open to credit of an install.
    ``known_for_s`` returns for how many more seconds Dub certainly knows a click. ``ordering_key`` hashes app
    and customer. ``unix_time`` returns Unix seconds.
    """

    def __init__(
        self,
        *,
        dub: ConversionProvider,
        outbox: Outbox,
        apps: Mapping[str, App],
        find_open: Callable[[str], Awaitable[Open | None]],
        credit: LeadCredit,
        webhook_events: WebhookEvents,
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
        self._webhook_events = webhook_events
        self._known_for_s = known_for_s
        self._ordering_key = ordering_key
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
        """Return the outbox entry of a conversion; raises ``NotConfigured``."""
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
            ordering_key=self._ordering_key(app.name, conversion.body["customerExternalId"]),
            depends_on_open=depends_on_open,
            subject=subject,
            keys=keys,
            created=now,
            next_try=now + _RETRY_FOR_OPEN_S if depends_on_open else now,
            payload=_encode(conversion),
        )

    async def report(
        self, app: App, kind: Literal["lead", "sale"], body: dict[str, Any], budget_s: float
    ) -> tuple[bytes, bool]:
        """Accept a lead or sale at the Dub-compatible API; return Dub's JSON, and True if it is only queued.

        Raises ``NotConfigured``, ``StoreFailed``, ``DubRefused`` (nothing is queued then), and with
        ``mode: "wait"`` a ``DubUnavailable``, because the caller asked for the result.
        """
        waits = body.get("mode") == "wait"

        def drops(error: FirstopenError) -> bool:
            return waits or (isinstance(error, DubRefused) and error.status != 401)  # noqa: PLR2004  401: our key

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
        """Send an entry once, and return the result."""
        conversion = _decode(entry.payload)
        result, opened = await self._attempt(entry, conversion)
        lead = _reported(entry, conversion, opened)
        match result:
            case Delivered(answer=answer):
                event = self._webhook_events.lead_delivered(lead, answer)
            case DeadLetter(reason=reason):
                event = self._webhook_events.lead_dead(lead, reason)
            case RetryLater():
                return result
        return result if event is None else msgspec.structs.replace(result, event=event)

    def report_death(self, entry: Entry, reason: str) -> Entry | None:
        """Return the webhook about a lead that has expired in the outbox; None if no webhook is wanted."""
        return self._webhook_events.lead_dead(_reported(entry, _decode(entry.payload), None), reason)

    async def _attempt(self, entry: Entry, conversion: Conversion) -> tuple[DeliveryResult, Open | None]:
        """Return the result of an attempt, and the open whose click was credited, if it was looked up."""
        app = self._apps.get(entry.app)
        if app is None or not app.dub_api_key:
            error = NotConfigured(f"apps.{entry.app} is not configured, or has no Dub API key")
            return RetryLater(error), None
        body, opened = conversion.body, None
        if conversion.open_id or conversion.install_id:
            if conversion.open_id:
                opened = await self._find_open(conversion.open_id)
            else:
                opened = await self._credit.open_of(app, conversion.install_id)
            credited = _click_of(opened, entry, conversion)
            if not isinstance(credited, str):
                return credited, opened
            body = {**body, "clickId": credited}
        try:
            return await self._send(app, entry, conversion, body), opened
        except DubUnavailable as exc:
            return RetryLater(exc), opened
        except DubRefused as exc:
            return self._refused(entry, exc), opened

    async def _send(
        self, app: App, entry: Entry, conversion: Conversion, body: dict[str, Any]
    ) -> DeliveryResult:
        if conversion.kind == "sale":
            return await self._sale(app, entry, body)
        one_step = entry.attempts == 0 and self._unix_time() < conversion.one_step_until
        return Delivered(await self._lead(app, body, one_step=one_step))

    async def _lead(self, app: App, body: dict[str, Any], *, one_step: bool) -> bytes:
        if not one_step and body.get("mode") != "deferred":
            deferred = _encode({**body, "mode": "deferred"})
            await self._dub.track_lead(app, deferred, queue_timeout_s=_QUEUE_TIMEOUT_S)
        return await self._dub.track_lead(app, _encode(body), queue_timeout_s=_QUEUE_TIMEOUT_S)

    async def _sale(self, app: App, entry: Entry, body: dict[str, Any]) -> DeliveryResult:
        """Send a sale. A missing invoiceId is set to the entry's id, so that a repeated send counts once.

        Dub repeats its first answer for a repeated invoiceId. So an answer without a customer has one of two
        reasons: an amount of 0, which Dub never records, or a customer that Dub does not know (yet).
        """
        sale = {"invoiceId": entry.id, **body}
        answer = await self._dub.track_sale(app, _encode(sale), queue_timeout_s=_QUEUE_TIMEOUT_S)
        if body["amount"] <= 0 or _decode_json(answer)["customer"] is not None:
            return Delivered(answer)
        error = UnknownCustomer("Dub knows no such customer yet")
        after_s = self._retry_unknown_s(entry)
        if after_s is None and await self._outbox.has_waiting_in(entry.ordering_key):
            after_s = _next_retry_s(entry)  # the customer's lead waits for an open
        return (
            DeadLetter("Dub knows no such customer", error)
            if after_s is None
            else RetryLater(error, after_s, answer)
        )

    def _refused(self, entry: Entry, exc: DubRefused) -> DeliveryResult:
        if exc.status in _OPERATOR_ERRORS:
            return RetryLater(exc)
        after_s = self._retry_unknown_s(entry) if exc.status == _NOT_FOUND else None
        return DeadLetter(f"Dub refused it: {exc}", exc) if after_s is None else RetryLater(exc, after_s)

    def _retry_unknown_s(self, entry: Entry) -> float | None:
        """Return the delay (seconds) before a retry for a click or customer that Dub does not know.

        Returns None after the last retry. The times count from the report, so an entry that is sent late,
        after an outage, is not retried.
        """
        age_s = self._unix_time() - entry.created
        attempts_s = _CUSTOMER_RETRIES_AT_S if entry.kind == "sale" else _CLICK_RETRIES_AT_S
        return next((at_s - age_s for at_s in attempts_s if at_s > age_s), None)


def _click_of(opened: Open | None, entry: Entry, conversion: Conversion) -> str | RetryLater | DeadLetter:
    """Return the click of the open or install that a lead names, or the result if it has no click."""
    if opened is None:
        if not conversion.open_id:
            return RetryLater(NoOpen("no open of its install has arrived yet"), _next_retry_s(entry))
        known: str | None = conversion.body.get("clickId")
        return known or DeadLetter("the open that it names was deleted")
    if opened.click_id is not None:
        return opened.click_id
    if may_get_click(opened):
        return RetryLater(DubUnavailable("Dub has not answered its open yet"), _RETRY_FOR_OPEN_S)
    return DeadLetter(_ORGANIC, organic=True)


def _reported(entry: Entry, conversion: Conversion, opened: Open | None) -> ReportedLead:
    """Return what webhooks say about a lead; ``opened`` is the open that it is credited to, if known."""
    named = conversion.named_open_id or conversion.open_id
    return ReportedLead(
        entry=entry,
        body=conversion.body,
        open_id=(named if opened is None else opened.open_id) or None,
        is_test=conversion.is_test if opened is None else opened.is_test,
    )


def _next_retry_s(entry: Entry) -> float:
    """Return the delay (seconds) before the next try for an open that has not arrived."""
    return min(_RETRY_FOR_OPEN_S * 2.0 ** min(entry.attempts, 16), _RETRY_FOR_OPEN_MAX_S)


def _without_our_invoice(answer: bytes, body: dict[str, Any], entry_id: str) -> bytes:
    """Return Dub's answer without an invoiceId that the caller did not send."""
    if "invoiceId" in body or entry_id.encode() not in answer:
        return answer
    shown = _decode_json(answer)
    shown["sale"]["invoiceId"] = None
    return _encode(shown)


def _queued(kind: str, body: Mapping[str, Any]) -> bytes:
    """Return an answer in Dub's format for a lead or sale that Dub has not received yet."""
    if kind == "sale":
        return _encode({"eventName": body["eventName"], "customer": None, "sale": None})
    customer = {
        "name": body.get("customerName"),
        "email": body.get("customerEmail"),
        "avatar": body.get("customerAvatar"),
        "externalId": body["customerExternalId"],
    }
    return _encode({"click": {"id": body.get("clickId", "")}, "link": None, "customer": customer})
