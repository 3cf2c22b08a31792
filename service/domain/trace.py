"""Traces: the outcome of each piece of evidence, to explain to an engineer how an open was decided."""

from collections import OrderedDict
from typing import Literal

from msgspec import Struct

from service.domain.evidence import EvidenceItem, EvidenceType
from service.domain.match_rules import CandidateTrace
from service.domain.models import Link, Match, Source

_TRACES_MAX = 5_000  # about 1 KB each

Outcome = Literal["resolved", "unknown", "skipped", "unavailable", "matched", "none", "pending"]


class EvidenceTrace(Struct, frozen=True, gc=False, rename="camel"):
    """The outcome of one piece of evidence, an explanation, and how long it took."""

    type: EvidenceType
    outcome: Outcome
    detail: str
    took_ms: float = 0.0


class MatchAttempt(Struct, frozen=True):
    """The result of one search for the click of an open without a link."""

    match: Match
    detail: str  # for the trace
    click: tuple[str | None, Link, str] | None = None  # click id, link, and the query of the clicked URL
    pending: bool = False  # the click may still appear at Dub
    stays_pending: bool = False  # even after the last attempt, because Dub's events cannot be decoded
    retry: bool = False  # a later attempt may find the click
    refused: tuple[Link, float] | None = None  # of the likeliest click, if it is refused: link and confidence
    candidates: tuple[CandidateTrace, ...] = ()
    devices: int = 0  # that clicked on the network within the window
    installs: int = 0  # that opened on the network within a day, with this one; 0: no network was looked at


class Trace(Struct, frozen=True, kw_only=True, rename="camel"):
    """How an open was decided."""

    open_id: str
    evidence: tuple[EvidenceTrace, ...]
    candidates: tuple[CandidateTrace, ...] = ()
    ignored: tuple[str, ...] = ()  # fields that were sent and could not be used
    cache: str
    breaker: str
    budget_ms: int
    took_ms: float


class TraceRecorder:
    """Collects a trace while an open is decided. Times are monotonic seconds."""

    __slots__ = (
        "_breaker",
        "_budget_ms",
        "_cache",
        "_ignored",
        "_item_began",
        "_took_s",
        "began",
        "candidates",
        "click_may_be_late",
        "item",
        "items",
        "source",
    )

    def __init__(self, began: float) -> None:
        self.began = began
        self.items: list[EvidenceTrace] = []
        self.candidates: tuple[CandidateTrace, ...] = ()
        self.item: EvidenceItem | None = None
        self.source: Source = "dub"
        self.click_may_be_late = False  # Dub may show the click later: schedule further match attempts
        self._item_began = began

    def at(self, item: EvidenceItem, now: float) -> None:
        """Record that the resolution of this evidence starts."""
        self.item = item
        self._item_began = now

    def add(self, evidence: EvidenceType, outcome: Outcome, detail: str, took_s: float = 0.0) -> None:
        """Record the outcome of a piece of evidence."""
        self.items.append(EvidenceTrace(evidence, outcome, detail, _ms(took_s)))

    def fail(self, detail: str, now: float) -> None:
        """Record that the current evidence could not be resolved."""
        if self.item is not None:
            self.add(self.item.type, "unavailable", detail, now - self._item_began)

    def end(self, now: float, *, cache: str, breaker: str, budget_ms: int, ignored: tuple[str, ...]) -> None:
        """Record that the open is decided, and drop the evidence: it may contain a user's clipboard."""
        self._took_s = now - self.began
        self._cache, self._breaker, self._budget_ms = cache, breaker, budget_ms
        self._ignored = ignored
        self.item = None

    def trace(self, open_id: str) -> "Trace":
        """Build the trace. Call ``end`` before."""
        return Trace(
            open_id=open_id,
            evidence=tuple(self.items),
            candidates=self.candidates,
            ignored=self._ignored,
            cache=self._cache,
            breaker=self._breaker,
            budget_ms=self._budget_ms,
            took_ms=_ms(self._took_s),
        )


class Traces:
    """Keeps the trace recorders of the latest opens. Few traces are read, so each is built on request."""

    def __init__(self) -> None:
        self._recorders: OrderedDict[str, TraceRecorder] = OrderedDict()

    def keep(self, open_id: str, recorder: TraceRecorder) -> None:
        """Keep a finished recorder, replacing an earlier one of the same open."""
        if len(self._recorders) >= _TRACES_MAX:
            self._recorders.popitem(last=False)
        self._recorders[open_id] = recorder

    def add(self, open_id: str, attempt: MatchAttempt) -> None:
        """Add the result of a later match attempt."""
        recorder = self._recorders.get(open_id)
        if recorder is not None:
            outcome: Outcome = "matched" if attempt.click else "pending" if attempt.stays_pending else "none"
            evidence: EvidenceType = "touch" if attempt.match.type == "touch" else "ip"
            recorder.add(evidence, outcome, f"looked again: {attempt.detail}")
            recorder.candidates = attempt.candidates or recorder.candidates

    def get(self, open_id: str) -> Trace | None:
        """Return the trace of an open, or None if it is not kept."""
        recorder = self._recorders.get(open_id)
        return None if recorder is None else recorder.trace(open_id)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
