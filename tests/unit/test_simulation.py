"""The simulated cities are what they say they are, and their score is the truth's."""

import ast
from pathlib import Path

import pytest
from msgspec import structs

from tests.bench import simulation
from tests.bench.measures.matching import TEST_SEEDS
from tests.bench.simulation.__main__ import tuning_seed
from tests.bench.simulation.city import Clicked, Days, Opened, Town
from tests.bench.simulation.parameters import CITIES, DENSITIES, City
from tests.bench.simulation.play import play, same_24_and_platform, same_address
from tests.bench.simulation.run import LATEST, REFUSE, SAME_ADDRESS, TOUCHES, Case, cases, simulate, table
from tests.bench.simulation.score import Truth, added, tenths

HOME, NEIGHBOUR = "84.0.0.1", "84.0.0.2"
SMALL = structs.replace(City(), first_opens=300)
SEED = "of tests"


def clicked(click_id: str, at: float, *, ip: str = HOME, link: int = 1, person: int = 1) -> Clicked:
    return Clicked(click_id, at, at, at + 1, link, ip, ip, None, "iOS", person)


def opened(install: str, at: float, *, ip: str = HOME, brought_by: str | None = None) -> Opened:
    number = int(install.partition("-")[0])
    return Opened(
        at, number, install, ip, "ios", "Acme/12 CFNetwork/1 Darwin/24", first=True, brought_by=brought_by
    )


def test_a_seed_is_a_city() -> None:
    """The same seed lives the same days, another one others."""
    assert Town(SMALL, SEED).live() == Town(SMALL, SEED).live()
    assert Town(SMALL, SEED).live() != Town(SMALL, "another").live()


def test_nothing_can_be_fitted_to_the_test_seeds() -> None:
    """They are in the measure alone, which nothing of the simulation imports; its own seeds are others."""
    assert not {tuning_seed(number) for number in range(100)} & set(TEST_SEEDS)
    for path in Path(simulation.__file__).parent.glob("*.py"):
        imported = [
            node.module or ""
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.ImportFrom)
        ]
        assert imported or path.name == "__init__.py"
        assert not [name for name in imported if name.startswith("tests.bench.measures")]
        assert not [seed for seed in TEST_SEEDS if seed in path.read_text("utf-8")]


def test_the_cities_have_all_that_they_promise() -> None:
    """Every kind of network, click, touch and install; shares from 10 % to 90 % organic; all densities."""
    city = structs.replace(CITIES["metropolis"], first_opens=1500, first_opens_per_1000=20.0, eu=0.2)
    days = Town(city, SEED).live()
    places = ("84.", "85.", "61.", "31.", "45.", "62.", "141.", "172.224.", "104.", "2a00:", "2a01:")
    assert all(any(click.ip.startswith(place) for click in days.clicks) for place in places)
    assert {click.system for click in days.clicks} == {"iOS", "Android", "Mac", "Windows"}
    assert any(not click.shown_ip and click.eu and click.touched for click in days.clicks)
    assert any(click.visible_at > click.at + 10 for click in days.clicks)
    first = [each for each in days.opens if each.first]
    assert {"link", "organic", ""} == {each.referrer for each in first}
    assert any(each.stronger for each in first)
    assert any(each.install.endswith("-1") for each in first)
    assert len({each.install for each in first}) == len(first)
    assert {0.1, 0.5, 0.9} <= {each.organic for each in CITIES.values()}
    assert max(DENSITIES) >= 100 * min(DENSITIES)


@pytest.mark.parametrize("organic", [0.1, 0.9])
def test_organic_installs_have_their_share(organic: float) -> None:
    """Of first opens, as many were brought by no click as the city says, or by how much a seed varies it."""
    days = Town(structs.replace(SMALL, first_opens=1500, organic=organic, reinstalls=0), SEED).live()
    first = [each for each in days.opens if each.first]
    found = sum(each.brought_by is None for each in first) / len(first)
    assert found == pytest.approx(organic, abs=0.12)


def test_truth_is_kept() -> None:
    """What brought an install is a click of the same person's, before it."""
    days = Town(SMALL, SEED).live()
    clicks = {click.id: click for click in days.clicks}
    brought = [each for each in days.opens if each.brought_by is not None]
    assert brought
    for each in brought:
        assert clicks[each.brought_by or ""].person == each.person
        assert clicks[each.brought_by or ""].at < each.at


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
    score = Truth(days).score([*answers[:2], structs.replace(answers[2], click=None), answers[3]])
    assert (score.first_opens, score.matches, score.matchable) == (4, 2, 2)
    assert (score.precision, score.recall, score.recall_calm) == (0.5, 0.5, 0.5)
    assert score.errors == {"organic, ": 1}
    assert score.given_twice == 0
    assert added([score, score]).matches == 4


def test_either_tap_on_a_link_is_right() -> None:
    """Somebody who taps a link in two browsers was brought by both; another link's click is wrong."""
    days = Days(
        [clicked("first", 1000), clicked("again", 1030), clicked("else", 1035, link=2)],
        [opened("1-0", 1100, brought_by="again")],
    )
    (answer,) = play(days, "latest")
    for click, right in (("first", 1), ("again", 1), ("else", 0)):
        assert Truth(days).score([structs.replace(answer, click=click)]).right == right


def test_simple_rules_are_simple() -> None:
    """The latest click from an address, or from its /24 and platform, however often it was given before."""
    days = Days(
        [clicked("older", 1000), clicked("latest", 1500, link=2)],
        [opened("1-0", 1600), opened("2-0", 1700), opened("3-0", 1600, ip=NEIGHBOUR), opened("4-0", 9000)],
    )
    assert [each.click for each in same_address(days)] == ["latest", "latest", None, None]
    assert [each.click for each in same_24_and_platform(days)] == ["latest", "latest", "latest", None]
    assert Truth(days).score(same_address(days)).given_twice == 1


@pytest.mark.parametrize("city", ["carrier NAT", "cafés"])
def test_matches_are_right_in_small_cities_too(city: str) -> None:
    """No click is given twice; precision is above the simple rule's; touches find more, also in the EU."""
    case = Case(city, 20.0, SEED)
    scores = simulate(case, first_opens=900)
    for rule in (REFUSE, LATEST, TOUCHES):
        assert scores[rule].given_twice == 0
        assert scores[rule].matches > 40
    assert scores[REFUSE].precision > max(scores[SAME_ADDRESS].precision, 0.95)
    assert scores[TOUCHES].recall > scores[REFUSE].recall
    assert scores[TOUCHES].eu_calm > 0
    assert scores[REFUSE].eu_calm == 0
    assert any(line.startswith(city) for line in table({case: scores}))


def test_every_city_is_lived_at_every_density() -> None:
    found = cases([SEED])
    assert len(found) == len(set(found)) == len(CITIES) * len(DENSITIES)


def test_calibration_is_in_tenths() -> None:
    """Each tenth has what was stated in it and how much of it was right."""
    found = tenths([(0.95, True), (0.95, False), (1.0, True), (0.05, False)])
    assert list(found) == ["0.0 to 0.1", "0.9 to 1.0"]
    assert (found["0.9 to 1.0"].matches, found["0.9 to 1.0"].right) == (3, 0.667)
