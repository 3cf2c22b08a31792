"""The times and cursors of a list of opens: every form is read, and nothing else."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.open_listing import Position, read_cursor, read_moment_ms, rfc3339

NOVEMBER_MS = 1_793_491_200_000  # 2026-11-01T00:00:00Z
MOMENTS = st.integers(0, 253_402_300_799_999)


@pytest.mark.parametrize(
    ("text", "after_ms"),
    [
        ("2026-11-01", 0),
        ("20261101", 0),
        ("2026-11-01T00:00:00Z", 0),
        ("2026-11-01t00:00:00z", 0),
        ("2026-11-01 00:00:00", 0),
        ("2026-11-01T01:00+01:00", 0),
        ("2026-11-01T01:00:00 01:00", 0),  # as a query has it that forgot to escape the +
        ("2026-10-31T23:30:00-00:30", 0),
        ("2026-11-01T00:00:00.125Z", 125),
        ("2026-11-01T00:00:00.1259999Z", 126),
        ("1793491200", 0),
        ("1793491200125", 125),
        (" 1793491201 ", 1000),
    ],
)
def test_a_moment_is_read(text: str, after_ms: int) -> None:
    assert read_moment_ms(text) == NOVEMBER_MS + after_ms


def test_everything_begins_at_zero() -> None:
    assert read_moment_ms("0") == 0


@pytest.mark.parametrize(
    "text",
    [
        *("", "yesterday", "2026-13-01", "2026-11-01T25:00", "-1", "1e9", "1793491200.5", "1969-12-31"),
        *("1" * 15, "٢٠٢٦", "2026-11-01T00:00:00Z" + " " * 50 + "x", "NaN", "0x10"),
    ],
)
def test_anything_else_is_not(text: str) -> None:
    assert read_moment_ms(text) is None


@given(MOMENTS)
def test_what_is_written_is_read_again(at_ms: int) -> None:
    assert read_moment_ms(rfc3339(at_ms)) == at_ms


@given(st.text(max_size=80))
def test_no_text_is_too_strange(text: str) -> None:
    at_ms = read_moment_ms(text)
    assert at_ms is None or rfc3339(at_ms)
    assert read_cursor(text) is None or read_cursor(text)


@given(MOMENTS, st.binary(min_size=16, max_size=16))
def test_a_cursor_is_a_position(at_ms: int, open_id: bytes) -> None:
    position = Position(at_ms, open_id)
    assert read_cursor(position.cursor()) == position


def test_a_position_without_an_open_is_before_all_of_its_moment() -> None:
    at = Position(NOVEMBER_MS)
    again = read_cursor(at.cursor())
    assert again is not None
    assert again < Position(NOVEMBER_MS, b"\0" * 15 + b"\1")


@pytest.mark.parametrize(
    "text", ["", "x", "A" * 32 + "=", base64.urlsafe_b64encode(b"\xff" * 24).decode(), "\u00e9" * 32]
)
def test_another_cursor_is_refused(text: str) -> None:
    """The fourth is a time before 1970."""
    assert read_cursor(text) is None
