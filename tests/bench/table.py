"""What comes out: one table for people, the same as JSON, and on which machine it was."""

import os
import platform
import resource
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

_LIBRARIES = ("litestar", "uvicorn", "uvloop", "httptools", "msgspec", "httpx", "aiohttp")


class Row(Struct, kw_only=True, omit_defaults=True, rename="camel"):
    """One line: a value for each round, their median, and the bound that it must keep, if any."""

    name: str
    unit: str = ""
    rounds: list[float] = []
    at_least: float | None = None
    at_most: float | None = None
    details: dict[str, Any] = {}
    problems: list[str] = []

    @property
    def median(self) -> float | None:
        """Return the median of the rounds."""
        return statistics.median(self.rounds) if self.rounds else None

    @property
    def mark(self) -> str:
        """Return ``ok`` or ``MISSED`` for a bound, ``FAILED`` where it was not measured cleanly."""
        if self.problems:
            return "FAILED"
        if self.at_least is None and self.at_most is None:
            return ""
        if self.median is None:
            return "FAILED"
        above = self.at_least is None or self.median >= self.at_least
        below = self.at_most is None or self.median <= self.at_most
        return "ok" if above and below else "MISSED"

    @property
    def required(self) -> str:
        """Return the bound in words."""
        if self.at_least is not None and self.at_least == self.at_most:
            return f"= {_number(self.at_least)}"
        if self.at_least is not None:
            return f"≥ {_number(self.at_least)}"
        return "" if self.at_most is None else f"≤ {_number(self.at_most)}"


def render(rows: Sequence[Row]) -> str:
    """Draw the table, and below it whatever went wrong."""
    cells = [("", "median", "", "rounds", "required", "")]
    for row in rows:
        value = "-" if row.median is None else _number(row.median)
        seen = f"{_number(min(row.rounds))} to {_number(max(row.rounds))}" if len(row.rounds) > 1 else ""
        cells.append((row.name, value, row.unit, seen, row.required, row.mark))
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = [
        f"{name:<{widths[0]}}  {value:>{widths[1]}} {unit:<{widths[2]}}  {seen:^{widths[3]}}  "
        f"{required:<{widths[4]}}  {mark}".rstrip()
        for name, value, unit, seen, required, mark in cells
    ]
    lines.insert(1, "─" * (sum(widths) + 9))
    problems = [f"{row.name}: {problem}" for row in rows for problem in row.problems]
    return "\n".join(lines + (["", "What went wrong:", *problems] if problems else []))


def dump(path: Path, rows: Sequence[Row], options: dict[str, Any], machine: dict[str, Any]) -> None:
    """Write the table as JSON."""
    written = [
        {**msgspec.to_builtins(row), "median": row.median, "mark": row.mark or "information"} for row in rows
    ]
    report = {"ok": passed(rows), "options": options, "machine": machine, "rows": written}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


def passed(rows: Sequence[Row]) -> bool:
    """Whether every bound was kept, and measured cleanly."""
    return all(row.mark in {"", "ok"} for row in rows)


def machine_facts() -> dict[str, Any]:
    """Describe what this ran on."""
    models = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    memory = Path("/proc/meminfo").read_text().partition("MemTotal:")[2].split()[0]
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": os.cpu_count(),
        "memoryMb": int(memory) * 1024 // 1_000_000,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "libraries": {library: version(library) for library in _LIBRARIES},
    }


def describe(facts: dict[str, Any]) -> str:
    """Say in a line what the figures are worth."""
    return (
        f"{facts['cores']} cores of {facts['cpu']}, Python {facts['python']}; meanwhile other processes used "
        f"{facts['othersPercent']} % of them, and the host took {facts['stolenPercent']} %."
    )


class Weather:
    """What else happened on the machine: time that its host took away, and what other processes used."""

    def __init__(self) -> None:
        self._load = os.getloadavg()[0]
        self._before = _cpu_s()

    def facts(self) -> dict[str, Any]:
        """Return it, since this was made; call it when every child has ended, or theirs is others'."""
        busy, stolen, total, ours = (now - then for now, then in zip(_cpu_s(), self._before, strict=True))
        return {
            "loadBefore": round(self._load, 2),
            "stolenPercent": round(100 * stolen / total, 1),
            "othersPercent": round(100 * max(busy - ours, 0) / total, 1),
        }


def _cpu_s() -> tuple[float, float, float, float]:
    """Return the seconds of all cores so far: busy, stolen, all of them, and those that were ours."""
    line = Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]
    user, nice, system, idle, iowait, irq, softirq, steal = (
        int(ticks) / os.sysconf("SC_CLK_TCK") for ticks in line
    )
    busy = user + nice + system  # interrupts are nobody's: loopback traffic is mostly those, and ours
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    ours = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return busy, steal, busy + irq + softirq + steal + idle + iowait, ours


def _number(value: float) -> str:
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.2f}"
