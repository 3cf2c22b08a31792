"""Which click an install is given: every rule by a table, and what must hold for all of them."""

from collections.abc import Mapping
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.device_traits import Fit, Traits, may_be_one_device
from service.domain.match_rules import (
    CLOCK_DIFFERENCE_S,
    EXPLANATIONS,
    ODDS_AGAINST,
    SECOND_CLICK_S,
    Candidate,
    Click,
    Decision,
    FirstOpen,
    NoMatch,
    Rejection,
    Retirement,
    Rules,
    confidence,
    decide,
    from_provider,
)
from service.domain.models import Link

NOW_MS = 1_785_585_600_000
IOS, ANDROID = Traits("ios", "", 17), Traits("android")
IPHONE = Traits("ios", "iphone", 17)
MAC = Traits("mac")
ANNA, BEN = "anna", "ben"
LATEST = Rules(ambiguous="latest")


def link(key: str = "promo", domain: str = "acme.link") -> Link:
    return Link(f"link_{key}", domain, key, f"https://acme.com/{key}")


def a_click(age_s: float = 42, click_id: str = "click", **fields: Any) -> Click:
    known = {"link": link(), "query": "", "device": IPHONE}
    return Click(click_id, NOW_MS - int(age_s * 1000), **{**known, **fields})


def an_open(**fields: Any) -> FirstOpen:
    return FirstOpen(**{"install": ANNA, "at_ms": NOW_MS, "device": IOS, **fields})


def decided(
    *clicks: Click,
    opened: FirstOpen | None = None,
    rules: Rules | None = None,
    installs: int = 1,
    owners: Mapping[str, str] | None = None,
    retirements: tuple[Retirement, ...] = (),
) -> Decision:
    return decide(
        opened or an_open(),
        clicks,
        rules or Rules(),
        installs=installs,
        owners=owners or {},
        retirements=retirements,
    )


def test_one_click_is_the_one() -> None:
    """A single candidate is chosen, and the decision says how old it is and how sure this is."""
    decision = decided(a_click())
    assert decision.click == a_click()
    assert (decision.reason, decision.candidates, decision.age_s) == (None, 1, 42)
    assert 0.9 < decision.confidence < 1
    (looked_at,) = decision.considered
    told = {"clickId": "click", "link": "acme.link/promo", "ageS": 42, "rejected": None}
    assert msgspec.to_builtins(looked_at) == told


@pytest.mark.parametrize(
    ("click", "rejected"),
    [
        (a_click(opened_app=True), Rejection.DEEP_LINK),
        (a_click(device=ANDROID), Rejection.SYSTEM),
        (a_click(device=Traits()), Rejection.SYSTEM),
        (a_click(device=Traits("mac", "mac")), Rejection.SYSTEM),
        (a_click(device=Traits("ios", "iphone", 16)), Rejection.VERSION),
        (a_click(-CLOCK_DIFFERENCE_S - 0.001), Rejection.LATER),
        (a_click(-CLOCK_DIFFERENCE_S), None),
        (a_click(3600), None),
        (a_click(3600.001), Rejection.TOO_OLD),
        (a_click(device=MAC), None),
        (a_click(device=Traits("ios")), None),
    ],
)
def test_what_counts_as_a_candidate(click: Click, rejected: Rejection | None) -> None:
    """Each rule rejects by itself, and the trace names it."""
    decision = decided(click)
    assert decision.considered[0].rejected == rejected
    assert decision.candidates == (rejected is None)
    assert decision.reason == (None if rejected is None else "no_candidate")
    assert (decision.click is None) is (rejected is not None)


def test_models_that_differ_are_two_devices() -> None:
    """An install that names its model is not given another model's click."""
    opened = an_open(device=Traits("android", "pixel 8", 14))
    decision = decided(a_click(device=Traits("android", "sm-s911b", 14)), opened=opened)
    assert decision.considered[0].rejected == Rejection.MODEL


def test_the_window_is_the_apps() -> None:
    """A click of three days ago counts for an app with a window of 72 hours."""
    three_days_s = 72 * 3600
    assert decided(a_click(three_days_s), rules=Rules(window_s=three_days_s)).click is not None
    assert decided(a_click(three_days_s + 1), rules=Rules(window_s=three_days_s)).click is None


def test_only_the_domain_that_was_asked_for() -> None:
    """An open on one of an app's domains takes no click on another."""
    opened = an_open(domain="go.acme.com")
    decision = decided(a_click(), a_click(50, "other", link=link(domain="go.acme.com")), opened=opened)
    assert decision.click is not None
    assert decision.click.id == "other"
    assert decision.considered[0].rejected == Rejection.DOMAIN


@pytest.mark.parametrize("device", [Traits(), Traits("", "", 17)])
def test_an_unknown_platform_never_matches(device: Traits) -> None:
    """Not even a click that says as little about itself, and whatever the policy."""
    for rules in (Rules(), LATEST):
        decision = decided(a_click(), a_click(device=Traits()), opened=an_open(device=device), rules=rules)
        assert (decision.click, decision.reason) == (None, "unknown_platform")


def test_no_click_is_told_from_no_candidate() -> None:
    """Nothing seen from a network is another reason than everything seen rejected."""
    assert decided().reason == "no_click"
    assert decided(a_click(device=ANDROID)).reason == "no_candidate"


def test_a_claimed_click_is_nobody_elses() -> None:
    """A click that another install has is no candidate; the next one may be."""
    owners = {"click": BEN}
    assert decided(a_click(), owners=owners).considered[0].rejected == Rejection.CLAIMED
    older = a_click(90, "older", link=link("other"))
    decision = decided(a_click(), older, owners=owners)
    assert (decision.click, decision.candidates) == (older, 1)


def test_an_install_keeps_its_own_click() -> None:
    """An install that asks again gets the click that it has, in a crowd and beside newer ones, too."""
    mine, newer = a_click(500, "mine"), a_click(5, "newer", link=link("other"))
    for rules in (Rules(), LATEST):
        decision = decided(mine, newer, owners={"mine": ANNA}, installs=50, rules=rules)
        assert decision.click == mine


@pytest.mark.parametrize(("installs", "reason"), [(1, None), (3, None), (4, "crowd"), (64, "crowd")])
def test_a_crowd_is_refused(installs: int, reason: str | None) -> None:
    """More than crowd_limit installs on one network, and no click from it is anybody's for sure."""
    decision = decided(a_click(), installs=installs)
    assert (decision.reason, decision.installs) == (reason, installs)
    assert decided(a_click(), installs=installs, rules=LATEST).reason == reason


def test_the_limit_of_a_crowd_is_the_apps() -> None:
    """crowd_limit moves it."""
    assert decided(a_click(), installs=2, rules=Rules(crowd_limit=1)).reason == "crowd"
    assert decided(a_click(), installs=9, rules=Rules(crowd_limit=9)).reason is None


def test_several_links_are_refused() -> None:
    """Two unclaimed clicks for two links, and nothing to tell them apart: none of them, or the latest."""
    clicks = (a_click(90, "older", link=link("other")), a_click())
    assert decided(*clicks).reason == "several_links"
    latest = decided(*clicks, rules=LATEST)
    assert (latest.click, latest.candidates) == (clicks[1], 2)
    assert latest.confidence < decided(clicks[1]).confidence


def test_several_clicks_of_one_link_are_not() -> None:
    """Whoever of them it was, the link is right: the latest click."""
    decision = decided(a_click(90, "older"), a_click(), a_click(200, "oldest"))
    assert (decision.click, decision.candidates) == (a_click(), 3)


@pytest.mark.parametrize(
    ("opened", "right", "wrong"),
    [
        (IOS, IPHONE, ANDROID),
        (IOS, IPHONE, MAC),
        (Traits("ios", "", 18), Traits("ios", "iphone", 18), IPHONE),
        (Traits("android", "pixel 8", 14), Traits("android", "pixel 8", 14), ANDROID),
        (Traits("android", "pixel 8", 14), ANDROID, Traits("android", "pixel 7", 14)),
        (Traits("android", "", 14), ANDROID, Traits("android", "pixel 7", 13)),
    ],
)
def test_devices_tell_clicks_apart(opened: Traits, right: Traits, wrong: Traits) -> None:
    """Of two links' clicks, the one whose system, model or version the other cannot have."""
    clicks = (a_click(90, "right", device=right), a_click(5, "wrong", device=wrong, link=link("other")))
    for rules in (Rules(), LATEST):
        decision = decided(*clicks, opened=an_open(device=opened), rules=rules)
        assert decision.click == clicks[0]


def test_a_version_alone_tells_nothing_apart() -> None:
    """Half of all phones have the same version: a click that does not say its own may be the right one."""
    clicks = (
        a_click(90, device=Traits("android", "", 14)),
        a_click(5, "other", device=ANDROID, link=link("other")),
    )
    assert decided(*clicks, opened=an_open(device=Traits("android", "", 14))).reason == "several_links"


def test_more_likely_wrong_than_right_is_refused() -> None:
    """A click of almost an hour ago, from a network of three installs, is a guess."""
    old = a_click(3500)
    assert decided(old).click == old
    decision = decided(old, installs=3)
    assert (decision.click, decision.reason) == (None, "unlikely")
    assert decided(old, installs=3, rules=LATEST).reason == "unlikely"
    assert decided(old, installs=3, rules=Rules(min_confidence=0)).click == old


# One phone's click in an in-app browser, and another one in the system's, two minutes later.
IN_APP = a_click(180, "in-app", device=Traits("ios", "iphone14,5", 17))
IN_SAFARI = a_click(60, "in-safari", device=IPHONE)


def test_a_phones_second_click_is_used_up_with_its_first() -> None:
    """A room-mate's install is given neither click; once the claim is released, both are free again."""
    anna = decided(IN_APP, IN_SAFARI)
    assert (anna.click, anna.candidates) == (IN_SAFARI, 2)
    ben = an_open(install=BEN)
    decision = decided(IN_APP, IN_SAFARI, opened=ben, owners={IN_SAFARI.id: ANNA}, installs=2)
    assert (decision.click, decision.reason) == (None, "no_candidate")
    assert [each.rejected for each in decision.considered] == [Rejection.CLAIMED, Rejection.USED_UP]
    assert decided(IN_APP, IN_SAFARI, opened=ben, installs=2).click == IN_SAFARI


@pytest.mark.parametrize(
    ("click", "rejected"),
    [
        (a_click(60 + SECOND_CLICK_S, "other"), Rejection.USED_UP),
        (a_click(60.001 + SECOND_CLICK_S, "other"), None),
        (a_click(60 - SECOND_CLICK_S, "other"), Rejection.LATER),
        (a_click(0, "other"), Rejection.USED_UP),
        (a_click(42, "other", link=link("other")), None),
        (a_click(42, "other", device=Traits("ios", "ipad", 17)), None),
        (a_click(42, "other", device=MAC), None),  # no iPhone calls itself a Mac
        (a_click(42, "other", device=Traits("ios", "iphone", 16)), Rejection.VERSION),
    ],
)
def test_what_a_claimed_click_uses_up(click: Click, rejected: Rejection | None) -> None:
    """Clicks on its link within minutes that the phone which made it may have made, too."""
    decision = decided(click, IN_SAFARI, opened=an_open(install=BEN), owners={IN_SAFARI.id: ANNA})
    (considered,) = [each for each in decision.considered if each.click_id == "other"]
    assert considered.rejected == rejected


def test_a_click_that_names_the_very_model_is_not_used_up() -> None:
    """Chrome does not say which Android it is on: the click from a Pixel 8 is the Pixel 8's install's."""
    pixel = Traits("android", "pixel 8", 14)
    clicks = (a_click(60, "chrome", device=ANDROID), a_click(90, "pixel", device=pixel))
    owners = {"chrome": ANNA}
    assert decided(*clicks, opened=an_open(install=BEN, device=pixel), owners=owners).click == clicks[1]
    assert decided(*clicks, opened=an_open(install=BEN, device=ANDROID), owners=owners).click is None
    both = (a_click(60, "chrome", device=pixel), clicks[1])
    assert decided(*both, opened=an_open(install=BEN, device=pixel), owners=owners).click is None


def test_an_install_keeps_its_own_click_beside_anothers() -> None:
    """Two people who clicked within minutes and were both given a click are both given it again."""
    owners = {IN_APP.id: ANNA, IN_SAFARI.id: BEN}
    assert decided(IN_APP, IN_SAFARI, owners=owners).click == IN_APP
    assert decided(IN_APP, IN_SAFARI, owners=owners, retirements=(a_retirement(),)).click == IN_APP


def test_a_click_left_over_is_no_surer() -> None:
    """The second of two installs is given the other click, with less confidence than the first."""
    clicks = (a_click(42), a_click(42 + 2 * SECOND_CLICK_S, "older"))
    anna = decided(*clicks)
    ben = decided(*clicks, opened=an_open(install=BEN), owners={"click": ANNA}, installs=2)
    assert (anna.click, ben.click) == clicks
    assert ben.confidence < anna.confidence
    assert ben.confidence < decided(clicks[1], opened=an_open(install=BEN), installs=2).confidence


def test_a_click_that_stronger_evidence_uses_up_lowers_no_confidence() -> None:
    """It certainly belongs to the install that was found, so it says nothing against another link's click."""
    clicks = (a_click(), a_click(60, "other", link=link("other")))
    for owners in ({}, {"click": BEN}):
        decision = decided(*clicks, owners=owners, retirements=(a_retirement(),))
        assert decision.click == clicks[1]
        assert decision.confidence == decided(clicks[1]).confidence


def a_retirement(**fields: Any) -> Retirement:
    known = {"install": BEN, "link_id": "link_promo", "at_ms": NOW_MS - 10_000, "device": IOS}
    return Retirement(**{**known, **fields})


@pytest.mark.parametrize(
    ("retirement", "rejected"),
    [
        (a_retirement(), Rejection.RETIRED),
        (a_retirement(link_id="link_other"), None),
        (a_retirement(device=ANDROID), None),
        (a_retirement(device=Traits("ios", "", 18)), None),
        (a_retirement(install=ANNA), None),
        (a_retirement(at_ms=NOW_MS - 42_000 - 60_000), Rejection.RETIRED),
        (a_retirement(at_ms=NOW_MS - 42_000 - 60_001), None),
    ],
)
def test_stronger_evidence_uses_a_click_up(retirement: Retirement, rejected: Rejection | None) -> None:
    """A housemate found by deep link, referrer or clipboard takes the clicks on that link along.

    Those before their open that their device may have made; nobody loses their own.
    """
    assert decided(a_click(), retirements=(retirement,)).considered[0].rejected == rejected


def test_dubs_own_answer_is_one_more_candidate() -> None:
    """It is under the same rules: claimed, crowded or beside another link's click, it is not given."""
    told = from_provider("dubs", link("other"), an_open(), Rules())
    assert decided(told).click == told
    assert decided(told, owners={"dubs": BEN}).click is None
    assert decided(told, installs=4).reason == "crowd"
    assert decided(told, a_click()).reason == "several_links"
    assert decided(told, opened=an_open(device=Traits())).click is None


def test_every_reason_is_explained() -> None:
    """Each reason for no match has its words."""
    assert set(EXPLANATIONS) == set(get_args(NoMatch))


devices = st.sampled_from(
    [IOS, IPHONE, ANDROID, MAC, Traits(), Traits("ios", "iphone", 16), Traits("ios", "iphone14,5", 17)]
)
clicks = st.builds(
    a_click,
    st.integers(-120, 4000),
    click_id=st.sampled_from("abcdefghij"),
    link=st.sampled_from([link("one"), link("two"), link("three", "go.acme.com")]),
    device=devices,
    opened_app=st.booleans(),
)
several = st.lists(clicks, max_size=8, unique_by=lambda click: click.id)
opens = st.builds(an_open, device=devices, domain=st.sampled_from([None, "acme.link"]))
rules = st.builds(
    Rules, window_s=st.sampled_from([600, 3600]), ambiguous=st.sampled_from(["refuse", "latest"])
)
owners = st.dictionaries(st.sampled_from("abcdefghij"), st.sampled_from([ANNA, BEN]))
fits = st.sampled_from(list(Fit))
candidates = st.builds(Candidate, st.just(a_click()), fits, st.floats(0, 260_000))


@given(several, opens, rules, st.integers(1, 6), owners)
def test_what_is_chosen_was_not_rejected(
    seen: list[Click], opened: FirstOpen, rules: Rules, installs: int, owners: dict[str, str]
) -> None:
    """There is a click or a reason; every click was looked at once; a chosen one broke no rule."""
    decision = decided(*seen, opened=opened, rules=rules, installs=installs, owners=owners)
    assert (decision.click is None) is (decision.reason is not None)
    assert sorted(each.click_id for each in decision.considered) == sorted(click.id for click in seen)
    assert decision.candidates == sum(each.rejected is None for each in decision.considered)
    if decision.click is not None:
        (chosen,) = [each for each in decision.considered if each.click_id == decision.click.id]
        assert chosen.rejected is None
        assert owners.get(decision.click.id, ANNA) == ANNA
        assert 0 < decision.confidence <= 1


@given(several, opens, rules, st.randoms())
def test_the_order_of_events_decides_nothing(
    seen: list[Click], opened: FirstOpen, rules: Rules, random: Any
) -> None:
    """Clicks that arrive in another order are decided the same."""
    shuffled = random.sample(seen, len(seen))
    assert decided(*seen, opened=opened, rules=rules) == decided(*shuffled, opened=opened, rules=rules)


@given(several, clicks, opens, rules, st.integers(1, 6))
def test_one_more_candidate_adds_no_confidence(
    seen: list[Click], more: Click, opened: FirstOpen, rules: Rules, installs: int
) -> None:
    """Where there is an answer with and without it: also if the new one is the fresher, better and chosen."""
    seen = [each for each in seen if each.id != more.id]
    before = decided(*seen, opened=opened, rules=rules, installs=installs)
    after = decided(*seen, more, opened=opened, rules=rules, installs=installs)
    if before.click is not None and after.click is not None:
        assert after.confidence <= before.confidence


@given(several, opens, rules, st.integers(1, 6), owners, st.sampled_from("abcdefghij"))
def test_what_another_install_is_given_adds_no_confidence(
    seen: list[Click],
    opened: FirstOpen,
    rules: Rules,
    installs: int,
    owners: dict[str, str],
    claimed: str,
) -> None:
    """Where there is an answer before and after a click is given to another install."""
    before = decided(*seen, opened=opened, rules=rules, installs=installs, owners=owners)
    after = decided(*seen, opened=opened, rules=rules, installs=installs, owners={**owners, claimed: BEN})
    if before.click is not None and after.click is not None:
        assert after.confidence <= before.confidence


@given(several, opens, rules, st.integers(1, 6))
def test_who_comes_second_is_no_surer(
    seen: list[Click], opened: FirstOpen, rules: Rules, installs: int
) -> None:
    """Of two installs on devices that say the same, the second is given a click with no more confidence."""
    first = decided(*seen, opened=opened, rules=rules, installs=installs)
    if first.click is None:
        return
    after = msgspec.structs.replace(opened, install=BEN)
    second = decided(
        *seen, opened=after, rules=rules, installs=installs + 1, owners={first.click.id: opened.install}
    )
    assert second.click is None or second.confidence <= first.confidence
    assert second.click is None or not (
        second.click.link == first.click.link
        and abs(second.click.at_ms - first.click.at_ms) <= SECOND_CLICK_S * 1000
        and may_be_one_device(second.click.device, first.click.device)
        and second.click.device.model != opened.device.model
    )


@given(st.lists(candidates, min_size=1, max_size=6), st.integers(1, 64), st.floats(0, 100_000), st.data())
def test_confidence_never_rises(
    fitting: list[Candidate], installs: int, older_s: float, data: st.DataObject
) -> None:
    """Not with age, not with one more click, not with one more install, not with a poorer fit."""
    before = confidence(fitting, installs)
    assert 0 < before <= 1
    assert confidence([*fitting, data.draw(candidates)], installs) <= before
    assert confidence(fitting, installs + 1) <= before
    changed = data.draw(st.sampled_from(fitting))
    others = [each for each in fitting if each is not changed]
    older = msgspec.structs.replace(changed, age_s=changed.age_s + older_s)
    assert confidence([*others, older], installs) <= before
    poorer = data.draw(st.sampled_from([fit for fit in Fit if fit <= changed.fit]))
    assert confidence([*others, msgspec.structs.replace(changed, fit=poorer)], installs) <= before


def test_odds_fall_with_the_fit() -> None:
    """Every fit has its odds, and a better one has less against it."""
    assert list(ODDS_AGAINST) == list(Fit)
    assert sorted(ODDS_AGAINST.values(), reverse=True) == list(ODDS_AGAINST.values())
