"""First launches that are matched by their address: how many a second, and what a million clicks change.

Dub lists the clicks of people who then open the app, each at an address of their own. A million clicks of
others, who never open it, are put into the database beside them: their networks and their content are random,
as no open asks for them.
"""

import contextlib
import sqlite3
from contextlib import ExitStack

import psycopg

from service.storage.engines.sqlite import FILE
from tests.bench import sample
from tests.bench.lab import Lab, complaints
from tests.bench.load import Run, Subject, alternate, ratios, wrk
from tests.bench.outside import counted, number, wait_until
from tests.bench.processes import Server, fetch
from tests.bench.table import Row

CLICKS = 120_000  # of people who open the app: more than open it in a run
OTHERS = 1_000_000
MATCHED_OVER_HITS = 0.2
MANY_OVER_FEW = 0.9
MEMORY_MB = 20

HIT, FEW, MANY = (
    "firstopen, a hit",
    f"firstopen, a first open matched by address, {CLICKS:,} clicks",
    f"firstopen, a first open matched by address, {OTHERS + CLICKS:,} clicks",
)

# Every open waits for the next of 100 syncs a second: 32 clients would get 3,200 answers a second at most.
_CLIENTS = 64

_FIRST = ("open.late",)  # the one that waits for the first sync
_WARM_UP_S = 1
_MB = 1_000_000
_SYNCED_WITHIN_S = 120.0
_ON_SQLITE = """WITH RECURSIVE numbers (number) AS
    (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < {count})
    INSERT INTO clicks (app, click_id, network, clicked_at, record)
    SELECT 'acme', 'other' || number, random(), {newest} - (number * 7) % 2400000, randomblob({size})
    FROM numbers"""
_ON_POSTGRES = """INSERT INTO clicks (app, click_id, network, clicked_at, record)
    SELECT 'acme', 'other' || number, ((random() - 0.5) * 18e18)::bigint, {newest} - (number * 7) % 2400000,
    decode(repeat(md5(number::text), {size} / 16), 'hex') FROM generate_series(1, {count}) AS number"""


def run(lab: Lab) -> list[Row]:
    """Load services with few and with many clicks in turns, on SQLite; then compare their memory on both."""
    with ExitStack() as running:
        upstream = running.enter_context(lab.upstream())
        upstream.clicks(CLICKS)
        folders = [lab.new_folder("few"), lab.new_folder("many")]
        for folder in folders:
            with lab.service(upstream, folder=folder) as service:
                _sync(lab, service)
                others = _others(service, _ON_SQLITE)
        lab.say(f"{OTHERS:,} clicks of others")
        with contextlib.closing(sqlite3.connect(folders[1] / FILE)) as database, database:
            database.execute(others)
        few, many = (running.enter_context(lab.service(upstream, folder=folder)) for folder in folders)
        matches = {each.url: Matches(each) for each in (few, many)}
        subjects = [
            Subject(HIT, few, "same", "any", connections=_CLIENTS),
            Subject(FEW, few, "first launch", "any", matches[few.url].compare, connections=_CLIENTS),
            Subject(MANY, many, "first launch", "any", matches[many.url].compare, connections=_CLIENTS),
        ]
        found = alternate(lab, upstream, subjects)
        for name, service in ((FEW, few), (MANY, many)):
            found[name].problems += matches[service.url].problems + complaints(service, expected=_FIRST)
        on_sqlite = (many.rss_bytes() - few.rss_bytes()) / _MB
    return [
        *(
            Row(
                name=name,
                unit="req/s",
                rounds=series.rates,
                details=series.details,
                problems=series.problems,
            )
            for name, series in found.items()
        ),
        Row(
            name="a first open matched by address / a hit, SQLite",
            rounds=ratios(found[FEW], found[HIT]),
            at_least=MATCHED_OVER_HITS,
        ),
        Row(
            name=f"    with {OTHERS:,} clicks more / without",
            rounds=ratios(found[MANY], found[FEW]),
            at_least=MANY_OVER_FEW,
        ),
        _memory("SQLite", on_sqlite, []),
        _on_postgres(lab),
    ]


class Matches:
    """Holds the service's own counter of matched opens against what wrk has seen."""

    def __init__(self, service: Server) -> None:
        self._service = service
        self._before = self._now()
        self.problems: list[str] = []

    def compare(self, run: Run) -> None:
        """Look whether every answer was a match."""
        now = self._now()
        if now - self._before < run.requests:
            self.problems.append(f"{run.requests} answers, {now - self._before} of them matched")
        self._before = now

    def _now(self) -> int:
        return counted(self._service, "firstopen_opens_total", match="ip", outcome="new")


def _on_postgres(lab: Lab) -> Row:
    """Load a replica with few clicks and one with many alike, and compare their memory."""
    rss_bytes: list[int] = []
    problems: list[str] = []
    with lab.upstream() as upstream, lab.postgres() as postgres:
        upstream.clicks(CLICKS)
        for has_others in (False, True):
            with lab.service(upstream, database_url=postgres.database()) as service:
                _sync(lab, service)
                if has_others:
                    lab.say(f"{OTHERS:,} clicks of others")
                    with psycopg.connect(service.database_url, autocommit=True) as connection:
                        connection.execute(_others(service, _ON_POSTGRES).encode())
                        connection.execute("VACUUM ANALYZE clicks")
                        connection.execute("CHECKPOINT")
                wrk(lab, service.url, "first launch", _WARM_UP_S)
                matches = Matches(service)
                run = wrk(lab, service.url, "first launch", lab.seconds)
                matches.compare(run)
                problems += run.problems() + matches.problems + complaints(service, expected=_FIRST)
                rss_bytes.append(service.rss_bytes())
    return _memory("PostgreSQL", (rss_bytes[1] - rss_bytes[0]) / _MB, problems)


def _sync(lab: Lab, service: Server) -> None:
    """Let the service read all clicks, as it does when somebody opens an app without a link."""
    fetch("POST", f"{service.url}/v1/opens", sample.ip_matching(sample.INSTALL), sample.HEADERS)
    took_s = wait_until(
        lambda: number(service, "SELECT count(*) FROM clicks") == CLICKS,
        within_s=_SYNCED_WITHIN_S,
        what="the service reads the clicks",
    )
    lab.say(f"{CLICKS:,} clicks read in {took_s:.1f} s")


def _others(service: Server, statement: str) -> str:
    """Return the statement that adds the clicks of others, as old and as large as those that are there."""
    newest = number(service, "SELECT max(clicked_at) FROM clicks")
    size = number(service, "SELECT sum(length(record)) / count(*) FROM clicks")
    return statement.format(count=OTHERS, newest=newest, size=size)


def _memory(engine: str, megabytes: float, problems: list[str]) -> Row:
    return Row(
        name=f"resident memory with {OTHERS:,} clicks more, {engine}",
        unit="MB",
        rounds=[megabytes],
        at_most=MEMORY_MB,
        problems=problems,
    )
