"""The README's snippets, each compiled by its own language's compiler where there is one.

Only TypeScript's can be had everywhere that node is, and Kotlin's where java is too; who has a Swift or a
Dart compiler gets those checked as well. What was not compiled is said, never passed over.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
NODE, KOTLIN, SWIFT, SNIPPETS = HERE / "node", HERE / "kotlin", HERE / "swift", HERE / "snippets"


class Missing(Exception):
    """What is needed is not here; the message says what."""


def install(folder: Path) -> None:
    """Install what a folder's lock file names, unless it is there already."""
    lock, stamp = folder / "package-lock.json", folder / "node_modules" / ".installed"
    if stamp.exists() and stamp.read_bytes() == lock.read_bytes():
        return
    _say(f"installing what {folder.name}/package.json names (once)")
    done = subprocess.run(["npm", "ci", "--loglevel=error"], cwd=folder, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise Missing(f"npm ci failed in {folder}")
    stamp.write_bytes(lock.read_bytes())


def compile_snippets() -> bool:
    """Compile every snippet that can be compiled here, and say which were."""
    passed = True
    for snippet, tool, run in _COMPILERS:
        if shutil.which(tool) is None:
            _say(f"not compiled: {snippet} ({tool} is missing here)")
            continue
        with tempfile.TemporaryDirectory(prefix="firstopen-snippets-") as folder:
            ok = run(SNIPPETS / snippet, Path(folder))
        _say(f"{'compiled' if ok else 'FAILED'}: {snippet}")
        passed = passed and ok
    return passed


def _typescript(_: Path, __: Path) -> bool:
    """Compile as ``tsconfig.json`` says, into the folder that the tests in node import from."""
    return _ran(["node", "node_modules/typescript/bin/tsc", "--project", "."], NODE)


def _kotlin(snippet: Path, out: Path) -> bool:
    install(KOTLIN)
    home = KOTLIN / "node_modules" / "kotlin-compiler"
    jars = home / "lib"
    return _ran(
        [
            *("java", "-cp", os.pathsep.join(map(str, sorted(jars.glob("*.jar"))))),
            *("org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", "-kotlin-home", str(home)),
            *("-Werror", "-no-reflect", "-cp", str(jars / "kotlinx-coroutines-core-jvm.jar")),
            *("-d", str(out), str(KOTLIN / "stubs"), str(snippet)),
        ],
        out,
    )


def _swift(snippet: Path, out: Path) -> bool:
    stub = [
        "swiftc",
        "-parse-as-library",
        "-emit-module",
        "-module-name",
        "UIKit",
        str(SWIFT / "UIKit.swift"),
    ]
    strictly = ["-swift-version", "6", "-warnings-as-errors"]
    return _ran(stub, out) and _ran(["swiftc", *strictly, "-I", str(out), "-typecheck", str(snippet)], out)


def _dart(snippet: Path, out: Path) -> bool:
    return _ran(["dart", "analyze", "--fatal-infos", str(shutil.copy(snippet, out))], out)


_COMPILERS: tuple[tuple[str, str, Callable[[Path, Path], bool]], ...] = (
    ("firstopen.ts", "node", _typescript),
    ("FirstOpen.kt", "java", _kotlin),
    ("FirstOpen.swift", "swiftc", _swift),
    ("firstopen.dart", "dart", _dart),
)


def _ran(command: list[str], cwd: Path) -> bool:
    return subprocess.run(command, cwd=cwd, check=False).returncode == 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
