"""Build and test the packages in `clients/`, each where its tools are installed.

React Native needs node, Kotlin java (npm has its compiler), Swift and Dart their own tools. The output names
every package that was not built or not tested.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
NODE, KOTLIN = HERE / "node", HERE / "kotlin"
CLIENTS = HERE.parents[1] / "clients"

_JAVA_LIBRARIES = Path("/usr/share/java")  # where Debian's packages put them
_DEBIAN_PACKAGES = ("libandroid-json-org-java", "junit4")
_JUNIT = ("junit4.jar", "hamcrest.jar")
_ORG_JSON = "json-android.jar"


class Missing(Exception):
    """A tool that is needed is not installed; the message names it."""


class CannotBuild(Missing):
    """One package cannot be built without it; the others can."""


def install(folder: Path) -> None:
    """Install the packages of a folder's lock file, unless they are installed already."""
    lock, stamp = folder / "package-lock.json", folder / "node_modules" / ".installed"
    if stamp.exists() and stamp.read_bytes() == lock.read_bytes():
        return
    _say(f"installing the packages of {folder.name}/package.json (once)")
    done = subprocess.run(["npm", "ci", "--loglevel=error"], cwd=folder, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise Missing(f"npm ci failed in {folder}")
    stamp.write_bytes(lock.read_bytes())


def build_and_test() -> bool:
    """Build and test every package whose tools are installed, and print what was not."""
    passed = True
    for package, tool, run in _PACKAGES:
        try:
            _require(tool)
            with tempfile.TemporaryDirectory(prefix="firstopen-package-") as folder:
                ok = run(CLIENTS / package, Path(folder))
        except CannotBuild as exc:
            _say(f"NOT BUILT, NOT TESTED: clients/{package} ({exc})")
            continue
        _say(f"{'ok' if ok else 'FAILED'}: clients/{package}")
        passed = passed and ok
    return passed


def _require(tool: str) -> None:
    if shutil.which(tool) is None:
        raise CannotBuild(f"{tool} is not installed")


def _react_native(package: Path, _: Path) -> bool:
    install(package)
    return _ran(["npm", "test", "--silent"], package)


def _kotlin(package: Path, out: Path) -> bool:
    """Compile against stubs of Android's and Play's classes, then test what needs no Android."""
    install(KOTLIN)
    libraries = _java_libraries()
    home = KOTLIN / "node_modules" / "kotlin-compiler"
    compiler = _classpath(*sorted((home / "lib").glob("*.jar")))
    coroutines = home / "lib" / "kotlinx-coroutines-core-jvm.jar"
    main, tests = out / "main", out / "tests"
    kotlin = [
        *("java", "-cp", compiler, "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"),
        *("-kotlin-home", str(home), "-Werror", "-no-reflect"),
    ]
    run = (main, tests, *libraries, coroutines, home / "lib" / "kotlin-stdlib.jar")
    classes = sorted(path.stem for path in (package / "src/test/kotlin/firstopen").glob("*Test.kt"))
    return (
        _ran(
            [
                *(*kotlin, "-cp", _classpath(coroutines, *libraries), "-d", str(main)),
                *(str(KOTLIN / "stubs"), str(package / "src/main/kotlin")),
            ],
            out,
        )
        and _ran(
            [
                *(*kotlin, "-cp", _classpath(main, coroutines, *libraries), "-Xfriend-paths=" + str(main)),
                *("-d", str(tests), str(package / "src/test/kotlin")),
            ],
            out,
        )
        and _ran(
            ["java", "-cp", _classpath(*run), "org.junit.runner.JUnitCore"]
            + [f"firstopen.{name}" for name in classes],
            out,
        )
    )


def _java_libraries() -> list[Path]:
    """Return JUnit and Android's own org.json, which are installed from Debian if they are missing."""
    jars = [_JAVA_LIBRARIES / name for name in (*_JUNIT, _ORG_JSON)]
    if not all(jar.exists() for jar in jars) and shutil.which("apt-get") and os.geteuid() == 0:
        for command in (["update"], ["install", "-y", "--no-install-recommends", *_DEBIAN_PACKAGES]):
            subprocess.run(["apt-get", *command], stdout=subprocess.DEVNULL, check=False)
    if not all(jar.exists() for jar in jars):
        raise CannotBuild(f"Debian's {' and '.join(_DEBIAN_PACKAGES)} are not installed")
    return jars


def _swift(package: Path, out: Path) -> bool:
    return _ran(["swift", "test", "--scratch-path", str(out)], package)


def _dart(package: Path, _: Path) -> bool:
    return (
        _ran(["dart", "pub", "get"], package)
        and _ran(["dart", "analyze", "--fatal-infos"], package)
        and _ran(["dart", "test"], package)
    )


_PACKAGES: tuple[tuple[str, str, Callable[[Path, Path], bool]], ...] = (
    ("react-native", "npm", _react_native),
    ("kotlin", "java", _kotlin),
    ("swift", "swift", _swift),
    ("dart", "dart", _dart),
)


def _classpath(*jars: Path) -> str:
    return os.pathsep.join(map(str, jars))


def _ran(command: list[str], cwd: Path) -> bool:
    return subprocess.run(command, cwd=cwd, check=False).returncode == 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
