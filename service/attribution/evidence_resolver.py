"""Resolve the evidence of an open, strongest first, until one item decides the open.

What can go wrong: weaker evidence decides although stronger evidence is only delayed (if Dub is unavailable,
the resolution ends instead of trying weaker evidence); an install gets a second click for a first launch that
it already had; a dry run changes state.
"""

import asyncio
import random
from collections.abc import Callable
from functools import partial

from service.attribution.answers import AnswerBuilder
from service.attribution.failing_links import FailingLinks
from service.attribution.lead_credit import open_to_credit
from service.attribution.precedence import EvidencePrecedence, devices_of
from service.attribution.rate_learning import RateLearning
from service.attribution.recent_clicks import RecentClicks
from service.attribution.shadow_matching import ShadowMatching
from service.domain.deep_links import DeepLink
from service.domain.device_identity import Identity, upstream_user_agent
from service.domain.errors import (
    DubFailed,
    DubLinkNotFound,
    DubTimedOut,
    DubUnavailable,
    InvalidDubResponse,
    LinkFailing,
    StoreFailed,
)
from service.domain.evidence import EVIDENCE_PRIORITY, FIRST_LAUNCH, EvidenceItem, EvidenceType
from service.domain.models import Link, Open, OpenedLink
from service.domain.open_context import OpenContext
from service.domain.ports import Claims, IpMatcher, LinkProvider, OpenCache, OpenStore
from service.domain.trace import Outcome, TraceRecorder

_RETRY_PAUSE_S = (0.03, 0.1)  # random, so that many callers do not retry at the same moment


class EvidenceResolver:
    """Resolves the evidence of opens: at Dub, by claims, or by IP address."""

    def __init__(
        self,
        *,
        dub: LinkProvider,
        ip_matching: IpMatcher,
        shadow_matching: ShadowMatching,
        rates: RateLearning,
        cache: OpenCache,
        open_store: OpenStore,
        claims: Claims,
        precedence: EvidencePrecedence,
        identity: Identity,
        recent: RecentClicks,
        answers: AnswerBuilder,
        clock: Callable[[], float],
        breaker: Callable[[], str],
    ) -> None:
        self._dub = dub
        self._ip_matching = ip_matching
        self._shadow_matching = shadow_matching
        self._rates = rates
        self._cache = cache
        self._open_store = open_store
        self._claims = claims
        self._precedence = precedence
        self._identity = identity
        self._recent = recent
        self._answers = answers
        self._clock = clock
        self._failing = FailingLinks(clock)
        self.breaker = breaker

    async def resolve(
        self,
        open_id: str,
        context: OpenContext,
        timeout_s: float,
        recorder: TraceRecorder,
        *,
        dry: bool = False,
    ) -> Open:
        """Decide an open by its evidence; raises ``DubUnavailable`` or ``StoreFailed``.

        Calls get at most ``timeout_s`` seconds, which Dub's client does not guarantee. ``recorder`` gets the
        outcome of each piece of evidence. A ``dry`` run changes no state.
        """
        until = self._clock() + timeout_s
        context.trace_skipped(recorder)
        earlier: list[Open] | None = [] if dry else None  # None: not loaded yet
        unknown_s: float | None = None
        for item in context.chain.items:
            recorder.at(item, self._clock())
            if earlier is None and EVIDENCE_PRIORITY[item.type] in FIRST_LAUNCH:
                earlier = await self._earlier(context)
            opened = None if earlier is None else self._by_earlier(open_id, context, item, earlier, recorder)
            found = opened or await self._by_item(open_id, context, item, until, recorder, dry=dry)
            if isinstance(found, Open):
                return found if unknown_s is None else self._answers.no_longer(found, unknown_s)
            if found is not None:
                unknown_s = found if unknown_s is None else min(unknown_s, found)
        if earlier is None:
            earlier = await self._earlier(context)
        strongest = _strongest(earlier) or self._precedence.strongest(context)
        return self._answers.unmatched(
            open_id, context, source=recorder.source, ttl_s=unknown_s, strongest=strongest
        )

    async def _by_item(
        self,
        open_id: str,
        context: OpenContext,
        item: EvidenceItem,
        until: float,
        recorder: TraceRecorder,
        *,
        dry: bool,
    ) -> Open | float | None:
        """Resolve one piece of evidence.

        Returns the open that it decides; or for how many seconds Dub's "no such link" is cached; or None.
        """
        match item.type:
            case "dub_id":
                return await self._by_click(open_id, context, item, recorder, dry=dry)
            case "ip":
                return await self._by_address(open_id, context, until, recorder, dry=dry)
        try:
            return await self._by_link(open_id, context, item, until - self._clock(), recorder, dry=dry)
        except DubUnavailable:
            if not dry:
                self._ip_matching.record_open(context)
            raise

    def from_cache(self, open_id: str, context: OpenContext, recorder: TraceRecorder) -> Open | None:
        """Decide an open by the install's cached first launch, or return None if that does not decide it."""
        if context.url is None or not context.is_install:
            return None
        latest = self._cache.answer(context.first_launch_key)
        if latest is None:
            return None
        context.trace_skipped(recorder)
        return self._by_earlier(open_id, context, context.chain.items[0], [latest], recorder)

    def _by_earlier(
        self,
        open_id: str,
        context: OpenContext,
        item: EvidenceItem,
        earlier: list[Open],
        recorder: TraceRecorder,
    ) -> Open | None:
        """Decide an open by the install's earlier opens, if its first launch had evidence as strong as this.

        First-launch evidence counts once per install. An open without a link (or with one that Dub does not
        know) repeats the first launch. An open with another URL is a later open; it shares the first launch's
        click while that click is recent.
        """
        priority = EVIDENCE_PRIORITY[item.type]
        if priority not in FIRST_LAUNCH or not earlier:
            return None
        had, strongest = _first_launch_again(earlier, priority), _strongest(earlier)
        if had is None and (priority > EVIDENCE_PRIORITY["ip"] or strongest is None):
            return None
        self._ip_matching.record_open(context)
        if had is not None and context.link is None and context.url is None:
            return self._answers.repeated(had, context)
        recorder.add(item.type, "skipped", "this install was answered before: this is not its first launch")
        return self._answers.later(open_id, context, had, source=recorder.source, strongest=strongest)

    def refused(self, context: OpenContext, recorder: TraceRecorder) -> bool:
        """Return True if the circuit breaker is open, and record that in the trace."""
        item = context.chain.items[0]
        link = item.link
        if link is None or item.type != "deep_link" or self.breaker() != "open":
            return False
        if self._cache.unknown_for_s(link.domain, link.key) > 0:
            return False
        context.trace_skipped(recorder)
        recorder.at(item, self._clock())
        self._ip_matching.record_open(context)
        return True

    async def look_up(self, context: OpenContext, link: DeepLink, timeout_s: float) -> Link | None:
        """Look up a link at Dub without recording a click; if Dub is unavailable, use the cached link.

        Raises ``DubLinkNotFound``, or ``DubUnavailable`` if Dub does not answer within ``timeout_s`` seconds
        and the link is not cached.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return (await self._track(context, link, timeout_s, no_track=True)).link
        except (DubUnavailable, TimeoutError) as exc:
            known = self._cache.link(link.domain, link.key)
            if known is None:
                raise DubTimedOut("no answer within the budget") from exc
            return known

    async def _by_link(
        self,
        open_id: str,
        context: OpenContext,
        item: EvidenceItem,
        timeout_s: float,
        recorder: TraceRecorder,
        *,
        dry: bool,
    ) -> Open | float:
        """Report a link to Dub. If Dub does not know it, return for how many seconds that is cached."""
        link = item.link
        assert link is not None  # noqa: S101  ensured by the caller
        unknown_s = self._cache.unknown_for_s(link.domain, link.key)
        if unknown_s > 0:
            recorder.source = "cache"
            recorder.add(item.type, "unknown", "Dub did not know this link a moment ago")
            return unknown_s
        began = self._clock()
        try:
            found = await self._track(context, link, timeout_s, no_track=dry or link.no_track)
        except DubLinkNotFound:
            recorder.source = "dub"
            recorder.add(item.type, "unknown", "Dub does not know this link", self._clock() - began)
            if not dry:
                self._cache.keep_unknown(link.domain, link.key, began)
            return self._cache.unknown_for_s(link.domain, link.key)
        opened = self._answers.resolved(open_id, context, item, link, found, remember=not dry)
        if found.link is None:
            recorder.add(item.type, "resolved", "Dub answered without a link", self._clock() - began)
            return opened
        detail = f"link {found.link.id}" + (f"; not guaranteed: {item.doubt}" if item.doubt else "")
        recorder.add(item.type, "resolved", detail, self._clock() - began)
        if not dry:
            if found.click_id is not None:
                self._recent.add(found.click_id, began)
            if not link.no_track:
                self._ip_matching.record_install(context, found.link)
                self._shadow_matching.observe(context, opened)
                self._rates.observe_first_open(context, has_link=True)
        return opened

    async def _by_click(
        self, open_id: str, context: OpenContext, item: EvidenceItem, recorder: TraceRecorder, *, dry: bool
    ) -> Open | None:
        """Claim the click in the opened URL for this install; raises ``StoreFailed``."""
        click_id, began = item.click_id, self._clock()
        if dry:
            is_own = (await self._claims.owners([click_id])).get(click_id, context.device) == context.device
        else:
            is_own = await self._claims.claim(click_id, context.device)
        took_s = self._clock() - began
        if not is_own:
            recorder.add(item.type, "none", f"click {click_id} is claimed by another install", took_s)
            return None
        recorder.add(item.type, "resolved", f"click {click_id}", took_s)
        if not dry:
            self._ip_matching.record_open(context)
            self._rates.observe_first_open(context, has_link=True)
        return self._answers.clicked(open_id, context, item)

    async def _by_address(
        self, open_id: str, context: OpenContext, until: float, recorder: TraceRecorder, *, dry: bool
    ) -> Open:
        began = self._clock()
        certain = _no_certain_open if dry else partial(self._precedence.certain, context)
        attempt = await self._ip_matching.match(
            context,
            max(until - began, 0),
            since=context.report.caller.arrived,
            claim=not dry,
            certain=certain,
        )
        outcome: Outcome = (
            "matched" if attempt.click else "pending" if attempt.pending or attempt.retry else "none"
        )
        evidence: EvidenceType = "touch" if attempt.match.type == "touch" else "ip"
        recorder.add(evidence, outcome, attempt.detail, self._clock() - began)
        recorder.candidates = attempt.candidates
        recorder.click_may_be_late = attempt.retry
        if not dry:
            self._rates.observe_first_open(context, has_link=False)
        strongest = self._precedence.strongest(context)
        return self._answers.by_address(open_id, context, attempt, recorder.source, strongest)

    async def _earlier(self, context: OpenContext) -> list[Open]:
        """Return the install's earlier opens; none without an installId, or if the database fails."""
        if not context.is_install:
            return []
        latest = self._cache.answer(context.first_launch_key)
        if latest is not None and latest.offered in FIRST_LAUNCH:
            return [latest]
        if context.earlier is None:
            try:
                known = await self._open_store.recall(devices_of(context, self._identity), context.key)
            except StoreFailed:
                return []
            context.earlier = known.opens
        return context.earlier

    async def _track(
        self, context: OpenContext, link: DeepLink, timeout_s: float, *, no_track: bool = False
    ) -> OpenedLink:
        """Report a link to Dub, unless it is paused after failures; raises ``LinkFailing`` then.

        Raises ``DubLinkNotFound`` or a ``DubUnavailable`` as well.
        """
        pause_s = self._failing.pause_s(link.domain, link.key)
        if pause_s > 0:
            raise LinkFailing(f"Dub failed for this link repeatedly: not called for {pause_s:.0f} s")
        try:
            found = await self._track_twice(context, link, timeout_s, no_track=no_track)
        except (DubFailed, InvalidDubResponse) as exc:
            if not exc.is_outage:
                self._failing.failed(link.domain, link.key)
            raise
        except DubLinkNotFound:
            self._failing.answered(link.domain, link.key)
            raise
        self._failing.answered(link.domain, link.key)
        return found

    async def _track_twice(
        self, context: OpenContext, link: DeepLink, timeout_s: float, *, no_track: bool
    ) -> OpenedLink:
        """Report a link to Dub as this device; retry once if that is safe and time is left."""
        caller = context.report.caller
        until = self._clock() + timeout_s
        user_agent = upstream_user_agent(caller.user_agent, context.device)
        ip = context.ip if context.app.trusts_forwarded_ip else None
        ask = partial(
            self._dub.track_open,
            context.app.name,
            link.at_dub,
            user_agent=user_agent,
            ip=ip,
            no_track=no_track,
            replay=context.replay,
        )
        try:
            return await ask(queue_timeout_s=timeout_s)
        except DubUnavailable as exc:
            if exc.retry_in_s is None:
                raise
            pause_s = exc.retry_in_s + random.uniform(*_RETRY_PAUSE_S)  # noqa: S311  not for secrets
            if self._clock() + pause_s >= until:
                raise
        await asyncio.sleep(pause_s)
        return await ask(queue_timeout_s=max(until - self._clock(), 0))


def _no_certain_open() -> None:
    """Return None: a dry run is decided as if no earlier opens were known."""


def _strongest(earlier: list[Open]) -> Open | None:
    """Return the open with a click to which the install is credited."""
    return open_to_credit([opened for opened in earlier if opened.click_id])


def _first_launch_again(earlier: list[Open], offered: int) -> Open | None:
    """Return the install's first launch if its evidence was at least as strong as ``offered``."""
    for opened in earlier:
        if opened.offered in FIRST_LAUNCH and not opened.provisional:
            priority = EVIDENCE_PRIORITY[opened.match.type] if opened.click_id else opened.offered
            if priority >= offered:
                return opened
    return None
