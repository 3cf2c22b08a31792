"""A start imports only what it needs: every other library would take its time, and memory of each process."""

import signal
from pathlib import Path

from tests.process import free_ports, started
from tests.support import CONFIG, ENV

UNUSED = {
    *("service.sandbox", "service.storage.engines.postgres", "service.config.starter"),
    *("jinja2", "segno", "opentelemetry.sdk", "jsonschema", "pydantic", "rich.console", "pygments.lexer"),
}


def imported(env: dict[str, str], folder: Path) -> set[str]:
    """Start the service until it is ready; return the modules that it has imported."""
    port = free_ports()
    env = {**env, "FIRSTOPEN_PORT": str(port), "PYTHONPROFILEIMPORTTIME": "1"}
    with started("serve", env=env, cwd=folder) as process:
        process.ready(port)
        assert process.stop(signal.SIGINT) == 0
        lines = process.rest()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


def test_without_what_it_does_not_need(tmp_path: Path) -> None:
    """SQLite, no tracing, no page shown, no demo."""
    config = tmp_path / "firstopen.toml"
    config.write_text(CONFIG)
    env = {**ENV, "FIRSTOPEN_CONFIG": str(config), "FIRSTOPEN_DATA_DIR": str(tmp_path / "data")}
    modules = imported(env, tmp_path)
    assert "litestar" in modules
    assert modules & UNUSED == set()
