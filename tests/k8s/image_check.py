"""``make image-check``: the Dockerfile's commands, run in a clean directory, and what they made, started.

There is no Docker engine in this: every RUN is run by this machine's shell with the image's folders mapped
into a temporary one, COPY is done by us through .dockerignore, and USER by setpriv where we are root. What
that leaves unknown is printed.

    python -m tests.k8s.image_check [PYTHON]    an interpreter to stand in for the base's
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.k8s import dockerfile, image_run
from tests.k8s.check import ROOT
from tests.k8s.dockerfile import Instruction, Stage, expand, lets_through

_RUN_S = 600
_OF_THE_IMAGE = re.compile(r"(?<![\w./:-])/(?=(?:opt|src|etc|var)/|(?:opt|src)\b)")


class CheckFailed(Exception):
    """The image would not be what it should be; the message says why."""


@dataclass(slots=True)
class Build:
    """A build under way: ``root`` is the file system of the stage that is being built."""

    scratch: Path
    python: str
    root: Path = field(init=False)
    stages: dict[str, Path] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    ran: int = 0

    def __post_init__(self) -> None:
        self.root = self.scratch / "root"
        shim = self.scratch / "bin" / "python"
        shim.parent.mkdir()
        shim.write_text(f'#!/bin/sh\nexec "{self.python}" "$@"\n', encoding="utf-8")
        shim.chmod(0o755)

    def mapped(self, text: str) -> str:
        """Put the stage's root before every absolute path of the image's own folders."""
        return _OF_THE_IMAGE.sub(lambda _: f"{self.root}/", text)


def main(arguments: list[str]) -> int:
    """Build and run; return the exit status."""
    top, stages = dockerfile.read(ROOT / "Dockerfile")
    with tempfile.TemporaryDirectory(prefix="firstopen-image-") as scratch:
        Path(scratch).chmod(0o755)
        try:
            python = stand_in(top["PYTHON_TAG"], arguments)
            build = Build(Path(scratch).resolve(), python)
            for stage in stages:
                env = _stage(build, stage, last=stage is stages[-1])
            _look(build)
            image_run.run(build.root, build.scratch, stages[-1], env, build.mapped, build.skipped)
        except (CheckFailed, image_run.RunFailed, dockerfile.BadDockerfile) as exc:
            say(f"FAILED: {exc}")
            return 1
        finally:
            for folder in Path(scratch).rglob("*"):  # so that it can be removed again
                if folder.is_dir() and not folder.is_symlink():
                    folder.chmod(0o755)
    say(f"{build.ran} RUN instructions were run, and what they made was started. What could not be:")
    for line in (
        "FROM: no base image was pulled, so its digest and its own files are unseen",
        *build.skipped,
    ):
        say(f"  {line}")
    return 0


def stand_in(tag: str, arguments: list[str]) -> str:
    """Return the interpreter that stands in for the base's: of the same version if there is one."""
    version = ".".join(tag.split(".")[:2])
    ask = "import sys; print(sys._base_executable, '.'.join(map(str, sys.version_info[:2])))"
    for candidate in [*arguments, f"python{version}", *_managed(version), sys.executable]:
        done = (
            subprocess.run([candidate, "-c", ask], capture_output=True, text=True, check=False)
            if (shutil.which(candidate))
            else None
        )
        if done and done.returncode == 0:
            path, found = done.stdout.split()
            said = f"Python {found}, the base's" if found == version else f"Python {found}, NOT {version}"
            say(f"python stands for this machine's {said}")
            return path
    raise CheckFailed(f"no Python here to stand in for {tag}")


def _managed(version: str) -> list[str]:
    """Return interpreters that pyenv keeps off the path."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    try:
        return [str(path) for path in sorted(root.glob(f"versions/{version}.*/bin/python"), reverse=True)]
    except OSError:  # another user's
        return []


def _stage(build: Build, stage: Stage, *, last: bool) -> dict[str, str]:
    """Build a stage; return its environment."""
    build.root.mkdir()
    say(f"stage {stage.name}, from {stage.base}")
    env: dict[str, str] = {"PATH": f"{build.scratch / 'bin'}:{os.environ['PATH']}"}
    folder = build.root
    for each in stage.instructions:
        if each.name == "ENV":
            env |= {name: build.mapped(expand(value, env)) for name, value in each.pairs().items()}
        elif each.name == "WORKDIR":
            folder = Path(build.mapped(each.text))
            folder.mkdir(parents=True, exist_ok=True)
        elif each.name == "COPY":
            _copy(build, each, folder)
        elif each.name == "RUN":
            _run(build, each, folder, env)
    if not last:  # the next stage takes its place, at the same paths
        kept = build.stages[stage.name] = build.scratch / "stages" / stage.name
        kept.parent.mkdir(exist_ok=True)
        build.root.rename(kept)
    return env


def _copy(build: Build, each: Instruction, folder: Path) -> None:
    options = [word for word in each.words() if word.startswith("--")]
    *sources, target = [word for word in each.words() if not word.startswith("--")]
    into = Path(build.mapped(target)) if target.startswith("/") else folder / target
    into.mkdir(parents=True, exist_ok=True)
    if options:
        (option,) = options
        stage = build.stages[option.removeprefix("--from=")]
        for source in sources:
            shutil.copytree(stage / source.lstrip("/"), into, symlinks=True, dirs_exist_ok=True)
        return
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8")
    for source in sources:
        files = [ROOT / source] if (ROOT / source).is_file() else sorted((ROOT / source).rglob("*"))
        names = [path.relative_to(ROOT).as_posix() for path in files if path.is_file()]
        passed = [name for name in names if lets_through(ignore, name)]
        if not passed:
            raise CheckFailed(f"line {each.line}: COPY {source}: nothing of it passes .dockerignore")
        for name in passed:
            copy = into / (Path(name).relative_to(source) if name != source else Path(name).name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy)


def _run(build: Build, each: Instruction, folder: Path, env: Mapping[str, str]) -> None:
    command = build.mapped(each.text)
    if os.geteuid() != 0 and "install -d -o" in command:
        build.skipped.append(f"line {each.line}: giving a folder to another user, as we are not root here")
        command = re.sub(r" -[og] [0-9]+", "", command)
    say(f"  line {each.line}: RUN {each.text[:88]}{'…' if each.text[88:] else ''}")
    dropped = ("VIRTUAL_ENV", "PYTHON", "FIRSTOPEN_", "DUB_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=folder,
        env={**inherited, **env},  # pip's own settings on this machine stay
        capture_output=True,
        text=True,
        timeout=_RUN_S,
        check=False,
    )
    if done.returncode:
        raise CheckFailed(f"line {each.line}: RUN ended with {done.returncode}: {done.stderr[-2000:]}")
    build.ran += 1


def _look(build: Build) -> None:
    """Look at what would be shipped: no tools, nothing half done, readable by whoever runs it."""
    tree = build.root / "opt" / "firstopen"
    files = [path for path in tree.rglob("*") if path.is_file() and not path.is_symlink()]
    names = {path.name for path in files}
    for tool in ("pip", "hatchling", "setuptools"):
        if any(path.name == tool for path in tree.glob("lib/*/site-packages/*")):
            raise CheckFailed(f"{tool} is shipped")
    for path in files:
        if path.suffix == ".py" and not list(path.parent.glob(f"__pycache__/{path.stem}.*.pyc")):
            raise CheckFailed(f"{path.relative_to(tree)} is not compiled")
        if path.stat().st_mode & 0o004 == 0:
            raise CheckFailed(f"{path.relative_to(tree)} is not readable by others")
    if "firstopen" not in names:
        raise CheckFailed("there is no command firstopen")
    size = sum(path.stat().st_size for path in files) / 1e6
    say(f"/opt/firstopen: {len(files)} files, {size:.0f} MB on top of the base")


def say(line: str) -> None:
    """Say how it goes, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
