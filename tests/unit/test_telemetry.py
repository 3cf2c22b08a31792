"""Logs: what is written, and that writing can never fail an open."""

import asyncio
import io
import json
import logging
import os
import time
from collections.abc import Iterator
from typing import Any, cast

import msgspec
import pytest

from service.telemetry import (
    Event,
    configure_logs,
    flush_logs,
    lost_log_lines,
    where,
)
from service.telemetry.logs import LOG_BUFFER_MAX_BYTES
from tests.support import LogLines


@pytest.fixture(autouse=True)
def quiet_again() -> Iterator[None]:
    yield
    configure_logs("critical")


class Broken(io.TextIOWrapper):
    """A stream like a pipe whose reader is gone."""

    def __init__(self) -> None:
        super().__init__(BrokenBytes(), write_through=True)


class BrokenBytes(io.BytesIO):
    def write(self, _: object) -> int:
        raise BrokenPipeError


class Terminal(LogLines):
    def isatty(self) -> bool:
        return True


def test_a_line_is_json_with_a_level_and_a_time() -> None:
    """One JSON object a line, with the event's name, its fields, its level and the time."""
    lines = LogLines()
    log = configure_logs("info", lines)
    log.info(Event.STARTED, apps=2)
    (line,) = lines.lines
    assert (line["event"], line["apps"], line["level"]) == ("service.started", 2, "info")
    assert line["timestamp"].endswith("Z")


def test_the_level_is_respected() -> None:
    """Below the level nothing is written."""
    lines = LogLines()
    log = configure_logs("warning", lines)
    log.info(Event.STARTED)
    log.warning(Event.STOPPING)
    assert [line["event"] for line in lines.lines] == ["service.stopping"]


def test_a_stream_that_fails_fails_nothing() -> None:
    """A full disk or a closed pipe costs lines, not answers."""
    log = configure_logs("info", Broken())
    log.info(Event.STARTED)
    logging.getLogger("library").warning("also")


class Counted(io.BufferedIOBase):
    """A stream that counts how often it is flushed, and may be a pipe whose reader has gone since."""

    def __init__(self) -> None:
        self.waiting = b""
        self.seen = b""
        self.flushes = 0
        self.is_broken = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.waiting += bytes(data)
        return len(data)

    def flush(self) -> None:
        if self.closed:
            return
        self.flushes += 1
        if self.is_broken:
            raise BrokenPipeError
        self.seen, self.waiting = self.seen + self.waiting, b""


def test_lines_of_one_turn_of_the_loop_go_out_together() -> None:
    """Many opens in one turn cost one call of the system; a line that is alone waits for nobody."""
    stream = Counted()
    log = configure_logs("info", io.TextIOWrapper(cast("Any", stream)))

    async def turns() -> None:
        for turn in (1, 2):
            for _ in range(5):
                log.info(Event.STARTED)
            assert stream.flushes == turn - 1
            await asyncio.sleep(0)
            assert (stream.flushes, stream.seen.count(b"\n")) == (turn, 5 * turn)
        stream.is_broken = True
        log.info(Event.STARTED)
        await asyncio.sleep(0)
        stream.is_broken = False
        log.info(Event.STOPPED)
        await asyncio.sleep(0)

    asyncio.run(turns())
    assert b"service.stopped" in stream.seen
    log.info(Event.STARTED)
    assert stream.waiting == b""
    assert stream.seen.count(b"\n") == 13


class Unbuffered(io.RawIOBase):
    """What PYTHONUNBUFFERED makes of stdout, on a pipe that takes little at a time, and at last nothing."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.seen = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int | None:
        some = bytes(data)[: min(7, self.room)]
        self.seen += some
        self.room -= len(some)
        return len(some) or None


@pytest.mark.parametrize("room", [10_000, 200])
def test_an_unbuffered_stream_gets_whole_lines(room: int) -> None:
    """However little it takes at a time; what it does not take is kept, and holds nothing up."""
    stream = Unbuffered(room)
    log = configure_logs("info", cast("Any", io.TextIOWrapper(cast("Any", stream), write_through=True)))

    async def turn() -> None:
        for _ in range(5):
            log.info(Event.STARTED)

    asyncio.run(turn())
    if room > 1000:
        assert [json.loads(line)["event"] for line in stream.seen.splitlines()] == ["service.started"] * 5
    else:
        assert len(stream.seen) == room


async def test_a_line_left_by_a_loop_that_is_gone_goes_with_the_next() -> None:
    """A loop that ends before its turn is over keeps no later line from going out."""
    stream = Counted()
    log = configure_logs("info", io.TextIOWrapper(cast("Any", stream)))
    gone = asyncio.new_event_loop()
    gone.call_soon(log.info, Event.STARTED)
    gone.call_soon(gone.stop)
    await asyncio.to_thread(gone.run_forever)
    gone.close()
    assert stream.seen == b""
    log.info(Event.STOPPED)
    await asyncio.sleep(0)
    assert stream.seen.count(b"\n") == 2


def test_a_terminal_gets_text() -> None:
    """A person at a terminal reads text, of ours and of libraries."""
    lines = Terminal()
    log = configure_logs("info", lines)
    log.info(Event.STARTED, apps=2)
    logging.getLogger("library").warning("careful")
    assert "service.started" in lines.text
    assert "careful" in lines.text
    with pytest.raises(json.JSONDecodeError):
        json.loads(lines.text.splitlines()[0])


def test_libraries_log_json_without_what_exceptions_say() -> None:
    """A library's warning is a JSON line too; of an exception it names the type and the line."""
    lines = LogLines()
    configure_logs("debug", lines)
    try:
        int("somebody's address")
    except ValueError:
        logging.getLogger("library").exception("it failed")
    logging.getLogger("library").info("chatter")
    (line,) = lines.lines
    assert (line["event"], line["level"], line["logger"], line["error"]) == (
        "it failed",
        "error",
        "library",
        "ValueError",
    )
    assert line["where"].startswith("test_telemetry.py:")
    assert "address" not in lines.text


def test_where_names_the_innermost_line() -> None:
    """An exception that was never raised has no line."""
    assert where(ValueError()) == "unknown"


_EMPTY_READS = 40


def test_a_reader_that_stops_costs_lines_and_no_time() -> None:
    """A pipe that nobody reads takes what it holds; then lines are kept, then counted as lost."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as reader, os.fdopen(writing, "w") as stream:
        log = configure_logs("info", stream)
        before = lost_log_lines()
        lines = 2 * LOG_BUFFER_MAX_BYTES // 100
        for number in range(lines):
            log.info("line", number=number)
        lost = lost_log_lines() - before
        assert 0 < lost < lines
        read = b""
        os.set_blocking(reading, False)
        empty = 0
        while empty < _EMPTY_READS:  # what is kept is written by a thread, when the pipe has room
            found = _read_now(reader)
            empty = 0 if found else empty + 1
            read += found
            flush_logs()
            time.sleep(0 if found else 0.005)
        log.info("line", number="last")
        read += _read_now(reader)
    numbers = [msgspec.json.decode(line)["number"] for line in read.splitlines()]
    assert numbers == [*range(lines - lost), "last"]
    configure_logs("critical")


def _read_now(reader: io.BufferedReader) -> bytes:
    return reader.raw.read(1 << 20) or b""
