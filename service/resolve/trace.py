"""What each rung said, and why: for the engineer who asks how an open came to its answer."""

from typing import Literal

from cachetools import LRUCache
from msgspec import Struct, structs

from service.resolve.ladder import Evidence, Rung
from service.resolve.model import Link, Match, Source

_TRACES_MAX = 10_000  # about 1 KB each

Outcome = Literal["resolved", "unknown", "skipped", "unavailable", "matched", "none", "pending"]


class RungTrace(Struct, frozen=True, gc=False, rename="camel"):
    """One rung: what came of it, in words to act on, and how long it took."""

    evidence: Evidence
    outcome: Outcome
    detail: str
    took_ms: float = 0.0


class CandidateTrace(Struct, frozen=True, gc=False, rename="camel"):
    """A click that was looked at; ``rejected`` says why it is not the one, null for one that may be."""

    click_id: str
    link: str  # domain and key
    age_s: int
    rejected: str | None


class Look(Struct, frozen=True):
    """What came of looking for the click of an open that has no link."""

    match: Match
    detail: str  # for the trace
    click: tuple[str, Link, str] | None = None  # its id, link, and the query that it was clicked with
    pending: bool = False  # it may still show up
    again: bool = False  # looking again later is worth it
    candidates: tuple[CandidateTrace, ...] = ()


class Trace(Struct, frozen=True, kw_only=True, rename="camel"):
    """How an open came to its answer."""

    open_id: str
    rungs: tuple[RungTrace, ...]
    candidates: tuple[CandidateTrace, ...] = ()
    cache: str
    breaker: str
    budget_ms: int
    took_ms: float


class Steps:
    """Collects a trace while an open is decided. Times are the clock's, in seconds."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.rungs: list[RungTrace] = []
        self.candidates: tuple[CandidateTrace, ...] = ()
        self.rung: Rung | None = None
        self.source: Source = "dub"
        self.look_again = False  # a click may show up late
        self._rung_began = began

    def at(self, rung: Rung, now: float) -> None:
        """Note at which rung the climb is."""
        self.rung = rung
        self._rung_began = now

    def add(self, evidence: Evidence, outcome: Outcome, detail: str, took_s: float = 0.0) -> None:
        """Note what came of a rung."""
        self.rungs.append(RungTrace(evidence, outcome, detail, round(took_s * 1000, 1)))

    def fail(self, detail: str, now: float) -> None:
        """Note that the climb ended at a rung that gave no answer."""
        if self.rung is not None:
            self.add(self.rung.evidence, "unavailable", detail, now - self._rung_began)


class Traces:
    """Remembers the traces of the latest opens."""

    def __init__(self) -> None:
        self._traces: LRUCache[str, Trace] = LRUCache(_TRACES_MAX)

    def keep(self, open_id: str, trace: Trace) -> None:
        """Remember a trace, in place of an earlier one of the same open."""
        self._traces[open_id] = trace

    def add(self, open_id: str, look: Look) -> None:
        """Add what a later look has said."""
        trace = self._traces.get(open_id)
        if trace is not None:
            outcome: Outcome = "matched" if look.click else "none"
            rungs = (*trace.rungs, RungTrace("ip", outcome, f"looked again: {look.detail}"))
            candidates = look.candidates or trace.candidates
            self._traces[open_id] = structs.replace(trace, rungs=rungs, candidates=candidates)

    def get(self, open_id: str) -> Trace | None:
        """Recall a trace."""
        return self._traces.get(open_id)
