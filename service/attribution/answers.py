"""Builds what is remembered of an open, for each way in which it can be decided."""

from collections.abc import Callable
from functools import lru_cache

from msgspec import Struct, structs

from service.domain.deep_links import DeepLink
from service.domain.evidence import STRENGTH, Rung, evidence_mask
from service.domain.models import (
    BY_CLIPBOARD,
    BY_DEEP_LINK,
    BY_DOUBTFUL_REFERRER,
    BY_DUB_ID,
    BY_REFERRER,
    NO_MATCH,
    OLD_INSTALL,
    Link,
    Match,
    Open,
    OpenedLink,
    Source,
)
from service.domain.open_context import Case
from service.domain.ports import Memory
from service.domain.trace import Look

_MATCHED_BY = {"deep_link": BY_DEEP_LINK, "install_referrer": BY_REFERRER, "clipboard": BY_CLIPBOARD}
_NO_CLICK = (None, None, "")
_ADDRESS_TTL_S = 60.0  # of an answer by address to nobody in particular


def _matched_by(rung: Rung) -> Match:
    return BY_DOUBTFUL_REFERRER if rung.doubt else _MATCHED_BY[rung.evidence]


class Lifetimes(Struct, frozen=True, kw_only=True):
    """How long an answer is repeated, in seconds."""

    answer_ttl_s: float
    pending_ttl_s: float  # a degraded answer is asked for anew soon after
    call_s: float  # the longest that a call to Dub takes


class Openings:
    """Builds opens. ``clock`` is monotonic seconds."""

    def __init__(self, memory: Memory, lifetimes: Lifetimes, clock: Callable[[], float]) -> None:
        self._memory = memory
        self.lifetimes = lifetimes
        self._clock = clock

    def resolved(
        self, open_id: str, case: Case, rung: Rung, link: DeepLink, found: OpenedLink, *, remember: bool
    ) -> Open:
        """Build the open of a link that Dub described, and remember the link: one object for all opens."""
        described = found.link
        if described is not None and remember:
            described = self._memory.keep_link(link.domain, link.key, described)
        return self._open(
            open_id,
            case,
            source="dub",
            offered=STRENGTH[rung.evidence],
            match=NO_MATCH if described is None else _matched_by(rung),
            click=(found.click_id, described, link.carried),
        )

    def clicked(self, open_id: str, case: Case, rung: Rung) -> Open:
        """Build the open of a URL that names its click; it is routed as it is, also if it is a short link."""
        offered = STRENGTH[rung.evidence]
        url = None if case.link is None else case.link.url
        click = (rung.click_id, None, "")
        return self._open(
            open_id, case, source="parsed", offered=offered, match=BY_DUB_ID, click=click, url=url
        )

    def degraded(self, open_id: str, case: Case, rung: Rung | None) -> Open:
        """Answer without Dub: from what it once said of the link, else from the URL itself."""
        link = None if rung is None else rung.link
        known = None if link is None else self._memory.link(link.domain, link.key)
        ttl_s = self.lifetimes.pending_ttl_s
        if rung is None or link is None or known is None:
            return self.parsed(open_id, case, None if link is None else link.url, ttl_s, provisional=True)
        return self._open(
            open_id,
            case,
            source="stale",
            offered=STRENGTH[rung.evidence],
            match=_matched_by(rung),
            click=(None, known, link.carried),
            provisional=True,
            ttl_s=ttl_s,
        )

    def parsed(
        self,
        open_id: str,
        case: Case,
        url: str | None,
        ttl_s: float | None = None,
        *,
        provisional: bool = False,
    ) -> Open:
        """Route a URL as it is: the one that was opened, else ``url``; with none, to the default screen."""
        return self._open(
            open_id,
            case,
            source="parsed",
            offered=case.offered,
            match=OLD_INSTALL if case.ladder.old_install else NO_MATCH,
            url=url,
            provisional=provisional,
            ttl_s=ttl_s,
        )

    def unmatched(
        self,
        open_id: str,
        case: Case,
        *,
        source: Source,
        ttl_s: float | None = None,
        strongest: Open | None = None,
    ) -> Open:
        """Build an open without a click; the install may have another that has one: its ``strongest``.

        A short link that Dub does not know may be somebody's clipboard: it lands on the default screen.
        """
        match = OLD_INSTALL if case.ladder.old_install else NO_MATCH
        return self._open(
            open_id, case, source=source, offered=case.offered, match=match, ttl_s=ttl_s, strongest=strongest
        )

    def again(self, earlier: Open, case: Case) -> Open:
        """Repeat what an install was told at its first launch."""
        return structs.replace(
            earlier,
            app_version=shared(case.report.app_version),
            repeat_until=self._clock() + self.lifetimes.answer_ttl_s,
        )

    def later(
        self, open_id: str, case: Case, first: Open | None, *, source: Source, strongest: Open | None
    ) -> Open:
        """Build another open of an install that has had its ``first`` launch, or opened a link before.

        It shares the first launch's click for as long as Dub repeats one; after that, evidence of the first
        launch says nothing about it.
        """
        ended = case.opened_at - self.lifetimes.answer_ttl_s
        if first is not None and first.click_id is not None and first.opened_at >= ended:
            return self._open(
                open_id,
                case,
                source=first.source,
                offered=STRENGTH["none"],
                match=first.match,
                click=(first.click_id, first.link, first.carried),
            )
        return self._open(open_id, case, source=source, offered=STRENGTH["none"], strongest=strongest)

    def no_longer(self, opened: Open, ttl_s: float) -> Open:
        """Repeat an answer without a click for as long as "no such link" stands, and no longer."""
        if opened.click_id is not None:
            return opened
        return structs.replace(opened, repeat_until=min(opened.repeat_until, self._clock() + ttl_s))

    def by_address(
        self, open_id: str, case: Case, look: Look, source: Source, strongest: Open | None
    ) -> Open:
        """Build the open of an install that was looked for by its address."""
        ttl_s = None
        if look.pending:
            ttl_s = self.lifetimes.pending_ttl_s
        elif not case.is_install:
            ttl_s = _ADDRESS_TTL_S
        return self._open(
            open_id,
            case,
            source="dub" if look.click else source,
            offered=STRENGTH["ip"],
            match=look.match,
            click=look.click or _NO_CLICK,
            provisional=look.pending,
            looking=look.again,
            ttl_s=ttl_s,
            strongest=None if look.click else strongest,
        )

    def _open(
        self,
        open_id: str,
        case: Case,
        *,
        source: Source,
        offered: int,
        match: Match = NO_MATCH,
        click: tuple[str | None, Link | None, str] = _NO_CLICK,
        url: str | None = None,
        provisional: bool = False,
        looking: bool = False,
        ttl_s: float | None = None,
        strongest: Open | None = None,
    ) -> Open:
        """Build an open that is repeated for ``ttl_s`` seconds, or for as long as answers usually are.

        ``click`` is its id, its link and what that carried. ``url`` is routed as it is, and
        the URL that was opened goes before it.
        """
        click_id, link, carried = click
        if case.url is not None:
            url, carried = case.url, ""
            source = source if link is not None else "parsed"
        return Open(
            app=case.app.name,
            open_id=open_id,
            device=case.device,
            click_id=click_id,
            link=link,
            url=url,
            carried=carried,
            match=match,
            source=source,
            provisional=provisional,
            credited_to=None if strongest is None else strongest.open_id,
            looking=looking,
            app_version=shared(case.report.app_version),
            offered=offered,
            evidence=evidence_mask(case.ladder),
            opened_at=case.opened_at,
            repeat_until=self._clock() + (self.lifetimes.answer_ttl_s if ttl_s is None else ttl_s),
        )


@lru_cache(1024)
def shared(version: str | None) -> str | None:
    """Return one string for all the remembered opens of a build."""
    return version
