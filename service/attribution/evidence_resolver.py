"""Resolve an open: ask about each piece of evidence, strongest first, until one resolves.

What can go wrong: weaker evidence is answered although stronger evidence is only delayed (an unavailable Dub
ends the resolution; it does not fall through); an install gets a second click for a first launch that it
already had; a dry run leaves something behind.
"""

import asyncio
import random
from collections.abc import Callable
from functools import partial

from service.attribution.answers import AnswerBuilder
from service.attribution.failing_links import FailingLinks
from service.attribution.lead_credit import open_to_credit
from service.attribution.precedence import EvidencePrecedence, devices_of
from service.attribution.recent_clicks import RecentClicks
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
from service.domain.evidence import EVIDENCE_PRIORITY, FIRST_LAUNCH, EvidenceItem
from service.domain.models import Link, Open, OpenedLink
from service.domain.open_context import OpenContext
from service.domain.ports import Claims, IpMatcher, LinkProvider, OpenCache, OpenStore
from service.domain.trace import Outcome, TraceRecorder

_RETRY_PAUSE_S = (0.03, 0.1)  # spread, so that a crowd does not come back as one


class EvidenceResolver:
    """Asks about evidence. One per process; its parts are handed in."""

    def __init__(
        self,
        *,
        dub: LinkProvider,
        ip_matching: IpMatcher,
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
        """Decide an open, within ``timeout_s`` seconds where that depends on us; raises ``DubUnavailable``.

        The outcome of each piece of evidence goes to ``recorder``.
        """
        until = self._clock() + timeout_s
        context.trace_skipped(recorder)
        earlier: list[Open] | None = [] if dry else None  # not recalled yet
        unknown_s: float | None = None
        for item in context.chain.items:
            recorder.at(item, self._clock())
            if earlier is None and EVIDENCE_PRIORITY[item.type] in FIRST_LAUNCH:
                earlier = await self._earlier(context)
            opened = None if earlier is None else self._known(open_id, context, item, earlier, recorder)
            found = opened or await self._asked(open_id, context, item, until, recorder, dry=dry)
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

    async def _asked(
        self,
        open_id: str,
        context: OpenContext,
        item: EvidenceItem,
        until: float,
        recorder: TraceRecorder,
        *,
        dry: bool,
    ) -> Open | float | None:
        """Ask about one piece of evidence.

        Returns the open that it decides; for how many seconds Dub's "no such link" stands; or ``None``.
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

    def known_at_once(self, open_id: str, context: OpenContext, recorder: TraceRecorder) -> Open | None:
        """Decide an open by what this process remembers of its install, if nothing need be asked."""
        if context.url is None or not context.is_install:
            return None
        latest = self._cache.answer(context.first_launch_key)
        if latest is None:
            return None
        context.trace_skipped(recorder)
        return self._known(open_id, context, context.chain.items[0], [latest], recorder)

    def _known(
        self,
        open_id: str,
        context: OpenContext,
        item: EvidenceItem,
        earlier: list[Open],
        recorder: TraceRecorder,
    ) -> Open | None:
        """Decide a first launch that this install has had already, by evidence as strong as this.

        Evidence of a first launch counts once. An open with no link (or none that Dub knows) is that same
        open again. One with a URL of its own is another; as long as the first launch is not over, it came by
        the same click.
        """
        priority = EVIDENCE_PRIORITY[item.type]
        if priority not in FIRST_LAUNCH or not earlier:
            return None
        had, strongest = _first_launch_again(earlier, priority), _strongest(earlier)
        if had is None and (priority > EVIDENCE_PRIORITY["ip"] or strongest is None):
            return None
        self._ip_matching.record_open(context)
        if had is not None and context.link is None and context.url is None:
            return self._answers.retry(had, context)
        recorder.add(item.type, "skipped", "this install was answered before: it is no first launch")
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
        """Ask Dub for a link without a trace; while Dub is away, what it once said stands in.

        Raises ``DubLinkNotFound``, or ``DubUnavailable`` if Dub says nothing within ``timeout_s`` seconds.
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
        """Ask Dub about a link; for one it does not know, return for how many seconds that stands."""
        link = item.link
        assert link is not None  # noqa: S101  the caller's loop
        unknown_s = self._cache.unknown_for_s(link.domain, link.key)
        if unknown_s > 0:
            recorder.source = "cache"
            recorder.add(item.type, "unknown", "Dub said a moment ago that it knows no such link")
            return unknown_s
        began = self._clock()
        try:
            found = await self._track(context, link, timeout_s, no_track=dry or link.no_track)
        except DubLinkNotFound:
            recorder.source = "dub"
            recorder.add(item.type, "unknown", "Dub knows no such link", self._clock() - began)
            if not dry:
                self._cache.keep_unknown(link.domain, link.key, began)
            return self._cache.unknown_for_s(link.domain, link.key)
        opened = self._answers.resolved(open_id, context, item, link, found, remember=not dry)
        if found.link is None:
            recorder.add(item.type, "resolved", "Dub answered with no link", self._clock() - began)
            return opened
        detail = f"link {found.link.id}" + (f"; not guaranteed: {item.doubt}" if item.doubt else "")
        recorder.add(item.type, "resolved", detail, self._clock() - began)
        if not dry:
            if found.click_id is not None:
                self._recent.add(found.click_id, began)
            if not link.no_track:
                self._ip_matching.record_install(context, found.link)
        return opened

    async def _by_click(
        self, open_id: str, context: OpenContext, item: EvidenceItem, recorder: TraceRecorder, *, dry: bool
    ) -> Open | None:
        """Claim the click that the opened URL names; raises ``StoreFailed``."""
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
        return self._answers.clicked(open_id, context, item)

    async def _by_address(
        self, open_id: str, context: OpenContext, until: float, recorder: TraceRecorder, *, dry: bool
    ) -> Open:
        began, certain = self._clock(), _nothing if dry else partial(self._precedence.certain, context)
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
        recorder.add("ip", outcome, attempt.detail, self._clock() - began)
        recorder.candidates = attempt.candidates
        recorder.click_may_be_late = attempt.retry
        strongest = self._precedence.strongest(context)
        return self._answers.by_address(open_id, context, attempt, recorder.source, strongest)

    async def _earlier(self, context: OpenContext) -> list[Open]:
        """Recall what this install was told before: nothing without an installId, or a database."""
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
        """Ask Dub about a link that it did not answer badly a moment ago; raises as ``_track_twice``."""
        pause_s = self._failing.pause_s(link.domain, link.key)
        if pause_s > 0:
            raise LinkFailing(f"Dub answers badly for this link: not asked for {pause_s:.0f} s")
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
        """Ask Dub about the link as this device; once more where that is safe and there is time for it."""
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


def _nothing() -> None:
    """Know of no certain open: a dry run is decided as if nothing was remembered."""


def _strongest(earlier: list[Open]) -> Open | None:
    """Return the open with a click that the install is credited to."""
    return open_to_credit([opened for opened in earlier if opened.click_id])


def _first_launch_again(earlier: list[Open], offered: int) -> Open | None:
    """Find the first launch that this install already had, by evidence as strong as is offered now."""
    for opened in earlier:
        if opened.offered in FIRST_LAUNCH and not opened.provisional:
            priority = EVIDENCE_PRIORITY[opened.match.type] if opened.click_id else opened.offered
            if priority >= offered:
                return opened
    return None
