"""The whole product, top to bottom: cache -> Dub -> stale -> parsed.

A valid open always gets an answer inside its budget. Dub is asked by a task per open that no request
owns: callers wait for it as long as their own budgets last, and a late success still settles the open.
"""

import sys
from collections.abc import Callable

from msgspec import Struct, structs

from service.resolve.errors import DubUnavailable, ForeignDomain, InvalidField, LinkUnknown, UnknownOpen
from service.resolve.evidence import DeepLink, canonical_domain, parse_deep_link
from service.resolve.flights import Flight, Flights
from service.resolve.identity import Identity, answer_key, upstream_user_agent
from service.resolve.model import (
    BY_DEEP_LINK,
    NO_MATCH,
    Answer,
    App,
    Link,
    Open,
    OpenedLink,
    OpenReport,
    Source,
)
from service.resolve.ports import Dub, Memory
from service.resolve.routing import parse_version
from service.telemetry import Event, Log, where

_REPLY_MARGIN_S = 0.02  # the answer leaves before the budget does


class Lifetimes(Struct, frozen=True, kw_only=True):
    """How long an answer is repeated, and how long Dub may take, in seconds."""

    answer_ttl_s: float
    pending_ttl_s: float  # a degraded answer is asked for anew soon after
    late_s: float  # beyond the first caller's budget: a late success still settles the open


class _Case(Struct, frozen=True, gc=False):
    """A report with what follows from it: worked out once, used all the way down."""

    report: OpenReport
    app: App
    link: DeepLink | None
    device: str
    key: str

    @property
    def app_version(self) -> str | None:
        """The reporting build: one string for all the opens of that build that are remembered."""
        version = self.report.app_version
        return None if version is None else sys.intern(version)


class Resolver:
    """Decides where an open lands. One per process; its parts are handed in."""

    def __init__(
        self,
        *,
        dub: Dub,
        memory: Memory,
        identity: Identity,
        lifetimes: Lifetimes,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        log: Log,
    ) -> None:
        self._dub = dub
        self._memory = memory
        self._identity = identity
        self._lifetimes = lifetimes
        self._clock = clock
        self._new_id = new_id
        self._log = log
        self._flights: Flights[Open] = Flights()

    async def resolve(self, report: OpenReport) -> Answer:
        """Answer an open inside its budget; raises ``InvalidField`` or ``ForeignDomain``, nothing else."""
        case = self._case(report)
        flight = self._flights.under_way(case.key)
        if flight is not None:
            return _answer(report, await self._wait(flight, case), repeat=True)
        known = self._memory.answer(case.key)
        if known is not None and known.repeat_until > self._clock():
            self._log.debug(Event.OPEN_REPEATED, app=case.app.name, open_id=known.open_id)
            return _answer(report, known, repeat=True)
        asked_before = known is not None and self._still_owed(known)
        open_id = known.open_id if known is not None and asked_before else self._new_id()
        link = case.link
        if link is None or link.domain not in case.app.domains:
            opened = self._parsed(open_id, case, self._lifetimes.answer_ttl_s)
        elif (unknown_for_s := self._memory.unknown_for_s(link.domain, link.key)) > 0:
            opened = self._unknown_link(open_id, case, unknown_for_s, source="cache")
        else:
            flight = self._flights.launch(case.key, open_id, self._ask_dub(open_id, case, link))
            return _answer(report, await self._wait(flight, case), repeat=asked_before)
        self._memory.keep(case.key, opened)
        return _answer(report, opened, repeat=asked_before)

    def recall(self, app: App, open_id: str) -> Answer:
        """Answer an earlier open again, with what is known by now; raises ``UnknownOpen``."""
        opened = self._memory.opened(open_id)
        if opened is None or opened.app != app.name:
            raise UnknownOpen("openId: no such open of this app, or it is forgotten by now")
        return _laid_out(app, opened, opened.app_version, source=opened.source, repeat=False)

    async def close(self, grace_s: float) -> None:
        """Let opens under way settle for up to ``grace_s`` seconds, then give them up."""
        await self._flights.close(grace_s)

    def _case(self, report: OpenReport) -> _Case:
        caller = report.caller
        app = caller.app
        domain = _own_domain(app, report.domain)
        link = None if report.deep_link is None else parse_deep_link(report.deep_link)
        device = self._identity.device(app.name, report.install_id, caller.ip, caller.user_agent)
        target = f"first:{domain}"
        if link is not None:
            target = link.url if link.domain in app.domains else link.href
        return _Case(report, app, link, device, answer_key(app.name, device, target))

    async def _wait(self, flight: Flight[Open], case: _Case) -> Open:
        """Wait for Dub as long as this report's budget lasts, then degrade."""
        settled = await flight.wait(self._left_s(case.report))
        if settled is not None:
            return settled
        self._log.info(
            Event.OPEN_LATE, app=case.app.name, open_id=flight.open_id, budget_ms=case.report.budget_ms
        )
        late = self._degraded(flight.open_id, case)
        self._memory.keep(case.key, late)
        return late

    async def _ask_dub(self, open_id: str, case: _Case, link: DeepLink) -> Open:
        """Report the open to Dub and remember what came of it. Never raises: whatever fails degrades."""
        caller = case.report.caller
        log = self._log
        about = {"app": case.app.name, "open_id": open_id, "platform": case.report.platform}
        began = self._clock()
        try:
            found = await self._dub.track_open(
                case.app,
                link.url,
                user_agent=upstream_user_agent(caller.user_agent, case.device),
                ip=caller.ip,
                timeout_s=self._left_s(case.report) + self._lifetimes.late_s,
            )
            opened = self._resolved(open_id, case, link, found)
            link_id = opened.link and opened.link.id
            log.info(Event.OPEN_RESOLVED, link=link_id, dub_ms=self._since_ms(began), **about)
        except LinkUnknown:
            self._memory.keep_unknown(link.domain, link.key)
            unknown_for_s = self._memory.unknown_for_s(link.domain, link.key)
            opened = self._unknown_link(open_id, case, unknown_for_s, source="dub")
            log.info(Event.OPEN_UNKNOWN_LINK, dub_ms=self._since_ms(began), **about)
        except DubUnavailable as exc:
            opened = self._degraded(open_id, case)
            log.warning(
                Event.OPEN_DEGRADED,
                error=type(exc).__name__,
                detail=str(exc),
                source=opened.source,
                dub_ms=self._since_ms(began),
                **about,
            )
        except Exception as exc:  # noqa: BLE001  a launch screen waits: answer first, the log names our mistake
            opened = self._degraded(open_id, case)
            log.error(Event.OPEN_FAILED, error=type(exc).__name__, where=where(exc), **about)
        self._note_unreadable_version(case)
        self._memory.keep(case.key, opened)
        return opened

    def _resolved(self, open_id: str, case: _Case, link: DeepLink, found: OpenedLink) -> Open:
        """Build the open of a link that Dub described, and remember the link: one object for all opens."""
        described = found.link
        if described is not None:
            known = self._memory.link(link.domain, link.key)
            if known == described:
                described = known
            self._memory.keep_link(link.domain, link.key, described)
        return Open(
            app=case.app.name,
            open_id=open_id,
            click_id=found.click_id,
            link=described,
            destination=None if described is None else described.url,
            query=link.query,
            match=NO_MATCH if described is None else BY_DEEP_LINK,
            source="dub",
            app_version=case.app_version,
            repeat_until=self._clock() + self._lifetimes.answer_ttl_s,
        )

    def _degraded(self, open_id: str, case: _Case) -> Open:
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
            app_version=case.app_version,
            repeat_until=self._clock() + self._lifetimes.pending_ttl_s,
        )

    def _parsed(self, open_id: str, case: _Case, ttl_s: float, *, pending: bool = False) -> Open:
        """Route the URL as it is; with none at all, to the default screen."""
        link = case.link
        destination = None if link is None else link.url if pending else link.href
        return Open(
            app=case.app.name,
            open_id=open_id,
            destination=destination,
            source="parsed",
            pending=pending,
            app_version=case.app_version,
            repeat_until=self._clock() + ttl_s,
        )

    def _unknown_link(self, open_id: str, case: _Case, ttl_s: float, *, source: Source) -> Open:
        """Land on the default screen: the link may be somebody's clipboard, so it is not routed."""
        return Open(
            app=case.app.name,
            open_id=open_id,
            source=source,
            app_version=case.app_version,
            repeat_until=self._clock() + ttl_s,
        )

    def _still_owed(self, known: Open) -> bool:
        """Whether an open reported again is the one that Dub has not confirmed yet: then it keeps its id."""
        return known.pending and known.repeat_until + self._lifetimes.answer_ttl_s > self._clock()

    def _note_unreadable_version(self, case: _Case) -> None:
        version = case.report.app_version
        if version and parse_version(version) is None:
            self._log.warning(Event.VERSION_UNREADABLE, app=case.app.name, app_version=ascii(version))

    def _left_s(self, report: OpenReport) -> float:
        spent_s = self._clock() - report.caller.arrived
        return max(report.budget_ms / 1000 - spent_s - _REPLY_MARGIN_S, 0)

    def _since_ms(self, began: float) -> float:
        return round((self._clock() - began) * 1000, 1)


def _own_domain(app: App, domain: str | None) -> str:
    if domain is None:
        return app.domains[0]
    if not domain.strip():
        raise InvalidField("dubDomain", "must not be blank")
    canonical = canonical_domain(domain)
    if canonical not in app.domains:
        raise ForeignDomain("dubDomain: is not one of this app's domains")
    return canonical


def _answer(report: OpenReport, opened: Open, *, repeat: bool) -> Answer:
    source: Source = "cache" if repeat and opened.source == "dub" else opened.source
    return _laid_out(report.caller.app, opened, report.app_version, source=source, repeat=repeat)


def _laid_out(app: App, opened: Open, app_version: str | None, *, source: Source, repeat: bool) -> Answer:
    route = app.router.route(opened.destination, opened.query, app_version)
    return Answer(
        open_id=opened.open_id,
        click_id=opened.click_id,
        link=_safe_link(opened.link, handed_out=route.url is not None),
        route=route,
        match=opened.match,
        source=source,
        pending=opened.pending,
        repeat=repeat,
    )


def _safe_link(link: Link | None, *, handed_out: bool) -> Link | None:
    """Blank a destination that must not be handed out (``javascript:``, say)."""
    return link if link is None or handed_out else structs.replace(link, url=None)
