"""Build the HTTP transport for calls to Dub, the sender of webhooks, and the tracing of requests."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from service.config.settings import SettingsError
from service.dub.transport import AiohttpTransport, proxy_for, trusted
from service.webhooks.sender import WebhookSender

if TYPE_CHECKING:
    from service.telemetry.tracing import Tracing


def dub_transport(base_url: str) -> AiohttpTransport:
    """Build the HTTP transport to Dub; raises ``SettingsError`` for an invalid proxy or certificate file."""
    try:
        return AiohttpTransport(base_url)
    except (ValueError, OSError) as exc:
        raise SettingsError(str(exc)) from exc


def webhook_sender(unix_time: Callable[[], float]) -> WebhookSender:
    """Build the sender of webhooks, with the proxy and certificates of calls to Dub.

    Raises ``SettingsError`` for an invalid certificate file.
    """
    try:
        return WebhookSender(tls=trusted(), proxy_for=proxy_for, unix_time=unix_time)
    except OSError as exc:
        raise SettingsError(str(exc)) from exc


def request_tracing() -> "Tracing":
    """Build OpenTelemetry tracing from OTEL_* variables.

    Raises ``SettingsError`` if the ``otel`` extra is not installed or a variable is invalid.
    """
    try:
        from service.telemetry.tracing import tracing_of_environment  # needs the otel extra
    except ImportError as exc:
        raise SettingsError(
            "OTEL_*: tracing needs an extra that is missing: pip install 'firstopen[otel]', or unset them"
        ) from exc
    try:
        return tracing_of_environment()
    except ValueError as exc:
        raise SettingsError(str(exc)) from exc
