"""What each rung said, and why: for the engineer who asks how an open came to its answer."""

from collections import OrderedDict
from typing import Literal

from msgspec import Struct

from service.domain.evidence import Evidence, Rung
from service.domain.models import Link, Match, Source

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
    stays_pending: bool = False  # also when nobody looks any more: Dub shows what cannot be read
    again: bool = False  # looking again later is worth it
    candidates: tuple[CandidateTrace, ...] = ()


class Trace(Struct, frozen=True, kw_only=True, rename="camel"):
    """How an open came to its answer."""

    open_id: str
    rungs: tuple[RungTrace, ...]
    candidates: tuple[CandidateTrace, ...] = ()
    ignored: tuple[str, ...] = ()  # fields that were given and could not be used
    cache: str
    breaker: str
    budget_ms: int
    took_ms: float


class Steps:
    """Collects a trace while an open is decided. Times are the clock's, in seconds."""

    __slots__ = (
        "_breaker",
        "_budget_ms",
        "_cache",
        "_ignored",
        "_rung_began",
        "_took_s",
        "began",
        "candidates",
        "look_again",
        "rung",
        "rungs",
        "source",
    )

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
        self.rungs.append(RungTrace(evidence, outcome, detail, _ms(took_s)))

    def fail(self, detail: str, now: float) -> None:
        """Note that the climb ended at a rung that gave no answer."""
        if self.rung is not None:
            self.add(self.rung.evidence, "unavailable", detail, now - self._rung_began)

    def end(self, now: float, *, cache: str, breaker: str, budget_ms: int, ignored: tuple[str, ...]) -> None:
        """Note that the open is decided, and let go of its link: it may be somebody's clipboard."""
        self._took_s = now - self.began
        self._cache, self._breaker, self._budget_ms = cache, breaker, budget_ms
        self._ignored = ignored
        self.rung = None

    def trace(self, open_id: str) -> "Trace":
        """Tell it all, once it has ended."""
        return Trace(
            open_id=open_id,
            rungs=tuple(self.rungs),
            candidates=self.candidates,
            ignored=self._ignored,
            cache=self._cache,
            breaker=self._breaker,
            budget_ms=self._budget_ms,
            took_ms=_ms(self._took_s),
        )


class Traces:
    """Remembers how the latest opens were decided; nearly none is ever asked for, so none is laid out yet."""

    def __init__(self) -> None:
        self._steps: OrderedDict[str, Steps] = OrderedDict()

    def keep(self, open_id: str, steps: Steps) -> None:
        """Remember what has ended, in place of an earlier decision of the same open."""
        if len(self._steps) >= _TRACES_MAX:
            self._steps.popitem(last=False)
        self._steps[open_id] = steps

    def add(self, open_id: str, look: Look) -> None:
        """Add what a later look has said."""
        steps = self._steps.get(open_id)
        if steps is not None:
            outcome: Outcome = "matched" if look.click else "pending" if look.stays_pending else "none"
            steps.add("ip", outcome, f"looked again: {look.detail}")
            steps.candidates = look.candidates or steps.candidates

    def get(self, open_id: str) -> Trace | None:
        """Recall a trace."""
        steps = self._steps.get(open_id)
        return None if steps is None else steps.trace(open_id)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
