"""Compile the packages in `clients/`, each where its compiler is installed.

TypeScript's compiler comes with npm, Kotlin's with npm too (it needs java). Swift and Dart are compiled where
their tools are installed. The output names every package that was not compiled.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
NODE, KOTLIN, SWIFT = HERE / "node", HERE / "kotlin", HERE / "swift"
CLIENTS = HERE.parents[1] / "clients"


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


def compile_packages() -> bool:
    """Compile every package that can be compiled here, and print which were."""
    passed = True
    for source, tool, run in _COMPILERS:
        if shutil.which(tool) is None:
            _say(f"not compiled: {source} ({tool} is missing here)")
            continue
        with tempfile.TemporaryDirectory(prefix="firstopen-packages-") as folder:
            ok = run(CLIENTS / source, Path(folder))
        _say(f"{'compiled' if ok else 'FAILED'}: {source}")
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
    ("react-native/src/firstopen.ts", "node", _typescript),
    ("kotlin/src/main/kotlin/firstopen/Firstopen.kt", "java", _kotlin),
    ("swift/Sources/Firstopen/Firstopen.swift", "swiftc", _swift),
    ("dart/lib/firstopen.dart", "dart", _dart),
)


def _ran(command: list[str], cwd: Path) -> bool:
    return subprocess.run(command, cwd=cwd, check=False).returncode == 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
