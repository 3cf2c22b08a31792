"""Clicks that Dub certainly knows: for a while, and as many as fit."""

import pytest

from service.attribution import recent_clicks
from service.attribution.recent_clicks import KNOWN_S, RecentClicks


def test_a_click_is_known_for_as_long_as_dub_keeps_it() -> None:
    """From the call that made it; a repeat of the call makes no new click."""
    now = 1000.0
    clicks = RecentClicks(lambda: now)
    clicks.add("one", 990.0)
    clicks.add("one", 1000.0)
    assert clicks.known_for_s("one") == KNOWN_S - 10
    assert clicks.known_for_s("another") == 0
    now = 990.0 + KNOWN_S
    assert clicks.known_for_s("one") == 0


def test_the_latest_clicks_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """At least half of as many as may be remembered, and never more."""
    monkeypatch.setattr(recent_clicks, "_CLICKS_MAX", 10)
    clicks = RecentClicks(lambda: 0.0)
    for number in range(100):
        clicks.add(f"click {number}", 0.0)
        known = [n for n in range(100) if clicks.known_for_s(f"click {n}")]
        assert known == list(range(known[0], number + 1))
        assert min(number + 1, 5) <= len(known) <= 10


def test_a_click_of_the_older_half_keeps_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dub answers a repeated open with the click that it made first."""
    monkeypatch.setattr(recent_clicks, "_CLICKS_MAX", 4)
    clicks = RecentClicks(lambda: 100.0)
    for name, asked in (("a", 10.0), ("b", 20.0), ("c", 30.0), ("a", 90.0)):
        clicks.add(name, asked)
    assert clicks.known_for_s("a") == KNOWN_S - 90
