"""Reads the Dockerfile: its stages, its instructions, and what .dockerignore lets through."""

import fnmatch
import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

_KNOWN = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN", "USER"}
_KNOWN |= {"WORKDIR"}
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


class BadDockerfile(Exception):
    """Something that this reader does not know; the message names the line."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction, its continuation lines joined."""

    name: str
    text: str
    line: int

    def words(self) -> list[str]:
        """Split as a shell does, or take the JSON list."""
        if self.text.startswith("["):
            return [str(word) for word in json.loads(self.text)]
        return shlex.split(self.text)

    def pairs(self) -> dict[str, str]:
        """Return the name=value pairs of ENV, LABEL or ARG; a name alone has no value."""
        return {name: value for name, _, value in (word.partition("=") for word in self.words())}


@dataclass(slots=True)
class Stage:
    """What one FROM begins."""

    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, name: str) -> list[Instruction]:
        """Return the instructions of one name, in order."""
        return [each for each in self.instructions if each.name == name]

    def last(self, name: str) -> Instruction:
        """Return the instruction of that name that counts."""
        return self.all(name)[-1]


def read(path: Path) -> tuple[dict[str, str], list[Stage]]:
    """Return the arguments before the first FROM, and the stages; raises ``BadDockerfile``."""
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for each in _instructions(path.read_text(encoding="utf-8")):
        if each.name == "FROM":
            base, *rest = each.words()
            stages.append(Stage(expand(base, arguments), rest[1] if rest else str(len(stages))))
        elif stages:
            stages[-1].instructions.append(each)
        elif each.name == "ARG":
            arguments |= each.pairs()
        else:
            raise BadDockerfile(f"line {each.line}: {each.name} before FROM")
    return arguments, stages


def _instructions(text: str) -> list[Instruction]:
    found: list[Instruction] = []
    joined, begun = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("#") or not (stripped or joined):
            continue
        begun = begun if joined else number
        joined = f"{joined} {stripped}".strip()
        if joined.endswith("\\"):
            joined = joined[:-1].rstrip()
            continue
        name, _, rest = joined.partition(" ")
        if name not in _KNOWN:
            raise BadDockerfile(f"line {begun}: this reader does not know {name}")
        found.append(Instruction(name, rest.strip(), begun))
        joined = ""
    return found


def expand(text: str, values: dict[str, str]) -> str:
    """Put values in for $NAME and ${NAME}; raises ``BadDockerfile`` for one that nothing sets."""

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name not in values:
            raise BadDockerfile(f"nothing sets {name}")
        return values[name]

    return _VARIABLE.sub(value, text)


def lets_through(ignore: str, path: str) -> bool:
    """Say whether a .dockerignore lets a path (with /) into the build; the last line that matches counts."""
    kept = True
    for raw in ignore.splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!").removeprefix("**/")
        parts = path.split("/")
        prefixes = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        names = parts if "**/" in line else prefixes
        if any(fnmatch.fnmatchcase(name, pattern) for name in names):
            kept = line.startswith("!")
    return kept
