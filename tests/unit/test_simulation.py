"""The simulated city is what it says it is, and its score is the truth's."""

import msgspec
import pytest

from tests.bench.simulation.city import Clicked, Days, Opened, Town
from tests.bench.simulation.parameters import REPORT_SEEDS, TUNING_SEEDS, City
from tests.bench.simulation.play import networks, play, same_24_and_platform, same_address
from tests.bench.simulation.run import simulate
from tests.bench.simulation.score import Truth, calibration_error, tenths

HOME, NEIGHBOUR = "84.0.0.1", "84.0.0.2"
SMALL = msgspec.structs.replace(City(), people=1500, bursts=1)


def clicked(click_id: str, at: float, *, ip: str = HOME, link: int = 1, person: int = 1) -> Clicked:
    return Clicked(click_id, at, at, at + 1, link, ip, ip, None, "iOS", person)


def opened(install: str, at: float, *, ip: str = HOME, brought_by: str | None = None) -> Opened:
    number = int(install.partition("-")[0])
    return Opened(
        at, number, install, ip, "ios", "Acme/12 CFNetwork/1 Darwin/24", first=True, brought_by=brought_by
    )


def test_a_seed_is_a_city() -> None:
    """The same seed lives the same days, another one others; tuning and reporting share none."""
    assert Town(SMALL, 1).live() == Town(SMALL, 1).live()
    assert Town(SMALL, 1).live() != Town(SMALL, 2).live()
    assert not set(TUNING_SEEDS) & set(REPORT_SEEDS)


def test_the_city_has_all_that_it_promises() -> None:
    """Homes, offices, carriers, IPv6, relays, a VPN and cafés; every kind of click and install."""
    days = Town(msgspec.structs.replace(SMALL, people=6000), 1).live()
    places = ("84.", "61.", "31.", "45.90.", "62.0.1.", "172.224.", "104.28.", "2a00:", "2a01:")
    assert all(any(click.ip.startswith(place) for click in days.clicks) for place in places)
    assert {click.system for click in days.clicks} == {"iOS", "Android", "Mac", "Windows"}
    assert any(not click.shown_ip for click in days.clicks)
    assert any(click.visible_at > click.at + 10 for click in days.clicks)
    first = [each for each in days.opens if each.first]
    assert any(each.brought_by for each in first)
    assert any(not each.brought_by for each in first)
    assert any(each.stronger for each in first)
    assert any(each.install.endswith("-1") for each in first)
    assert len({each.install for each in first}) == len(first)


def test_truth_is_kept() -> None:
    """What brought an install is a click of the same person's, before it."""
    days = Town(SMALL, 3).live()
    clicks = {click.id: click for click in days.clicks}
    for each in days.opens:
        if each.brought_by is not None:
            assert clicks[each.brought_by].person == each.person
            assert clicks[each.brought_by].at < each.at


def test_the_score_is_the_truths() -> None:
    """One right match, one wrong, one missed, one that could not be: each counts as what it is."""
    days = Days(
        [
            clicked("right", 1000),
            clicked("wrong", 5000, ip=NEIGHBOUR, person=2),
            clicked("missed", 9000, person=4),
            clicked("not shown", 9000, person=4, ip="10.0.0.1"),
        ],
        [
            opened("1-0", 1100, brought_by="right"),
            opened("3-0", 5100, ip=NEIGHBOUR),
            opened("4-0", 9100, brought_by="missed", ip=HOME),
            opened("5-0", 9200, brought_by="not shown", ip=HOME),
        ],
    )
    answers = play(days, "refuse")
    assert [each.click for each in answers] == ["right", "wrong", "missed", None]
    score = Truth(days, networks()).score(
        [*answers[:2], msgspec.structs.replace(answers[2], click=None), answers[3]]
    )
    assert (score.first_opens, score.matches, score.matchable) == (4, 2, 2)
    assert (score.precision, score.recall) == (0.5, 0.5)
    assert (score.crowd_errors, score.given_twice) == (0, 0)


def test_simple_rules_are_simple() -> None:
    """The latest click from an address, or from its /24 and platform, however often it was given before."""
    days = Days(
        [clicked("older", 1000), clicked("latest", 1500, link=2)],
        [opened("1-0", 1600), opened("2-0", 1700), opened("3-0", 1600, ip=NEIGHBOUR), opened("4-0", 9000)],
    )
    assert [each.click for each in same_address(days)] == ["latest", "latest", None, None]
    assert [each.click for each in same_24_and_platform(days)] == ["latest", "latest", "latest", None]
    assert Truth(days, networks()).score(same_address(days)).given_twice == 1


@pytest.mark.parametrize("seed", [7, 8])
def test_no_click_is_given_twice_in_any_city(seed: int) -> None:
    """By the real rules never; precision is above the simple rules'."""
    scores = simulate(seed, msgspec.structs.replace(SMALL, people=6000))
    assert scores["refuse"].given_twice == scores["latest"].given_twice == 0
    assert scores["refuse"].matches > 0
    assert scores["refuse"].precision > scores["same IP, latest click"].precision


def test_calibration_is_in_tenths() -> None:
    """Each tenth has what was stated in it and how much of it was right; the error is their mean distance."""
    stated = [(0.95, True), (0.95, False), (1.0, True), (0.05, False)]
    found = tenths(stated)
    assert list(found) == ["0.0 to 0.1", "0.9 to 1.0"]
    assert (found["0.9 to 1.0"].matches, found["0.9 to 1.0"].right) == (3, 0.667)
    assert calibration_error(stated) == pytest.approx((0.05 + 3 * abs(0.967 - 0.667)) / 4)
    assert calibration_error([]) == 0
