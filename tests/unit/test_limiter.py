"""Limits as they are written, and counted in process."""

import pytest

from service.config.settings import SettingsError, parse
from service.domain.rates import Rate, rates
from service.ratelimit.windows import Window
from tests.support import CONFIG, ENV

HOOLI = '[apps.hooli]\npublishable_keys = ["h"]\ndomains = ["h.link"]\ndefault_screen = "x"\n'


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1000/second", (Rate(1000, 1),)),
        ("20/second;300/minute", (Rate(20, 1), Rate(300, 60))),
        ("300/minute; 20/second", (Rate(20, 1), Rate(300, 60))),
        ("5 per 10 seconds", (Rate(5, 10),)),
        ("1/day", (Rate(1, 86_400),)),
    ],
)
def test_limits_are_read(text: str, found: tuple[Rate, ...]) -> None:
    """The notation is that of the limits library; the shortest window comes first."""
    assert rates(text) == found


@pytest.mark.parametrize(
    "text", ["", "20", "twenty/second", "0/second", "20/fortnight", "1/month", "2/day;x", "1/second;2/second"]
)
@pytest.mark.parametrize(
    ("path", "table"),
    [
        ("limits.per_key", "[limits]\nper_key = {}"),
        ("limits.per_address", "[limits]\nper_address = {}"),
        ("apps.hooli.rate_limit", HOOLI + "rate_limit = {}"),
    ],
)
def test_a_wrong_limit_stops_the_boot(text: str, path: str, table: str) -> None:
    """The message is the setting's path, what was expected and what was there."""
    expected = rf'^{path}: expected limits such as "1000/second" or .*, got {text!r}$'
    with pytest.raises(SettingsError, match=expected):
        parse(f"{CONFIG}\n{table.format(repr(text))}", ENV)


def test_a_window_forgets_the_one_before() -> None:
    """Nothing of a window that is over is kept."""
    window = Window("address", Rate(10, 1))
    for who in range(1000):
        window.count(b"%d" % who, 1)
    assert len(window) == 1000
    assert window.count(b"7", 1) == 2
    assert window.count(b"7", 2) == 1
    assert len(window) == 1


def test_what_is_held_has_a_bound() -> None:
    """A flood of addresses takes so much memory and no more, and who floods most is not forgotten for it."""
    window = Window("address", Rate(10, 60), generation_max=100)
    most = 0
    for number in range(10_000):
        window.count(b"%d" % number, 1)
        if number % 50 == 0:
            window.count(b"again and again", 1)
        most = max(most, len(window))
    assert most <= 201
    assert window.count(b"again and again", 1) == 201
