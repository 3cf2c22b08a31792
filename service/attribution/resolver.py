"""The whole product, top to bottom: cache -> evidence, rung by rung -> stale -> parsed.

A valid open always gets an answer inside its budget. It is decided by a task per open that no request
owns: callers wait for it as long as their own budgets last, and a late success still settles the open.
"""

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial

from msgspec import Struct, structs

from service.aio.single_flight import Flight, Flights
from service.attribution.answer_routes import lay_out
from service.attribution.answers import Openings, shared
from service.attribution.delayed_matching import SecondLooks
from service.attribution.evidence_resolver import Climber
from service.attribution.lead_credit import may_get_click
from service.attribution.open_contexts import Cases
from service.attribution.precedence import Precedence
from service.domain.deep_links import DEEP_LINK_MAX_CHARS
from service.domain.device_identity import TrustedProxies
from service.domain.errors import (
    CallerError,
    DubCrowded,
    DubHeldBack,
    DubUnavailable,
    LinkUnknown,
    StoreFailed,
    UnknownOpen,
)
from service.domain.evidence import Rung
from service.domain.models import Answer, App, Caller, Link, Open, OpenReport, Source
from service.domain.open_context import Case
from service.domain.outbox_entries import OwedOpen, install_name
from service.domain.ports import Journal, Memory, Outbox, Recalled
from service.domain.routing import parse_version, shape_of_version
from service.domain.trace import Look, Steps, Trace, Traces
from service.telemetry import Event, Log, Metrics, where
from service.telemetry.background import Background

_REPLY_MARGIN_S = 0.02  # the answer leaves before the budget does
# A cold start may report twice, with the link that opened the app in the second report only: leads that have
# waited for the install's first open wait that much longer before they are called organic.
_ANOTHER_OPEN_S = 5.0
_CREDITED_STEPS = 3  # from a guess to a certain link to a stronger one
_NO_PROXIES = TrustedProxies(())


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
        climber: Climber,
        memory: Memory,
        journal: Journal,
        outbox: Outbox,
        cases: Cases,
        openings: Openings,
        second_looks: SecondLooks,
        precedence: Precedence,
        clock: Callable[[], float],
        wall: Callable[[], float],
        new_id: Callable[[], str],
        log: Log,
        metrics: Metrics,
    ) -> None:
        self._climber = climber
        self._memory = memory
        self._journal = journal
        self._outbox = outbox
        self._cases = cases
        self._openings = openings
        self._second_looks = second_looks
        self._precedence = precedence
        self._clock = clock
        self._wall = wall
        self._new_id = new_id
        self._log = log
        self._metrics = metrics
        self.in_flight = 0
        background = Background(log, metrics.background_failures)
        self._flights: Flights[Open] = Flights(partial(background.spawn, name="open", expected=CallerError))
        self._traces = Traces()
        self.parse_link = cases.parse_link

    async def resolve(self, report: OpenReport) -> Answer:
        """Answer an open inside its budget; raises ``ForeignDomain`` or ``RateLimited``."""
        settled = await self.settle(report)
        opened = settled.open
        source: Source = "cache" if settled.remembered and opened.source == "dub" else opened.source
        app, version = report.caller.app, report.app_version
        return self._laid_out(app, opened, version, source, repeat=settled.repeat)

    async def settle(self, report: OpenReport) -> Settled:
        """Decide an open, without its route; raises as ``resolve``."""
        self.in_flight += 1
        try:
            settled = await self._settle(report)
        finally:
            self.in_flight -= 1
        opened = settled.open
        outcome = "pending" if opened.provisional else "repeat" if settled.repeat else "new"
        self._metrics.opens.add(opened.app, opened.match.type, opened.source, outcome)
        if outcome == "new" and isinstance(opened.match.reason, str):
            self._metrics.matching_refused.add(opened.match.reason)
        self._metrics.open_seconds.observe(self._clock() - report.caller.arrived)
        return settled

    async def _settle(self, report: OpenReport) -> Settled:
        case = self._cases.of(report)
        while (flight := self._flights.under_way(case.key)) is not None:
            opened = await self._wait(flight, case)
            if not case.says_more_than(opened):
                return Settled(opened, repeat=True)
            await asyncio.sleep(0)  # what has just been decided is still under way: let it land
        known = self._memory.answer(case.key)
        if known is not None and self._may_repeat(case, known) and not self._may_be_revised(known):
            self._metrics.cache.add("memory", "hit")
            return self._repeat(case, known)
        self._metrics.cache.add("memory", "miss")
        self._note_unreadable_version(case)
        owed = known is not None and self._still_owed(known)
        open_id = known.open_id if known is not None and owed else self._new_id()
        case.owes = owed
        if (known is None or self._journal.is_shared) and self._left_s(report) > 0:
            work = self._decide_anew(open_id, case, known)
        else:
            await report.caller.enter()  # counted in process, or nobody waits: nothing else happens meanwhile
            steps = Steps(self._clock())
            settled = self._settle_at_once(open_id, case)
            if settled is None and self._climber.refused(case, steps):  # nobody to ask: nothing to wait for
                settled = self._degraded(open_id, case, steps, DubHeldBack("circuit breaker open"))
            if settled is not None:
                return Settled(settled, repeat=owed)
            work = self._decide(open_id, case, steps)
        flight = self._flights.launch(case.key, open_id, work)
        opened = await self._wait(flight, case)
        earlier = case.repeats or opened.open_id != flight.open_id
        return Settled(opened, repeat=case.owes or earlier, remembered=earlier)

    async def look_up(self, report: OpenReport) -> Link | None:
        """Ask Dub for a deep link without a trace, there or here.

        Raises ``LinkUnknown`` if there is none, ``RateLimited``, or ``DubUnavailable`` if nobody says so.
        """
        case = self._cases.of(report)
        link = case.link
        if link is None or not case.own or len(link.at_dub) > DEEP_LINK_MAX_CHARS:
            raise LinkUnknown
        await report.caller.enter()
        return await self._climber.look_up(case, link, self._left_s(report))

    async def dry_run(self, report: OpenReport) -> tuple[Answer, Trace]:
        """Answer as ``resolve`` would if nothing were remembered of this open; records and claims nothing.

        Raises ``ForeignDomain``.
        """
        case = self._cases.of(report)
        steps = Steps(self._clock())
        opened = self._at_once("dry-run", case, dry=True)
        if opened is not None:
            case.explain_at_once(opened, steps)
        else:
            left_s = self._left_s(report)
            try:
                async with asyncio.timeout(left_s):
                    opened = await self._climber.climb("dry-run", case, left_s, steps, dry=True)
            except (DubUnavailable, StoreFailed, TimeoutError) as exc:
                steps.fail(str(exc), self._clock())
                opened = self._openings.degraded("dry-run", case, steps.rung)
        self._end(case, steps, "not asked: a dry run")
        trace = steps.trace(opened.open_id)
        version = report.app_version
        return self._laid_out(case.app, opened, version, opened.source), trace

    async def recall(self, app: App, open_id: str) -> Answer:
        """Answer an earlier open again, with what is known by now; raises as ``find``, or ``UnknownOpen``."""
        opened = await self._of_app(app, open_id)
        return self._laid_out(app, opened, opened.app_version, opened.source)

    async def trace(self, app: App, open_id: str) -> tuple[Answer, Trace]:
        """Say how an open came to its answer, for an hour or so; raises ``UnknownOpen``."""
        answer = await self.recall(app, open_id)
        trace = self._traces.get(open_id)
        if trace is None:
            raise UnknownOpen("openId: its trace is forgotten by now")
        return answer, trace

    async def find(self, open_id: str) -> Open | None:
        """Find an open, however long ago it was; raises ``StoreFailed``."""
        opened = self._memory.opened(open_id)
        if opened is None:
            return await self._journal.opened(open_id)
        if self._may_be_revised(opened):
            with contextlib.suppress(StoreFailed):
                return await self._journal.opened(open_id) or opened
        return opened

    async def find_credited(self, open_id: str) -> Open | None:
        """Find an open, or the one of the same install that it is credited to; raises ``StoreFailed``."""
        opened = await self.find(open_id)
        for _ in range(_CREDITED_STEPS):
            if opened is None or opened.credited_to is None:
                break
            opened = await self.find(opened.credited_to) or opened
        return opened

    async def replay(self, app: App, owed: OwedOpen) -> None:
        """Report an open that Dub has not confirmed, as the device that it was; raises ``DubUnavailable``."""
        arrived = self._clock() - max(self._wall() - owed.arrived, 0)
        caller = Caller(app, owed.ip, "", owed.user_agent, arrived, _NO_PROXIES)
        report = OpenReport(
            caller=caller,
            platform=owed.platform,
            app_version=owed.app_version,
            budget_ms=0,
            installed_at=owed.installed_at,
        )
        case = self._cases.of_owed(report, owed)
        steps = Steps(self._clock())
        opened = await self._climber.climb(owed.open_id, case, self._openings.lifetimes.call_s, steps)
        self._keep(case, opened)
        self._explain(owed.open_id, case, steps, "replayed by the outbox")
        if steps.look_again:
            self._second_looks.start(case, opened, self._found_late)
        self._outbox.let_go(owed.open_id)  # its entry ends with this delivery
        found = opened.click_id is not None
        self._log.info(Event.OPEN_REPLAYED, app=app.name, open_id=owed.open_id, click=found)

    async def close(self, grace_s: float) -> None:
        """Let opens under way settle for up to ``grace_s`` seconds, then give them up."""
        await self._flights.close(grace_s)

    def _at_once(self, open_id: str, case: Case, *, dry: bool = False) -> Open | None:
        """Decide what needs nobody else, and what there is no time for."""
        if not case.ladder.rungs:
            return self._openings.parsed(open_id, case, None)
        if dry or self._left_s(case.report) > 0:
            return None
        self._metrics.shed.inc()
        self._log.info(Event.OPEN_SHED, app=case.app.name, open_id=open_id)
        return self._owing(open_id, case, case.first_to_report)

    def _settle_at_once(self, open_id: str, case: Case) -> Open | None:
        """Decide and remember what needs nobody else."""
        steps = Steps(case.report.caller.arrived)
        opened = self._at_once(open_id, case)
        if opened is not None:
            case.explain_at_once(opened, steps)
        else:
            opened = self._climber.known_at_once(open_id, case, steps)
        if opened is not None:
            self._keep(case, opened)
            self._explain(open_id, case, steps)
        return opened

    def _repeat(self, case: Case, known: Open) -> Settled:
        """Answer from memory, at once; the route will be that of the build that asks now."""
        self._log.debug(Event.OPEN_REPEATED, app=case.app.name, open_id=known.open_id)
        if case.report.app_version != known.app_version:
            known = structs.replace(known, app_version=shared(case.report.app_version))
            self._memory.keep(case.key, known)
        return Settled(known, repeat=True, remembered=True)

    async def _recalled(self, case: Case) -> Recalled | None:
        """Return what the database knows of a device; ``None`` if it does not say. Never raises."""
        try:
            return await self._journal.recall(self._cases.devices(case), case.key)
        except StoreFailed:
            return None
        except Exception as exc:  # noqa: BLE001  an open is decided without it, and the log names our mistake
            about = {"error": type(exc).__name__, "where": where(exc)}
            self._log.error(Event.OPEN_FAILED, app=case.app.name, **about)
            return None

    def _repeat_recalled(self, case: Case, known: Open) -> Open:
        """Answer again what this process, or another replica, has answered before."""
        case.repeats = True
        self._memory.keep(case.key, known)
        if known.link is not None:
            self._cases.remember(case)
        return known

    async def _wait(self, flight: Flight[Open], case: Case) -> Open:
        """Wait for the decision as long as this report's budget lasts, then degrade."""
        if (settled := await flight.wait(self._left_s(case.report))) is not None:
            return settled
        if flight.late:
            late = self._openings.degraded(flight.open_id, case, case.first_to_report)
        else:
            flight.late = True
            late = self._owing(
                flight.open_id, case, case.first_to_report, not_before_s=self._openings.lifetimes.call_s
            )
            budget_ms = case.report.budget_ms
            self._log.info(Event.OPEN_LATE, app=case.app.name, open_id=flight.open_id, budget_ms=budget_ms)
        self._keep(case, late)
        return late

    async def _decide_anew(self, open_id: str, case: Case, known: Open | None) -> Open:
        """Repeat what the database knows to be answered already; decide what it does not, if admitted.

        ``known`` is what this process remembers to have answered. Replicas that decide one open at the same
        moment give it one id; while the database cannot say what was answered before, it has a random one.
        """
        recalled = await self._recalled(case)
        if recalled is not None:
            case.earlier = recalled.opens
            self._precedence.learn(case, recalled.opens)
            known = recalled.answer or known
        if known is not None and self._may_repeat(case, known):
            return self._repeat_recalled(case, known)
        if recalled is not None:
            flight = self._flights.under_way(case.key)
            if flight is not None and not flight.late:
                case.owes = known is not None and self._still_owed(known)
                if known is not None and case.owes:
                    open_id = flight.open_id = known.open_id
                elif self._journal.is_shared:
                    open_id = flight.open_id = self._cases.open_id_after(case, known)
        await case.report.caller.enter()
        steps = Steps(self._clock())
        settled = self._settle_at_once(open_id, case)
        if settled is None and self._climber.refused(case, steps):  # nobody to ask: nothing to wait for
            settled = self._degraded(open_id, case, steps, DubHeldBack("circuit breaker open"))
        return settled or await self._decide(open_id, case, steps)

    async def _decide(self, open_id: str, case: Case, steps: Steps) -> Open:
        """Climb the evidence and remember what came of it. Never raises: whatever fails degrades."""
        whose = case.whose(open_id)
        try:
            opened = await self._climber.climb(open_id, case, self._left_s(case.report), steps)
        except (DubUnavailable, StoreFailed) as exc:
            return self._degraded(open_id, case, steps, exc)
        except Exception as exc:  # noqa: BLE001  a launch screen waits: answer first, the log names our mistake
            steps.fail(f"a mistake of firstopen's ({type(exc).__name__})", self._clock())
            opened = self._owing(open_id, case, steps.rung)
            about = {"error": type(exc).__name__, "where": where(exc)}
            self._log.error(Event.OPEN_FAILED, took_ms=self._took_ms(steps), **whose, **about)
        else:
            self._note_decided(case, opened, self._took_ms(steps), whose)
            if steps.look_again:
                opened = self._second_looks.start(case, opened, self._found_late)
        if opened.open_id == open_id:
            self._explain(open_id, case, steps)
        return self._unless_erased(case, opened)

    def _unless_erased(self, case: Case, opened: Open) -> Open:
        """Return an open, or one without a click if its install was erased while it was decided."""
        if not self._cases.is_erased(case):
            return opened
        return self._openings.unmatched(opened.open_id, case, source="parsed")

    def _degraded(self, open_id: str, case: Case, steps: Steps, exc: DubUnavailable | StoreFailed) -> Open:
        """Degrade an open for which Dub gave no answer, or whose click cannot be claimed."""
        if isinstance(exc, DubCrowded):
            self._metrics.shed.inc()
        steps.fail(str(exc), self._clock())
        opened = self._owing(open_id, case, steps.rung)
        about = {"error": type(exc).__name__, "detail": str(exc), "source": opened.source}
        self._log.warning(Event.OPEN_DEGRADED, took_ms=self._took_ms(steps), **case.whose(open_id), **about)
        self._explain(open_id, case, steps)
        return opened

    def _note_decided(self, case: Case, opened: Open, took_ms: float, whose: dict[str, str | None]) -> None:
        """Remember a decision, and let go of what was owed for it."""
        self._keep(case, opened)
        flight = self._flights.under_way(case.key)
        if (case.owes or (flight is not None and flight.late)) and not opened.provisional:
            self._outbox.paid(opened.open_id)
        if opened.link is not None:
            self._cases.remember(case)
        unknown = case.own and opened.link is None and opened.click_id is None
        event = Event.OPEN_UNKNOWN_LINK if unknown else Event.OPEN_RESOLVED
        link_id = opened.link and opened.link.id
        self._log.info(event, took_ms=took_ms, match=opened.match.type, link=link_id, **whose)

    def _found_late(self, case: Case, opened: Open, look: Look) -> None:
        """Remember what a later look has found, or that there is nothing to be found."""
        self._keep(case, opened)
        self._traces.add(opened.open_id, look)
        if opened.pending:
            return  # Dub showed what cannot be read: the next report of this open is looked for anew
        self._outbox.paid(opened.open_id)
        match = opened.match.type
        self._log.info(Event.OPEN_FOUND_LATE, app=case.app.name, open_id=opened.open_id, match=match)

    def _owing(self, open_id: str, case: Case, rung: Rung | None, *, not_before_s: float = 0) -> Open:
        """Degrade an open, and see to it that Dub hears of it later."""
        opened = self._openings.degraded(open_id, case, rung)
        self._keep(case, opened)
        if rung is not None and rung.evidence != "ip" and not self._cases.is_erased(case):
            self._outbox.owe(case.owed(open_id, rung, self._wall()), not_before_s=not_before_s)
        return opened

    def _keep(self, case: Case, opened: Open) -> None:
        """Remember an open, unless its install was erased while it was decided."""
        if self._cases.is_erased(case):
            self._cases.sweep(case)
            return
        self._memory.keep(case.key, opened)
        self._precedence.settle(case, opened)
        self._journal.keep(case.key, opened, case.network, case.traits)
        if not may_get_click(opened):
            after_s = 0 if opened.click_id else _ANOTHER_OPEN_S
            self._outbox.let_go(install_name(case.device), after_s=after_s)

    def _explain(
        self, open_id: str, case: Case, steps: Steps, cache: str = "no answer was remembered"
    ) -> None:
        """Remember how an open came to its answer."""
        self._end(case, steps, cache)
        self._traces.keep(open_id, steps)

    def _end(self, case: Case, steps: Steps, cache: str) -> None:
        breaker, budget_ms = self._climber.breaker(), case.report.budget_ms
        ignored = case.report.ignored
        steps.end(self._clock(), cache=cache, breaker=breaker, budget_ms=budget_ms, ignored=ignored)

    def _laid_out(
        self, app: App, opened: Open, app_version: str | None, source: Source, *, repeat: bool = False
    ) -> Answer:
        now = self._wall()
        return lay_out(app, opened, app_version, source=source, repeat=repeat, now=now, log=self._log)

    async def _of_app(self, app: App, open_id: str) -> Open:
        opened = await self.find(open_id)
        if opened is None or opened.app != app.name:
            raise UnknownOpen("openId: no such open of this app, or it is forgotten by now")
        return opened

    def _may_repeat(self, case: Case, known: Open) -> bool:
        """Return True if an answer stands, and the report has no better evidence than it was found by."""
        return known.repeat_until > self._clock() and not case.says_more_than(known)

    def _may_be_revised(self, known: Open) -> bool:
        """Return True if another replica may have given an open another answer than is remembered here."""
        return self._journal.is_shared and (known.pending or known.match.type == "ip")

    def _still_owed(self, known: Open) -> bool:
        """Whether an open reported again is the one that Dub has not confirmed yet: then it keeps its id."""
        return (
            known.provisional and known.repeat_until + self._openings.lifetimes.answer_ttl_s > self._clock()
        )

    def _note_unreadable_version(self, case: Case) -> None:
        version = case.report.app_version
        if version and parse_version(version) is None:
            self._log.warning(Event.VERSION_UNREADABLE, app=case.app.name, shape=shape_of_version(version))

    def _took_ms(self, steps: Steps) -> float:
        return round((self._clock() - steps.began) * 1000, 1)

    def _left_s(self, report: OpenReport) -> float:
        until = report.caller.arrived + report.budget_ms / 1000 - _REPLY_MARGIN_S
        return max(until - self._clock(), 0)
