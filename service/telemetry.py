"""Every log event and metric has its name here, and nowhere else. One line of meaning each.

Events are constant and carry fields. Fields hold nothing personal: no address, User-Agent, deep link,
clipboard text, installId or key.
"""

import asyncio
import atexit
import contextlib
import logging
import os
import select
import sys
from bisect import bisect_left
from collections.abc import Iterator, MutableMapping
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, TextIO
from weakref import WeakSet

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from structlog.typing import FilteringBoundLogger as Log

_LOG_RETRY_S = 0.1
LOG_BUFFER_MAX_BYTES = 4 * 1024 * 1024  # a few seconds of lines, at full load

__all__ = ["Event", "Log", "Metrics", "Tally", "configure_logs", "where"]


class Event(StrEnum):
    """The log events."""

    STARTED = "service.started"
    """Requests are answered from now on."""
    STOPPING = "service.stopping"
    """A stop was asked for: readiness is false, requests in flight finish."""
    STOPPED = "service.stopped"
    """Everything is closed, in reverse order of birth."""
    FEW_DESCRIPTORS = "service.few_descriptors"
    """The system gives this process few file descriptors (``ulimit -n``): so many connections are taken."""
    NO_DESCRIPTORS = "service.no_descriptors"
    """The process has no file descriptor left (``ulimit -n``): a connection could not be accepted."""
    BACKGROUND_FAILED = "background.failed"
    """A mistake of ours in a ``task`` that runs beside requests; ``where`` is the line."""
    LOOP_FAILED = "service.loop_failed"
    """An exception that no task was there to take; ``where`` is the line."""
    FORWARDED_BY_ANYBODY = "config.forwarded_by_anybody"
    """FIRSTOPEN_FORWARDED_ALLOW_IPS is ``*``: any caller may say what its address is. Rate limits and
    matching by address can be fooled then, unless only a proxy can connect."""
    ENV_FILE_READABLE = "config.env_file_readable"
    """Every user of the machine may read the secrets in this ``file``: ``chmod 600`` it."""
    OPEN_RESOLVED = "open.resolved"
    """Dub knew the link; the one line that every open at Dub leaves."""
    OPEN_UNKNOWN_LINK = "open.unknown_link"
    """Dub knows no such link; not asked again for a minute."""
    OPEN_DEGRADED = "open.degraded"
    """Dub gave no usable answer; the open was answered without it."""
    OPEN_LATE = "open.late"
    """A caller's budget ended before Dub answered; Dub may still settle the open."""
    OPEN_FOUND_LATE = "open.found_late"
    """A click that Dub showed late was found for an open with no link, or none for good."""
    OPEN_SUPERSEDED = "open.superseded"
    """A click found by its address was given back: another open of the install, ``by``, is certain."""
    OPEN_SHED = "open.shed"
    """More opens came than could be served in time; this one was answered without asking Dub."""
    OPEN_REPLAYED = "open.replayed"
    """An open that was answered without Dub has reached it now."""
    OPEN_REPEATED = "open.repeated"
    """The same open again, answered from memory (debug)."""
    OPEN_FAILED = "open.failed"
    """A mistake of ours while asking Dub; the open was answered without it."""
    VERSION_UNREADABLE = "open.version_unreadable"
    """An appVersion that is no version, of this ``shape``: taken as new enough for every route."""
    UPSTREAM_FAILED = "upstream.failed"
    """Dub did not take a lead, a sale or a question about events; the caller was told 503."""
    SCHEMA_MIGRATED = "store.migrated"
    """A migration of the database schema was applied."""
    FILE_IMPORTED = "store.imported"
    """The file of an earlier version was taken over: so many ``claims``, outbox ``entries`` and ``opens``. So
    many opens were ``undecryptable``: they are in ``firstopen-v3.sqlite`` only."""
    STORE_FAILING = "store.failing"
    """The database does not take what must not be lost: leads are refused with 503, opens go on."""
    STORE_RECOVERED = "store.recovered"
    """The database takes writes again; ``lost`` are rows that were dropped meanwhile."""
    STORE_REFUSED = "store.refused"
    """A mistake of ours: a write that the store cannot do, left out."""
    ENTRY_DELIVERED = "outbox.delivered"
    """A lead or sale has reached Dub."""
    ENTRY_DEAD = "outbox.dead"
    """Dub refused an entry for good, for this ``reason``; see ``firstopen outbox``."""
    ENTRY_UNDECRYPTABLE = "outbox.undecryptable"
    """So many ``entries`` were encrypted under a FIRSTOPEN_SECRET that is not listed: they stay queued."""
    OUTBOX_EXPIRED = "outbox.expired"
    """So many ``entries`` grew too old for Dub to credit them; see ``firstopen outbox``."""
    OUTBOX_FAILED = "outbox.failed"
    """A mistake of ours while delivering; it is tried again."""
    CLICKS_UNAVAILABLE = "clicks.unavailable"
    """Dub's click events cannot be had, for this ``problem``: no open is matched by address meanwhile."""
    CLICKS_AVAILABLE = "clicks.available"
    """Dub's click events can be had again."""
    CLICKS_UNREADABLE = "clicks.unreadable"
    """So many of Dub's ``events`` cannot be read, for this ``fault``: a "none" by address stays pending.
    Logged once a fault, and again if it comes back."""
    REQUEST_FAILED = "request.failed"
    """A mistake of ours: the caller got a 500; ``where`` is the line."""


_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 5.0, 10.0)


class Tally:
    """A counter by labels: plain numbers, for one event loop; a lock a request costs more than the count."""

    def __init__(self, name: str, meaning: str, *labels: str) -> None:
        self._family = (f"firstopen_{name}", meaning, labels)
        self._counts: dict[tuple[str, ...], int] = {}

    def add(self, *labels: str) -> None:
        """Count one."""
        self._counts[labels] = self._counts.get(labels, 0) + 1

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield what Prometheus reads."""
        name, meaning, labels = self._family
        family = CounterMetricFamily(name, meaning, labels=labels)
        for values, count in self._counts.items():
            family.add_metric(values, count)
        yield family


class Spread:
    """A histogram of seconds by at most one label: plain numbers, for one event loop."""

    def __init__(self, name: str, meaning: str, *labels: str) -> None:
        self._family = (f"firstopen_{name}", meaning, labels)
        self._children: dict[tuple[str, ...], SpreadChild] = {}

    def labels(self, *values: str) -> "SpreadChild":
        """Return the histogram of these labels."""
        return self._children.setdefault(values, SpreadChild())

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield what Prometheus reads."""
        name, meaning, labels = self._family
        family = HistogramMetricFamily(name, meaning, labels=labels)
        for values, child in self._children.items():
            family.add_metric(values, child.buckets(), child.total_s)
        yield family


class SpreadChild:
    """One histogram."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_SECONDS) + 1)
        self.total_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(_SECONDS, seconds)] += 1
        self.total_s += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Return cumulative counts by upper bound."""
        bounds = [*(str(bound) for bound in _SECONDS), "+Inf"]
        return list(zip(bounds, (float(count) for count in accumulate(self._counts)), strict=True))


class LostLogLines:
    """Counts log lines that were dropped."""

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield what Prometheus reads."""
        meaning = "Log lines dropped: the reader of stdout has stopped, or the disk is full."
        yield CounterMetricFamily("firstopen_log_lines_lost", meaning, value=lost_log_lines())


class Metrics:
    """The metrics of one process; labels have few values each, and none is a person's."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # series that nobody asked for or lists
        self.registry = CollectorRegistry()
        self.opens = Tally("opens", "Opens answered.", "app", "match", "source", "outcome")
        spread = Spread("open_seconds", "From an open's head to its answer.")
        self.open_seconds = spread.labels()
        self.dub_seconds = Spread("dub_seconds", "A call to Dub, whatever came of it.", "endpoint")
        self.cache = Tally("cache", "Answers looked for, by tier and result.", "tier", "result")
        self.matching_refused = Tally(
            "matching_refused", "Opens with no link that got no click by address, by reason.", "reason"
        )
        self.events_unreadable = Tally(
            "events_unreadable", "Times an event of Dub's could not be read, by what was wrong.", "fault"
        )
        self.rate_limited = Tally("rate_limited", "Requests refused with 429: a limit of ours.", "by")
        self.requests = Tally("requests", "Responses, by route template and status.", "route", "status")
        self.requests_unread = partial(self.requests.add, "unrouted", "400")
        self.ignored_fields = Tally("ignored_fields", "Fields of opens that could not be used.", "field")
        for each in (
            self.requests,
            self.ignored_fields,
            self.opens,
            spread,
            self.dub_seconds,
            self.cache,
            self.matching_refused,
            self.events_unreadable,
            self.rate_limited,
            LostLogLines(),
        ):
            self.registry.register(each)
        self.breaker_open = self._gauge("breaker_open", "1 while Dub's endpoint is not asked.", "endpoint")
        self.in_flight = self._gauge("in_flight", "Opens being answered.")
        self.dub_in_flight = self._gauge("dub_in_flight", "Calls to Dub under way.", "endpoint")
        self.shed = self._counter("shed", "Opens answered without Dub, because too many came.")
        self.outbox_entries = self._gauge("outbox_entries", "What Dub has not taken yet.", "kind")
        self.outbox_dead_entries = self._gauge("outbox_dead_entries", "Dead letters kept.", "kind")
        self.outbox_oldest_seconds = self._gauge(
            "outbox_oldest_seconds", "Age of the oldest queued entry that waits for no open."
        )
        self.outbox_delivered = self._counter("outbox_delivered", "Entries that reached Dub.", "kind")
        self.outbox_undecryptable = self._counter(
            "outbox_undecryptable", "Looks at entries of a FIRSTOPEN_SECRET that is not listed."
        )
        self.outbox_dead = self._counter("outbox_dead", "Entries that became dead letters.", "kind")
        self.claims_refused = self._counter(
            "claims_refused", "Opens that wanted a click which another install has."
        )
        self.background_failures = self._counter(
            "background_failures", "Unexpected exceptions in tasks that run beside requests.", "task"
        )
        self.database_failing = self._gauge("database_failing", "1 while the database cannot be used.")
        self.store_commits = self._counter("store_commits", "Durable commits.")

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"firstopen_{name}", meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(f"firstopen_{name}", meaning, labels, registry=self.registry)


_encode = msgspec.json.Encoder().encode


def where(exc: BaseException) -> str:
    """Name the line that raised, without the message: messages may quote what a person sent."""
    trace = exc.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "unknown"
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


class Sink:
    """A stream for log lines that never fails and never makes the service wait.

    A full disk, a closed pipe or a reader that has stopped reading costs lines, not answers: what the stream
    does not take is kept, up to ``LOG_BUFFER_MAX_BYTES``, and then dropped and counted in ``lost``.
    """

    def __init__(self, stream: TextIO) -> None:
        self._text = stream
        self._lines: list[bytes] = []
        self._kept = b""  # what the stream did not take yet
        self._flushed_by: asyncio.AbstractEventLoop | None = None
        self._stream = _DescriptorStream.of(stream)
        self.lost = 0
        _sinks.add(self)

    def write(self, text: str) -> None:
        """Write text of a library, or count it as lost."""
        if text != "\n":
            self.write_line(text.rstrip("\n").encode())

    def flush(self) -> None:
        """Do nothing: lines are flushed at the end of a turn of the loop."""

    def write_line(self, line: bytes) -> None:
        """Write a line with the others of this turn of the loop; outside a loop, immediately.

        A process that is killed in that very turn takes its lines along.
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
        """Write what was gathered, as far as the stream takes it without waiting."""
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
            with contextlib.suppress(RuntimeError):  # no loop
                asyncio.get_running_loop().call_later(_LOG_RETRY_S, self.flush_lines)


class _DescriptorStream:
    """Writes to a file descriptor in pieces that it takes without blocking.

    A pipe that polls as writable takes ``PIPE_BUF`` bytes. Making it non-blocking instead would change it for
    every other process that shares it, such as a shell.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    @staticmethod
    def of(stream: TextIO) -> "_DescriptorStream | _BufferStream":
        """Return how to write to a stream."""
        try:
            return _DescriptorStream(stream.fileno())
        except (OSError, ValueError):
            return _BufferStream(stream)

    def write(self, data: bytes) -> int:
        """Write as much as is taken without waiting; return how many bytes."""
        written = 0
        while written < len(data) and self._poll.poll(0):
            written += os.write(self._descriptor, data[written : written + select.PIPE_BUF])
        return written


class _BufferStream:
    """Writes to a stream without a file descriptor, such as a test's."""

    def __init__(self, stream: TextIO) -> None:
        self._bytes = stream.buffer

    def write(self, data: bytes) -> int:
        """Write as much as is taken; return how many bytes."""
        written = 0
        while written < len(data) and (some := self._bytes.write(data[written:])):
            written += some
        self._bytes.flush()
        return written


_sinks: WeakSet[Sink] = WeakSet()


def lost_log_lines() -> int:
    """Return how many lines were dropped: the stream did not take them."""
    return sum(sink.lost for sink in _sinks)


def flush_logs() -> None:
    """Write what waits for the end of a turn of the loop."""
    for sink in _sinks:
        sink.flush_lines()


@atexit.register
def _leave_quietly() -> None:
    """Write what is left; what nobody takes any more must not become the exit code, as Python has it."""
    flush_logs()
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def configure_logs(level: str, stream: TextIO | None = None) -> Log:
    """Set up logs once, at start: JSON lines, or coloured text on a terminal. Returns the root logger.

    Lines of libraries (warnings and worse) take the same way.
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
    """Return a structlog logger that writes JSON in one step: every open that reaches Dub leaves a line."""

    def writer(level: str) -> Any:
        def write(self: structlog.BoundLoggerBase, event: str, **fields: Any) -> None:
            line = {"timestamp": datetime.now(UTC), "level": level, "event": event, **self._context, **fields}
            sink.write_line(_encode(line))

        return write

    def nothing(_self: structlog.BoundLoggerBase, _event: str, **_fields: Any) -> None:
        """Leave out what is below the level."""

    levels = ("debug", "info", "warning", "error", "critical")
    numbers = logging.getLevelNamesMapping()
    methods = {level: writer(level) if numbers[level.upper()] >= least else nothing for level in levels}
    return type("JSONLog", (structlog.BoundLoggerBase,), methods)


def _name_the_line(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Name where a library's exception came from, instead of printing what it says."""
    record: logging.LogRecord = event["_record"]
    if record.exc_info and record.exc_info[1] is not None:
        event["error"] = type(record.exc_info[1]).__name__
        event["where"] = where(record.exc_info[1])
    event.pop("exc_info", None)
    return event


def _json_text(event: dict[str, Any], **_: Any) -> str:
    return msgspec.json.encode(event).decode()
