"""An install's strongest evidence wins, whatever arrives first.

What can go wrong: an app reports one cold start twice, and the guess by its address is answered before (or,
on another replica, at the same time as) the link that is certain. Then the guess gives way: its open has no
click any more, leads that name it are credited to the certain open, and its click is free for the install
that made it. A claim that cannot be given back while the store fails is lost to others, and to nobody else.
"""

import asyncio
from collections.abc import Coroutine, Sequence

from msgspec import structs

from service.aio.tasks import cancel_all
from service.attribution.lead_credit import open_to_credit, priority_of
from service.attribution.recent_erasures import RecentErasures
from service.domain.device_identity import Identity, answer_key
from service.domain.errors import StoreFailed
from service.domain.evidence import EVIDENCE_PRIORITY, FIRST_LAUNCH
from service.domain.models import SUPERSEDED, Open, uses_up
from service.domain.open_context import OpenContext
from service.domain.ports import Claims, OpenCache, OpenStore
from service.telemetry import Event, Log
from service.telemetry.background import Background

_GUESS = EVIDENCE_PRIORITY["ip"]
_NO_INSTALL_ID_S = 60.0  # for so long, an address and User-Agent are one device


class EvidencePrecedence:
    """Remembers the open with each install's strongest evidence, and supersedes what it outranks."""

    def __init__(
        self,
        *,
        cache: OpenCache,
        open_store: OpenStore,
        claims: Claims,
        identity: Identity,
        erasures: RecentErasures,
        background: Background,
        log: Log,
    ) -> None:
        self._cache = cache
        self._open_store = open_store
        self._claims = claims
        self._identity = identity
        self._erasures = erasures
        self._background = background
        self._log = log
        self._running: set[asyncio.Task[None]] = set()

    def strongest(self, context: OpenContext) -> Open | None:
        """Return the open whose click this install is credited to, as far as this process knows."""
        known = self._cache.answer(context.first_launch_key)
        return known if known is not None and known.click_id and _is_same_device(context, known) else None

    def certain(self, context: OpenContext) -> Open | None:
        """Return the same if its click is certain: no match by address may go before it."""
        known = self.strongest(context)
        return known if known is not None and priority_of(known) > _GUESS else None

    def settle(self, context: OpenContext, opened: Open) -> None:
        """Note an open that is decided; supersede the install's guess that it outranks."""
        if opened.offered in FIRST_LAUNCH:
            self._keep_without_link(context, opened)
        elif _rank(opened) <= _GUESS or context.app.ip_matching == "off":
            return  # no click, one that a first launch shares, or no guess that it could outrank
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
        """Remember the strongest open of an install, as the database knows it, if none is remembered."""
        if opens and self._cache.answer(context.first_launch_key) is None:
            strongest = open_to_credit([opened for opened in opens if opened.click_id])
            if strongest is not None:
                self._cache.keep(context.first_launch_key, strongest)

    async def close(self) -> None:
        """Give up what is under way."""
        await cancel_all(self._running)

    def _keep_without_link(self, context: OpenContext, opened: Open) -> None:
        """Repeat a first launch that has its click when the app is launched without a link."""
        if opened.click_id is not None and context.is_install:
            for domain in context.app.domains:
                self._cache.keep(answer_key(context.app.name, context.device, f"first:{domain}"), opened)

    async def _compare_with_others(self, context: OpenContext, opened: Open) -> None:
        """Compare an open, once it is written down, with those that other replicas decided meanwhile.

        Of two opens the one that is written last finds the other, whichever replica that is.
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
        """Take a guess back; one that is still looked for ends by itself."""
        if guess.pending or guess.open_id == certain.open_id:
            return
        self._revise(context, guess, certain)
        if guess.click_id is not None:
            by = certain.open_id
            self._log.info(Event.OPEN_SUPERSEDED, app=context.app.name, open_id=guess.open_id, by=by)
            self._start(self._give_back(context, guess, certain), "claim_release")

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
        self._cache.revise(revised)
        self._open_store.revise(revised)

    async def _give_back(self, context: OpenContext, guess: Open, certain: Open) -> None:
        """Release a guess's click, and revise the install's other opens that shared it."""
        assert guess.click_id is not None  # noqa: S101  the caller's
        try:
            if not uses_up(certain, guess.click_id, guess.link):
                await self._claims.release(guess.click_id, context.device)
            devices = devices_of(context, self._identity)
            for opened in await self._open_store.of_device(devices):
                if opened.click_id == guess.click_id and priority_of(opened) == _GUESS:
                    self._revise(context, opened, certain)
        except StoreFailed:
            return


def devices_of(context: OpenContext, identity: Identity) -> list[str]:
    """Return what the case's install was called under each secret, as far as that is known."""
    install_id = context.report.install_id
    earlier = [] if install_id is None else identity.earlier_devices(context.app.name, install_id)
    return [context.device, *earlier]


def _rank(opened: Open) -> int:
    return priority_of(opened) if opened.click_id is not None else EVIDENCE_PRIORITY["none"]


def _outranks(opened: Open, other: Open) -> bool:
    """Return True if an open is certain and the other one a guess, or without a click."""
    return _rank(opened) > _GUESS >= _rank(other)


def _is_same_device(context: OpenContext, known: Open) -> bool:
    return context.is_install or context.opened_at - known.opened_at <= _NO_INSTALL_ID_S
