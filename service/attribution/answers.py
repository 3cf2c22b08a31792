"""Build the ``Open`` to cache and store, for each way in which an open can be decided."""

from collections.abc import Callable
from functools import lru_cache

from msgspec import Struct, structs

from service.domain.deep_links import DeepLink
from service.domain.evidence import EVIDENCE_PRIORITY, EvidenceItem, evidence_mask
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
from service.domain.open_context import OpenContext
from service.domain.ports import OpenCache
from service.domain.trace import MatchAttempt

_MATCHED_BY = {"deep_link": BY_DEEP_LINK, "install_referrer": BY_REFERRER, "clipboard": BY_CLIPBOARD}
_NO_CLICK = (None, None, "")
_PENDING_TTL_S = 1.0  # of a degraded answer: a retry should get its click as soon as Dub is available
_ADDRESS_TTL_S = 60.0  # of an answer by IP address without an installId: the next open may be another phone


def _matched_by(item: EvidenceItem) -> Match:
    return BY_DOUBTFUL_REFERRER if item.doubt else _MATCHED_BY[item.type]


class Lifetimes(Struct, frozen=True, kw_only=True):
    """How long an answer is repeated, in seconds."""

    answer_ttl_s: float
    call_s: float  # the longest that a call to Dub takes


class AnswerBuilder:
    """Builds opens. ``clock`` is monotonic seconds."""

    def __init__(self, cache: OpenCache, lifetimes: Lifetimes, clock: Callable[[], float]) -> None:
        self._cache = cache
        self.lifetimes = lifetimes
        self._clock = clock

    def resolved(
        self,
        open_id: str,
        context: OpenContext,
        item: EvidenceItem,
        link: DeepLink,
        found: OpenedLink,
        *,
        remember: bool,
    ) -> Open:
        """Build the open of a link that Dub described. The link is cached, so that opens share one object."""
        described = found.link
        if described is not None and remember:
            described = self._cache.keep_link(link.domain, link.key, described)
        return self._open(
            open_id,
            context,
            source="dub",
            offered=EVIDENCE_PRIORITY[item.type],
            match=NO_MATCH if described is None else _matched_by(item),
            click=(found.click_id, described, link.carried),
        )

    def clicked(self, open_id: str, context: OpenContext, item: EvidenceItem) -> Open:
        """Build the open of a URL with a ``dub_id``. The URL is routed unchanged, even a short link."""
        offered = EVIDENCE_PRIORITY[item.type]
        url = None if context.link is None else context.link.url
        click = (item.click_id, None, "")
        return self._open(
            open_id, context, source="parsed", offered=offered, match=BY_DUB_ID, click=click, url=url
        )

    def degraded(self, open_id: str, context: OpenContext, item: EvidenceItem | None) -> Open:
        """Build the open without Dub: from the cached link, else from the URL itself."""
        link = None if item is None else item.link
        known = None if link is None else self._cache.link(link.domain, link.key)
        ttl_s = _PENDING_TTL_S
        if item is None or link is None or known is None:
            return self.parsed(open_id, context, None if link is None else link.url, ttl_s, provisional=True)
        return self._open(
            open_id,
            context,
            source="stale",
            offered=EVIDENCE_PRIORITY[item.type],
            match=_matched_by(item),
            click=(None, known, link.carried),
            provisional=True,
            ttl_s=ttl_s,
        )

    def parsed(
        self,
        open_id: str,
        context: OpenContext,
        url: str | None,
        ttl_s: float | None = None,
        *,
        provisional: bool = False,
    ) -> Open:
        """Build an open without a click, to route the opened URL, else ``url``, else the default screen."""
        return self._open(
            open_id,
            context,
            source="parsed",
            offered=context.offered,
            match=OLD_INSTALL if context.chain.old_install else NO_MATCH,
            url=url,
            provisional=provisional,
            ttl_s=ttl_s,
        )

    def unmatched(
        self,
        open_id: str,
        context: OpenContext,
        *,
        source: Source,
        ttl_s: float | None = None,
        strongest: Open | None = None,
    ) -> Open:
        """Build an open without a click. ``strongest`` is the install's open that has a click, if any.

        A short link that Dub does not know is not routed, because it may come from the clipboard.
        """
        match = OLD_INSTALL if context.chain.old_install else NO_MATCH
        return self._open(
            open_id,
            context,
            source=source,
            offered=context.offered,
            match=match,
            ttl_s=ttl_s,
            strongest=strongest,
        )

    def repeated(self, earlier: Open, context: OpenContext) -> Open:
        """Repeat the answer of an install's first launch."""
        return structs.replace(
            earlier,
            app_version=shared(context.report.app_version),
            repeat_until=self._clock() + self.lifetimes.answer_ttl_s,
        )

    def later(
        self,
        open_id: str,
        context: OpenContext,
        first: Open | None,
        *,
        source: Source,
        strongest: Open | None,
    ) -> Open:
        """Build a later open of an install that has had its ``first`` launch, or opened a link before.

        It shares the first launch's click for as long as Dub repeats a click; after that, first-launch
        evidence does not count for it.
        """
        ended = context.opened_at - self.lifetimes.answer_ttl_s
        if first is not None and first.click_id is not None and first.opened_at >= ended:
            return self._open(
                open_id,
                context,
                source=first.source,
                offered=EVIDENCE_PRIORITY["none"],
                match=first.match,
                click=(first.click_id, first.link, first.carried),
            )
        return self._open(
            open_id, context, source=source, offered=EVIDENCE_PRIORITY["none"], strongest=strongest
        )

    def no_longer(self, opened: Open, ttl_s: float) -> Open:
        """Limit how long an answer without a click is repeated to the TTL of the cached "no such link"."""
        if opened.click_id is not None:
            return opened
        return structs.replace(opened, repeat_until=min(opened.repeat_until, self._clock() + ttl_s))

    def by_address(
        self,
        open_id: str,
        context: OpenContext,
        attempt: MatchAttempt,
        source: Source,
        strongest: Open | None,
    ) -> Open:
        """Build the open of an install from an attempt to match its IP address."""
        ttl_s = None
        if attempt.pending:
            ttl_s = _PENDING_TTL_S
        elif not context.is_install:
            ttl_s = _ADDRESS_TTL_S
        return self._open(
            open_id,
            context,
            source="dub" if attempt.click else source,
            offered=EVIDENCE_PRIORITY["ip"],
            match=attempt.match,
            click=attempt.click or _NO_CLICK,
            provisional=attempt.pending,
            looking=attempt.retry,
            ttl_s=ttl_s,
            strongest=None if attempt.click else strongest,
        )

    def _open(
        self,
        open_id: str,
        context: OpenContext,
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
        """Build an open that is repeated for ``ttl_s`` seconds, by default ``answer_ttl_s``.

        ``click`` is the click id, the link, and the link's query and fragment. ``url`` is routed unchanged;
        the URL that opened the app takes precedence over it.
        """
        click_id, link, carried = click
        if context.url is not None:
            url, carried = context.url, ""
            source = source if link is not None else "parsed"
        return Open(
            app=context.app.name,
            open_id=open_id,
            device=context.device,
            click_id=click_id,
            link=link,
            url=url,
            carried=carried,
            match=match,
            source=source,
            provisional=provisional,
            credited_to=None if strongest is None else strongest.open_id,
            looking=looking,
            app_version=shared(context.report.app_version),
            platform=context.report.platform,
            test_device=context.test_device,
            offered=offered,
            evidence=evidence_mask(context.chain),
            opened_at=context.opened_at,
            repeat_until=self._clock() + (self.lifetimes.answer_ttl_s if ttl_s is None else ttl_s),
        )


@lru_cache(1024)
def shared(version: str | None) -> str | None:
    """Return one string object for all cached opens of an app version, to save memory."""
    return version
