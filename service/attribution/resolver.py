"""Resolve an open: from the cache, by its evidence (strongest first), by a cached link, or by the URL itself.

A valid open always gets an answer within its budget. Each open is decided in a task that is independent of
requests: callers wait for it as long as their budgets last, and a result that comes later is still stored.
"""

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial

from msgspec import Struct, structs

from service.aio.single_flight import Flight, SingleFlight
from service.attribution.answer_routes import build_answer
from service.attribution.answers import AnswerBuilder, shared
from service.attribution.delayed_matching import DelayedMatching
from service.attribution.evidence_resolver import EvidenceResolver
from service.attribution.lead_credit import may_get_click
from service.attribution.open_contexts import OpenContextFactory
from service.attribution.precedence import EvidencePrecedence
from service.attribution.webhook_events import WebhookEvents
from service.domain.deep_links import DEEP_LINK_MAX_CHARS
from service.domain.device_identity import Platform, TrustedProxies
from service.domain.errors import (
    BulkheadFull,
    CallerError,
    CircuitOpen,
    DubLinkNotFound,
    DubUnavailable,
    NotFound,
    StoreFailed,
)
from service.domain.evidence import EvidenceItem
from service.domain.models import Answer, App, Caller, Link, Open, OpenReport, Source
from service.domain.open_context import OpenContext
from service.domain.outbox_entries import QueuedOpen, install_name
from service.domain.ports import OpenCache, OpenStore, Outbox, Recalled
from service.domain.routing import parse_version, shape_of_version
from service.domain.trace import MatchAttempt, Trace, TraceRecorder, Traces
from service.telemetry import Event, Log, Metrics, where
from service.telemetry.background import Background

_REPLY_MARGIN_S = 0.02  # reserved to send the answer within the budget
# A cold start may report twice, with the link only in the second report. So leads that waited for the
# install's first open wait for this long after it before they count as organic.
_ANOTHER_OPEN_S = 5.0
_CREDITED_STEPS = 3  # from a match by IP address to a certain link to a stronger one
_NO_PROXIES = TrustedProxies(())


class Settled(Struct, frozen=True, gc=False):
    """A decided open. ``repeat``: it was reported before. ``remembered``: it was not decided now."""

    open: Open
    repeat: bool
    remembered: bool = False


class Resolver:
    """Decides which screen an open shows and which click is credited."""

    def __init__(
        self,
        *,
        evidence_resolver: EvidenceResolver,
        cache: OpenCache,
        open_store: OpenStore,
        outbox: Outbox,
        contexts: OpenContextFactory,
        answers: AnswerBuilder,
        delayed_matching: DelayedMatching,
        precedence: EvidencePrecedence,
        webhook_events: WebhookEvents,
        clock: Callable[[], float],
        unix_time: Callable[[], float],
        new_id: Callable[[], str],
        log: Log,
        metrics: Metrics,
    ) -> None:
        self._evidence_resolver = evidence_resolver
        self._cache = cache
        self._open_store = open_store
        self._outbox = outbox
        self._contexts = contexts
        self._answers = answers
        self._delayed_matching = delayed_matching
        self._precedence = precedence
        self._webhook_events = webhook_events
        self._clock = clock
        self._unix_time = unix_time
        self._new_id = new_id
        self._log = log
        self._metrics = metrics
        self.in_flight = 0
        background = Background(log, metrics.background_failures)
        self._flights: SingleFlight[Open] = SingleFlight(
            partial(background.spawn, name="open", expected=CallerError)
        )
        self._traces = Traces()
        self.parse_link = contexts.parse_link

    async def resolve(self, report: OpenReport) -> Answer:
        """Answer an open within its budget; raises ``ForeignDomain`` or ``RateLimited``."""
        settled = await self.settle(report)
        opened = settled.open
        source: Source = "cache" if settled.remembered and opened.source == "dub" else opened.source
        build = report.platform, report.app_version
        return self._build_answer(report.caller.app, opened, build, source, repeat=settled.repeat)

    async def settle(self, report: OpenReport) -> Settled:
        """Decide an open, without its route; raises like ``resolve``."""
        self.in_flight += 1
        try:
            settled = await self._settle(report)
        finally:
            self.in_flight -= 1
        opened = settled.open
        if report.test_device is not None:
            return settled
        outcome = "pending" if opened.provisional else "repeat" if settled.repeat else "new"
        self._metrics.opens.add(opened.app, opened.match.type, opened.source, outcome)
        if outcome == "new" and isinstance(opened.match.reason, str):
            self._metrics.matching_refused.add(opened.app, opened.match.reason)
        return settled

    async def _settle(self, report: OpenReport) -> Settled:
        context = self._contexts.of(report)
        while (flight := self._flights.under_way(context.key)) is not None:
            opened = await self._wait(flight, context)
            if not context.has_stronger_evidence_than(opened):
                return Settled(opened, repeat=True)
            await asyncio.sleep(0)  # lets the flight that has just ended be removed
        known = self._cache.answer(context.key)
        if known is not None and self._may_repeat(context, known) and not self._may_be_revised(known):
            self._metrics.cache.add("memory", "hit")
            return self._repeat(context, known)
        self._metrics.cache.add("memory", "miss")
        self._note_unreadable_version(context)
        queued = known is not None and self._is_unconfirmed(known)
        open_id = known.open_id if known is not None and queued else self._new_id()
        context.was_pending = queued
        if (known is None or self._open_store.is_shared) and self._left_s(report) > 0:
            work = self._decide_anew(open_id, context, known)
        else:
            await report.caller.check_rate_limit()  # does not yield to other tasks: it is counted in process
            recorder = TraceRecorder(self._clock())
            settled = self._settle_without_calls(open_id, context)
            if settled is None and self._evidence_resolver.refused(context, recorder):
                settled = self._degraded(open_id, context, recorder, CircuitOpen("circuit breaker open"))
            if settled is not None:
                return Settled(settled, repeat=queued)
            work = self._decide(open_id, context, recorder)
        flight = self._flights.launch(context.key, open_id, work)
        opened = await self._wait(flight, context)
        earlier = context.repeats or opened.open_id != flight.open_id
        return Settled(opened, repeat=context.was_pending or earlier, remembered=earlier)

    async def look_up(self, report: OpenReport) -> Link | None:
        """Look up a deep link at Dub, without recording anything at Dub or here.

        Raises ``DubLinkNotFound``, ``RateLimited`` or a ``DubUnavailable``.
        """
        context = self._contexts.of(report)
        link = context.link
        if link is None or not context.own or len(link.at_dub) > DEEP_LINK_MAX_CHARS:
            raise DubLinkNotFound
        await report.caller.check_rate_limit()
        return await self._evidence_resolver.look_up(context, link, self._left_s(report))

    async def dry_run(self, report: OpenReport) -> tuple[Answer, Trace]:
        """Answer as ``resolve`` would for an open that was never reported, without recording or claiming.

        Raises ``ForeignDomain``.
        """
        context = self._contexts.of(report)
        recorder = TraceRecorder(self._clock())
        opened = self._without_calls("dry-run", context, dry=True)
        if opened is not None:
            context.trace_unresolved(opened, recorder)
        else:
            left_s = self._left_s(report)
            try:
                async with asyncio.timeout(left_s):
                    opened = await self._evidence_resolver.resolve(
                        "dry-run", context, left_s, recorder, dry=True
                    )
            except (DubUnavailable, StoreFailed, TimeoutError) as exc:
                recorder.fail(str(exc), self._clock())
                opened = self._answers.degraded("dry-run", context, recorder.item)
        self._end_trace(context, recorder, "not used in a dry run")
        trace = recorder.trace(opened.open_id)
        build = report.platform, report.app_version
        return self._build_answer(context.app, opened, build, opened.source), trace

    async def recall(self, app: App, open_id: str) -> Answer:
        """Return the present answer of an earlier open; raises ``NotFound`` or ``StoreFailed``."""
        opened = await self.opened(app, open_id)
        return self._build_answer(app, opened, (opened.platform, opened.app_version), opened.source)

    async def opened(self, app: App, open_id: str) -> Open:
        """Return an open of an app; raises ``NotFound`` or ``StoreFailed``."""
        opened = await self.find(open_id)
        if opened is None or opened.app != app.name:
            raise NotFound("openId: this app has no such open, or it was deleted")
        return opened

    def trace_of(self, open_id: str) -> Trace | None:
        """Return the trace of an open, if this process decided it not long ago."""
        return self._traces.get(open_id)

    async def trace(self, app: App, open_id: str) -> tuple[Answer, Trace]:
        """Return an open's answer and trace. Only recent traces are kept. Raises ``NotFound``."""
        answer = await self.recall(app, open_id)
        trace = self.trace_of(open_id)
        if trace is None:
            raise NotFound("openId: the trace of this open is no longer kept")
        return answer, trace

    async def find(self, open_id: str) -> Open | None:
        """Return an open from the cache or the database, or None; raises ``StoreFailed``."""
        opened = self._cache.opened(open_id)
        if opened is None:
            return await self._open_store.opened(open_id)
        if self._may_be_revised(opened):
            with contextlib.suppress(StoreFailed):
                return await self._open_store.opened(open_id) or opened
        return opened

    async def find_credited(self, open_id: str) -> Open | None:
        """Return the open to which an open is credited, or the open itself; raises ``StoreFailed``."""
        opened = await self.find(open_id)
        for _ in range(_CREDITED_STEPS):
            if opened is None or opened.credited_to is None:
                break
            opened = await self.find(opened.credited_to) or opened
        return opened

    async def replay(self, app: App, queued: QueuedOpen) -> None:
        """Report an open from the outbox to Dub, as the same device; raises ``DubUnavailable``."""
        arrived = self._clock() - max(self._unix_time() - queued.arrived, 0)
        caller = Caller(app, queued.ip, "", queued.user_agent, arrived, _NO_PROXIES)
        report = OpenReport(
            caller=caller,
            platform=queued.platform,
            app_version=queued.app_version,
            budget_ms=0,
            installed_at=queued.installed_at,
            test_device=queued.test_device,
        )
        context = self._contexts.of_queued(report, queued)
        if self._contexts.is_erased(context):
            return  # the install was erased while its open waited: nothing is reported of it
        recorder = TraceRecorder(self._clock())
        opened = await self._evidence_resolver.resolve(
            queued.open_id, context, self._answers.lifetimes.call_s, recorder
        )
        self._keep(context, opened)
        self._keep_trace(queued.open_id, context, recorder, "replayed by the outbox")
        if recorder.click_may_be_late:
            self._delayed_matching.start(context, opened, self._found_late)
        self._outbox.release_dependents(queued.open_id)  # its entry ends with this delivery
        found = opened.click_id is not None
        self._log.info(Event.OPEN_REPLAYED, app=app.name, open_id=queued.open_id, click=found)

    async def close(self, grace_s: float) -> None:
        """Wait up to ``grace_s`` seconds for the opens in flight, then cancel them."""
        await self._flights.close(grace_s)

    def _without_calls(self, open_id: str, context: OpenContext, *, dry: bool = False) -> Open | None:
        """Decide an open without evidence to resolve, or without time left for it; None for others."""
        if not context.chain.items:
            return self._answers.parsed(open_id, context, None)
        if dry or self._left_s(context.report) > 0:
            return None
        self._metrics.shed.inc()
        self._log.info(Event.OPEN_SHED, app=context.app.name, open_id=open_id)
        return self._degrade_and_enqueue(open_id, context, context.strongest_reportable)

    def _settle_without_calls(self, open_id: str, context: OpenContext) -> Open | None:
        """Decide and store an open that needs no call to Dub or the database; None for others."""
        recorder = TraceRecorder(context.report.caller.arrived)
        opened = self._without_calls(open_id, context)
        if opened is not None:
            context.trace_unresolved(opened, recorder)
        else:
            opened = self._evidence_resolver.from_cache(open_id, context, recorder)
        if opened is not None:
            self._keep(context, opened)
            self._keep_trace(open_id, context, recorder)
        return opened

    def _repeat(self, context: OpenContext, known: Open) -> Settled:
        """Answer with a cached open, for the app version of this report."""
        self._log.debug(Event.OPEN_REPEATED, app=context.app.name, open_id=known.open_id)
        if context.report.app_version != known.app_version:
            known = structs.replace(known, app_version=shared(context.report.app_version))
            self._cache.keep(context.key, known)
        return Settled(known, repeat=True, remembered=True)

    async def _recalled(self, context: OpenContext) -> Recalled | None:
        """Return the device's stored opens, or None if the database fails. Never raises."""
        try:
            return await self._open_store.recall(self._contexts.devices(context), context.key)
        except StoreFailed:
            return None
        except Exception as exc:  # noqa: BLE001  the open is decided without it; the bug is logged
            about = {"error": type(exc).__name__, "where": where(exc)}
            self._log.error(Event.OPEN_FAILED, app=context.app.name, **about)
            return None

    def _repeat_recalled(self, context: OpenContext, known: Open) -> Open:
        """Cache and return an earlier answer of this process or another replica."""
        context.repeats = True
        self._cache.keep(context.key, known)
        if known.link is not None:
            self._contexts.remember(context)
        return known

    async def _wait(self, flight: Flight[Open], context: OpenContext) -> Open:
        """Wait for the decision within this report's budget; after that, return a degraded open."""
        if (settled := await flight.wait(self._left_s(context.report))) is not None:
            return settled
        if flight.late:
            late = self._answers.degraded(flight.open_id, context, context.strongest_reportable)
        else:
            flight.late = True
            late = self._degrade_and_enqueue(
                flight.open_id,
                context,
                context.strongest_reportable,
                not_before_s=self._answers.lifetimes.call_s,
            )
            budget_ms = context.report.budget_ms
            self._log.info(Event.OPEN_LATE, app=context.app.name, open_id=flight.open_id, budget_ms=budget_ms)
        self._keep(context, late)
        return late

    async def _decide_anew(self, open_id: str, context: OpenContext, known: Open | None) -> Open:
        """Repeat the stored answer if there is one; else check the rate limit and decide the open.

        ``known`` is the cached answer, if any. Replicas that decide an open at the same moment derive the
        same id for it; if the database fails, the id is a new one.
        """
        recalled = await self._recalled(context)
        if recalled is not None:
            context.earlier = recalled.opens
            self._precedence.learn(context, recalled.opens)
            known = recalled.answer or known
        if known is not None and self._may_repeat(context, known):
            return self._repeat_recalled(context, known)
        if recalled is not None:
            flight = self._flights.under_way(context.key)
            if flight is not None and not flight.late:
                context.was_pending = known is not None and self._is_unconfirmed(known)
                if known is not None and context.was_pending:
                    open_id = flight.open_id = known.open_id
                elif self._open_store.is_shared:
                    open_id = flight.open_id = self._contexts.open_id_after(context, known)
        await context.report.caller.check_rate_limit()
        recorder = TraceRecorder(self._clock())
        settled = self._settle_without_calls(open_id, context)
        if settled is None and self._evidence_resolver.refused(context, recorder):
            settled = self._degraded(open_id, context, recorder, CircuitOpen("circuit breaker open"))
        return settled or await self._decide(open_id, context, recorder)

    async def _decide(self, open_id: str, context: OpenContext, recorder: TraceRecorder) -> Open:
        """Resolve the evidence and store the result. Never raises: after a failure the answer is degraded."""
        subject = context.log_fields(open_id)
        try:
            opened = await self._evidence_resolver.resolve(
                open_id, context, self._left_s(context.report), recorder
            )
        except (DubUnavailable, StoreFailed) as exc:
            return self._degraded(open_id, context, recorder, exc)
        except Exception as exc:  # noqa: BLE001  the app waits for an answer; the bug is logged
            recorder.fail(f"a bug in firstopen ({type(exc).__name__})", self._clock())
            opened = self._degrade_and_enqueue(open_id, context, recorder.item)
            about = {"error": type(exc).__name__, "where": where(exc)}
            self._log.error(Event.OPEN_FAILED, took_ms=self._took_ms(recorder), **subject, **about)
        else:
            self._note_decided(context, opened, self._took_ms(recorder), subject)
            if recorder.click_may_be_late:
                opened = self._delayed_matching.start(context, opened, self._found_late)
        if opened.open_id == open_id:
            self._keep_trace(open_id, context, recorder)
        return self._unless_erased(context, opened)

    def _unless_erased(self, context: OpenContext, opened: Open) -> Open:
        """Return the open; if its install was erased in the meantime, return one without a click."""
        if not self._contexts.is_erased(context):
            return opened
        return self._answers.unmatched(opened.open_id, context, source="parsed")

    def _degraded(
        self, open_id: str, context: OpenContext, recorder: TraceRecorder, exc: DubUnavailable | StoreFailed
    ) -> Open:
        """Answer without Dub because of ``exc``: Dub gave no answer, or the click cannot be claimed."""
        if isinstance(exc, BulkheadFull):
            self._metrics.shed.inc()
        recorder.fail(str(exc), self._clock())
        opened = self._degrade_and_enqueue(open_id, context, recorder.item)
        about = {"error": type(exc).__name__, "detail": str(exc), "source": opened.source}
        self._log.warning(
            Event.OPEN_DEGRADED, took_ms=self._took_ms(recorder), **context.log_fields(open_id), **about
        )
        self._keep_trace(open_id, context, recorder)
        return opened

    def _note_decided(
        self, context: OpenContext, opened: Open, took_ms: float, subject: dict[str, str | None]
    ) -> None:
        """Store and log a decision, and delete the open's outbox entry if Dub has the open now."""
        flight = self._flights.under_way(context.key)
        was_pending = context.was_pending or (flight is not None and flight.late)
        self._keep(context, opened, was_pending=was_pending)
        if was_pending and not opened.provisional:
            self._outbox.confirm_open(opened.open_id)
        if opened.link is not None:
            self._contexts.remember(context)
        unknown = context.own and opened.link is None and opened.click_id is None
        event = Event.OPEN_UNKNOWN_LINK if unknown else Event.OPEN_RESOLVED
        link_id = opened.link and opened.link.id
        self._log.info(event, took_ms=took_ms, match=opened.match.type, link=link_id, **subject)

    def _found_late(self, context: OpenContext, opened: Open, attempt: MatchAttempt) -> None:
        """Store the result of the later match attempts: a click, or finally none."""
        self._keep(context, opened, was_pending=True)
        self._traces.add(opened.open_id, attempt)
        if opened.pending:
            return  # Dub's events could not be decoded: the next report of this open starts new attempts
        self._outbox.confirm_open(opened.open_id)
        match = opened.match.type
        self._log.info(Event.OPEN_FOUND_LATE, app=context.app.name, open_id=opened.open_id, match=match)

    def _degrade_and_enqueue(
        self, open_id: str, context: OpenContext, item: EvidenceItem | None, *, not_before_s: float = 0
    ) -> Open:
        """Answer an open without Dub, and queue it in the outbox to be reported later."""
        opened = self._answers.degraded(open_id, context, item)
        self._keep(context, opened)
        if item is not None and item.type != "ip" and not self._contexts.is_erased(context):
            self._outbox.enqueue_open(
                context.queued_open(open_id, item, self._unix_time()), not_before_s=not_before_s
            )
        return opened

    def _keep(self, context: OpenContext, opened: Open, *, was_pending: bool = False) -> None:
        """Cache and store an open, unless its install was erased while it was decided.

        ``was_pending``: it has been answered as pending.
        """
        if self._contexts.is_erased(context):
            self._contexts.sweep(context)
            return
        settles = was_pending or context.was_pending or context.replay
        self._webhook_events.open_kept(context, opened, settles=settles)
        self._observe_confidence(context, opened)
        self._cache.keep(context.key, opened)
        self._precedence.settle(context, opened)
        self._open_store.keep(context.key, opened, context.network, context.traits)
        if not may_get_click(opened):
            after_s = 0 if opened.click_id else _ANOTHER_OPEN_S
            self._outbox.release_dependents(install_name(context.device), after_s=after_s)

    def _observe_confidence(self, context: OpenContext, opened: Open) -> None:
        """Record how sure a match is, unless an earlier open is repeated, or it is a test device's."""
        match = opened.match
        if not isinstance(match.confidence, float) or context.test_device is not None:
            return
        if opened.offered and opened.opened_at == context.opened_at:
            self._metrics.match_confidence.labels(opened.app, match.type).observe(match.confidence)

    def _keep_trace(
        self,
        open_id: str,
        context: OpenContext,
        recorder: TraceRecorder,
        cache: str = "no answer was remembered",
    ) -> None:
        """Finish and keep the trace of an open."""
        self._end_trace(context, recorder, cache)
        self._traces.keep(open_id, recorder)

    def _end_trace(self, context: OpenContext, recorder: TraceRecorder, cache: str) -> None:
        breaker, budget_ms = self._evidence_resolver.breaker(), context.report.budget_ms
        ignored = context.report.ignored
        recorder.end(self._clock(), cache=cache, breaker=breaker, budget_ms=budget_ms, ignored=ignored)

    def _build_answer(
        self,
        app: App,
        opened: Open,
        build: tuple[Platform | None, str | None],
        source: Source,
        *,
        repeat: bool = False,
    ) -> Answer:
        now = self._unix_time()
        return build_answer(app, opened, build, source=source, repeat=repeat, now=now, log=self._log)

    def _may_repeat(self, context: OpenContext, known: Open) -> bool:
        """Return True if an answer is still valid, and the report has no stronger evidence."""
        return known.repeat_until > self._clock() and not context.has_stronger_evidence_than(known)

    def _may_be_revised(self, known: Open) -> bool:
        """Return True if another replica may have changed the answer of a cached open."""
        return self._open_store.is_shared and (known.pending or known.match.type == "ip")

    def _is_unconfirmed(self, known: Open) -> bool:
        """Return True if a repeated open is one that Dub has not confirmed yet: then it keeps its id."""
        return known.provisional and known.repeat_until + self._answers.lifetimes.answer_ttl_s > self._clock()

    def _note_unreadable_version(self, context: OpenContext) -> None:
        version = context.report.app_version
        if version and parse_version(version) is None:
            self._log.warning(Event.VERSION_UNREADABLE, app=context.app.name, shape=shape_of_version(version))

    def _took_ms(self, recorder: TraceRecorder) -> float:
        return round((self._clock() - recorder.began) * 1000, 1)

    def _left_s(self, report: OpenReport) -> float:
        until = report.caller.arrived + report.budget_ms / 1000 - _REPLY_MARGIN_S
        return max(until - self._clock(), 0)
