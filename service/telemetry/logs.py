"""Structured logs: JSON lines, or coloured text on a terminal."""

import asyncio
import atexit
import contextlib
import logging
import os
import select
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO
from weakref import WeakSet

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger as Log

__all__ = ["Log", "Sink", "configure_logs", "flush_logs", "lost_log_lines", "where"]

_LOG_RETRY_S = 0.1
LOG_BUFFER_MAX_BYTES = 4 * 1024 * 1024  # a few seconds of lines at full load

_encode = msgspec.json.Encoder().encode


def where(exc: BaseException) -> str:
    """Return the file and line that raised. The message is omitted, because it may contain personal data."""
    trace = exc.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "unknown"
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


class Sink:
    """A stream for log lines that never raises and never blocks.

    A full disk, a closed pipe or a reader that stops reading must not delay answers: lines that cannot be
    written are buffered up to ``LOG_BUFFER_MAX_BYTES``, then dropped and counted in ``lost``.
    """

    def __init__(self, stream: TextIO) -> None:
        self._text = stream
        self._lines: list[bytes] = []
        self._kept = b""  # bytes that could not be written yet
        self._flushed_by: asyncio.AbstractEventLoop | None = None
        self._stream = _DescriptorStream.of(stream)
        self.lost = 0
        _sinks.add(self)

    def write(self, text: str) -> None:
        """Write a library's text, or count it as lost."""
        if text != "\n":
            self.write_line(text.rstrip("\n").encode())

    def flush(self) -> None:
        """Do nothing, because lines are flushed once per event loop iteration."""

    def write_line(self, line: bytes) -> None:
        """Write a line together with the others of this event loop iteration; without a loop, immediately.

        If the process is killed within the iteration, these lines are lost.
        """
        self._lines.append(line)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush_lines()
            return
        if self._flushed_by is not loop:
            self._flushed_by = loop
            loop.call_soon(self.flush_lines)

    def flush_lines(self) -> None:
        """Write the collected lines as far as the stream accepts them without blocking."""
        self._flushed_by = None
        lines, self._lines = self._lines, []
        if not lines and not self._kept:
            return
        if lines and len(self._kept) > LOG_BUFFER_MAX_BYTES:
            self.lost += len(lines)
            lines = []
        left = self._kept + b"".join([line + b"\n" for line in lines])
        try:
            self._kept = left[self._stream.write(left) :]
        except (OSError, ValueError):
            self.lost += left.count(b"\n")
            self._kept = b""
        if self._kept:
            with contextlib.suppress(RuntimeError):  # no event loop is running
                asyncio.get_running_loop().call_later(_LOG_RETRY_S, self.flush_lines)


class _DescriptorStream:
    """Writes to a file descriptor in pieces that do not block.

    A pipe that polls as writable accepts ``PIPE_BUF`` bytes. Making it non-blocking instead would change it
    for every other process that shares it, such as a shell.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    @staticmethod
    def of(stream: TextIO) -> "_DescriptorStream | _BufferStream":
        """Return a non-blocking writer for a stream."""
        try:
            return _DescriptorStream(stream.fileno())
        except (OSError, ValueError):
            return _BufferStream(stream)

    def write(self, data: bytes) -> int:
        """Write as many bytes as possible without blocking; return the number."""
        written = 0
        while written < len(data) and self._poll.poll(0):
            written += os.write(self._descriptor, data[written : written + select.PIPE_BUF])
        return written


class _BufferStream:
    """Writes to a stream without a file descriptor, such as those of tests."""

    def __init__(self, stream: TextIO) -> None:
        self._bytes = stream.buffer

    def write(self, data: bytes) -> int:
        """Write as many bytes as the stream accepts; return the number."""
        written = 0
        while written < len(data) and (some := self._bytes.write(data[written:])):
            written += some
        self._bytes.flush()
        return written


_sinks: WeakSet[Sink] = WeakSet()


def lost_log_lines() -> int:
    """Return how many log lines were dropped because they could not be written."""
    return sum(sink.lost for sink in _sinks)


def flush_logs() -> None:
    """Write the lines that wait for the end of the event loop iteration."""
    for sink in _sinks:
        sink.flush_lines()


@atexit.register
def _flush_at_exit() -> None:
    """Flush at exit; ignore a closed stdout so the exit code stays 0."""
    flush_logs()
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def configure_logs(level: str, stream: TextIO | None = None) -> Log:
    """Configure logging once, at start, and return the root logger.

    Writes JSON lines, or coloured text on a terminal. Warnings and errors of libraries have the same format.
    """
    stream = stream or sys.stdout
    sink: Any = Sink(stream)
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any
    wrapper: Any
    if stream.isatty():
        renderer = structlog.dev.ConsoleRenderer()
        wrapper = structlog.make_filtering_bound_logger(number)
    else:
        renderer = structlog.processors.JSONRenderer(serializer=_json_text)
        wrapper = _json_log(number, sink)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=wrapper,
        logger_factory=structlog.PrintLoggerFactory(sink),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sink)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name, _name_the_line],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)
    log: Log = structlog.get_logger()
    return log


def _json_log(least: int, sink: Sink) -> type:
    """Return a structlog logger class that encodes JSON directly, because every open at Dub logs a line."""

    def writer(level: str) -> Any:
        def write(self: structlog.BoundLoggerBase, event: str, **fields: Any) -> None:
            line = {"timestamp": datetime.now(UTC), "level": level, "event": event, **self._context, **fields}
            sink.write_line(_encode(line))

        return write

    def nothing(_self: structlog.BoundLoggerBase, _event: str, **_fields: Any) -> None:
        """Ignore a line below the level."""

    levels = ("debug", "info", "warning", "error", "critical")
    numbers = logging.getLevelNamesMapping()
    methods = {level: writer(level) if numbers[level.upper()] >= least else nothing for level in levels}
    return type("JSONLog", (structlog.BoundLoggerBase,), methods)


def _name_the_line(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace a library's exception by its type and line, because messages may contain personal data."""
    record: logging.LogRecord = event["_record"]
    if record.exc_info and record.exc_info[1] is not None:
        event["error"] = type(record.exc_info[1]).__name__
        event["where"] = where(record.exc_info[1])
    event.pop("exc_info", None)
    return event


def _json_text(event: dict[str, Any], **_: Any) -> str:
    return msgspec.json.encode(event).decode()
