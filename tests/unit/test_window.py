"""The window of clicks: found by network, forgotten by age, bounded, and never long at it."""

import gc
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from service.resolve.matching import Click
from service.resolve.model import Link
from service.resolve.traits import Traits
from service.resolve.window import (
    CLICKS_PER_NETWORK_MAX,
    EXPIRED_AT_A_TIME,
    ClickWindow,
)

NOW_MS = 1_785_585_600_000
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
HOME, OFFICE = 11, 12 + 2**63
PROMO = Link("link_promo", "acme.link", "promo", "https://acme.com/promo")
IPHONE = Traits("ios", "iphone", 17)


def a_click(click_id: str = "click", at_ms: int = NOW_MS, link: Link = PROMO, query: str = "") -> Click:
    return Click(click_id, at_ms, link, query, IPHONE)


def all_gone(window: ClickWindow, now_ms: int) -> int:
    """Let the window expire; return how many steps it took."""
    steps = 1
    while window.expire(now_ms):
        steps += 1
    return steps


def test_clicks_are_found_by_network() -> None:
    """In the order of their times, whatever the order they came in; elsewhere there are none."""
    window = ClickWindow(3600)
    for click_id, age_ms in (("b", 2000), ("a", 3000), ("c", 1000)):
        assert window.add(HOME, a_click(click_id, NOW_MS - age_ms))
    window.add(OFFICE, a_click("d"))
    assert [click.id for click in window.clicks(HOME)] == ["a", "b", "c"]
    assert [click.id for click in window.clicks(OFFICE)] == ["d"]
    assert window.clicks(13) == ()
    assert len(window) == 4


def test_a_click_counts_once() -> None:
    """Stretches of events overlap: what is known is not added again."""
    window = ClickWindow(3600)
    assert window.add(HOME, a_click())
    assert not window.add(HOME, a_click())
    assert len(window) == 1


def test_clicks_are_forgotten_by_age() -> None:
    """A click is held as long as an open may be matched to it, and none is taken in that is older."""
    window = ClickWindow(3600)
    window.add(HOME, a_click("old", NOW_MS - HOUR_MS - 10 * MINUTE_MS))
    window.add(HOME, a_click("edge", NOW_MS - HOUR_MS))
    window.add(HOME, a_click("new", NOW_MS))
    all_gone(window, NOW_MS)
    assert [click.id for click in window.clicks(HOME)] == ["edge", "new"]
    assert not window.add(OFFICE, a_click("late", NOW_MS - HOUR_MS - 10 * MINUTE_MS))
    all_gone(window, NOW_MS + 2 * HOUR_MS)
    assert len(window) == 0
    assert window.clicks(HOME) == ()


def test_a_clock_that_was_wrong_does_no_lasting_harm() -> None:
    """An hour that a clock runs ahead empties the window; set right, it takes clicks in again."""
    window = ClickWindow(3600)
    window.add(HOME, a_click())
    all_gone(window, NOW_MS + 5 * HOUR_MS)
    all_gone(window, NOW_MS)
    assert window.add(HOME, a_click())


def test_a_network_keeps_its_newest() -> None:
    """Behind a carrier's address there may be thousands: what a match looks at is bounded."""
    window = ClickWindow(3600)
    for number in range(200):
        assert window.add(HOME, a_click(f"{number}", NOW_MS + number))
    assert not window.add(HOME, a_click("too old to be kept", NOW_MS))
    newest = [f"{number}" for number in range(200)][-CLICKS_PER_NETWORK_MAX:]
    assert [click.id for click in window.clicks(HOME)] == newest
    assert len(window) == CLICKS_PER_NETWORK_MAX


def test_a_full_window_gives_up_its_oldest_minutes() -> None:
    """It never holds more than it may, the newest are there, and it says from when on it holds clicks."""
    window = ClickWindow(3600, clicks_max=100)
    for number in range(1000):
        window.add(number, a_click(f"{number}", NOW_MS + number * 5000))
        assert len(window) <= 100
    assert [len(window.clicks(number)) for number in range(960, 1000)] == [1] * 40
    assert window.clicks(0) == ()
    assert window.held_from_ms > NOW_MS
    assert not window.add(5000, a_click("older", window.held_from_ms - 1))


def test_one_minute_cannot_overfill_it() -> None:
    """When all clicks are of one minute, what is more than it may hold is not taken in."""
    window = ClickWindow(3600, clicks_max=100)
    start_ms = NOW_MS // MINUTE_MS * MINUTE_MS
    added = [window.add(number, a_click(f"{number}", start_ms + number)) for number in range(150)]
    assert added == [True] * 100 + [False] * 50
    assert window.add(500, a_click("next minute", start_ms + MINUTE_MS))


def test_links_are_held_once() -> None:
    """However often Dub describes a link, there is one object of it, the latest description."""
    window = ClickWindow(3600)
    again = Link(PROMO.id, PROMO.domain, PROMO.key, PROMO.url)
    moved = Link(PROMO.id, PROMO.domain, PROMO.key, "https://acme.com/elsewhere")
    window.add(HOME, a_click("a"))
    window.add(OFFICE, a_click("b", link=again))
    window.add(13, a_click("c", link=moved))
    window.add(14, a_click("d", link=Link(PROMO.id, PROMO.domain, PROMO.key, moved.url)))
    assert window.clicks(OFFICE)[0].link is PROMO
    assert window.clicks(14)[0].link is moved


def test_text_is_bounded() -> None:
    """When there is too much of it, the oldest clicks go with their links; room comes back with them."""
    window = ClickWindow(3600, text_max_bytes=10_000)
    for number in range(300):
        link = Link(f"link_{number}", "acme.link", "x" * 100, "https://acme.com/")
        window.add(number, a_click(f"{number}", NOW_MS + number * MINUTE_MS // 4, link, query="ref=1"))
        assert window._text_bytes <= 10_000
    assert len(window) > 10
    assert window.clicks(299) != ()
    all_gone(window, NOW_MS + 10 * HOUR_MS)
    assert (len(window), window._text_bytes, window._links, window._uses) == (0, 0, {}, {})


def test_queries_go_before_clicks() -> None:
    """A click whose query there is no room for is held without it."""
    window = ClickWindow(3600, text_max_bytes=800)
    window.add(HOME, a_click("a", query="ref=" + "1" * 200))
    window.add(HOME, a_click("b", query="ref=" + "2" * 200))
    window.add(HOME, a_click("c", query="ref=3"))
    assert [click.query[:5] for click in window.clicks(HOME)] == ["ref=1", "", "ref=3"]


def test_expiry_takes_small_steps() -> None:
    """No step looks at more than so many clicks, however many are too old."""
    window = ClickWindow(3600)
    for number in range(3 * EXPIRED_AT_A_TIME):
        window.add(number, a_click(f"{number}", NOW_MS + number % 1000))
    before = len(window)
    assert window.expire(NOW_MS + 10 * HOUR_MS)
    assert before - len(window) == EXPIRED_AT_A_TIME
    assert all_gone(window, NOW_MS + 10 * HOUR_MS) == 2
    assert len(window) == 0


def test_nothing_large_is_walked_over_by_the_garbage_collector() -> None:
    """The dictionaries that grow with the window are not tracked, whatever is in them."""
    window = ClickWindow(3600)
    for number in range(2000):
        window.add(number % 1500, a_click(f"{number}", NOW_MS + number))
    assert len(window.clicks(0)) == 2
    assert not any(gc.is_tracked(shard) for shard in window._index._shards)


times = st.integers(0, 2 * HOUR_MS)
adding = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30), times), max_size=60)


@given(adding, st.integers(0, 3 * HOUR_MS), st.randoms())
def test_the_window_holds_what_is_in_it(added: list[tuple[int, int, int]], now_ms: int, random: Any) -> None:
    """After any clicks in any order, with repeats: each once, on its network, none that is too old."""
    clicks = {f"{network}-{number}": (network, at_ms) for network, number, at_ms in added}
    window = ClickWindow(3600)
    for click_id in [*clicks, *random.sample(list(clicks), len(clicks))]:
        network, at_ms = clicks[click_id]
        window.add(network, a_click(click_id, NOW_MS + at_ms))
    assert len(window) == len(clicks)
    all_gone(window, NOW_MS + now_ms)
    held = {click.id for network in range(6) for click in window.clicks(network)}
    young = {each for each, (_, at_ms) in clicks.items() if at_ms >= now_ms - HOUR_MS}
    assert (
        young <= held <= {each for each, (_, at_ms) in clicks.items() if at_ms >= now_ms - HOUR_MS - 360_000}
    )
    assert len(window) == len(held)
