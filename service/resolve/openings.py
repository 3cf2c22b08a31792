"""Builds what is remembered of an open, for each way in which it can be decided."""

from collections.abc import Callable
from functools import lru_cache

from msgspec import Struct, structs

from service.resolve.case import Case
from service.resolve.evidence import DeepLink
from service.resolve.ladder import STRENGTH, Rung, evidence_mask
from service.resolve.model import (
    BY_CLIPBOARD,
    BY_DEEP_LINK,
    BY_REFERRER,
    NO_MATCH,
    Match,
    Open,
    OpenedLink,
    Source,
)
from service.resolve.ports import Memory
from service.resolve.trace import Look

_MATCHED_BY = {"deep_link": BY_DEEP_LINK, "install_referrer": BY_REFERRER, "clipboard": BY_CLIPBOARD}
_ADDRESS_TTL_S = 60.0  # of an answer by address to nobody in particular


class Lifetimes(Struct, frozen=True, kw_only=True):
    """How long an answer is repeated, in seconds."""

    answer_ttl_s: float
    pending_ttl_s: float  # a degraded answer is asked for anew soon after
    call_s: float  # the longest that a call to Dub takes


class Openings:
    """Builds opens. ``clock`` is monotonic seconds."""

    def __init__(self, memory: Memory, lifetimes: Lifetimes, clock: Callable[[], float]) -> None:
        self._memory = memory
        self._lifetimes = lifetimes
        self._clock = clock

    def resolved(
        self, open_id: str, case: Case, rung: Rung, link: DeepLink, found: OpenedLink, *, remember: bool
    ) -> Open:
        """Build the open of a link that Dub described, and remember the link: one object for all opens."""
        described = found.link
        if described is not None and remember:
            described = self._memory.keep_link(link.domain, link.key, described)
        return Open(
            app=case.app.name,
            open_id=open_id,
            click_id=found.click_id,
            link=described,
            destination=None if described is None else described.url,
            query=link.query,
            match=NO_MATCH if described is None else _MATCHED_BY[rung.evidence],
            source="dub",
            app_version=shared(case.report.app_version),
            offered=STRENGTH[rung.evidence],
            repeat_until=self._clock() + self._lifetimes.answer_ttl_s,
        )

    def degraded(self, open_id: str, case: Case, rung: Rung | None) -> Open:
        """Answer without Dub: from what it once said of the link, else from the URL itself."""
        link = None if rung is None else rung.link
        known = None if link is None else self._memory.link(link.domain, link.key)
        if rung is None or link is None or known is None:
            url = None if link is None else link.url
            return self.parsed(open_id, case, url, self._lifetimes.pending_ttl_s, pending=True)
        return Open(
            app=case.app.name,
            open_id=open_id,
            link=known,
            destination=known.url,
            query=link.query,
            match=_MATCHED_BY[rung.evidence],
            source="stale",
            pending=True,
            app_version=shared(case.report.app_version),
            offered=STRENGTH[rung.evidence],
            repeat_until=self._clock() + self._lifetimes.pending_ttl_s,
        )

    def parsed(
        self, open_id: str, case: Case, url: str | None, ttl_s: float | None = None, *, pending: bool = False
    ) -> Open:
        """Route the URL as it is; with none at all, to the default screen."""
        if ttl_s is None:
            ttl_s = self._lifetimes.answer_ttl_s
        return Open(
            app=case.app.name,
            open_id=open_id,
            destination=url,
            source="parsed",
            pending=pending,
            app_version=shared(case.report.app_version),
            offered=case.offered if case.link is None else STRENGTH["deep_link"],
            evidence=evidence_mask(case.ladder),
            repeat_until=self._clock() + ttl_s,
        )

    def unmatched(
        self, open_id: str, case: Case, *, source: Source, ttl_s: float | None = None, match: Match = NO_MATCH
    ) -> Open:
        """Land on the default screen: an unknown link may be somebody's clipboard, so it is not routed."""
        if ttl_s is None:
            ttl_s = self._lifetimes.answer_ttl_s
        return Open(
            app=case.app.name,
            open_id=open_id,
            source=source,
            match=match,
            app_version=shared(case.report.app_version),
            offered=case.offered,
            evidence=evidence_mask(case.ladder),
            repeat_until=self._clock() + ttl_s,
        )

    def again(self, earlier: Open, case: Case) -> Open:
        """Repeat what an install was told at its first launch."""
        return structs.replace(
            earlier,
            app_version=shared(case.report.app_version),
            repeat_until=self._clock() + self._lifetimes.answer_ttl_s,
        )

    def no_longer(self, opened: Open, ttl_s: float) -> Open:
        """Repeat an answer without a click for as long as "no such link" stands, and no longer."""
        if opened.click_id is not None:
            return opened
        return structs.replace(opened, repeat_until=min(opened.repeat_until, self._clock() + ttl_s))

    def by_address(self, open_id: str, case: Case, look: Look, source: Source) -> Open:
        """Build the open of an install that was looked for by its address."""
        if look.pending:
            ttl_s = self._lifetimes.pending_ttl_s
        elif case.report.install_id is None:
            ttl_s = _ADDRESS_TTL_S
        else:
            ttl_s = self._lifetimes.answer_ttl_s
        click_id, link, query = look.click or (None, None, "")
        return Open(
            app=case.app.name,
            open_id=open_id,
            click_id=click_id,
            link=link,
            destination=None if link is None else link.url,
            query=query,
            match=look.match,
            source="dub" if look.click else source,
            pending=look.pending,
            looked_for=look.again,
            app_version=shared(case.report.app_version),
            offered=STRENGTH["ip"],
            evidence=evidence_mask(case.ladder),
            repeat_until=self._clock() + ttl_s,
        )


@lru_cache(1024)
def shared(version: str | None) -> str | None:
    """Return one string for all the remembered opens of a build."""
    return version
