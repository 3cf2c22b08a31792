"""Two processes as a team runs them: an embedded Dub on its own, and the service in front of it."""

from collections.abc import Iterator

import httpx
import pytest

from tests.clients.stage import SANDBOX_LINKS, SERVICE_CONFIG, SERVICE_ENV, Stage
from tests.process import free_ports, started


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    cwd = tmp_path_factory.mktemp("clients")
    (cwd / "links.toml").write_text(SANDBOX_LINKS)
    (cwd / "firstopen.toml").write_text(SERVICE_CONFIG)
    port = free_ports(2)
    sandbox, service = f"http://127.0.0.1:{port + 1}", f"http://127.0.0.1:{port}"
    env = {**SERVICE_ENV, "FIRSTOPEN_PORT": str(port), "DUB_BASE_URL": sandbox}
    alone = ("sandbox", "--port", str(port + 1), "--no-demo", "--links", "links.toml")
    with (
        started(*alone, env={}, cwd=cwd) as embedded,
        started("serve", env=env, cwd=cwd) as serving,
        httpx.Client(timeout=20) as http,
    ):
        embedded.until("curl -s")
        serving.ready(port)
        yield Stage(service, sandbox, http)


@pytest.fixture
def stage(processes: Stage) -> Iterator[Stage]:
    yield processes
    processes.heal()
