"""docs/openapi.json is the service's own document, and a client generator makes a typed client from it."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.app import create_app
from service.config.settings import parse
from tests.docs import openapi
from tests.sandboxed import SandboxedDub
from tests.support import CONFIG, ENV, FakeClock, running


def test_the_file_is_up_to_date() -> None:
    """If this fails, run ``make docs`` and look at what changed: clients are generated from this file."""
    assert openapi.FILE.read_text() == openapi.document()


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Generate a client, without a warning, and return the name of its package."""
    folder = tmp_path_factory.mktemp("generated")
    binaries = str(Path(sys.executable).parent)  # the generator formats its output with ruff
    made = subprocess.run(
        [
            *(sys.executable, "-m", "openapi_python_client", "generate"),
            *("--path", str(openapi.FILE), "--output-path", str(folder / "firstopen_client")),
            *("--meta", "none", "--fail-on-warning"),
        ],
        cwd=folder,
        env={**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    assert "warning" not in (made.stdout + made.stderr).lower()
    sys.path.insert(0, str(folder))
    return "firstopen_client"


async def test_the_generated_client_works(generated: str, clock: FakeClock) -> None:
    """An open and a lead over the generated client; enums and nested objects arrive typed."""

    def of(module: str) -> Any:
        return importlib.import_module(f"{generated}.{module}")

    models = of("models")
    app = create_app(
        parse(CONFIG, ENV), transport=SandboxedDub(clock), clock=clock, unix_time=clock.unix_time
    )
    async with running(app) as service:
        client = of("client").Client(base_url="http://firstopen").set_async_httpx_client(service)
        report = models.OpenRequest(deep_link="https://acme.link/fb-promo", install_id="install-anna")
        answer = await of("api.opens.report_open").asyncio(client=client, body=report)
        assert answer.route.screen == "product"
        assert answer.match.type_ is models.MatchType.DEEP_LINK
        assert models.MatchReasonType0("no_click")

        lead = models.LeadRequest(
            event_name="Sign up", customer_external_id="user_1", install_id="install-anna"
        )
        lead_answer = await of("api.leads.report_lead").asyncio(client=client, body=lead)
        assert lead_answer.status is models.LeadAnswerStatus.DELIVERED
        assert lead_answer.click.id == answer.click_id
        assert lead_answer.customer.external_id == "user_1"

        refused = await of("api.opens.get_open").asyncio(client=client, open_id="0" * 32)
        assert refused.error.code == "not_found"
