"""The soak starts and stops, and each of its promises can be broken; `make soak` shows that they hold."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from tests.bench.processes import ROOT
from tests.bench.table import passed
from tests.soak.troubles import GOOD, TROUBLES, schedule
from tests.soak.verdict import BUDGET_MS, GROWN_MB, POD_MB, Event, Life, Minute, Soak, judge, line

ENDS_WITHIN_S = 150  # on a busy machine


def minute(**fields: Any) -> Minute:
    measured = {"opens_ms": [8.0] * 99 + [90.0], "first_ms": [200.0] * 9, "leads_ms": [20.0] * 99 + [95.0]}
    return Minute(**{"trouble": "all well", **measured, **fields})


def soak(**fields: Any) -> Soak:
    """Return what a soak saw in which all went well."""
    seen: dict[str, Any] = {
        "minutes": [minute(), minute(), minute(trouble="PostgreSQL restarts", unavailable=7), minute()],
        "answers": {"repeat": 9, "ip": 3, "touch": 3, "pending": 5},
        "lives": {"A1": Life(95, 101, 104), "A2": Life(None, 93, 93)},
        "leads": {"customer-1": "install-1", "customer-2": "install-2"},
        "lead_ids": {"lead-1", "lead-2"},
        "at_dub": [("customer-1", "click-1"), ("customer-2", "click-2")],
        "clicks": {"click-1": {"install-1"}, "click-2": {"install-2"}},
        "changed": [],
        "pending": {"open-2"},
        "events": [
            Event("msg_1", "open.matched", "click-1"),
            Event("msg_2", "open.matched", "click-2"),
            Event("msg_3", "open.settled", "open-2"),
            Event("msg_4", "lead.delivered", "lead-1"),
            Event("msg_5", "lead.delivered", "lead-2"),
        ],
    }
    return Soak(**{**seen, **fields})


def test_a_good_soak_passes() -> None:
    """A lead that was never acknowledged may be at Dub or not; a 503 while the database is down is honest."""
    seen = soak()
    assert passed(judge(seen))
    unacknowledged = structs.replace(seen, at_dub=[*seen.at_dub, ("customer-3", "click-1")])
    assert passed(judge(unacknowledged))
    superseded = Event("msg_9", "open.settled", "open-2", by="open-3")
    assert passed(judge(structs.replace(seen, events=[*seen.events, superseded])))


GOOD_SOAK = soak()
AFTER_GOOD = GOOD_SOAK.minutes[:-1]


@pytest.mark.parametrize(
    ("row", "fields"),
    [
        ("opens answered 5xx, or not at all", {"minutes": [minute(failed=["/v1/opens: 502"]), *AFTER_GOOD]}),
        (
            "99th percentile of opens in the worst minute",
            {"minutes": [minute(), minute(), minute(opens_ms=[BUDGET_MS + 300.0] * 50), minute()]},
        ),
        (
            "clicks given to two installs",
            {"clicks": {**GOOD_SOAK.clicks, "click-1": {"install-1", "install-3"}}},
        ),
        ("repeated opens that got another click", {"changed": ["open-1"]}),
        (
            "    503 at any other time, as a commit took over 250 ms; of 1,000",
            {"minutes": [minute(slow=1), *AFTER_GOOD]},
        ),
        ("    refused in any other way", {"minutes": [minute(broken=["/v1/leads: 404"]), *AFTER_GOOD]}),
        ("    matched by a touch", {"answers": {**GOOD_SOAK.answers, "touch": 0}}),
        ("acknowledged leads that Dub never got", {"at_dub": GOOD_SOAK.at_dub[:1]}),
        ("leads that Dub recorded twice", {"at_dub": [*GOOD_SOAK.at_dub, ("customer-1", "click-1")]}),
        (
            "leads credited to a click of another install",
            {"at_dub": [("customer-1", "click-2"), ("customer-2", "click-2")]},
        ),
        ("entries left in the outbox", {"left": 1}),
        ("dead letters", {"dead": 1}),
        ("webhooks that never came", {"events": GOOD_SOAK.events[1:]}),
        ("webhooks that never came", {"events": GOOD_SOAK.events[:2]}),
        ("webhooks that never came", {"events": GOOD_SOAK.events[:4]}),
        (
            "events with two webhook-ids",
            {"events": [*GOOD_SOAK.events, Event("msg_6", "lead.delivered", "lead-1")]},
        ),
        (
            "opens: median, last minute / second",
            {"minutes": [*AFTER_GOOD, minute(opens_ms=[45.0] * 99 + [90.0])]},
        ),
        (
            "opens: 99th percentile, last minute / second",
            {"minutes": [*AFTER_GOOD, minute(opens_ms=[8.0] * 90 + [400.0] * 10)]},
        ),
        (
            "leads: median, last minute / second",
            {"minutes": [*AFTER_GOOD, minute(leads_ms=[45.0] * 99 + [90.0])]},
        ),
        (
            "leads: 99th percentile, last minute / second",
            {"minutes": [*AFTER_GOOD, minute(leads_ms=[20.0] * 90 + [400.0] * 10)]},
        ),
        (
            "memory of a process: growth since it was warm, at most",
            {"lives": {"A1": Life(95, 96 + GROWN_MB, 96 + GROWN_MB)}},
        ),
        # Nobody lived long enough to say.
        ("memory of a process: growth since it was warm, at most", {"lives": {"A1": Life(None, 95, 95)}}),
        ("    largest ever", {"lives": {"A1": Life(95, 95, POD_MB + 1)}}),
        ("anything else that went wrong", {"problems": ["the service logged request.failed 1 times"]}),
    ],
)
def test_each_promise_can_be_broken(row: str, fields: dict[str, Any]) -> None:
    rows = judge(structs.replace(soak(), **fields))
    assert [each.name for each in rows if each.mark not in {"", "ok"}] == [row]


def test_too_few_minutes_prove_nothing() -> None:
    assert not passed(judge(soak(minutes=[minute(), minute()])))


def test_all_troubles_are_between_two_good_minutes() -> None:
    """Ten minutes hold each trouble once; more of them come round again."""
    ten = schedule(10)
    assert [ten[1], ten[-1]] == [GOOD, GOOD]
    assert ten[2:-1] == list(TROUBLES)
    assert len(schedule(3)) == 3
    assert schedule(20)[2 + len(TROUBLES)] == TROUBLES[0]


def test_a_minute_is_a_line() -> None:
    shown = line(3, minute(failed=["502"], acknowledged=1234, unavailable=7, webhooks=9, rss_mb={"A1": 90.6}))
    assert " ".join(shown.split()) == "3 all well 109 1 8.0 89 200 1,234 20.0 94 7 9 A1 91"


@contextmanager
def soaking(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a soak, and check that none of its processes is left."""
    mark = f"SOAK_OF_A_TEST={uuid.uuid4().hex}"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.soak", *arguments],
        cwd=ROOT,
        env={**os.environ, **dict([mark.split("=")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with process:
            yield process
    finally:
        process.kill()
        process.wait()
    assert list(marked(mark.encode())) == []


def marked(mark: bytes) -> Iterator[str]:
    """Find processes that have inherited an environment variable."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes():
                yield (folder / "cmdline").read_text()
        except OSError:  # it has ended, or is another user's
            continue


def test_a_soak_that_is_stopped_leaves_nothing_behind() -> None:
    """It is stopped while traffic runs."""
    with soaking() as process:
        assert process.stderr
        for each in process.stderr:
            if "minute 1 of 10" in each:
                break
        process.terminate()
        assert process.communicate(timeout=ENDS_WITHIN_S)[1].endswith("soak: told to stop\n")
        assert process.returncode == 130
