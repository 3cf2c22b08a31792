"""``python -m tests.bench``: measure, print one table, write it as JSON; exit 1 if a bound is missed."""

import argparse
import os
import resource
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from tests.bench.lab import Lab
from tests.bench.measures import MEASURES, Measure
from tests.bench.processes import ROOT, Failed
from tests.bench.table import Row, Weather, describe, dump, machine_facts, passed, render

_FILES = 8192  # 1,000 connections at once want more than the usual 1,024
_USAGE = 2


def main() -> int:
    """Return the exit status: 0, 1 if a bound was missed or a run was not clean, 2 if it cannot run."""
    options = _parser().parse_args()
    for tool in ("wrk", "taskset"):
        if shutil.which(tool) is None:
            return _refuse(f"{tool} is missing: `make bench` installs wrk, taskset comes with util-linux")
    if not options.json.parent.is_dir():
        return _refuse(f"--json: {options.json.parent} is no folder")
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        return _refuse("two cores are needed: one for the servers, one for the load")
    os.sched_setaffinity(0, {cores[1]})
    _raise_file_limit()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    weather = Weather()
    measures = [measure for measure in MEASURES if not options.only or measure.name in options.only]
    with tempfile.TemporaryDirectory(prefix="firstopen-bench-") as folder:
        lab = Lab(
            folder=Path(folder),
            cores=(cores[0], cores[1]),
            rounds=options.rounds,
            seconds=options.seconds,
        )
        rows = [row for measure in measures for row in _measure(lab, measure)]
    facts = {**machine_facts(), **weather.facts()}
    sys.stdout.write(f"\n{render(rows)}\n\n{describe(facts)}\n")
    given = {"rounds": options.rounds, "seconds": options.seconds, "only": options.only or []}
    dump(options.json, rows, given, facts)
    return 0 if passed(rows) else 1


def _measure(lab: Lab, measure: Measure) -> list[Row]:
    lab.say(f"{measure.name}: {measure.about}")
    try:
        return measure.run(lab)
    except Failed as exc:
        lab.say(f"{measure.name} failed: {exc}")
        return [Row(name=measure.name, problems=[str(exc)])]


def _parser() -> argparse.ArgumentParser:
    names = "\n".join(f"  {measure.name:<12}{measure.about}" for measure in MEASURES)
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            f"measurements:\n{names}\n\n"
            "Servers are pinned to one core, wrk and a fake Dub to another. Subjects take turns, so a ratio\n"
            "compares runs that are seconds apart; its median over the rounds is what is held to its bound.\n"
            "Absolute figures follow the machine's mood: compare them within one table only.\n\n"
            "  python -m tests.bench --only miss --rounds 3    the miss path alone, in half a minute"
        ),
    )
    parser.add_argument("--rounds", type=_positive, default=5, metavar="N", help="rounds (default: 5)")
    parser.add_argument(
        "--seconds", type=_positive, default=2, metavar="S", help="whole seconds a run (default: 2)"
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=[measure.name for measure in MEASURES],
        metavar="NAME",
        help="only this measurement; may be repeated",
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=ROOT / "bench.json",
        metavar="PATH",
        help="where to write the table as JSON (default: bench.json)",
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def _refuse(problem: str) -> int:
    sys.stderr.write(f"bench: {problem}\n")
    return _USAGE


def _leave(number: int, _: object) -> NoReturn:
    """Unwind, so that every block that started a process ends it."""
    sys.stderr.write("bench: told to stop; ending what was started\n")
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
