"""Run every attack in two minutes, and print what each came to."""

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.attack import cases
from tests.attack.lab import DeliveryResult, Lab, Row, Target

_QUEUED_AFTER_S = 60
_KINDS = ("302", "500", "404", "html")
_PROBLEMS_SHOWN = 5
_HEADINGS = ("case", "inputs", "longest wait", "memory before", "after", "verdict")


def main() -> int:
    """Return 1 if an attack succeeded."""
    with tempfile.TemporaryDirectory(prefix="firstopen-attack-") as folder:
        rows = _attack(Lab(Path(folder)))
    sys.stdout.write(_render(rows))
    return int(any(row.problems for row in rows))


def _attack(lab: Lab) -> list[Row]:
    rows: list[Row] = []
    with ExitStack() as stack:

        def run(case: str, target: Target, attack: Callable[[Target], DeliveryResult]) -> None:
            lab.say(case)
            rows.append(_row(case, target, attack))

        stack.enter_context(lab.dub())
        storms = {kind: stack.enter_context(lab.service(f"bad{kind}")) for kind in _KINDS}
        small = stack.enter_context(
            lab.service("small", tables=f"\n[cache]\nmemory_mb = {cases.MEMORY_MB}\n")
        )
        storming = [
            threading.Thread(
                target=run, args=(f"bad answers: {kind}", target, partial(cases.bad_answers, kind=kind))
            )
            for kind, target in storms.items()
        ]
        filling = threading.Thread(target=run, args=("memory", small, cases.memory))
        for thread in (*storming, filling):
            thread.start()
        usual = stack.enter_context(lab.service("usual"))
        run("keys", usual, cases.keys)
        run("smuggling", usual, cases.smuggling)
        run("another app's events", usual, cases.events)
        run("forwarded through a proxy", usual, cases.forwarded_through_a_proxy)
        with lab.service("stranger", env={"FIRSTOPEN_FORWARDED_ALLOW_IPS": "192.0.2.1"}) as target:
            run("forwarded by a stranger", target, cases.forwarded_by_a_stranger)
        with lab.sandbox() as target:
            run("pages against the sandbox", target, cases.sandbox_pages)
        for thread in storming:
            thread.join()
        stormed = time.monotonic()
        with lab.service("few", descriptors=cases.DESCRIPTORS) as target:
            run("line ends", target, cases.line_ends)
        filling.join()
        run("64 kB without a key", usual, cases.unauthenticated_body)
        run("parsers", usual, cases.parsers)
        lab.say("waiting for a minute to have passed since the bad answers")
        time.sleep(max(0.0, stormed + _QUEUED_AFTER_S - time.monotonic()))
        for kind, target in storms.items():
            run(f"queued after {kind}", target, cases.nothing_queued)
    lab.say("done")
    return rows


def _row(case: str, target: Target, attack: Callable[[Target], DeliveryResult]) -> Row:
    before = target.rss_mb()
    target.longest_ms()
    try:
        result = attack(target)
        longest = target.longest_ms() if result.longest_ms is None else result.longest_ms
        return Row(case, result.inputs, longest, before, target.rss_mb(), result.problems)
    except Exception as exc:  # noqa: BLE001  an attack that ends in any error has not been withstood
        return Row(case, "", 0.0, before, 0.0, [f"{type(exc).__name__}: {exc}"])


def _render(rows: Sequence[Row]) -> str:
    lines = [_HEADINGS]
    lines += [
        (
            row.case,
            row.inputs,
            f"{row.longest_ms:.0f} ms",
            f"{row.before_mb:.0f} MB",
            f"{row.after_mb:.0f} MB",
            "BAD" if row.problems else "withstood",
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    drawn = [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    drawn.insert(1, "─" * (sum(widths) + 2 * len(widths)))
    for row in rows:
        drawn += [f"{row.case}: {problem}" for problem in row.problems[:_PROBLEMS_SHOWN]]
        if len(row.problems) > _PROBLEMS_SHOWN:
            drawn.append(f"{row.case}: and {len(row.problems) - _PROBLEMS_SHOWN} more")
    return "\n".join(drawn) + "\n"


if __name__ == "__main__":
    sys.exit(main())
