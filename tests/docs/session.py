"""Run the shell commands of a page, one after another in one shell, and compare what they print.

What can go wrong: a page that works only on the machine where it was written (each page gets a new folder and
free ports); a comparison that passes whatever is printed (ids and times may differ, nothing else may).
"""

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.docs.pages import Block

SHELL = "sh"
_ELLIPSIS = "…"
_TIMEOUT_S = 60
_HEREDOC = re.compile(r"<<'?(\w+)'?")
_BEGINS, _ENDS = "\x1e", "\x1f"
# Servers do not end by themselves: they run beside the commands that follow, once they answer.
_SERVERS = {"firstopen serve": ("8000", "/health/ready"), "firstopen sandbox": ("8001", "/sandbox/clock")}
# Values that differ from run to run: any value of the same type is right.
_VARYING = frozenset(
    {
        *("openId", "clickId", "leadId", "id", "next", "detail"),
        *("tookMs", "ageS", "confidence", "retryAfterMs"),
    }
)


class Example(Struct, frozen=True):
    """A block of commands and what its last command is said to print; ``None`` if the page does not say."""

    block: Block
    answer: Block | None


def examples_of(blocks: list[Block], world: str) -> list[Example]:
    """Pair each block that runs in a world with the answer that follows it."""
    found = []
    for block, after in zip(blocks, [*blocks[1:], None], strict=False):
        if block.language == SHELL and block.mark == f"run: {world}":
            answer = after if after is not None and after.mark == "answer" else None
            found.append(Example(block, answer))
    return found


def commands_of(text: str) -> list[str]:
    """Split a block into commands: continued lines, quotes and here-documents stay together."""
    commands: list[str] = []
    pending = ""
    for line in text.splitlines():
        if not pending and (not line.strip() or line.lstrip().startswith("#")):
            continue
        pending += f"{line}\n"
        if not _is_open(pending):
            commands.append(pending.rstrip("\n"))
            pending = ""
    if pending:
        raise AssertionError(f"a command without an end: {pending}")
    return commands


def _is_open(text: str) -> bool:
    heredoc = _HEREDOC.search(text)
    if heredoc:
        return text.splitlines()[-1] != heredoc[1]
    if text.endswith("\\\n"):
        return True
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return True
    return False


def program_of(command: str) -> str:
    """Return the program that a command runs; empty if it only sets variables."""
    words = shlex.split(command.replace("\\\n", " ").partition("<<")[0], comments=True)
    while words and re.match(r"\w+=", words[0]):
        words.pop(0)
    return words[0] if words else ""


class Shell:
    """A shell in a folder. ``port`` stands for 8000 in the pages, the next one for 8001."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._ports = {"8000": str(port), "8001": str(port + 1)}
        self._servers = ""

    def run(self, examples: list[Example]) -> None:
        """Run them in order; raises ``AssertionError`` for a command that fails or prints something else."""
        commands = [(each, command) for each in examples for command in commands_of(each.block.text)]
        begins, ends = f"printf '{_BEGINS}\\n'", f"printf '{_ENDS}%s\\n' $?"
        script = "\n".join(f"{begins}\n{self._local(command)}\n{ends}" for _, command in commands)
        printed = self._bash(f"trap 'kill -KILL $(jobs -p) 2>/dev/null; wait' EXIT\n{script}\n")
        parts = printed.split(_BEGINS)[1:]
        for (example, command), part in zip(commands, parts, strict=True):
            output, _, status = part.partition(_ENDS)
            where = f"{example.block.page}:{example.block.line}: {command}"
            assert status.splitlines()[0] == "0", f"{where}\nexit status {status}\n{output}"
            if example.answer is not None and command == commands_of(example.block.text)[-1]:
                compare(self._as_in_pages(output), example.answer, where)

    def _bash(self, script: str) -> str:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("FIRSTOPEN_", "DUB_", "OTEL_"))}
        env = {
            **clean,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "FIRSTOPEN_PORT": self._ports["8000"],
            "NO_PROXY": "*",
            "COLUMNS": "200",
        }
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self._folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        return done.stdout

    def _local(self, command: str) -> str:
        """Return a command for this machine: on loopback, on free ports, servers in the background."""
        words = shlex.split(command.replace("\\\n", " ").partition("<<")[0], comments=True)
        server = " ".join(words[:2])
        if server not in _SERVERS:
            return re.sub(r"(?<=:)800[01]\b", lambda found: self._ports[found[0]], command)
        port, path = _SERVERS[server]
        arguments = [word.replace("0.0.0.0", "127.0.0.1") for word in words]
        if server == "firstopen sandbox":
            arguments += ["--port", self._ports[port]]
        url = f"http://127.0.0.1:{self._ports[port]}{path}"
        return (
            f"FIRSTOPEN_HOST=127.0.0.1 {shlex.join(arguments)} >{words[1]}.log 2>&1 &\n"
            f"for _ in $(seq 200); do curl -sf -o {os.devnull} {url} && break; sleep 0.1; done\n"
            f"curl -sf -o {os.devnull} {url} || (cat {words[1]}.log; false)"
        )

    def _as_in_pages(self, text: str) -> str:
        for shown, real in self._ports.items():
            text = text.replace(f":{real}", f":{shown}")
        return text


def compare(output: str, answer: Block, where: str) -> None:
    """Compare what was printed with what the page shows, as JSON or as text in which ``…`` is anything."""
    if answer.language == "json":
        with contextlib.suppress(json.JSONDecodeError):
            shown, printed = json.loads(answer.text), json.loads(output)
            assert list(_differences(shown, printed, "$")) == [], f"{where}\n{output}"
            return
        raise AssertionError(f"{where}\nnot JSON: the page's answer, or what was printed: {output}")
    parts = (re.escape("".join(part.split())) for part in answer.text.split(_ELLIPSIS))
    pattern = ".*".join(parts)
    assert re.fullmatch(pattern, "".join(output.split()), re.DOTALL), f"{where}\nprinted:\n{output}"


def _differences(shown: Any, printed: Any, path: str) -> Iterator[str]:
    """Yield where two values differ; keys must be the same unless the page shows ``…`` for the rest."""
    name = path.rpartition(".")[2]
    if isinstance(shown, dict) and isinstance(printed, dict):
        rest = _ELLIPSIS in shown
        for key in shown.keys() | printed.keys():
            if key == _ELLIPSIS or (rest and key not in shown):
                continue
            if key in shown and key in printed:
                yield from _differences(shown[key], printed[key], f"{path}.{key}")
            else:
                yield f"{path}.{key} is only {'shown' if key in shown else 'printed'}"
    elif isinstance(shown, list) and isinstance(printed, list):
        rest = shown[-1:] == [_ELLIPSIS]
        shown = shown[:-1] if rest else shown
        pairs = zip(shown, printed, strict=False)
        yield from (each for one, other in pairs for each in _differences(one, other, path))
        if len(shown) > len(printed) or (len(shown) < len(printed) and not rest):
            yield f"{path} has {len(printed)} items"
    elif shown != printed and not (name in _VARYING and _kind(shown) == _kind(printed)):
        yield f"{path}: {printed!r}, not {shown!r}"


def _kind(value: Any) -> str:
    """Return the kind of a value in JSON: 1 and 1.5 are numbers, true is not."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number"
    return type(value).__name__
