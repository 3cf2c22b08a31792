"""The architecture of docs/architecture.md: imports one way, ports and event names in one place."""

import ast
import re
from pathlib import Path

import pytest

from service.telemetry import Event

SERVICE = Path(__file__).parents[2] / "service"
FILES = sorted(SERVICE.rglob("*.py"))
LEAVES = {"telemetry", "aio"}
MAY_IMPORT = {
    # part of service/: the other parts that it may import, beside LEAVES
    "domain": set(),
    "dub": {"domain"},
    "storage": {"domain"},
    "outbox": {"domain"},
    "ratelimit": {"domain"},
    "webhooks": {"domain"},
    "matching": {"domain"},
    "config": {"domain"},
    "attribution": {"domain"},
    "api": {"attribution", "domain"},
    "server": {"api"},
    "wiring": {
        *("api", "attribution", "config", "domain", "dub", "matching", "outbox", "ratelimit", "storage"),
        "webhooks",
    },
    "app": {"api", "config", "domain", "wiring"},
    "cli": {"api", "app", "config", "doctor", "domain", "sandbox", "server", "storage", "wiring"},
    "doctor": {"config", "domain", "dub", "storage", "wiring"},
    "testing": set(),
    "sandbox": set(),
    "telemetry": set(),
    "aio": set(),
    "__init__": set(),
    "__main__": {"cli"},
}
NO_LEAVES = {"domain", "sandbox", "testing", *LEAVES}
# Who may start a task without ``Background.spawn``, and what becomes of that task's exceptions.
OWN_TASKS = {
    "telemetry/background.py": "reported by it",
    "sandbox/wire.py": "the call that waits for its client or the end of a fault ends them",
    "server/run.py": "it waits for its servers, and ends with them",
    "storage/clicks.py": "the sync that renews its lease ends them",
    "storage/database.py": "its writer takes any exception, and goes on; whoever reads gets theirs",
}
HTTPX_ROOMS = {"app", "doctor", "dub", "sandbox", "telemetry", "webhooks", "wiring"}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {
                f"{node.module}.{alias.name}" if node.module == "service" else node.module
                for alias in node.names
            }
    return found


def part_of(path: Path) -> str:
    return path.relative_to(SERVICE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SERVICE)))
def test_imports_point_one_way(path: Path) -> None:
    """Every module imports only the parts that its own part may import."""
    part = part_of(path)
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("service.")} - {part}
    assert ours <= MAY_IMPORT[part] | (set() if part in NO_LEAVES else LEAVES)
    libraries = {name.split(".")[0] for name in imports(path)}
    assert not libraries & {"httpx", "aiohttp"} or part in HTTPX_ROOMS
    assert part not in {"domain", "attribution", "matching"} or "litestar" not in libraries


def test_ports_live_in_one_place() -> None:
    """Protocols are declared in domain/ports.py, where whoever fills or needs one finds it."""
    homes = {
        str(path.relative_to(SERVICE))
        for path in FILES
        if part_of(path) != "sandbox"
        and re.search(r"^class \w+\((?:.*, )?Protocol(?:\[.*\])?\):", path.read_text(), re.MULTILINE)
    }
    assert homes == {"domain/ports.py", "storage/engines/port.py"}  # the latter is storage's own


def test_every_task_is_supervised() -> None:
    """Tasks are started by ``Background.spawn``, or by a module that says what it does about exceptions."""
    starts = {"create_task", "ensure_future", "TaskGroup", "run_coroutine_threadsafe"}
    found = set()
    for path in FILES:
        calls = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
        names = {func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "") for func in calls}
        if names & starts:
            found.add(str(path.relative_to(SERVICE)))
    assert found == OWN_TASKS.keys()


def test_every_event_is_used_and_named_once() -> None:
    """Log events are members of telemetry.Event: none is unused, and no log call invents one."""
    texts = {
        path: path.read_text() for path in FILES if part_of(path) != "sandbox" and path.name != "events.py"
    }
    used = set(re.findall(r"Event\.([A-Z_]+)", "\n".join(texts.values())))
    assert used == set(Event.__members__)
    invented = re.compile(r"log\.(?:debug|info|warning|error|exception)\(\s*[\"']")
    assert not [path for path, text in texts.items() if invented.search(text)]


def test_every_event_says_what_it_means() -> None:
    """Each event has its line of meaning below it."""
    source = (SERVICE / "telemetry/events.py").read_text()
    for name in Event.__members__:
        assert re.search(rf"^    {name} = .*\n    \"\"\"\S", source, re.MULTILINE), name
