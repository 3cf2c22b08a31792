"""``python -m tests.soak``: exit with 1, and say why, if a promise does not hold."""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.lab import Lab, complaints
from tests.bench.outside import number, queued
from tests.bench.processes import Failed, Server
from tests.bench.table import Row, Weather, describe, machine_facts, passed, render
from tests.receiver import Received, Receiver, receiver
from tests.soak.traffic import Ledger, Traffic, backend
from tests.soak.troubles import World, schedule, world
from tests.soak.verdict import Event, Life, Minute, Soak, heading, judge, line, p99

_DRAINED_WITHIN_S = 180.0  # a webhook about a pending open is first looked at after 65 s
_LOOKED_AT_EVERY_S = 1.0
_TOLD_EVERY_S = 10.0
_SEED = 19
_STOPPED = 128 + signal.SIGINT
_MB = 1_000_000
# Log events that mean a bug, whatever happens around the service.
_BUGS = (
    *("traceback", "background.failed", "request.failed", "open.failed", "outbox.failed", "store.refused"),
    "service.loop_failed",
)
_ABOUT = {
    "open.matched": "clickId",
    "lead.delivered": "leadId",
    "lead.dead": "leadId",
    "open.settled": "openId",
}


def main() -> int:
    """Return the exit status: 0, 1 if a promise does not hold, 2 if the soak cannot run."""
    parser = _parser()
    options = parser.parse_args()
    if options.minutes < 3:
        parser.error("--minutes: at least 3: a warm-up, and two to compare")
    cores = sorted(os.sched_getaffinity(0))
    weather = Weather()
    with tempfile.TemporaryDirectory(prefix="firstopen-soak-") as folder:
        lab = Lab(folder=Path(folder), cores=(cores[0], cores[-1]), rounds=1, seconds=1, pinned=False)
        try:
            soak = asyncio.run(_run(lab, options.minutes, options.seconds))
        except Failed as exc:
            sys.stderr.write(f"soak: cannot run: {exc}\n")
            return 2
        except (KeyboardInterrupt, asyncio.CancelledError):
            sys.stderr.write("soak: told to stop\n")
            return _STOPPED
    rows = judge(soak)
    lines = [heading(), *(line(number, each) for number, each in enumerate(soak.minutes, 1))]
    facts = describe({**machine_facts(), **weather.facts()})
    sys.stdout.write("\n".join(["", *lines, "", render(rows), "", facts, "", _said(rows)]) + "\n")
    return 0 if passed(rows) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=int, default=10, metavar="N", help="3 or more (default: 10)")
    parser.add_argument(
        "--seconds", type=float, default=60, metavar="S", help="of a minute, for a quick look (default: 60)"
    )
    return parser


def _said(rows: list[Row]) -> str:
    broken = [row.name.strip() for row in rows if row.mark not in {"", "ok"}]
    return f"soak: BROKEN: {'; '.join(broken)}" if broken else "soak: every promise held"


async def _run(lab: Lab, minutes: int, seconds: float) -> Soak:
    task = asyncio.current_task()
    assert task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    lab.say("starting PostgreSQL, a Dub, two replicas and a proxy")
    async with receiver() as hooks:
        hooks.script = backend(hooks, _SEED)
        with world(lab, hooks.url) as at:
            # What runs in a thread ends before the processes do, also if the soak is stopped.
            asyncio.get_running_loop().set_default_executor(at.threads)
            return await _Soak(at, hooks, seconds).run(minutes)


class _Soak:
    """One run: traffic, and what happens meanwhile."""

    def __init__(self, at: World, hooks: Receiver, seconds: float) -> None:
        self._at = at
        self._hooks = hooks
        self._seconds = seconds
        self._ledger = Ledger()
        self._minutes: list[Minute] = []
        self._ends: list[float] = []
        self._lives: dict[str, Life] = {}
        self._warm_at: dict[str, float] = {}

    async def run(self, minutes: int) -> Soak:
        """Soak for so many minutes, wait until all is delivered, and return what was seen."""
        over = asyncio.Event()
        traffic = Traffic(self._at.proxy.url, self._at.dub.url, self._ledger, _SEED)
        async with asyncio.TaskGroup() as group:
            group.create_task(traffic.run(over))
            watching = [group.create_task(self._watch()), group.create_task(self._tell())]
            for trouble, happens in schedule(minutes):
                self._minutes.append(Minute(trouble=trouble))
                self._at.lab.say(f"minute {len(self._minutes)} of {minutes}: {trouble}")
                taken = len(self._hooks.taken)
                try:
                    await happens(self._at, self._seconds)
                except Failed as exc:
                    self._at.problems.append(f"{trouble}: {exc}")
                self._minutes[-1].webhooks = len(self._hooks.taken) - taken
                self._ends.append(time.monotonic())
            over.set()
            for each in watching:
                each.cancel()
        left = await self._drained()
        self._tally()
        self._note_late_clicks()
        return Soak(
            minutes=self._minutes,
            answers=self._ledger.answers,
            lives=self._lives,
            leads=self._ledger.leads,
            lead_ids=self._ledger.lead_ids,
            at_dub=await asyncio.to_thread(self._at_dub),
            clicks=self._ledger.clicks,
            changed=self._ledger.changed,
            pending=self._ledger.pending,
            events=[_event(each) for each in self._hooks.events],
            left=left,
            dead=await asyncio.to_thread(
                number, self._service, "SELECT count(*) FROM outbox WHERE state = 'dead'"
            ),
            problems=[*self._at.problems, *await asyncio.to_thread(self._bugs)],
        )

    @property
    def _service(self) -> Server:
        return self._at.replicas[0].logs[-1]

    async def _watch(self) -> None:
        """Note each process's memory."""
        while True:
            for name, server in self._processes():
                try:
                    rss_mb = server.rss_bytes() / _MB
                except (OSError, IndexError):  # it has ended
                    continue
                self._note(name, rss_mb)
            await asyncio.sleep(_LOOKED_AT_EVERY_S)

    def _note(self, name: str, rss_mb: float) -> None:
        now = time.monotonic()
        life = self._lives.setdefault(name, Life(warm=None, last=rss_mb, most=rss_mb))
        if life.warm is None and now >= self._warm_at.setdefault(name, now + self._seconds):
            life.warm = rss_mb
        life.last, life.most = rss_mb, max(life.most, rss_mb)
        minute = self._minutes[-1].rss_mb
        minute[name] = max(minute.get(name, 0.0), rss_mb)

    def _processes(self) -> Iterator[tuple[str, Server]]:
        for letter, replica in zip("AB", self._at.replicas, strict=True):
            yield f"{letter}{len(replica.logs)}", replica.logs[-1]

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(_TOLD_EVERY_S)
            opens = [each for each in self._ledger.asked if each.kind in ("open", "first")]
            took_ms = [each.took_s * 1000 for each in opens[-1000:]]
            memory = ", ".join(f"{name} {life.last:.0f}" for name, life in list(self._lives.items())[-2:])
            failed = sum(each.status != 200 for each in opens)
            self._at.lab.say(
                f"  {len(opens):,} opens, {failed} failed, p99 of the last 1,000: {p99(took_ms):.0f} ms; "
                f"{len(self._ledger.leads):,} leads; {len(self._hooks.taken):,} webhooks; MB: {memory}"
            )

    async def _drained(self) -> int:
        """Wait until the outbox is empty; return how many entries are left when the time is over."""
        deadline = time.monotonic() + _DRAINED_WITHIN_S
        while (left := await asyncio.to_thread(queued, self._service)) and time.monotonic() < deadline:
            self._at.lab.say(f"waiting for {left:,} entries of the outbox (those of pending opens take 65 s)")
            await asyncio.sleep(min(_TOLD_EVERY_S, self._seconds))
        return left

    def _tally(self) -> None:
        """Count each answer for the minute in which it was asked for."""
        for asked in self._ledger.asked:
            place = sum(asked.due > end for end in self._ends[:-1])
            minute, took_ms = self._minutes[place], asked.took_s * 1000
            minute.longest_ms = max(minute.longest_ms, took_ms)
            if asked.kind in ("open", "first"):
                (minute.opens_ms if asked.kind == "open" else minute.first_ms).append(took_ms)
                if asked.status != 200:
                    minute.failed.append(asked.answer)
                continue
            if asked.kind == "lead":
                minute.leads_ms.append(took_ms)
                minute.acknowledged += asked.status in (200, 202)
            if asked.status in (200, 202):
                continue
            # Without its database, a replica does not know of opens that the other has answered meanwhile.
            is_honest = asked.status == 503 or (asked.kind == "other" and asked.status == 404)
            if is_honest and self._at.was_down(asked.due, asked.due + asked.took_s):
                minute.unavailable += 1
            elif asked.status == 503:
                minute.slow += 1
            else:
                minute.broken.append(asked.answer)

    def _note_late_clicks(self) -> None:
        """Note the clicks that opens got after they were answered."""
        for received in self._hooks.events:
            data = received.event["data"]
            install = self._ledger.installs.get(data["openId"])
            if install is not None and data["clickId"] is not None and received.type.startswith("open."):
                self._ledger.clicks[data["clickId"]].add(install)

    def _at_dub(self) -> list[tuple[str, str]]:
        return [
            (event["customer"]["externalId"], event["click"]["id"]) for event in self._at.dub.events("leads")
        ]

    def _bugs(self) -> list[str]:
        servers = [server for replica in self._at.replicas for server in replica.logs]
        return [
            found for server in servers for found in complaints(server) if any(bug in found for bug in _BUGS)
        ]


def _event(received: Received) -> Event:
    data = received.event["data"]
    return Event(received.id, received.type, data[_ABOUT[received.type]], data.get("creditedTo", ""))


if __name__ == "__main__":
    sys.exit(main())
