"""The table of the minutes, and what is promised of them."""

import statistics
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from msgspec import Struct

from tests.bench.table import Row

BUDGET_MS = 1500
LATE_MS = 250  # beyond the budget: what the clients add, on the same busy machine
SLOW_OF_1000 = 1  # leads and touches: the database does not have the machine to itself
LONGEST_MS = 5000  # PostgreSQL has 3 s to answer; whoever waits longer waits for a fault to end
MEMORY_MB = 16  # of [cache]: the least, so that the bound below is a narrow one
GROWN_MB = MEMORY_MB + 24  # a full cache, and what Python keeps free for the next outage
POD_MB = MEMORY_MB + 256  # what docs/configuration.md lets a pod have
P50_TIMES, P99_TIMES = 2.0, 3.0
# Below these a ratio shows the machine, not the service.
P50_FLOOR_MS, P99_FLOOR_MS = 20.0, 100.0

_SHOWN = 3
_ANSWERS = {
    "repeat": "answered as a repeat",
    "ip": "matched by a click on their network",
    "touch": "matched by a touch",
    "pending": "pending at first",
}
_OF_A_CLICK, _OF_A_LEAD, _OF_A_PENDING_OPEN = "open.matched", "lead.delivered", "open.settled"


class Minute(Struct, kw_only=True):
    """What was asked in a minute, and what it took. ``rss_mb`` is by process, the largest of the minute."""

    trouble: str
    opens_ms: list[float] = []  # of opens of a link
    first_ms: list[float] = []  # of opens without one, which wait for Dub's clicks
    failed: list[str] = []  # answers to opens that are no 200
    leads_ms: list[float] = []
    acknowledged: int = 0
    unavailable: int = 0  # leads, touches, opens asked for again: an honest 503 while the database was down
    slow: int = 0  # the same at any other time: PostgreSQL took longer than the 250 ms that they wait
    broken: list[str] = []  # other answers that are no success
    longest_ms: float = 0.0  # that anybody waited for an answer
    webhooks: int = 0  # taken, repetitions included
    rss_mb: dict[str, float] = {}


class Life(Struct):
    """The memory of one process in MB: a minute after it was ready, at its end, and at most."""

    warm: float | None
    last: float
    most: float


class Event(Struct, frozen=True):
    """A webhook that the backend took, repetitions left out."""

    id: str
    type: str
    about: str  # the clickId, leadId or openId
    by: str = ""  # the open that has taken the click of this one: a change of its own


class Soak(Struct, kw_only=True):
    """All that was seen."""

    minutes: list[Minute]
    answers: Mapping[str, int] = {}  # how many opens were answered in some way
    lives: dict[str, Life]
    leads: Mapping[str, str]  # the install of each acknowledged lead, by customer
    lead_ids: Collection[str]
    at_dub: Sequence[tuple[str, str]]  # customer and clickId of each lead that Dub recorded
    clicks: Mapping[str, Collection[str]]  # installs that were given each click
    changed: Sequence[str]  # opens whose repeat got another click
    pending: Collection[str]  # openIds of opens that were answered as pending
    events: Sequence[Event]
    left: int = 0  # entries that the outbox still has at the end
    dead: int = 0
    problems: list[str] = []


def judge(soak: Soak) -> list[Row]:
    """Hold what was seen against what is promised."""
    return [
        *_opens(soak),
        *_leads(soak),
        *_webhooks(soak),
        *_latency(soak.minutes),
        *_memory(soak.lives),
        _none("anything else that went wrong", soak.problems),
    ]


def _opens(soak: Soak) -> list[Row]:
    worst = max((p99([*each.opens_ms, *each.first_ms]) for each in soak.minutes), default=0.0)
    shared = [f"{click}: {', '.join(sorted(who))}" for click, who in soak.clicks.items() if len(set(who)) > 1]
    return [
        Row(name="opens", rounds=[float(sum(map(_opens_of, soak.minutes)))]),
        *(
            Row(name=f"    {what}", rounds=[float(soak.answers.get(key, 0))], at_least=1)
            for key, what in _ANSWERS.items()
        ),
        _none("opens answered 5xx, or not at all", _by_minute(soak, lambda each: each.failed)),
        Row(
            name="99th percentile of opens in the worst minute",
            unit="ms",
            rounds=[worst],
            at_most=BUDGET_MS + LATE_MS,
        ),
        Row(
            name="longest answer to any request",
            unit="ms",
            rounds=[max((each.longest_ms for each in soak.minutes), default=0.0)],
            at_most=LONGEST_MS,
        ),
        _none("clicks given to two installs", shared),
        _none("repeated opens that got another click", soak.changed),
    ]


def _leads(soak: Soak) -> list[Row]:
    asked = sum(len(each.leads_ms) for each in soak.minutes)
    times = Counter(customer for customer, _ in soak.at_dub)
    wrong = [
        who
        for who, click in soak.at_dub
        if who in soak.leads and soak.leads[who] not in soak.clicks.get(click, ())
    ]
    return [
        Row(name="leads acknowledged", rounds=[float(len(soak.leads))]),
        Row(
            name="    503 while the database was down; touches and recalls included",
            rounds=[float(sum(each.unavailable for each in soak.minutes))],
        ),
        Row(
            name="    503 at any other time, as a commit took over 250 ms; of 1,000",
            rounds=[1000 * sum(each.slow for each in soak.minutes) / max(1, asked)],
            at_most=SLOW_OF_1000,
        ),
        _none("    refused in any other way", _by_minute(soak, lambda each: each.broken)),
        _none("acknowledged leads that Dub never got", set(soak.leads) - set(times)),
        _none("leads that Dub recorded twice", [who for who, count in times.items() if count > 1]),
        _none("leads credited to a click of another install", wrong),
        _zero("entries left in the outbox", soak.left),
        _zero("dead letters", soak.dead),
    ]


def _webhooks(soak: Soak) -> list[Row]:
    taken = Counter((each.type, each.about, each.by) for each in soak.events)
    came = {(each.type, each.about) for each in soak.events}
    wanted = {
        *((_OF_A_CLICK, click) for click in soak.clicks),
        *((_OF_A_LEAD, lead) for lead in soak.lead_ids),
        *((_OF_A_PENDING_OPEN, open_id) for open_id in soak.pending),
    }
    return [
        Row(name="webhooks taken, repetitions left out", rounds=[float(len(soak.events))]),
        _none("webhooks that never came", [" ".join(each) for each in wanted - came]),
        _none("events with two webhook-ids", [" ".join(each) for each, count in taken.items() if count > 1]),
    ]


def _latency(minutes: Sequence[Minute]) -> list[Row]:
    """Compare the last minute with the second: both are good ones, and all the trouble is in between."""
    if len(minutes) < 3:
        return [Row(name="latency", problems=["too few minutes to compare"])]
    before, after = minutes[1], minutes[-1]
    return [
        Row(name=f"{what}: {name}, last minute / second", rounds=[ratio], at_most=bound)
        for what, early, late in (
            ("opens", before.opens_ms, after.opens_ms),
            ("leads", before.leads_ms, after.leads_ms),
        )
        for name, ratio, bound in (
            ("median", _ratio(p50(late), p50(early), P50_FLOOR_MS), P50_TIMES),
            ("99th percentile", _ratio(p99(late), p99(early), P99_FLOOR_MS), P99_TIMES),
        )
    ]


def _memory(lives: Mapping[str, Life]) -> list[Row]:
    grown = [each.last - each.warm for each in lives.values() if each.warm is not None]
    return [
        Row(
            name="memory of a process: growth since it was warm, at most",
            unit="MB",
            rounds=[max(grown)] if grown else [],
            at_most=GROWN_MB,
        ),
        Row(
            name="    largest ever",
            unit="MB",
            rounds=[max((each.most for each in lives.values()), default=0.0)],
            at_most=POD_MB,
        ),
    ]


def _by_minute(soak: Soak, found: Callable[[Minute], list[str]]) -> list[str]:
    return [
        f"minute {number} ({minute.trouble}): {each}"
        for number, minute in enumerate(soak.minutes, 1)
        for each in found(minute)
    ]


def _opens_of(minute: Minute) -> int:
    return len(minute.opens_ms) + len(minute.first_ms)


def _none(name: str, found: Collection[str]) -> Row:
    """Return a row that promises that there are none, and that names the first of them."""
    more = [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return Row(
        name=name, rounds=[len(found)], at_least=0, at_most=0, problems=[*sorted(found)[:_SHOWN], *more]
    )


def _zero(name: str, count: int) -> Row:
    return Row(name=name, rounds=[count], at_least=0, at_most=0)


def _ratio(late: float, early: float, floor: float) -> float:
    return max(late, floor) / max(early, floor)


def p50(took_ms: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(took_ms) if took_ms else 0.0


def p99(took_ms: Sequence[float]) -> float:
    """Return the 99th percentile."""
    return statistics.quantiles(took_ms, n=100)[98] if len(took_ms) > 1 else sum(took_ms)


_HEAD = (
    *("minute", "what happens", "opens", "failed", "p50", "p99", "no link: p99", "leads", "p50", "p99 ms"),
    *("503 (no database)", "webhooks", "MB of each process"),
)
_WIDTHS = (6, 25, 5, 6, 5, 5, 12, 5, 5, 6, 17, 8, 0)


def heading() -> str:
    """Return the heading of the table of minutes."""
    return _line(_HEAD)


def line(number: int, minute: Minute) -> str:
    """Return a minute as a line of the table."""
    return _line(
        (
            str(number),
            minute.trouble,
            f"{_opens_of(minute):,}",
            str(len(minute.failed)),
            f"{p50(minute.opens_ms):.1f}",
            f"{p99(minute.opens_ms):,.0f}",
            f"{p99(minute.first_ms):,.0f}",
            f"{minute.acknowledged:,}",
            f"{p50(minute.leads_ms):.1f}",
            f"{p99(minute.leads_ms):,.0f}",
            f"{minute.unavailable}",
            f"{minute.webhooks:,}",
            "  ".join(f"{name} {rss:.0f}" for name, rss in minute.rss_mb.items()),
        )
    )


def _line(cells: Sequence[str]) -> str:
    return "  ".join(
        text.ljust(width) if number in (1, len(cells) - 1) else text.rjust(width)
        for number, (text, width) in enumerate(zip(cells, _WIDTHS, strict=True))
    ).rstrip()
