"""What carries calls to Dub, and what traces them."""

from typing import TYPE_CHECKING

from service.config.settings import SettingsError
from service.dub.transport import AiohttpTransport

if TYPE_CHECKING:
    from service.telemetry.tracing import Tracing


def dub_transport(base_url: str) -> AiohttpTransport:
    """Build what carries calls to Dub; raises ``SettingsError`` if its proxy or certificates are wrong."""
    try:
        return AiohttpTransport(base_url)
    except (ValueError, OSError) as exc:
        raise SettingsError(str(exc)) from exc


def request_tracing() -> "Tracing":
    """Build what makes traces; raises ``SettingsError`` where the extra or a variable is wrong."""
    try:
        from service.telemetry.tracing import tracing_of_environment  # an extra, and not always there
    except ImportError as exc:
        raise SettingsError(
            "OTEL_*: traces take what is not installed: pip install 'firstopen[otel]', or unset them"
        ) from exc
    try:
        return tracing_of_environment()
    except ValueError as exc:
        raise SettingsError(str(exc)) from exc
