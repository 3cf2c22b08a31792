"""The house stays as it was drawn: arrows one way, event names in one place."""

import ast
import re
from pathlib import Path

import pytest

from service.telemetry import Event

SERVICE = Path(__file__).parents[2] / "service"
FILES = sorted(SERVICE.rglob("*.py"))
MAY_IMPORT = {
    # part: the parts of ours that it may import
    "api": {"api", "resolve", "telemetry", "settings", "validation"},
    "resolve": {"background", "resolve", "telemetry"},
    "dub": {"dub", "resolve", "telemetry"},
    "storage": {"background", "storage", "resolve", "telemetry"},
    "outbox": {"background", "outbox", "resolve", "storage", "telemetry"},
    "limiting": {"limiting", "resolve", "telemetry"},
    "sandbox": {"sandbox"},
    "settings": {"env_file", "limiting", "resolve", "settings", "validation"},
    "validation": set(),
    "background": {"telemetry"},
    "telemetry": {"telemetry"},
    "tracing": {"tracing"},
}
# Who may start a task without ``Background.spawn``, and what becomes of that task's exceptions.
OWN_TASKS = {
    "background.py": "reported by it",
    "sandbox/wire.py": "the call that waits for its client or the end of a fault ends them",
    "server.py": "it waits for its servers, and ends with them",
    "storage/clicks.py": "the sync that renews its lease ends them",
    "storage/database.py": "its writer takes any exception, and goes on; whoever reads gets theirs",
}
HTTPX_ROOMS = {"app", "dub", "sandbox", "tracing"}


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
def test_arrows_point_one_way(path: Path) -> None:
    """api -> resolve -> ports <- dub | storage; only app.py and the commands meet them all."""
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("service.")}
    part = part_of(path)
    if part in MAY_IMPORT:
        assert ours <= MAY_IMPORT[part]
    http = {"httpx", "aiohttp"} & {name.split(".")[0] for name in imports(path)}
    assert not http or part in HTTPX_ROOMS
    assert part != "resolve" or "litestar" not in {name.split(".")[0] for name in imports(path)}


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
    texts = {path: path.read_text() for path in FILES if part_of(path) not in {"telemetry", "sandbox"}}
    used = set(re.findall(r"Event\.([A-Z_]+)", "\n".join(texts.values())))
    assert used == set(Event.__members__)
    invented = re.compile(r"log\.(?:debug|info|warning|error|exception)\(\s*[\"']")
    assert not [path for path, text in texts.items() if invented.search(text)]


def test_every_event_says_what_it_means() -> None:
    """Each event has its line of meaning below it."""
    source = (SERVICE / "telemetry.py").read_text()
    for name in Event.__members__:
        assert re.search(rf"^    {name} = .*\n    \"\"\"\S", source, re.MULTILINE), name
