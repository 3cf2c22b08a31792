"""Let an install's strongest evidence win, regardless of the order in which its opens arrive.

What can go wrong: an app reports one cold start twice, and the match by IP address is answered before (or,
on another replica, at the same time as) the certain link. Then the match is superseded: its open loses its
click, leads that name it are credited to the certain open, and its claim is released, so that the install
which made the click can get it. If the database fails, the claim stays, and no other install can get the
click.
"""

import asyncio
from collections.abc import Coroutine, Sequence

from msgspec import structs

from service.aio.tasks import cancel_all
from service.attribution.lead_credit import open_to_credit, priority_of
from service.attribution.recent_erasures import RecentErasures
from service.attribution.webhook_events import WebhookEvents
from service.domain.device_identity import Identity, answer_key
from service.domain.errors import StoreFailed
from service.domain.evidence import EVIDENCE_PRIORITY, FIRST_LAUNCH
from service.domain.models import SUPERSEDED, Open, uses_up
from service.domain.open_context import OpenContext
from service.domain.ports import Claims, OpenCache, OpenStore
from service.telemetry import Event, Log
from service.telemetry.background import Background

_GUESS = EVIDENCE_PRIORITY["touch"]  # and below: matches by touch and by IP address
_NO_INSTALL_ID_S = 60.0  # how long equal IP address and User-Agent count as one device


class EvidencePrecedence:
    """Caches the open with each install's strongest evidence, and supersedes weaker opens."""

    def __init__(
        self,
        *,
        cache: OpenCache,
        open_store: OpenStore,
        claims: Claims,
        identity: Identity,
        erasures: RecentErasures,
        webhook_events: WebhookEvents,
        background: Background,
        log: Log,
    ) -> None:
        self._cache = cache
        self._open_store = open_store
        self._claims = claims
        self._identity = identity
        self._erasures = erasures
        self._webhook_events = webhook_events
        self._background = background
        self._log = log
        self._running: set[asyncio.Task[None]] = set()

    def strongest(self, context: OpenContext) -> Open | None:
        """Return the cached open whose click this install is credited to, if any."""
        known = self._cache.answer(context.first_launch_key)
        return known if known is not None and known.click_id and _is_same_device(context, known) else None

    def certain(self, context: OpenContext) -> Open | None:
        """Return the ``strongest`` open if its click does not come from a match by IP address, else None."""
        known = self.strongest(context)
        return known if known is not None and priority_of(known) > _GUESS else None

    def settle(self, context: OpenContext, opened: Open) -> None:
        """Record a decided open, and supersede the install's match by IP address if this open is certain."""
        if opened.offered in FIRST_LAUNCH:
            self._keep_without_link(context, opened)
        elif _rank(opened) <= _GUESS or context.app.ip_matching == "off":
            return  # it has no click of its own, or there is no match that it could supersede
        known = self._cache.answer(context.first_launch_key)
        if known is not None and known.open_id != opened.open_id and _is_same_device(context, known):
            if _rank(known) > _rank(opened) or _rank(known) == _rank(opened) > _GUESS:
                return
            if _outranks(opened, known):
                self._supersede(context, known, opened)
        self._cache.keep(context.first_launch_key, opened)
        if self._open_store.is_shared and context.is_install:
            self._start(self._compare_with_others(context, opened), "compare_replicas")

    def learn(self, context: OpenContext, opens: Sequence[Open]) -> None:
        """Cache the strongest of an install's stored opens, unless one is cached."""
        if opens and self._cache.answer(context.first_launch_key) is None:
            strongest = open_to_credit([opened for opened in opens if opened.click_id])
            if strongest is not None:
                self._cache.keep(context.first_launch_key, strongest)

    async def close(self) -> None:
        """Cancel the background tasks."""
        await cancel_all(self._running)

    def _keep_without_link(self, context: OpenContext, opened: Open) -> None:
        """Cache a first launch with a click as the answer to launches without a link."""
        if opened.click_id is not None and context.is_install:
            for domain in context.app.domains:
                self._cache.keep(answer_key(context.app.name, context.device, f"first:{domain}"), opened)

    async def _compare_with_others(self, context: OpenContext, opened: Open) -> None:
        """Compare an open with those that other replicas have stored in the meantime.

        Each replica stores its open before it compares, so the later one always finds the other.
        """
        try:
            others = await self._open_store.of_device(devices_of(context, self._identity))
        except StoreFailed:
            return
        for other in others:
            if other.open_id == opened.open_id:
                continue
            if _outranks(opened, other):
                self._supersede(context, other, opened)
            elif _outranks(other, opened):
                self._cache.keep(context.first_launch_key, other)
                self._supersede(context, opened, other)

    def _supersede(self, context: OpenContext, guess: Open, certain: Open) -> None:
        """Supersede a match by IP address. A pending one ends by itself, at its next attempt."""
        if guess.pending or guess.open_id == certain.open_id:
            return
        self._revise(context, guess, certain)
        if guess.click_id is not None:
            by = certain.open_id
            self._log.info(Event.OPEN_SUPERSEDED, app=context.app.name, open_id=guess.open_id, by=by)
            self._start(self._release_click(context, guess, certain), "claim_release")

    def _start(self, work: Coroutine[None, None, None], name: str) -> None:
        task = self._background.spawn(work, name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _revise(self, context: OpenContext, guess: Open, certain: Open) -> None:
        if self._erasures.covers(context.device, guess.opened_at):
            return
        revised = structs.replace(guess, credited_to=certain.open_id)
        if guess.click_id is not None:
            revised = structs.replace(revised, click_id=None, link=None, carried="", match=SUPERSEDED)
            self._webhook_events.superseded(context.app, revised)
        self._cache.revise(revised)
        self._open_store.revise(revised)

    async def _release_click(self, context: OpenContext, guess: Open, certain: Open) -> None:
        """Release a superseded match's click, and revise the install's other opens that share it."""
        assert guess.click_id is not None  # noqa: S101  ensured by the caller
        try:
            if not uses_up(certain, guess.click_id, guess.link):
                await self._claims.release(guess.click_id, context.device)
            devices = devices_of(context, self._identity)
            for opened in await self._open_store.of_device(devices):
                if opened.click_id == guess.click_id and priority_of(opened) <= _GUESS:
                    self._revise(context, opened, certain)
        except StoreFailed:
            return


def devices_of(context: OpenContext, identity: Identity) -> list[str]:
    """Return the device's hashes under all secrets; without an installId, only the current one is known."""
    install_id = context.report.install_id
    earlier = [] if install_id is None else identity.earlier_devices(context.app.name, install_id)
    return [context.device, *earlier]


def _rank(opened: Open) -> int:
    return priority_of(opened) if opened.click_id is not None else EVIDENCE_PRIORITY["none"]


def _outranks(opened: Open, other: Open) -> bool:
    """Return True if ``opened`` is certain, and ``other`` is a match by IP address or has no click."""
    return _rank(opened) > _GUESS >= _rank(other)


def _is_same_device(context: OpenContext, known: Open) -> bool:
    return context.is_install or context.opened_at - known.opened_at <= _NO_INSTALL_ID_S
