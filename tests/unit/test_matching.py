"""Which click an install is given: every rule by a table, and what must hold for all of them."""

from collections.abc import Mapping
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec import structs

from service.domain.device_traits import Traits
from service.domain.match_odds import DEFAULT_RATES, Rates, Signals, delay_density
from service.domain.match_rules import (
    CLOCK_DIFFERENCE_S,
    EXPLANATIONS,
    SECOND_CLICK_S,
    Click,
    Decision,
    FirstOpen,
    NoMatch,
    Rejection,
    Retirement,
    Rules,
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
ANY = Rules(min_confidence=0)


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
    rates: Rates = DEFAULT_RATES,
) -> Decision:
    return decide(
        opened or an_open(),
        clicks,
        rules or Rules(),
        installs=installs,
        owners=owners or {},
        retirements=retirements,
        rates=rates,
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
    decision = decided(click, rules=ANY)
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
    assert (
        decided(a_click(three_days_s), rules=Rules(window_s=three_days_s, min_confidence=0)).click is not None
    )
    assert (
        decided(a_click(three_days_s + 1), rules=Rules(window_s=three_days_s, min_confidence=0)).click is None
    )


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
    older = a_click(90, "older", link=link("other"), device=Traits("ios", "ipad", 17))
    decision = decided(a_click(), older, owners=owners)
    assert (decision.click, decision.candidates) == (older, 1)


def test_a_click_beside_a_taken_one_is_doubted() -> None:
    """On a quiet network one phone has likely made both, within a quarter of an hour, if it can have."""
    other = a_click(200, "other", link=link("other"))
    beside, beside_an_ipads, long_before = (
        a_click(60, "taken"),
        a_click(60, "taken", device=Traits("ios", "ipad", 17)),
        a_click(1101, "taken"),
    )
    for owners, retirements in (({"taken": BEN}, ()), ({}, (a_retirement(),))):
        doubted, *believed = (
            decided(other, taken, rules=ANY, owners=owners, retirements=retirements).confidence
            for taken in (beside, beside_an_ipads, long_before)
        )
        assert 1 - doubted > 3 * (1 - min(believed))


def test_among_many_people_a_click_beside_a_taken_one_is_another_persons() -> None:
    """How much a taken click says about another link's depends on how many people click there."""
    other, taken = a_click(200, "other", link=link("other")), a_click(60, "taken")
    owners = {"taken": BEN}
    alone, beside = (
        [
            decided(other, *more, rules=ANY, owners=owners, installs=installs).confidence
            for installs in (1, 300)
        ]
        for more in ((), (taken,))
    )
    assert beside[0] < alone[0] / 2
    assert beside[1] > alone[1] / 2


def test_a_click_that_seems_to_be_later_is_doubted() -> None:
    """Clocks differ a little: such a click is believed on a quiet network, and not on a busy one."""
    later, at_once = a_click(-10), a_click(0)
    installed = an_open(installed_ms=NOW_MS - 20_000)
    for before, after, opened in (
        (at_once, later, an_open()),
        (a_click(20), a_click(10), installed),  # the phone's clock says when the app was installed
    ):
        assert decided(before, opened=opened, installs=20).click == before
        assert decided(after, opened=opened, installs=20).reason == "crowd"
        assert decided(after, opened=opened).click == after


def test_an_install_keeps_its_own_click() -> None:
    """An install that asks again gets the click that it has, in a crowd and beside newer ones, too."""
    mine, newer = a_click(500, "mine"), a_click(5, "newer", link=link("other"))
    for rules in (Rules(), LATEST):
        decision = decided(mine, newer, owners={"mine": ANNA}, installs=50, rules=rules)
        assert decision.click == mine


@pytest.mark.parametrize(("installs", "age_s", "reason"), [(1, 900, None), (9, 900, "crowd"), (9, 42, None)])
def test_a_busy_network_needs_a_fresh_click(installs: int, age_s: int, reason: str | None) -> None:
    """Among many devices an older click may be anybody's; a click of a moment ago is not."""
    decision = decided(a_click(age_s), installs=installs)
    assert (decision.reason, decision.installs) == (reason, installs)
    assert decided(a_click(age_s), installs=installs, rules=LATEST).reason == reason


def test_other_peoples_clicks_make_a_crowd() -> None:
    """Also those that cannot have led to the install: they say how many people use the network."""
    click = a_click(900)
    androids = [
        a_click(600 * each, f"android {each}", device=ANDROID, link=link(str(each))) for each in range(9)
    ]
    assert decided(click).click == click
    assert decided(click, *androids).reason == "crowd"


def test_a_phone_that_clicks_twice_is_no_crowd() -> None:
    """Two clicks on one link within minutes count as one device."""
    click = a_click(300, device=Traits("ios", "iphone", 17))
    alone = decided(click).confidence
    again = [a_click(3000 + each, f"again {each}", device=ANDROID) for each in (0, 100)]
    apart = [a_click(3000 - each, f"apart {each}", device=ANDROID) for each in (0, 1000)]
    twice, two = decided(click, *again).confidence, decided(click, *apart).confidence
    assert two < twice < alone


def test_an_ipv6_network_is_a_home() -> None:
    """Nobody else is expected on a /64: an old click there is believed more."""
    old = a_click(3000)
    assert decided(old, opened=an_open(is_home=True)).confidence > decided(old).confidence


def test_several_links_are_refused() -> None:
    """Two people's clicks for two links, and nothing to tell them apart: none of them, or the latest."""
    clicks = (a_click(1000, "older", link=link("other"), device=Traits("ios", "ipad", 17)), a_click(990))
    assert decided(*clicks).reason == "several_links"
    latest = decided(*clicks, rules=LATEST)
    assert (latest.click, latest.candidates) == (clicks[1], 2)
    assert 0.4 < latest.confidence < 0.6


def what_an_older_click_leaves(
    device: Traits = IPHONE, opened: FirstOpen | None = None, installs: int = 1
) -> float:
    """Return the share of confidence in a click that is left beside an older one on another link."""
    clicks = (a_click(300, device=device), a_click(400, "older", device=device, link=link("other")))
    both, alone = (
        decided(*each, opened=opened or an_open(), rules=ANY, installs=installs)
        for each in (clicks, clicks[:1])
    )
    assert both.click == clicks[0]
    return both.confidence / alone.confidence


def test_the_last_link_that_a_phone_clicked_counts() -> None:
    """Where nobody else is, clicks within minutes on two links are one person's, and the last one led on."""
    assert what_an_older_click_leaves() > 0.99
    assert what_an_older_click_leaves(installs=100) < 0.9


def test_a_phone_is_known_again_by_its_model() -> None:
    """Among many people, clicks for two links are one phone's sooner if both name one exact model."""
    opened = an_open(device=Traits("android", "pixel 8", 14))
    assert what_an_older_click_leaves(Traits("android", "", 14), opened, installs=60) < 0.8
    assert what_an_older_click_leaves(opened.device, opened, installs=60) > 0.9


def test_a_second_browser_takes_nothing_from_the_first() -> None:
    """Of one phone's clicks on a link, that of an app's browser counts: it names the model."""
    in_app = a_click(100, device=Traits("android", "pixel 8", 14))
    opened = an_open(device=in_app.device)
    alone = decided(in_app, opened=opened).confidence
    for age_s in (60, 160):
        both = decided(in_app, a_click(age_s, "again", device=Traits("android", "", 14)), opened=opened)
        assert both.click == in_app
        assert both.confidence == pytest.approx(alone, abs=0.002)


def test_a_click_of_one_phone_says_nothing_of_another_phones() -> None:
    """Two phones clicked two links. Another click of the first phone does not decide between them."""
    clicks = [
        a_click(40, device=Traits("ios", "iphone14,5", 17)),
        a_click(60, "another's", device=Traits("ios", "iphone15,2", 17), link=link("other")),
    ]
    apart = decided(*clicks, rules=ANY)
    assert 0.4 < apart.confidence < 0.6
    assert decided(*clicks, a_click(50, "again", device=IPHONE), rules=ANY).confidence <= apart.confidence


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
    for rules in (ANY, LATEST):
        decision = decided(*clicks, opened=an_open(device=opened), rules=rules)
        assert decision.click == clicks[0]


def test_a_guess_is_refused() -> None:
    """A click of almost an hour ago, from a network of a few installs, is a guess."""
    old = a_click(3500)
    decision = decided(old, rules=Rules(min_confidence=0.99))
    assert (decision.click, decision.reason) == (None, "unlikely")
    assert decided(old, rules=Rules(min_confidence=0.99, ambiguous="latest")).reason == "unlikely"
    assert decided(old, installs=3, rules=ANY).click == old


def test_the_delay_ends_with_the_install() -> None:
    """An app that is opened long after its install was brought by a click from before the install.

    Half an hour is long for an install, and not for an open: some open the app long after its install.
    """
    click = a_click(1800)
    soon, late = (an_open(installed_ms=click.at_ms + delay_ms) for delay_ms in (30_000, 1_795_000))
    assert decided(click, opened=soon).confidence > decided(click).confidence
    assert decided(click, opened=late).confidence < decided(click).confidence


@pytest.mark.parametrize(
    ("signal", "equal", "other"),
    [("screen", "390x844@3", "430x932@3"), ("language", "de-de", "tr-tr"), ("timezone", "Here", "Elsewhere")],
)
def test_signals_tell_clicks_apart(signal: str, equal: str, other: str) -> None:
    """Of two clicks, the one with the open's screen, language or time zone; unknown ones say nothing."""
    opened = an_open(signals=Signals(**{signal: equal}))
    right = a_click(600, "right", link=link("right"), signals=Signals(**{signal: equal}))
    ipad = Traits("ios", "ipad", 17)
    wrong = a_click(590, "wrong", link=link("wrong"), device=ipad, signals=Signals(**{signal: other}))
    unknown = structs.replace(wrong, signals=Signals())
    told = decided(right, wrong, opened=opened, rules=ANY)
    assert told.click == right
    assert told.confidence > decided(right, unknown, opened=opened, rules=ANY).confidence


def test_an_app_with_few_organic_installs_is_believed_sooner() -> None:
    """The app's own rates move the confidence."""
    old = a_click(3000)
    few, many = (decided(old, rates=Rates(background=share)).confidence for share in (0.4, 0.95))
    assert many < decided(old).confidence < few


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


def test_a_click_left_over_is_likelier() -> None:
    """Of two who click at home, the second is given the other click, with less confidence than alone."""
    clicks = (a_click(42), a_click(42 + 2 * SECOND_CLICK_S, "older"))
    anna = decided(*clicks)
    ben = decided(*clicks, opened=an_open(install=BEN), owners={"click": ANNA}, installs=2, rules=ANY)
    assert (anna.click, ben.click) == clicks
    assert ben.confidence < decided(clicks[1], opened=an_open(install=BEN), installs=1).confidence


def test_a_click_that_stronger_evidence_uses_up_is_no_rival() -> None:
    """It certainly belongs to the install that was found, so it only says that somebody else is there."""
    ipad = Traits("ios", "ipad", 17)
    clicks = (a_click(), a_click(60, "other", link=link("other"), device=ipad))
    for owners in ({}, {"click": BEN}):
        decision = decided(*clicks, owners=owners, retirements=(a_retirement(),))
        assert decision.click == clicks[1]
        assert decision.candidates == 1


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
    assert decided(told, a_click(2701)).reason == "several_links"
    assert decided(told, opened=an_open(device=Traits())).click is None


def test_every_reason_is_explained() -> None:
    """Each reason for no match has its words."""
    assert set(EXPLANATIONS) == set(get_args(NoMatch))


devices = st.sampled_from(
    [
        IOS,
        IPHONE,
        ANDROID,
        MAC,
        Traits(),
        Traits("ios", "iphone", 16),
        Traits("ios", "iphone14,5", 17),
        Traits("ios", "iphone15,2", 17),
    ]
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


def confidence_in(click: Click, *others: Click, opened: FirstOpen, installs: int = 1) -> float | None:
    """Return the confidence in a click if it is the one that would be chosen."""
    decision = decided(click, *others, opened=opened, rules=ANY, installs=installs)
    return decision.confidence if decision.click is not None and decision.click.id == click.id else None


def is_no_surer(after: float | None, before: float | None) -> bool:
    """Return whether a click that is still chosen is believed no more than before."""
    return after is None or (before is not None and after <= before)


@given(several, clicks, opens, st.integers(1, 80), st.data())
def test_confidence_in_a_click_never_rises(
    seen: list[Click], click: Click, opened: FirstOpen, installs: int, data: st.DataObject
) -> None:
    """Not with one more click, not with one more install on the network, and not with its age.

    A click that was not chosen before is not chosen because of any of these, either.
    """
    assume(click.at_ms <= opened.at_ms)
    others = [each for each in seen if each.id != click.id]
    before = confidence_in(click, *others, opened=opened, installs=installs)
    more = structs.replace(data.draw(clicks), id="more")
    assert is_no_surer(confidence_in(click, *others, more, opened=opened, installs=installs), before)
    assert is_no_surer(confidence_in(click, *others, opened=opened, installs=installs + 1), before)
    older = structs.replace(click, at_ms=click.at_ms - data.draw(st.integers(0, 4_000_000)))
    assert is_no_surer(confidence_in(older, *others, opened=opened, installs=installs), before)


@given(several, clicks, opens, st.integers(1, 80))
def test_confidence_in_a_click_never_rises_by_a_taken_one(
    seen: list[Click], click: Click, opened: FirstOpen, installs: int
) -> None:
    """A click that another install was given makes the only candidate no surer."""
    others = [each for each in seen if each.id != "more"]
    more = structs.replace(click, id="more")
    before = decided(*others, opened=opened, rules=ANY, installs=installs)
    after = decided(*others, more, opened=opened, rules=ANY, installs=installs, owners={"more": BEN})
    if after.candidates == before.candidates == 1:
        assert after.confidence <= before.confidence


@given(several, opens, st.integers(1, 80))
def test_probabilities_add_up(seen: list[Click], opened: FirstOpen, installs: int) -> None:
    """The best click is as likely as any, and never certain."""
    decision = decided(*seen, opened=opened, rules=ANY, installs=installs)
    if decision.click is not None:
        assert 0 <= decision.confidence <= 1
        if decision.candidates == 1 and opened.device.system:
            alone = decided(decision.click, opened=opened, rules=ANY, installs=installs)
            assert decision.confidence <= alone.confidence


@given(st.floats(0, 300_000), st.floats(0, 300_000), st.floats(45, 200))
def test_a_longer_delay_is_never_likelier(one: float, other: float, typical_s: float) -> None:
    rates = Rates(delay_s=typical_s)
    for to_install in (False, True):
        longer = delay_density(max(one, other), rates, to_install=to_install)
        assert longer <= delay_density(min(one, other), rates, to_install=to_install)


def test_delays_are_those_that_were_published() -> None:
    """AppsFlyer's glossary: 75 % of first opens within an hour of the click, 94 % within a day.

    Installs come sooner. All of either come within some days.
    """
    for hours, install in ((1, 0.78), (24, 0.94), (72, 1)):
        within = sum(delay_density(at + 0.5, DEFAULT_RATES, to_install=True) for at in range(3600 * hours))
        assert within == pytest.approx(install, abs=0.05)
    for hours, share in ((1, 0.75), (24, 0.94), (72, 1)):
        within = sum(delay_density(at + 0.5, DEFAULT_RATES) for at in range(3600 * hours))
        assert within == pytest.approx(share, abs=0.05)
