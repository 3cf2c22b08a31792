"""Who opened from where: counted once each, forgotten by age, bounded however much comes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.resolve.matching import Retirement
from service.resolve.sightings import INSTALLS_PER_NETWORK_MAX, Crowds, Retirements
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
    assert crowds.count(HOME, "x", NOW_MS + 500) == INSTALLS_PER_NETWORK_MAX + 1
    assert len(crowds) <= 2 * INSTALLS_PER_NETWORK_MAX + 1
    for number in range(15_000):
        crowds.note(number, "anna", NOW_MS + number)
        assert len(crowds) <= 1016
    assert [crowds.count(number, "x", NOW_MS) for number in (13_000, 14_100)] == [1, 2]
    for number in range(1500):
        crowds.note(OFFICE, "anna", NOW_MS + 10 * HOUR_MS + number * MINUTE_MS)
    assert 63 <= len(crowds) < 63 + 16  # an hour's, and the slack's
    assert crowds.count(14_100, "x", NOW_MS) == 1


def test_a_busy_network_goes_on_being_noted() -> None:
    """What comes in the next minute is new again."""
    crowds = Crowds(3600)
    for number in range(1000):
        crowds.note(HOME, f"{number}", NOW_MS)
    held = len(crowds)
    crowds.note(HOME, "the next minute's", NOW_MS + MINUTE_MS)
    assert len(crowds) == held + 1


@pytest.mark.parametrize("again", [0, MINUTE_MS])
def test_retirements_are_their_networks(again: int) -> None:
    """Noted twice, a retirement is one; it is gone with the window."""
    retirements = Retirements(3600)
    for at_ms in (NOW_MS, NOW_MS + again):
        retirements.note(HOME, Retirement("ben", "link_promo", at_ms, IPHONE))
    assert retirements.of(HOME) == (Retirement("ben", "link_promo", NOW_MS + again, IPHONE),)
    assert retirements.of(OFFICE) == ()
    retirements.note(OFFICE, Retirement("carl", "link_promo", NOW_MS + 5 * HOUR_MS, IPHONE))
    assert retirements.of(HOME) == ()


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
    """In whatever order they come, those of the window are there, as the last of their install and link."""
    retirements, latest_ms = Retirements(3600), 0
    expected: dict[tuple[int, str, str], Retirement] = {}
    for network, install, at_ms, link_id, device in noted:
        latest_ms = max(latest_ms, at_ms)
        retirement = Retirement(install, link_id, NOW_MS + at_ms, device)
        retirements.note(network, retirement)
        known = expected.get((network, install, link_id))
        if known is None or known.at_ms <= retirement.at_ms:
            expected[network, install, link_id] = retirement
    young = {each for each in expected.values() if each.at_ms >= NOW_MS + latest_ms - HOUR_MS}
    for number in range(4):
        wanted = {each for (network, *_), each in expected.items() if network == number and each in young}
        assert wanted <= set(retirements.of(number))
        assert {(each.install, each.link_id) for each in retirements.of(number)} <= {
            (install, link_id) for network, install, link_id in expected if network == number
        }


def test_many_rows_are_found_across_blocks() -> None:
    """A network's sightings are its own, wherever its rows lie, with links and devices as noted."""
    retirements = Retirements(3600, installs_max=20_000)
    for number in range(30_000):
        device = (IPHONE, PIXEL)[number % 2]
        retirement = Retirement(f"{number:x}", f"link_{number % 7}", NOW_MS + number, device)
        retirements.note(number % 1000, retirement)
    assert 20_000 <= len(retirements) < 20_016
    found = retirements.of(123)
    assert [int(each.install, 16) for each in found] == list(range(29_123, 9_999, -1000))
    for each in found:
        number = int(each.install, 16)
        assert each == Retirement(f"{number:x}", f"link_{number % 7}", NOW_MS + number, PIXEL)
