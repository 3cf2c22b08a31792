"""Queue webhooks: tell an app's backend what became of its opens, leads and installs.

What can go wrong: something is committed, and the backend never hears of it (a webhook is committed together
with what it reports, or before it); it is reported twice (the id is derived from what has happened, so the
backend recognises it); a process dies with an open that is still pending, and nobody decides it (a webhook is
queued when the open is answered as pending, and is sent when its time is over); a backend gets personal data
(events name opens, clicks and links, and of a lead the customer's id at the backend itself: no installId, no
IP address, no clipboard); an erased install is mentioned (its queued webhooks are deleted, and each one is
checked before it is sent).
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from service.attribution.answer_routes import build_answer
from service.attribution.recent_erasures import RecentErasures
from service.domain.errors import OpenPending
from service.domain.models import App, Link, Match, Open
from service.domain.open_context import OpenContext
from service.domain.outbox_entries import Entry, RetryLater, settling_name
from service.domain.ports import OpenStore, Outbox
from service.domain.webhooks import EventType, event_id
from service.telemetry import Log

OPEN_IDS_MAX = 1000  # in one ``install.erased``

# An open without a click is final after a minute at the latest; one that Dub must still answer after days.
_FIRST_CHECK_S = 65.0
_CHECK_MAX_S = 900.0
# After the longest attempt to send a webhook (10 s), and after other replicas have read the erasure (1 s): so
# nothing about an install is sent after its ``install.erased``.
_AFTER_ERASURE_S = 12.0

_encode = msgspec.json.Encoder().encode


class Screen(Struct, frozen=True):
    """The route of an event: the screen alone, because params and URL may be personal."""

    screen: str


class OpenData(Struct, frozen=True, kw_only=True, rename="camel"):
    """The ``data`` of ``open.matched`` and ``open.settled``."""

    app: str
    open_id: str
    click_id: str | None
    link: Link | None
    route: Screen
    match: Match
    credited_to: str | UnsetType = UNSET  # openId of the open whose click the install's leads get
    opened_at: str


class LeadData(Struct, frozen=True, kw_only=True, rename="camel"):
    """The ``data`` of ``lead.delivered`` and ``lead.dead``."""

    app: str
    lead_id: str
    open_id: str | None
    click_id: str | None
    link: Link | UnsetType | None = UNSET  # of ``lead.delivered``
    event_name: str
    customer_external_id: str
    reason: str | UnsetType = UNSET  # of ``lead.dead``: as GET /v1/leads/{leadId} says


class ErasedData(Struct, frozen=True, kw_only=True, rename="camel"):
    """The ``data`` of ``install.erased``: the install's opens, by which a backend finds its own records."""

    app: str
    open_ids: list[str]


class _Envelope(Struct, frozen=True, omit_defaults=True):
    type: EventType
    timestamp: str
    data: OpenData | LeadData | ErasedData
    test: bool = False  # of a test device


class ReportedLead(Struct, frozen=True):
    """A lead of the outbox, Dub's fields of it, and the open that it names or is credited to."""

    entry: Entry
    body: Mapping[str, Any]
    open_id: str | None
    is_test: bool


class _Pending(Struct, frozen=True, rename="camel"):
    """A queued ``open.settled`` whose open is still pending. A complete event has no ``openId`` up here."""

    type: EventType
    open_id: str = ""


_decode = msgspec.json.Decoder(_Pending).decode


class _DubClick(Struct, frozen=True):
    id: str


class _DubLead(Struct, frozen=True):
    """What is read of Dub's answer to a lead."""

    click: _DubClick | None = None
    link: Link | None = None


_decode_lead = msgspec.json.Decoder(_DubLead).decode


class WebhookEvents:
    """Builds and queues webhooks. ``apps`` say which events they want; times are Unix seconds."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        open_store: OpenStore,
        erasures: RecentErasures,
        apps: Mapping[str, App],
        unix_time: Callable[[], float],
        log: Log,
    ) -> None:
        self._outbox = outbox
        self._open_store = open_store
        self._erasures = erasures
        self._apps = apps
        self._unix_time = unix_time
        self._log = log

    def open_kept(self, context: OpenContext, opened: Open, *, settles: bool) -> None:
        """Queue what a decision about an open means to the backend. Call it before the open is stored.

        ``settles``: the open was answered as pending before.
        """
        wanted = context.app.webhook_events
        if (
            not wanted or opened.opened_at != context.opened_at
        ):  # an earlier open is repeated: it had its events
            return
        if opened.click_id is not None and opened.offered and "open.matched" in wanted:
            # A later open that shares the click of the first offers no evidence of its own.
            self._queue_open("open.matched", context.app, opened, opened.device, opened.click_id)
        if "open.settled" not in wanted:
            return
        if opened.pending:
            self._await_settling(opened)
        elif settles:
            self._queue_open("open.settled", context.app, opened, opened.open_id)

    def superseded(self, app: App, revised: Open) -> None:
        """Queue that an open has lost its click to stronger evidence. Call it before the open is stored."""
        if "open.settled" in app.webhook_events:
            self._queue_open("open.settled", app, revised, revised.open_id, revised.credited_to or "")

    def lead_delivered(self, lead: ReportedLead, answer: bytes) -> Entry | None:
        """Return the webhook about a lead that Dub has recorded, with this ``answer``; None if not wanted."""
        if not self._is_wanted("lead.delivered", lead.entry):
            return None
        try:
            found = _decode_lead(answer)
        except msgspec.DecodeError:
            found = _DubLead()
        click_id = lead.body.get("clickId") if found.click is None else found.click.id
        return self._of_lead("lead.delivered", lead, click_id=click_id, link=found.link)

    def lead_dead(self, lead: ReportedLead, reason: str) -> Entry | None:
        """Return the webhook about a lead that became a dead letter; None if not wanted."""
        if not self._is_wanted("lead.dead", lead.entry):
            return None
        return self._of_lead("lead.dead", lead, click_id=lead.body.get("clickId"), reason=reason)

    async def install_erased(self, app: App, device: str, open_ids: Sequence[str]) -> None:
        """Commit that an install was erased, with its opens; raises ``StoreFailed``.

        Its ``subject`` is empty, so that the erasure does not delete it.
        """
        if not open_ids or "install.erased" not in app.webhook_events:
            return
        named = sorted(open_ids)
        data = ErasedData(app=app.name, open_ids=named[:OPEN_IDS_MAX])
        event = self._entry("install.erased", data, subject="", ordering=device, about=(device, *named))
        await self._outbox.add_webhook(
            msgspec.structs.replace(event, next_try=event.created + _AFTER_ERASURE_S)
        )

    async def body_of(self, entry: Entry) -> bytes | RetryLater | None:
        """Return what to send for a queued webhook; None if there is nothing to report any more.

        Raises ``StoreFailed``.
        """
        if self._erasures.covers(entry.subject, entry.created):
            return None
        open_id = _decode(entry.payload).open_id
        if not open_id:
            return entry.payload
        opened, app = await self._open_store.opened(open_id), self._apps.get(entry.app)
        if opened is None or app is None:
            return None
        if opened.pending:
            delay_s = min(_FIRST_CHECK_S * 2.0 ** min(entry.attempts, 16), _CHECK_MAX_S)
            return RetryLater(OpenPending("its open may still get a click"), delay_s)
        return self._encoded("open.settled", self._open_data(app, opened), is_test=opened.is_test)

    def _await_settling(self, opened: Open) -> None:
        now = self._unix_time()
        event: EventType = "open.settled"
        self._outbox.enqueue_webhook(
            Entry(
                id=event_id(event, opened.open_id),
                app=opened.app,
                kind="webhook",
                ordering_key=_ordering_key(opened.device),
                depends_on_open=settling_name(opened.open_id),
                created=now,
                next_try=now + _FIRST_CHECK_S,
                subject=opened.device,
                payload=_encode(_Pending(event, opened.open_id)),
            )
        )

    def _queue_open(self, event: EventType, app: App, opened: Open, *about: str) -> None:
        device, data = opened.device, self._open_data(app, opened)
        self._outbox.enqueue_webhook(
            self._entry(event, data, subject=device, ordering=device, about=about, is_test=opened.is_test)
        )

    def _open_data(self, app: App, opened: Open) -> OpenData:
        answer = build_answer(
            *(app, opened, (opened.platform, opened.app_version)),
            source=opened.source,
            repeat=False,
            now=self._unix_time(),
            log=self._log,
        )
        return OpenData(
            app=app.name,
            open_id=opened.open_id,
            click_id=opened.click_id,
            link=answer.link,
            route=Screen(answer.route.screen),
            match=opened.match,
            credited_to=opened.credited_to or UNSET,
            opened_at=_iso(opened.opened_at),
        )

    def _is_wanted(self, event: EventType, entry: Entry) -> bool:
        app = self._apps.get(entry.app)
        return entry.kind == "lead" and app is not None and event in app.webhook_events

    def _of_lead(
        self,
        event: EventType,
        lead: ReportedLead,
        *,
        click_id: str | None,
        link: Link | UnsetType | None = UNSET,
        reason: str | UnsetType = UNSET,
    ) -> Entry:
        entry = lead.entry
        data = LeadData(
            app=entry.app,
            lead_id=entry.id,
            open_id=lead.open_id,
            click_id=click_id,
            link=link,
            event_name=lead.body["eventName"],
            customer_external_id=lead.body["customerExternalId"],
            reason=reason,
        )
        # A lead that names only a click has no install: its webhooks are in order for each customer.
        ordering = entry.subject or entry.ordering_key
        # A dead letter that is retried may die again: that is another event.
        about = (entry.id, str(int(entry.created * 1000))) if event == "lead.dead" else (entry.id,)
        return self._entry(
            event, data, subject=entry.subject, ordering=ordering, about=about, is_test=lead.is_test
        )

    def _entry(
        self,
        event: EventType,
        data: OpenData | LeadData | ErasedData,
        *,
        subject: str,
        ordering: str,
        about: Sequence[str],
        is_test: bool = False,
    ) -> Entry:
        now = self._unix_time()
        return Entry(
            id=event_id(event, *about),
            app=data.app,
            kind="webhook",
            ordering_key=_ordering_key(ordering),
            created=now,
            next_try=now,
            subject=subject,
            payload=self._encoded(event, data, is_test=is_test),
        )

    def _encoded(self, event: EventType, data: OpenData | LeadData | ErasedData, *, is_test: bool) -> bytes:
        return _encode(_Envelope(event, _iso(self._unix_time()), data, is_test))


def _ordering_key(subject: str) -> str:
    """Return the ordering key of webhooks, which is not that of the same customer's leads."""
    return f"webhook:{subject}"


def _iso(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
