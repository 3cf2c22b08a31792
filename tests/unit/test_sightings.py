"""Who opened from where: counted once each, forgotten by age, bounded however much comes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.resolve.matching import Retirement
from service.resolve.sightings import CROWD_LIMIT_MAX, INSTALLS_PER_NETWORK, Crowds, Retirements
from service.resolve.traits import Traits

NOW_MS = 1_785_585_600_000
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
HOME, OFFICE = 11, 12 + 2**63
IPHONE, PIXEL = Traits("ios", "iphone", 17), Traits("android", "pixel 9", 16)


def test_crowds_count_distinct_installs() -> None:
    """Each install once, on its network, as long as it opened within the window; the one that asks counts."""
    crowds = Crowds(3600)
    for install, age_ms in (
        ("anna", 0),
        ("ben", 5000),
        ("ben", 100),
        ("carl", HOUR_MS),
        ("dora", HOUR_MS + 1),
    ):
        crowds.note(HOME, install, NOW_MS - age_ms)
    assert crowds.count(HOME, "anna", NOW_MS) == 3
    assert crowds.count(HOME, "eve", NOW_MS) == 4
    assert crowds.count(OFFICE, "anna", NOW_MS) == 1


def test_an_install_that_is_seen_again_stays() -> None:
    """The last time counts, also when earlier ones are noted after it."""
    crowds = Crowds(3600)
    crowds.note(HOME, "ben", NOW_MS - 2 * HOUR_MS)
    crowds.note(HOME, "ben", NOW_MS)
    crowds.note(HOME, "ben", NOW_MS - HOUR_MS)
    assert crowds.count(HOME, "anna", NOW_MS) == 2


def test_an_install_is_noted_anew_once_a_minute() -> None:
    """Who opens again and again takes a row now and then."""
    crowds = Crowds(3600)
    for second in range(601):
        crowds.note(HOME, "ben", NOW_MS + second * 1000)
    assert len(crowds) == 11


def test_crowds_are_bounded() -> None:
    """By network, by count, and by age: as time goes by, what is noted makes room."""
    crowds = Crowds(3600, installs_max=1000)
    for number in range(500):
        crowds.note(HOME, f"{number}", NOW_MS + number)
    assert crowds.count(HOME, "x", NOW_MS + 500) == INSTALLS_PER_NETWORK + 1
    assert len(crowds) <= 2 * INSTALLS_PER_NETWORK + 1
    for number in range(15_000):
        crowds.note(number, "anna", NOW_MS + number)
        assert len(crowds) <= 1016
    assert [crowds.count(number, "x", NOW_MS) for number in (13_000, 14_100)] == [1, 2]
    for number in range(1500):
        crowds.note(OFFICE, "anna", NOW_MS + 10 * HOUR_MS + number * MINUTE_MS)
    assert 63 <= len(crowds) < 63 + 16  # an hour's, and the slack's
    assert crowds.count(14_100, "x", NOW_MS) == 1


@pytest.mark.parametrize("crowd_limit", [64, 65, 300, CROWD_LIMIT_MAX])
def test_as_many_are_counted_as_the_limit_needs(crowd_limit: int) -> None:
    """One install more than crowd_limit is counted, however the opens of a busy hour are mixed."""
    crowds = Crowds(3600, crowd_limit)
    for number in range(crowd_limit):
        crowds.note(HOME, f"{number}", NOW_MS + number)
    assert crowds.count(HOME, "0", NOW_MS + crowd_limit) == crowd_limit
    assert crowds.count(HOME, "one more", NOW_MS + crowd_limit) == crowd_limit + 1
    for number in range(2 * crowd_limit):
        crowds.note(HOME, f"{number * 7 % (2 * crowd_limit)}", NOW_MS + number * 500)
    assert crowds.count(HOME, "0", NOW_MS + crowd_limit * 1000) == crowd_limit + 1


def test_a_busy_network_goes_on_being_noted() -> None:
    """What comes in the next minute is new again."""
    crowds = Crowds(3600)
    for number in range(1000):
        crowds.note(HOME, f"{number}", NOW_MS)
    held = len(crowds)
    crowds.note(HOME, "the next minute's", NOW_MS + MINUTE_MS)
    assert len(crowds) == held + 1


@pytest.mark.parametrize("again", [0, 2 * MINUTE_MS])
def test_retirements_are_their_networks(again: int) -> None:
    """Noted twice, a retirement is one; it is gone with the window."""
    retirements = Retirements(3600)
    for at_ms in (NOW_MS, NOW_MS + again):
        retirements.note(HOME, Retirement("ben", "link_promo", at_ms, IPHONE))
    last = Retirement("ben", "link_promo", NOW_MS + again, IPHONE)
    assert retirements.of(HOME, NOW_MS + HOUR_MS) == (last,)
    assert retirements.of(OFFICE, NOW_MS) == ()
    assert retirements.of(HOME, NOW_MS + 5 * HOUR_MS) == ()


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.sampled_from(("anna", "ben", "0123456789abcdef")),
            st.integers(0, 3 * HOUR_MS),
            st.sampled_from(("link_promo", "link_sale", "")),
            st.sampled_from((IPHONE, PIXEL)),
        ),
        max_size=60,
    )
)
def test_retirements_are_found_as_they_were_noted(noted: list[tuple[int, str, int, str, Traits]]) -> None:
    """In whatever order they came, those of the window are there, as the last of their install and link."""
    retirements = Retirements(3600)
    latest: dict[tuple[int, str, str], int] = {}
    for network, install, at_ms, link_id, device in noted:
        retirements.note(network, Retirement(install, link_id, NOW_MS + at_ms, device))
        latest[network, install, link_id] = max(at_ms, latest.get((network, install, link_id), 0))
    for number in range(4):
        for now in (max(latest.values(), default=0) + later for later in (0, HOUR_MS // 2, HOUR_MS)):
            found = {(each.install, each.link_id): each for each in retirements.of(number, NOW_MS + now)}
            for (network, install, link_id), at_ms in latest.items():
                if network == number and at_ms >= now - HOUR_MS:
                    lag = NOW_MS + at_ms - found.pop((install, link_id)).at_ms
                    assert 0 <= lag <= MINUTE_MS  # what comes within a minute is not noted anew
            assert all(each.at_ms < NOW_MS + now - HOUR_MS for each in found.values())


def test_many_rows_are_found_across_blocks() -> None:
    """A network's sightings are its own, wherever its rows lie, with links and devices as noted."""
    retirements = Retirements(3600, installs_max=20_000)
    for number in range(30_000):
        device = (IPHONE, PIXEL)[number % 2]
        retirement = Retirement(f"{number:x}", f"link_{number % 7}", NOW_MS + number, device)
        retirements.note(number % 1000, retirement)
    assert 20_000 <= len(retirements) < 20_016
    found = retirements.of(123, NOW_MS)
    assert [int(each.install, 16) for each in found] == list(range(29_123, 9_999, -1000))
    for each in found:
        number = int(each.install, 16)
        assert each == Retirement(f"{number:x}", f"link_{number % 7}", NOW_MS + number, PIXEL)


def test_a_clock_that_was_ahead_switches_nothing_off() -> None:
    """One time from the future is one wrong row, and what comes after it is noted and found as ever."""
    crowds, retirements = Crowds(3600), Retirements(3600)
    day_ms = 24 * HOUR_MS
    crowds.note(OFFICE, "from the future", NOW_MS + day_ms)
    retirements.note(OFFICE, Retirement("from the future", "link_promo", NOW_MS + day_ms, IPHONE))
    for number in range(40):
        crowds.note(HOME, f"{number}", NOW_MS + number)
        retirements.note(HOME, Retirement(f"{number}", "link_promo", NOW_MS + number, IPHONE))
    assert crowds.count(HOME, "0", NOW_MS + 40) == 40
    assert len(retirements.of(HOME, NOW_MS + 40)) == 40


def test_a_chatty_install_hides_nobody() -> None:
    """However often one install opens, and others in turns, who opened before them is still known."""
    retirements, crowds = Retirements(3600), Crowds(3600)
    retirements.note(HOME, Retirement("yara", "link_promo", NOW_MS, IPHONE))
    for number in range(40):
        crowds.note(HOME, f"quiet {number}", NOW_MS)
    for second in range(3000):
        at_ms = NOW_MS + second * 1000
        retirements.note(HOME, Retirement("chatty", "link_promo", at_ms, IPHONE))
        crowds.note(HOME, f"chatty {second % 9}", at_ms)
    for number in range(200):
        retirements.note(HOME, Retirement("chatty", "link_promo", at_ms + number, IPHONE))
    retirements.note(HOME, Retirement("zoe", "link_promo", at_ms, PIXEL))
    assert [each.install for each in retirements.of(HOME, at_ms)] == ["zoe", "chatty", "yara"]
    assert crowds.count(HOME, "quiet 0", at_ms) == 49
    assert len(crowds) < 1000


def test_a_minutes_edge_lets_no_more_in() -> None:
    """Opens that arrive out of order around a minute's edge are bounded as those within one are."""
    crowds, edge_ms = Crowds(3600), NOW_MS // MINUTE_MS * MINUTE_MS
    for number in range(5000):
        crowds.note(HOME, f"{number}", edge_ms - number % 2)
    assert len(crowds) <= 3 * INSTALLS_PER_NETWORK


def test_who_is_retired_counts() -> None:
    """An install is one, whether it was seen or found."""
    crowds = Crowds(3600)
    crowds.note(HOME, "ben", NOW_MS)
    found = [
        Retirement(name, "link_promo", NOW_MS - age_ms, IPHONE) for name, age_ms in (("ben", 0), ("carl", 0))
    ]
    old = Retirement("dora", "link_promo", NOW_MS - HOUR_MS - 1, IPHONE)
    assert crowds.count(HOME, "anna", NOW_MS, [*found, old]) == 3


def test_at_most_so_many_retirements_are_asked_for() -> None:
    """A network with more is a crowd: the last ones noted are kept apart."""
    retirements = Retirements(3600)
    for number in range(100):
        retirements.note(HOME, Retirement(f"{number}", "link_promo", NOW_MS + number, IPHONE))
    assert [each.install for each in retirements.of(HOME, NOW_MS)] == [
        f"{number}" for number in range(99, 99 - INSTALLS_PER_NETWORK, -1)
    ]
