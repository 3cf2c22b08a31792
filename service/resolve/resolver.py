"""The whole product, top to bottom: cache -> Dub -> stale -> parsed.

A valid open always gets an answer inside its budget. Dub is asked by a task per open that no request
owns: callers wait for it as long as their own budgets last, and a late success still settles the open.
"""

import asyncio
import random
import re
from collections.abc import Callable
from functools import lru_cache, partial

from msgspec import Struct, structs

from service.resolve.case import Case, own_domain
from service.resolve.errors import (
    DubCrowded,
    DubUnavailable,
    LinkUnknown,
    StoreFailed,
    UnknownOpen,
)
from service.resolve.evidence import DEEP_LINK_MAX_CHARS, DeepLink, parse_deep_link
from service.resolve.flights import Flight, Flights
from service.resolve.identity import Identity, TrustedProxies, answer_key, upstream_user_agent
from service.resolve.layout import lay_out
from service.resolve.model import (
    BY_DEEP_LINK,
    NO_MATCH,
    Answer,
    App,
    Caller,
    Link,
    Open,
    OpenedLink,
    OpenReport,
    Source,
)
from service.resolve.owed import Outbox, OwedOpen
from service.resolve.ports import Dub, Journal, Memory
from service.resolve.recent import RecentClicks
from service.resolve.routing import parse_version
from service.telemetry import Event, Log, Metrics, where

_PARSED_LINKS_MAX = 4096
_LONGEST_PARSED_CHARS = 512
_REPLY_MARGIN_S = 0.02  # the answer leaves before the budget does
_RETRY_PAUSE_S = (0.03, 0.1)  # spread, so that a crowd does not come back as one
_NO_PROXIES = TrustedProxies(())


class Lifetimes(Struct, frozen=True, kw_only=True):
    """How long an answer is repeated, in seconds."""

    answer_ttl_s: float
    pending_ttl_s: float  # a degraded answer is asked for anew soon after
    call_s: float  # the longest that a call to Dub takes


class Settled(Struct, frozen=True, gc=False):
    """An open as decided: now or before (``repeat``), by us or from memory (``remembered``)."""

    open: Open
    repeat: bool
    remembered: bool = False


class Resolver:
    """Decides where an open lands. One per process; its parts are handed in."""

    def __init__(
        self,
        *,
        dub: Dub,
        memory: Memory,
        journal: Journal,
        outbox: Outbox,
        recent: RecentClicks,
        identity: Identity,
        lifetimes: Lifetimes,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        log: Log,
        metrics: Metrics,
    ) -> None:
        self._dub = dub
        self._memory = memory
        self._journal = journal
        self._outbox = outbox
        self._recent = recent
        self._identity = identity
        self._lifetimes = lifetimes
        self._clock = clock
        self._new_id = new_id
        self._log = log
        self._metrics = metrics
        self._hits, self._misses = (metrics.cache.labels("memory", each) for each in ("hit", "miss"))
        self.in_flight = 0
        self._flights: Flights[Open] = Flights()
        self._parsed_links: dict[str, DeepLink] = {}

    async def resolve(self, report: OpenReport) -> Answer:
        """Answer an open inside its budget; raises ``InvalidField`` or ``ForeignDomain``, nothing else."""
        settled = await self.settle(report)
        opened = settled.open
        source: Source = "cache" if settled.remembered and opened.source == "dub" else opened.source
        app, version = report.caller.app, report.app_version
        return lay_out(app, opened, version, source=source, repeat=settled.repeat, log=self._log)

    async def settle(self, report: OpenReport) -> Settled:
        """Decide an open, without its route; raises as ``resolve``."""
        self.in_flight += 1
        try:
            settled = await self._settle(report)
        finally:
            self.in_flight -= 1
        opened = settled.open
        outcome = "pending" if opened.pending else "repeat" if settled.repeat else "new"
        self._metrics.opened(opened.app, opened.match.type, opened.source, outcome)
        self._metrics.open_seconds.observe(self._clock() - report.caller.arrived)
        return settled

    async def _settle(self, report: OpenReport) -> Settled:
        case = self._case(report)
        flight = self._flights.under_way(case.key)
        if flight is not None:
            return Settled(await self._wait(flight, case), repeat=True)
        known = self._memory.answer(case.key)
        if known is not None and known.repeat_until > self._clock():
            self._hits.inc()
            return self._repeat(case, known)
        self._misses.inc()
        self._note_unreadable_version(case)
        owed = known is not None and self._still_owed(known)
        open_id = known.open_id if known is not None and owed else self._new_id()
        link = case.link
        if link is None or link.domain not in case.app.domains:
            opened = self._parsed(open_id, case, self._lifetimes.answer_ttl_s)
        elif len(link.at_dub) > DEEP_LINK_MAX_CHARS:  # once percent-encoded: no link of Dub's is that long
            opened = self._unknown_link(open_id, case, self._lifetimes.answer_ttl_s, source="parsed")
        elif (unknown_for_s := self._memory.unknown_for_s(link.domain, link.key)) > 0:
            opened = self._unknown_link(open_id, case, unknown_for_s, source="cache")
        elif self._left_s(report) <= 0:
            opened = self._shed(open_id, case)
        else:
            flight = self._flights.launch(case.key, open_id, self._ask_dub(open_id, case, link))
            return Settled(await self._wait(flight, case), repeat=owed)
        self._keep(case, opened)
        return Settled(opened, repeat=owed)

    async def look_up(self, report: OpenReport) -> Link | None:
        """Ask Dub for a deep link without a trace, there or here; ``None`` if nobody knows it.

        While Dub is away, what it once said stands in.
        """
        case = self._case(report)
        link = case.link
        if link is None or link.domain not in case.app.domains or len(link.at_dub) > DEEP_LINK_MAX_CHARS:
            return None
        try:
            return (await self._track(case, link, self._left_s(report), no_track=True)).link
        except LinkUnknown:
            return None
        except DubUnavailable:
            return self._memory.link(link.domain, link.key)

    async def recall(self, app: App, open_id: str) -> Answer:
        """Answer an earlier open again, with what is known by now; raises ``UnknownOpen``."""
        try:
            opened = await self.find(open_id)
        except StoreFailed:
            opened = None
        if opened is None or opened.app != app.name:
            raise UnknownOpen("openId: no such open of this app, or it is forgotten by now")
        return lay_out(app, opened, opened.app_version, source=opened.source, repeat=False, log=self._log)

    async def find(self, open_id: str) -> Open | None:
        """Find an open, however long ago it was; raises ``StoreFailed``."""
        return self._memory.opened(open_id) or await self._journal.opened(open_id)

    async def replay(self, app: App, owed: OwedOpen) -> None:
        """Report an open that Dub has not confirmed, as the device that it was; raises ``DubUnavailable``."""
        caller = Caller(app, owed.ip, "", owed.user_agent, self._clock(), _NO_PROXIES)
        report = OpenReport(
            caller=caller,
            deep_link=owed.deep_link,
            platform=owed.platform,
            app_version=owed.app_version,
            budget_ms=0,
        )
        link = parse_deep_link(owed.deep_link)
        case = Case(report, app, link, owed.device, owed.key)
        opened = await self._asked(owed.open_id, case, link, self._lifetimes.call_s)
        self._outbox.paid(owed.open_id)
        self._log.info(
            Event.OPEN_REPLAYED, app=app.name, open_id=owed.open_id, click=opened.click_id is not None
        )

    async def close(self, grace_s: float) -> None:
        """Let opens under way settle for up to ``grace_s`` seconds, then give them up."""
        await self._flights.close(grace_s)

    def _case(self, report: OpenReport) -> Case:
        caller = report.caller
        app = caller.app
        domain = own_domain(app, report.domain)
        target = f"first:{domain}"
        link = None
        if report.deep_link is not None:
            link = self._parsed_links.get(report.deep_link) or parse_deep_link(report.deep_link)
            target = f"link:{link.url if link.domain in app.domains else link.href}"
        ip = caller.ip if report.install_id is None else None
        device = self._identity.device(app.name, report.install_id, ip, caller.user_agent)
        return Case(report, app, link, device, answer_key(app.name, device, target))

    def _repeat(self, case: Case, known: Open) -> Settled:
        """Answer from memory, at once; the route will be that of the build that asks now."""
        self._log.debug(Event.OPEN_REPEATED, app=case.app.name, open_id=known.open_id)
        if case.report.app_version != known.app_version:
            known = structs.replace(known, app_version=_shared(case.report.app_version))
            self._memory.keep(case.key, known)
        return Settled(known, repeat=True, remembered=True)

    async def _wait(self, flight: Flight[Open], case: Case) -> Open:
        """Wait for Dub as long as this report's budget lasts, then degrade."""
        settled = await flight.wait(self._left_s(case.report))
        if settled is not None:
            return settled
        late = self._degraded(flight.open_id, case)
        self._keep(case, late)
        if not flight.late:
            flight.late = True
            self._outbox.owe(case.owed(flight.open_id), not_before_s=self._lifetimes.call_s)
            budget_ms = case.report.budget_ms
            self._log.info(Event.OPEN_LATE, app=case.app.name, open_id=flight.open_id, budget_ms=budget_ms)
        return late

    async def _ask_dub(self, open_id: str, case: Case, link: DeepLink) -> Open:
        """Report the open to Dub and remember what came of it. Never raises: whatever fails degrades."""
        began = self._clock()
        whose = {"app": case.app.name, "open_id": open_id, "platform": case.report.platform}
        try:
            opened = await self._asked(open_id, case, link, self._left_s(case.report))
        except DubUnavailable as exc:
            if isinstance(exc, DubCrowded):
                self._metrics.shed.inc()
            opened = self._degraded(open_id, case)
            about = {"error": type(exc).__name__, "detail": str(exc), "source": opened.source}
            self._log.warning(Event.OPEN_DEGRADED, dub_ms=self._ms_since(began), **whose, **about)
        except Exception as exc:  # noqa: BLE001  a launch screen waits: answer first, the log names our mistake
            opened = self._degraded(open_id, case)
            about = {"error": type(exc).__name__, "where": where(exc)}
            self._log.error(Event.OPEN_FAILED, dub_ms=self._ms_since(began), **whose, **about)
        else:
            event = Event.OPEN_UNKNOWN_LINK if opened.match is NO_MATCH else Event.OPEN_RESOLVED
            link_id = opened.link and opened.link.id
            self._log.info(event, dub_ms=self._ms_since(began), **whose, link=link_id)
            return opened
        self._keep(case, opened)
        self._outbox.owe(case.owed(open_id))
        return opened

    async def _asked(self, open_id: str, case: Case, link: DeepLink, patience_s: float) -> Open:
        """Ask Dub, and remember its answer; raises ``DubUnavailable``."""
        began = self._clock()
        try:
            opened = self._resolved(open_id, case, link, await self._track(case, link, patience_s))
            if opened.click_id is not None:
                self._recent.add(opened.click_id, began)
        except LinkUnknown:
            self._memory.keep_unknown(link.domain, link.key, began)
            unknown_for_s = self._memory.unknown_for_s(link.domain, link.key)
            opened = self._unknown_link(open_id, case, unknown_for_s, source="dub")
        before = self._memory.answer(case.key)
        self._keep(case, opened)
        if before is not None and before.pending:
            self._outbox.paid(open_id)
        return opened

    def _shed(self, open_id: str, case: Case) -> Open:
        """Answer at once, without Dub: the budget was over before the open had its turn."""
        opened = self._degraded(open_id, case)
        self._outbox.owe(case.owed(open_id))
        self._metrics.shed.inc()
        self._log.info(Event.OPEN_SHED, app=case.app.name, open_id=open_id)
        return opened

    def _keep(self, case: Case, opened: Open) -> None:
        self._memory.keep(case.key, opened)
        self._journal.keep(case.device, opened)

    async def _track(
        self, case: Case, link: DeepLink, patience_s: float, *, no_track: bool = False
    ) -> OpenedLink:
        """Ask Dub about the link as this device; once more where that is safe and there is time for it."""
        caller = case.report.caller
        until = self._clock() + patience_s
        user_agent = upstream_user_agent(caller.user_agent, case.device)
        ip = caller.ip if case.app.trusts_forwarded_ip else None
        ask = partial(
            self._dub.track_open, case.app.name, link.at_dub, user_agent=user_agent, ip=ip, no_track=no_track
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

    def _resolved(self, open_id: str, case: Case, link: DeepLink, found: OpenedLink) -> Open:
        """Build the open of a link that Dub described, and remember the link: one object for all opens."""
        described = found.link
        if described is not None:
            described = self._memory.keep_link(link.domain, link.key, described)
            self._remember_parsed(case.report.deep_link, link)
        return Open(
            app=case.app.name,
            open_id=open_id,
            click_id=found.click_id,
            link=described,
            destination=None if described is None else described.url,
            query=link.query,
            match=NO_MATCH if described is None else BY_DEEP_LINK,
            source="dub",
            app_version=_shared(case.report.app_version),
            repeat_until=self._clock() + self._lifetimes.answer_ttl_s,
        )

    def _degraded(self, open_id: str, case: Case) -> Open:
        """Answer without Dub: from what it once said of the link, else from the URL itself."""
        link = case.link
        known = None if link is None else self._memory.link(link.domain, link.key)
        if link is None or known is None:
            return self._parsed(open_id, case, self._lifetimes.pending_ttl_s, pending=True)
        return Open(
            app=case.app.name,
            open_id=open_id,
            link=known,
            destination=known.url,
            query=link.query,
            match=BY_DEEP_LINK,
            source="stale",
            pending=True,
            app_version=_shared(case.report.app_version),
            repeat_until=self._clock() + self._lifetimes.pending_ttl_s,
        )

    def _parsed(self, open_id: str, case: Case, ttl_s: float, *, pending: bool = False) -> Open:
        """Route the URL as it is; with none at all, to the default screen."""
        link = case.link
        destination = None if link is None else link.url if pending else link.href
        return Open(
            app=case.app.name,
            open_id=open_id,
            destination=destination,
            source="parsed",
            pending=pending,
            app_version=_shared(case.report.app_version),
            repeat_until=self._clock() + ttl_s,
        )

    def _unknown_link(self, open_id: str, case: Case, ttl_s: float, *, source: Source) -> Open:
        """Land on the default screen: the link may be somebody's clipboard, so it is not routed."""
        return Open(
            app=case.app.name,
            open_id=open_id,
            source=source,
            app_version=_shared(case.report.app_version),
            repeat_until=self._clock() + ttl_s,
        )

    def _still_owed(self, known: Open) -> bool:
        """Whether an open reported again is the one that Dub has not confirmed yet: then it keeps its id."""
        return known.pending and known.repeat_until + self._lifetimes.answer_ttl_s > self._clock()

    def _remember_parsed(self, text: str | None, link: DeepLink) -> None:
        """Remember how a link that Dub knows is parsed: hot links are, clipboard text that is none is not."""
        if text is not None and len(text) <= _LONGEST_PARSED_CHARS:
            if len(self._parsed_links) >= _PARSED_LINKS_MAX:
                self._parsed_links.clear()
            self._parsed_links[text] = link

    def _note_unreadable_version(self, case: Case) -> None:
        version = case.report.app_version
        if version and parse_version(version) is None:
            self._log.warning(Event.VERSION_UNREADABLE, app=case.app.name, shape=_shape(version))

    def _ms_since(self, began: float) -> float:
        return round((self._clock() - began) * 1000, 1)

    def _left_s(self, report: OpenReport) -> float:
        spent_s = self._clock() - report.caller.arrived
        return max(report.budget_ms / 1000 - spent_s - _REPLY_MARGIN_S, 0)


@lru_cache(1024)
def _shared(version: str | None) -> str | None:
    """Return one string for all the remembered opens of a build."""
    return version


def _shape(version: str) -> str:
    """Show how a version is written (letters as a, digits as 9): its text is the caller's."""
    return re.sub(r"[^\W\d_]", "a", re.sub(r"\d", "9", version), flags=re.ASCII)
