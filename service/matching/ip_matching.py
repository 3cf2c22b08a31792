"""Find the click of an install that opens without a link, by its IP address, among Dub's click events.

This module connects the rules (``domain.match_rules``), the clicks (``click_sync``) and an open. What can go
wrong: a "none" becomes final because Dub was slow (the answer is pending then, and further attempts follow),
or because Dub's event format changed (the answer is pending while events cannot be decoded, and readiness
reports it); many people share the IP address (no match); Dub's plan does not include ``/events`` (logged once
and reported by readiness).
"""

import asyncio
from collections.abc import Callable, Mapping

from msgspec import Struct, structs

from service.domain.clicks import Fault
from service.domain.device_identity import upstream_user_agent
from service.domain.device_traits import traits_of_open
from service.domain.errors import DubLinkNotFound, DubUnavailable, StoreFailed
from service.domain.match_rules import (
    EXPLANATIONS,
    Click,
    Decision,
    FirstOpen,
    NoMatch,
    Retirement,
    Rules,
    from_provider,
)
from service.domain.models import SUPERSEDED, Link, Match, MatchReason, Open, uses_up
from service.domain.networks import Network, Networks
from service.domain.open_context import OpenContext
from service.domain.ports import FirstOpenProvider, LinkProvider, NetworkActivity, TouchStore
from service.domain.touches import TOUCH, compared_signals
from service.domain.trace import MatchAttempt
from service.matching.click_sync import ClickSync, Outcome, Problem
from service.matching.matcher import Matcher

_CLICK_MAY_SHOW: frozenset[NoMatch] = frozenset({"no_click", "no_candidate"})
_MORE_CLICKS_MAY_HELP: frozenset[NoMatch] = _CLICK_MAY_SHOW | {"several_links", "unlikely"}
_PERMANENT: frozenset[Problem] = frozenset({"plan", "usage", "key", "refused", "not_configured"})
_PROBLEMS: Mapping[Problem, str] = {
    "plan": "Dub's plan of this workspace does not include /events",
    "usage": "this month's clicks are over the limit of Dub's plan, so /events is refused",
    "key": "Dub refuses this app's Dub API key",
    "refused": "Dub refuses the events query",
    "throttled": "Dub's rate limit for analytics calls is reached",
    "down": "Dub's /events does not answer",
    "garbled": "Dub's /events does not have the documented format",
    "not_configured": "this app has no Dub API key",
    "database": "the database cannot be used",
    "failed": "a bug in firstopen; see the log",
}
_FAULTS: Mapping[Fault, str] = {
    "timestamp": "no readable timestamp",
    "malformed": "not an event as Dub documents it",
}
_WAITS = {
    "late": "Dub's clicks did not arrive within the budget",
    "over_budget": "the sync of Dub's clicks waits until analytics_calls_per_s allows its next call",
}


_UNKNOWN_NETWORK = Network(None, "no_address")
_SUPERSEDED = MatchAttempt(SUPERSEDED, "stronger evidence has found this install's click in the meantime")


class AppMatching(Struct, frozen=True):
    """The parts that match the opens of one app."""

    networks: Networks
    activity: NetworkActivity
    matcher: Matcher
    click_sync: ClickSync
    rules: Rules
    is_on: bool = True  # False: opens are recorded, but not matched


class IpMatching:
    """Implements ``domain.ports.IpMatcher``."""

    def __init__(
        self,
        apps: Mapping[str, AppMatching],
        dub: FirstOpenProvider,
        links: LinkProvider,
        touches: TouchStore,
        clock: Callable[[], float],
    ) -> None:
        self._apps = apps
        self._dub = dub
        self._links = links
        self._clock = clock
        self._touches = touches
        self._ending: list[ClickSync] = []

    def replace(self, apps: Mapping[str, AppMatching]) -> None:
        """Match by these apps' rules from now on. Syncs in progress continue for the opens that wait."""
        stays = {id(app.click_sync) for app in apps.values()}
        before = [*self._ending, *(app.click_sync for app in self._apps.values())]
        self._ending = [each for each in before if id(each) not in stays and not each.is_idle]
        self._apps = apps

    def network_of(self, app: str, ip: str | None) -> Network:
        """Return the hashed network of an address, as this app's clicks and opens have it."""
        matching = self._apps.get(app)
        return _UNKNOWN_NETWORK if matching is None else matching.networks.of(ip)

    def problems(self) -> list[str]:
        """Return one message for each problem with an app's click events."""
        found = []
        for name, app in self._apps.items():
            if app.click_sync.problem:
                found.append(f"apps.{name}: no matching by IP address: {_PROBLEMS[app.click_sync.problem]}")
            for fault, events in app.click_sync.unread.items():
                unread = f"{events} of the last sync's events could not be read"
                found.append(f"apps.{name}: {unread}: {_FAULTS[fault]}")
        return found

    def sync_of(self, app: str) -> tuple[float | None, str | None] | None:
        """Return how many seconds ago an app's clicks were read, and the problem; None if matching is off."""
        matching = self._apps.get(app)
        if matching is None:
            return None
        problem = matching.click_sync.problem
        return matching.click_sync.synced_ago_s, None if problem is None else _PROBLEMS[problem]

    def record_open(self, context: OpenContext) -> None:
        """Record an open: it counts towards the crowd limit of its network."""
        app = self._apps.get(context.app.name)
        if app is not None:
            self._record_open(app, context)

    def record_install(self, context: OpenContext, link: Link) -> None:
        """Record that certain evidence led an install to this link: its web clicks are used up."""
        app = self._apps.get(context.app.name)
        if app is None:
            return
        traits = traits_of_open(context.report.platform, context.report.caller.user_agent)
        if not traits.system:  # no click can be compared with it
            self._record_open(app, context)
            return
        context.network = app.networks.of(context.ip).key
        if context.network is not None:
            context.traits = traits
            at_ms = int(context.opened_at * 1000)
            app.activity.record_install(context.network, Retirement(context.device, link.id, at_ms, traits))

    async def match(
        self,
        context: OpenContext,
        timeout_s: float,
        *,
        since: float,
        claim: bool,
        certain: Callable[[], Open | None],
        asks_dub: bool = True,
    ) -> MatchAttempt:
        """Search the click for up to ``timeout_s`` seconds and, with ``claim``, claim it. Never raises."""
        until = self._clock() + timeout_s
        app = self._apps.get(context.app.name)
        if app is None or not app.is_on:
            return MatchAttempt(_none("off"), "matching by IP address is off for this app")
        network = app.networks.of(context.ip)
        if network.key is None:
            reason = network.unmatchable or "no_address"
            return MatchAttempt(_none(reason), EXPLANATIONS[reason])
        context.network = network.key
        opened = self._first_open(context, network)
        known = None if certain() is None else _SUPERSEDED
        return (
            known
            or await self._by_touch(
                app, context, opened, until=until, claim=claim, certain=certain, asks_dub=asks_dub
            )
            or await self._by_click(
                app, context, opened, timeout_s, since=since, claim=claim, certain=certain
            )
        )

    async def _by_click(
        self,
        app: AppMatching,
        context: OpenContext,
        opened: FirstOpen,
        timeout_s: float,
        *,
        since: float,
        claim: bool,
        certain: Callable[[], Open | None],
    ) -> MatchAttempt:
        """Match a click, once Dub's clicks are known up to ``since``, or ``timeout_s`` seconds are over."""
        network = context.network
        assert network is not None  # noqa: S101  ensured by the caller
        from_dub = None
        if context.app.trusts_forwarded_ip:
            from_dub, outcome = await asyncio.gather(
                self._click_from_dub(app, context, opened, timeout_s, no_track=not claim),
                app.click_sync.sync(since, timeout_s),
            )
        else:
            outcome = await app.click_sync.sync(since, timeout_s)
        if certain() is not None:
            return _SUPERSEDED
        try:
            if claim and outcome.allows_match:
                decision = await app.matcher.match(network, opened, from_dub)
            else:  # claim no click while the right one may be missing
                decision = await app.matcher.preview(network, opened, from_dub)
        except StoreFailed:
            why = "the database does not answer in time, so no click can be claimed"
            return MatchAttempt(_none("not_recorded"), why, pending=True, retry=True)
        click = decision.click
        if claim and click is not None and (found := certain()) is not None:
            await self._release(app.matcher, click, context.device, found)
            return _SUPERSEDED
        if claim and not outcome.allows_match:
            app.activity.record_open(network, context.device, opened.at_ms)
        return _attempt(decision, outcome)

    async def close(self) -> None:
        """Cancel the syncs in progress."""
        for sync in [*self._ending, *(app.click_sync for app in self._apps.values())]:
            await sync.close()

    def _record_open(self, app: AppMatching, context: OpenContext) -> None:
        context.network = app.networks.of(context.ip).key
        if context.network is not None:
            app.activity.record_open(context.network, context.device, int(context.opened_at * 1000))

    async def _by_touch(
        self,
        app: AppMatching,
        context: OpenContext,
        opened: FirstOpen,
        *,
        until: float,
        claim: bool,
        certain: Callable[[], Open | None],
        asks_dub: bool,
    ) -> MatchAttempt | None:
        """Match a touch at once, without asking Dub for clicks; None if none is good enough."""
        network = context.network
        assert network is not None  # noqa: S101  ensured by the caller
        try:
            if not await self._touches.exist(context.app.name, opened.at_ms - app.rules.window_s * 1000):
                return None
            decision = await app.matcher.match_touch(network, opened, claim=claim)
        except StoreFailed:
            return None  # the match by clicks decides what to say
        if decision is None or decision.click is None:
            return None
        if claim and (found := certain()) is not None:
            await self._release(app.matcher, decision.click, context.device, found)
            return _SUPERSEDED
        matched = _matched(decision, decision.click)
        return await self._credited(context, matched, until, claim=claim) if asks_dub else matched

    async def _credited(
        self, context: OpenContext, attempt: MatchAttempt, until: float, *, claim: bool
    ) -> MatchAttempt:
        """Get a clickId for a touch that has none: report its link to Dub, as for a link in the clipboard.

        Without Dub, the attempt is repeated later.
        """
        assert attempt.click is not None  # noqa: S101  ensured by the caller
        click_id, link, query = attempt.click
        if click_id is not None and link.id:
            return attempt
        try:
            found = await self._links.track_open(
                context.app.name,
                f"https://{link.domain}/{'' if link.key == '_root' else link.key}",
                user_agent=upstream_user_agent(context.report.caller.user_agent, context.device),
                ip=context.ip if context.app.trusts_forwarded_ip else None,
                queue_timeout_s=max(until - self._clock(), 0),
                no_track=click_id is not None or not claim,
                replay=context.replay,
            )
        except DubLinkNotFound:
            return attempt
        except DubUnavailable:
            return structs.replace(attempt, pending=True, retry=True)
        click = (click_id or found.click_id, found.link or link, query)
        return structs.replace(attempt, click=click)

    async def _release(self, matcher: Matcher, click: Click, install: str, found: Open) -> None:
        """Release a click that stronger evidence has not used up."""
        if uses_up(found, click.id, click.link):
            return
        try:
            await matcher.release(click, install)
        except StoreFailed:
            return  # the claim stays, and no other install gets this click

    async def _click_from_dub(
        self, app: AppMatching, context: OpenContext, opened: FirstOpen, timeout_s: float, *, no_track: bool
    ) -> Click | None:
        """Return the click that Dub itself matches by the forwarded IP address, as a further candidate."""
        caller = context.report.caller
        if context.ip is None:
            return None
        user_agent = upstream_user_agent(caller.user_agent, context.device)
        try:
            found = await self._dub.track_first_open(
                context.app.name,
                context.domain,
                user_agent=user_agent,
                ip=context.ip,
                queue_timeout_s=timeout_s,
                no_track=no_track,
            )
        except (DubUnavailable, DubLinkNotFound):
            return None
        if found.click_id is None or found.link is None:
            return None
        return from_provider(found.click_id, found.link, opened, app.rules)

    def _first_open(self, context: OpenContext, network: Network) -> FirstOpen:
        report = context.report
        traits = traits_of_open(report.platform, report.caller.user_agent)
        domain = context.domain if report.domain is not None else None
        installed = [each for each in (report.installed_at, report.install_began_at) if each is not None]
        return FirstOpen(
            context.device,
            int(context.opened_at * 1000),
            traits,
            int(min(installed) * 1000) if installed else None,
            compared_signals(context.app, report.signals, consent=report.consent),
            domain,
            is_home=network.is_home,
        )


def _attempt(decision: Decision, outcome: Outcome) -> MatchAttempt:
    """Return the result of an attempt. A "none" is pending if the sync may have missed the right click."""
    considered = decision.considered
    click = decision.click
    if click is not None and outcome.allows_match:
        return _matched(decision, click)
    reason: NoMatch = decision.reason or "no_click"
    detail = EXPLANATIONS[reason]
    if outcome.status == "unreadable" and reason in _MORE_CLICKS_MAY_HELP:
        unread = "some of Dub's click events could not be read"
        return MatchAttempt(
            _none("no_events"), unread, pending=True, stays_pending=True, candidates=considered, retry=True
        )
    if outcome.is_final or (decision.click is None and reason not in _CLICK_MAY_SHOW):
        retry = reason in _CLICK_MAY_SHOW
        refused = None if decision.refused is None else (decision.refused.link, decision.confidence)
        return MatchAttempt(
            _none(reason),
            detail,
            candidates=considered,
            retry=retry,
            refused=refused,
            installs=decision.installs,
            devices=decision.devices,
        )
    if outcome.problem is not None:
        is_permanent = outcome.problem in _PERMANENT
        return MatchAttempt(
            _none("not_recorded" if outcome.problem == "database" else "no_events"),
            _PROBLEMS[outcome.problem],
            pending=not is_permanent,
            candidates=considered,
            retry=not is_permanent,
        )
    return MatchAttempt(
        _none(reason), _WAITS[outcome.status], pending=True, candidates=considered, retry=True
    )


def _matched(decision: Decision, click: Click) -> MatchAttempt:
    match = Match(
        "touch" if click.touch_id else "ip",
        guaranteed=False,
        candidates=decision.candidates,
        age_s=decision.age_s,
        confidence=decision.confidence,
    )
    named = "touch" if click.touch_id else f"click {click.id}"
    detail = f"{named}, {decision.age_s} s old, confidence {decision.confidence}"
    click_id = None if click.id.startswith(TOUCH) else click.id
    return MatchAttempt(
        match,
        detail,
        (click_id, click.link, click.query),
        candidates=decision.considered,
        installs=decision.installs,
        devices=decision.devices,
    )


def _none(reason: MatchReason) -> Match:
    return Match("none", guaranteed=False, reason=reason)
