"""``firstopen webhook test``: does my backend take webhooks, and if not, why?"""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from service.cli.main import main
from service.domain.webhooks import EVENT_TYPES
from tests.integration.test_webhooks import always, env_of, with_hook
from tests.receiver import HOOK, SECRET, Receiver, receiver
from tests.support import CONFIG

Command = Callable[..., "asyncio.Future[Result]"]


@pytest.fixture
async def backend() -> AsyncIterator[Receiver]:
    async with receiver() as each:
        yield each


@pytest.fixture
def webhook(backend: Receiver, tmp_path: Path) -> Command:
    """Run ``firstopen webhook test`` in a thread, beside the backend."""
    config = tmp_path / "firstopen.toml"
    config.write_text(with_hook(CONFIG))

    def run(*args: str, **more: str | None) -> "asyncio.Future[Result]":
        env = {**env_of(backend), "FIRSTOPEN_CONFIG": str(config), **more}
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(
            None, lambda: CliRunner().invoke(main, ["webhook", "test", *args], env=env)
        )

    return run


@pytest.mark.parametrize("event", EVENT_TYPES)
async def test_a_signed_event_is_sent(webhook: Command, backend: Receiver, event: str) -> None:
    """It is marked as a test, verifies, and the status and time are printed."""
    result = await webhook("--app", "acme", "--event", event)
    assert result.exit_code == 0, result.output
    (received,) = backend.taken
    assert received.verify(SECRET)["type"] == event
    assert received.event["test"] is True
    assert received.event["data"]["app"] == "acme"
    assert received.id in result.output
    assert "204 after" in result.output


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (401, "raw body"),
        (404, "path"),
        (302, "redirects are not followed"),
        (500, "its own log"),
        (410, "dead letter"),
    ],
)
async def test_a_refusal_is_explained(webhook: Command, backend: Receiver, status: int, hint: str) -> None:
    """Exit code 1, with what to check."""
    backend.script = always(status)
    result = await webhook()
    assert result.exit_code == 1
    assert f"{status} after" in result.output
    assert hint in result.output


async def test_what_is_away_or_private_is_explained(
    webhook: Command, backend: Receiver, tmp_path: Path
) -> None:
    """Exit code 1 if nothing answers; 2 for a configuration that cannot be used."""
    await backend.down()
    result = await webhook()
    assert result.exit_code == 1
    assert "no answer: Connection refused" in result.output
    assert "/hooks" not in result.output
    (tmp_path / "firstopen.toml").write_text(with_hook(CONFIG, HOOK.replace("= true", "= false")))
    result = await webhook(ACME_WEBHOOK_URL="https://127.0.0.1/hooks")
    assert result.exit_code == 2
    assert "public address" in result.output
    result = await webhook(ACME_WEBHOOK_URL="https://localhost/hooks")
    assert result.exit_code == 1
    assert "allow_private_targets" in result.output


async def test_what_is_not_configured_is_explained(webhook: Command, tmp_path: Path) -> None:
    """An app without the table, and variables that are not set."""
    result = await webhook("--app", "globex")
    assert result.exit_code == 2
    assert "apps.globex.webhook" in result.output
    result = await webhook(ACME_WEBHOOK_URL=None)
    assert result.exit_code == 2
    assert "ACME_WEBHOOK_URL" in result.output
    (tmp_path / "firstopen.toml").write_text(CONFIG)
    result = await webhook()
    assert result.exit_code == 2
    assert "[apps.NAME.webhook]" in result.output


async def test_a_stalled_backend_is_explained(
    webhook: Command, backend: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time limit is that of every webhook."""
    monkeypatch.setattr("service.webhooks.sender.TIMEOUT_S", 0.3)
    ended = asyncio.Event()

    async def script(_: object) -> web.StreamResponse:
        await ended.wait()
        return web.Response()

    backend.script = script
    result = await webhook()
    ended.set()
    assert result.exit_code == 1
    assert "no answer within" in result.output
