"""Every log event has its name here, and nowhere else. One line of meaning each.

Events are constant and carry fields. Fields hold nothing personal: no address, User-Agent, deep link,
clipboard text, installId or key.
"""

import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger as Log

__all__ = ["Event", "Log", "configure_logs", "where"]


class Event(StrEnum):
    """The log events."""

    STARTED = "service.started"
    """Requests are answered from now on."""
    STOPPING = "service.stopping"
    """A stop was asked for: readiness is false, requests in flight finish."""
    STOPPED = "service.stopped"
    """Everything is closed, in reverse order of birth."""
    SECRET_WEAK = "config.secret_weak"  # noqa: S105  an event's name
    """FIRSTOPEN_SECRET is short enough to guess; its hashes can be reversed by whoever does."""
    KEYS_MISSING = "config.keys_missing"
    """An environment variable that an app's settings name is not set; ``effect`` says what will not work."""
    OPEN_RESOLVED = "open.resolved"
    """Dub knew the link; the one line that every open at Dub leaves."""
    OPEN_UNKNOWN_LINK = "open.unknown_link"
    """Dub knows no such link; not asked again for a minute."""
    OPEN_DEGRADED = "open.degraded"
    """Dub gave no usable answer; the open was answered without it."""
    OPEN_LATE = "open.late"
    """A caller's budget ended before Dub answered; Dub may still settle the open."""
    OPEN_REPEATED = "open.repeated"
    """The same open again, answered from memory (debug)."""
    OPEN_FAILED = "open.failed"
    """A mistake of ours while asking Dub; the open was answered without it."""
    VERSION_UNREADABLE = "open.version_unreadable"
    """An appVersion that is no version: taken as new enough for every route."""
    REQUEST_FAILED = "request.failed"
    """A mistake of ours: the caller got a 500; ``where`` is the line."""


def where(exc: BaseException) -> str:
    """Name the line that raised, without the message: messages may quote what a person sent."""
    trace = exc.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "unknown"
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


def configure_logs(level: str, stream: TextIO | None = None) -> Log:
    """Set up logs once, at start: JSON lines, or coloured text on a terminal. Returns the root logger."""
    stream = stream or sys.stdout
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if stream.isatty():
        processors = [*shared, structlog.dev.ConsoleRenderer()]
        factory: Any = structlog.PrintLoggerFactory(stream)
    else:
        processors = [*shared, structlog.processors.JSONRenderer(serializer=_json)]
        factory = structlog.BytesLoggerFactory(stream.buffer)
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s", force=True)
    log: Log = structlog.get_logger()
    return log


def _json(event: dict[str, Any], **_: Any) -> bytes:
    return msgspec.json.encode(event)
