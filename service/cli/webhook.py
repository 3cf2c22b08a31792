"""``firstopen webhook test``: send one event to an app's backend, and say what it answers."""

import asyncio
import secrets
import time
from datetime import UTC, datetime
from typing import Any

import msgspec
import rich_click as click

from service.cli.output import NOT_USABLE_YET, fail, pick_app, read_settings
from service.config.settings import SettingsError
from service.domain.errors import WebhookFailed
from service.domain.webhooks import EVENT_TYPES, Endpoint, EventType
from service.wiring.calls_out import webhook_sender

_OPEN = {"openId": "0" * 32, "clickId": "test0click000000"}
_LINK = {"id": "link_test", "domain": "example.link", "key": "test", "url": "https://example.com/"}
_MATCHED = {
    **_OPEN,
    "link": _LINK,
    "route": {"screen": "home"},
    "match": {"type": "deep_link", "guaranteed": True},
}
_LEAD = {**_OPEN, "leadId": "1" * 32, "eventName": "Sign up", "customerExternalId": "test-customer"}
_SAMPLES: dict[EventType, dict[str, Any]] = {
    "open.matched": _MATCHED,
    "open.settled": _MATCHED,
    "lead.delivered": {**_LEAD, "link": _LINK},
    "lead.dead": {**_LEAD, "reason": "Dub refused it: 404 not_found"},
    "install.erased": {"openIds": [_OPEN["openId"]]},
}
_HINTS = {
    400: "does it verify the raw body, and with this secret?",
    401: "does it verify the raw body, and with this secret?",
    403: "does it verify the raw body, and with this secret? Or does a firewall refuse it?",
    404: "is the URL's path right?",
    405: "does it accept POST?",
    410: "it wants no webhooks any more: each event would be a dead letter",
}


@click.group("webhook")
def command() -> None:
    """Try out webhooks: what firstopen sends to your backend."""


@command.command()
@click.option("--app", "app_name", metavar="NAME", help="The app.  [the first that has a webhook]")
@click.option(
    "--event", type=click.Choice(EVENT_TYPES), default="open.matched", show_default=True, help="Its type."
)
def test(app_name: str | None, event: EventType) -> None:
    """Send one signed event of made-up content, marked "test": true, and print what the backend answers.

    The exit code is 1 if it does not answer 2xx. Nothing is queued or retried.
    """
    name, endpoint = _endpoint(app_name)
    event_id = f"msg_test_{secrets.token_hex(8)}"
    click.echo(f"POST to {endpoint.host}: {event}, webhook-id {event_id}")
    try:
        status, took_s = asyncio.run(_send(endpoint, event_id, _body(name, event)))
    except SettingsError as exc:
        fail(exc)
    except WebhookFailed as exc:
        fail(f"no answer: {exc}", NOT_USABLE_YET)
    took_ms = round(took_s * 1000)
    if 200 <= status < 300:  # noqa: PLR2004  success
        click.echo(f"{status} after {took_ms} ms: your backend has taken it")
    else:
        fail(f"{status} after {took_ms} ms: {_hint(status)}", NOT_USABLE_YET)


def _endpoint(app_name: str | None) -> tuple[str, Endpoint]:
    """Return the app and its endpoint; ends the process if there is none."""
    configured = read_settings()
    with_hooks = [name for name, app in configured.apps.items() if app.webhook is not None]
    if app_name is None and not with_hooks:
        fail("no app has an [apps.NAME.webhook] table")
    name = pick_app(configured, app_name or with_hooks[0])
    hook = configured.apps[name].webhook
    if hook is None:
        fail(f"apps.{name}.webhook: there is no such table")
    if name not in configured.webhooks:
        fail(f"apps.{name}.webhook: set the environment variables {hook.url_env} and {hook.secret_env}")
    return name, configured.webhooks[name]


async def _send(endpoint: Endpoint, event_id: str, body: bytes) -> tuple[int, float]:
    """Return the answer's status, and after how many seconds it came; raises ``WebhookFailed``."""
    sender = webhook_sender(time.time)
    began = time.monotonic()
    try:
        status = (await sender.send(endpoint, event_id, body)).status
        return status, time.monotonic() - began
    finally:
        await sender.close()


def _body(app: str, event: EventType) -> bytes:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    data: dict[str, Any] = {"app": app, **_SAMPLES[event]}
    if event.startswith("open."):
        data["openedAt"] = now
    return msgspec.json.encode({"type": event, "timestamp": now, "test": True, "data": data})


def _hint(status: int) -> str:
    if 300 <= status < 400:  # noqa: PLR2004  redirects
        return "redirects are not followed: configure the URL that it leads to"
    return _HINTS.get(status, "your backend has not taken it; its own log says why")
