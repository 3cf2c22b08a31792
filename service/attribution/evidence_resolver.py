"""The climb: each piece of evidence is asked about in turn, strongest first, until one resolves.

What can go wrong: weaker evidence answered although stronger is only delayed (an unavailable Dub ends the
climb, it does not fall through); an install given a second click for the first launch that it already had;
a dry run that leaves something behind.
"""

import asyncio
import random
from collections.abc import Callable
from functools import partial

from service.attribution.answers import Openings
from service.attribution.failing_links import FailingLinks
from service.attribution.lead_credit import open_to_credit
from service.attribution.precedence import Precedence, devices_of
from service.attribution.recent_clicks import RecentClicks
from service.domain.deep_links import DeepLink
from service.domain.device_identity import Identity, upstream_user_agent
from service.domain.errors import (
    DubFailed,
    DubGarbled,
    DubTimedOut,
    DubUnavailable,
    LinkFailing,
    LinkUnknown,
    StoreFailed,
)
from service.domain.evidence import FIRST_LAUNCH, STRENGTH, Rung
from service.domain.models import Link, Open, OpenedLink
from service.domain.open_context import Case
from service.domain.ports import Claims, Dub, FirstLaunch, Journal, Memory
from service.domain.trace import Outcome, Steps

_RETRY_PAUSE_S = (0.03, 0.1)  # spread, so that a crowd does not come back as one


class Climber:
    """Asks about evidence. One per process; its parts are handed in."""

    def __init__(
        self,
        *,
        dub: Dub,
        first_launch: FirstLaunch,
        memory: Memory,
        journal: Journal,
        claims: Claims,
        precedence: Precedence,
        identity: Identity,
        recent: RecentClicks,
        openings: Openings,
        clock: Callable[[], float],
        breaker: Callable[[], str],
    ) -> None:
        self._dub = dub
        self._first_launch = first_launch
        self._memory = memory
        self._journal = journal
        self._claims = claims
        self._precedence = precedence
        self._identity = identity
        self._recent = recent
        self._openings = openings
        self._clock = clock
        self._failing = FailingLinks(clock)
        self.breaker = breaker

    async def climb(
        self, open_id: str, case: Case, patience_s: float, steps: Steps, *, dry: bool = False
    ) -> Open:
        """Decide an open, within ``patience_s`` seconds where that depends on us; raises ``DubUnavailable``.

        ``steps`` hears what each rung said, and at which the climb is.
        """
        until = self._clock() + patience_s
        case.explain_skipped(steps)
        earlier: list[Open] | None = [] if dry else None  # not recalled yet
        unknown_s: float | None = None
        for rung in case.ladder.rungs:
            steps.at(rung, self._clock())
            if earlier is None and STRENGTH[rung.evidence] in FIRST_LAUNCH:
                earlier = await self._earlier(case)
            opened = None if earlier is None else self._known(open_id, case, rung, earlier, steps)
            found = opened or await self._asked(open_id, case, rung, until, steps, dry=dry)
            if isinstance(found, Open):
                return found if unknown_s is None else self._openings.no_longer(found, unknown_s)
            if found is not None:
                unknown_s = found if unknown_s is None else min(unknown_s, found)
        if earlier is None:
            earlier = await self._earlier(case)
        strongest = _strongest(earlier) or self._precedence.strongest(case)
        return self._openings.unmatched(
            open_id, case, source=steps.source, ttl_s=unknown_s, strongest=strongest
        )

    async def _asked(
        self, open_id: str, case: Case, rung: Rung, until: float, steps: Steps, *, dry: bool
    ) -> Open | float | None:
        """Ask about one piece of evidence.

        Returns the open that it decides; for how many seconds Dub's "no such link" stands; or ``None``.
        """
        match rung.evidence:
            case "dub_id":
                return await self._by_click(open_id, case, rung, steps, dry=dry)
            case "ip":
                return await self._by_address(open_id, case, until, steps, dry=dry)
        try:
            return await self._by_link(open_id, case, rung, until - self._clock(), steps, dry=dry)
        except DubUnavailable:
            if not dry:
                self._first_launch.saw(case)
            raise

    def known_at_once(self, open_id: str, case: Case, steps: Steps) -> Open | None:
        """Decide an open by what this process remembers of its install, if nothing need be asked."""
        if case.url is None or not case.is_install:
            return None
        latest = self._memory.answer(case.first_launch_key)
        if latest is None:
            return None
        case.explain_skipped(steps)
        return self._known(open_id, case, case.ladder.rungs[0], [latest], steps)

    def _known(self, open_id: str, case: Case, rung: Rung, earlier: list[Open], steps: Steps) -> Open | None:
        """Decide a first launch that this install has had already, by evidence as strong as this.

        Evidence of a first launch counts once. An open with no link (or none that Dub knows) is that same
        open again. One with a URL of its own is another; as long as the first launch is not over, it came by
        the same click.
        """
        strength = STRENGTH[rung.evidence]
        if strength not in FIRST_LAUNCH or not earlier:
            return None
        had, strongest = _first_launch_again(earlier, strength), _strongest(earlier)
        if had is None and (strength > STRENGTH["ip"] or strongest is None):
            return None
        self._first_launch.saw(case)
        if had is not None and case.link is None and case.url is None:
            return self._openings.again(had, case)
        steps.add(rung.evidence, "skipped", "this install was answered before: it is no first launch")
        return self._openings.later(open_id, case, had, source=steps.source, strongest=strongest)

    def refused(self, case: Case, steps: Steps) -> bool:
        """Whether the climb would end at its first rung, Dub being held back; ``steps`` hears it then."""
        rung = case.ladder.rungs[0]
        link = rung.link
        if link is None or rung.evidence != "deep_link" or self.breaker() != "open":
            return False
        if self._memory.unknown_for_s(link.domain, link.key) > 0:
            return False
        case.explain_skipped(steps)
        steps.at(rung, self._clock())
        self._first_launch.saw(case)
        return True

    async def look_up(self, case: Case, link: DeepLink, patience_s: float) -> Link | None:
        """Ask Dub for a link without a trace; while Dub is away, what it once said stands in.

        Raises ``LinkUnknown``, or ``DubUnavailable`` where nothing was said, within ``patience_s`` seconds.
        """
        try:
            async with asyncio.timeout(patience_s):
                return (await self._track(case, link, patience_s, no_track=True)).link
        except (DubUnavailable, TimeoutError) as exc:
            known = self._memory.link(link.domain, link.key)
            if known is None:
                raise DubTimedOut("no answer within the budget") from exc
            return known

    async def _by_link(
        self, open_id: str, case: Case, rung: Rung, patience_s: float, steps: Steps, *, dry: bool
    ) -> Open | float:
        """Ask Dub about a link; for one it does not know, return for how many seconds that stands."""
        link = rung.link
        assert link is not None  # noqa: S101  the caller's loop
        unknown_s = self._memory.unknown_for_s(link.domain, link.key)
        if unknown_s > 0:
            steps.source = "cache"
            steps.add(rung.evidence, "unknown", "Dub said a moment ago that it knows no such link")
            return unknown_s
        began = self._clock()
        try:
            found = await self._track(case, link, patience_s, no_track=dry or link.no_track)
        except LinkUnknown:
            steps.source = "dub"
            steps.add(rung.evidence, "unknown", "Dub knows no such link", self._clock() - began)
            if not dry:
                self._memory.keep_unknown(link.domain, link.key, began)
            return self._memory.unknown_for_s(link.domain, link.key)
        opened = self._openings.resolved(open_id, case, rung, link, found, remember=not dry)
        if found.link is None:
            steps.add(rung.evidence, "resolved", "Dub answered with no link", self._clock() - began)
            return opened
        detail = f"link {found.link.id}" + (f"; not guaranteed: {rung.doubt}" if rung.doubt else "")
        steps.add(rung.evidence, "resolved", detail, self._clock() - began)
        if not dry:
            if found.click_id is not None:
                self._recent.add(found.click_id, began)
            if not link.no_track:
                self._first_launch.found(case, found.link)
        return opened

    async def _by_click(
        self, open_id: str, case: Case, rung: Rung, steps: Steps, *, dry: bool
    ) -> Open | None:
        """Claim the click that the opened URL names; raises ``StoreFailed``."""
        click_id, began = rung.click_id, self._clock()
        if dry:
            is_own = (await self._claims.owners([click_id])).get(click_id, case.device) == case.device
        else:
            is_own = await self._claims.claim(click_id, case.device)
        took_s = self._clock() - began
        if not is_own:
            steps.add(rung.evidence, "none", f"click {click_id} is claimed by another install", took_s)
            return None
        steps.add(rung.evidence, "resolved", f"click {click_id}", took_s)
        if not dry:
            self._first_launch.saw(case)
        return self._openings.clicked(open_id, case, rung)

    async def _by_address(self, open_id: str, case: Case, until: float, steps: Steps, *, dry: bool) -> Open:
        began, certain = self._clock(), _nothing if dry else partial(self._precedence.certain, case)
        look = await self._first_launch.look(
            case,
            max(until - began, 0),
            since=case.report.caller.arrived,
            claim=not dry,
            certain=certain,
        )
        outcome: Outcome = "matched" if look.click else "pending" if look.pending or look.again else "none"
        steps.add("ip", outcome, look.detail, self._clock() - began)
        steps.candidates = look.candidates
        steps.look_again = look.again
        strongest = self._precedence.strongest(case)
        return self._openings.by_address(open_id, case, look, steps.source, strongest)

    async def _earlier(self, case: Case) -> list[Open]:
        """Recall what this install was told before: nothing without an installId, or a database."""
        if not case.is_install:
            return []
        latest = self._memory.answer(case.first_launch_key)
        if latest is not None and latest.offered in FIRST_LAUNCH:
            return [latest]
        if case.earlier is None:
            try:
                known = await self._journal.recall(devices_of(case, self._identity), case.key)
            except StoreFailed:
                return []
            case.earlier = known.opens
        return case.earlier

    async def _track(
        self, case: Case, link: DeepLink, patience_s: float, *, no_track: bool = False
    ) -> OpenedLink:
        """Ask Dub about a link that it did not answer badly a moment ago; raises as ``_track_twice``."""
        pause_s = self._failing.pause_s(link.domain, link.key)
        if pause_s > 0:
            raise LinkFailing(f"Dub answers badly for this link: not asked for {pause_s:.0f} s")
        try:
            found = await self._track_twice(case, link, patience_s, no_track=no_track)
        except (DubFailed, DubGarbled) as exc:
            if not exc.is_outage:
                self._failing.failed(link.domain, link.key)
            raise
        except LinkUnknown:
            self._failing.answered(link.domain, link.key)
            raise
        self._failing.answered(link.domain, link.key)
        return found

    async def _track_twice(
        self, case: Case, link: DeepLink, patience_s: float, *, no_track: bool
    ) -> OpenedLink:
        """Ask Dub about the link as this device; once more where that is safe and there is time for it."""
        caller = case.report.caller
        until = self._clock() + patience_s
        user_agent = upstream_user_agent(caller.user_agent, case.device)
        ip = case.ip if case.app.trusts_forwarded_ip else None
        ask = partial(
            self._dub.track_open,
            case.app.name,
            link.at_dub,
            user_agent=user_agent,
            ip=ip,
            no_track=no_track,
            replay=case.replay,
        )
        try:
            return await ask(patience_s=patience_s)
        except DubUnavailable as exc:
            if exc.retry_in_s is None:
                raise
            pause_s = exc.retry_in_s + random.uniform(*_RETRY_PAUSE_S)  # noqa: S311  not for secrets
            if self._clock() + pause_s >= until:
                raise
        await asyncio.sleep(pause_s)
        return await ask(patience_s=max(until - self._clock(), 0))


def _nothing() -> None:
    """Know of no certain open: a dry run is decided as if nothing was remembered."""


def _strongest(earlier: list[Open]) -> Open | None:
    """Return the open with a click that the install is credited to."""
    return open_to_credit([opened for opened in earlier if opened.click_id])


def _first_launch_again(earlier: list[Open], offered: int) -> Open | None:
    """Find the first launch that this install already had, by evidence as strong as is offered now."""
    for opened in earlier:
        if opened.offered in FIRST_LAUNCH and not opened.provisional:
            strength = STRENGTH[opened.match.type] if opened.click_id else opened.offered
            if strength >= offered:
                return opened
    return None
