"""Times of an install arrive as seconds or milliseconds, as numbers or as text."""

import pytest

from service.api.wire import read_timestamp


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (1_785_585_600, 1_785_585_600),
        (1_785_585_600.5, 1_785_585_600.5),
        (1_785_585_600_500, 1_785_585_600.5),
        ("1785585600", 1_785_585_600),
        (" 1785585600500 ", 1_785_585_600.5),
        (0, None),  # Google Play's API returns it where it does not know
        ("0", None),
        (-1, None),
        (None, None),
        ("", None),
        ("yesterday", None),
        ("2026-08-01T12:00:00Z", None),
        ("nan", None),
        ("inf", None),
        (1e300, None),
    ],
)
def test_times_are_read_as_unix_seconds(given: float | str | None, seconds: float | None) -> None:
    """Above 1e11 a value is in milliseconds; what is no time is None."""
    assert read_timestamp(given) == seconds
