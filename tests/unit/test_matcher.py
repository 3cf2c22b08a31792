"""Matching over stored clicks, opens and claims: one click, one install, whoever asks when."""

import asyncio
from collections.abc import AsyncIterator
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.device_traits import Traits
from service.domain.match_rules import (
    SECOND_CLICK_S,
    Ambiguous,
    Click,
    FirstOpen,
    Rejection,
    Retirement,
    Rules,
    from_provider,
)
from service.domain.models import Link
from service.matching.matcher import Matcher
from service.storage.claims import ClaimStore
from service.storage.database import Database
from tests.databases import Kept, sqlite

NOW_MS = 1_785_585_600_000
HOME, OFFICE = 7, 2**64 - 1  # networks, as keyed hashes
IOS, ANDROID = Traits("ios", "", 17), Traits("android")
PROMO = Link("link_promo", "acme.link", "promo", "https://acme.com/promo")
OTHER = Link("link_other", "acme.link", "other", "https://acme.com/other")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with sqlite(tmp_path) as database:
        yield database


class World:
    """One app's matcher over a database."""

    def __init__(
        self, database: Database, ambiguous: Ambiguous = "refuse", min_confidence: float = 0
    ) -> None:
        rules = Rules(ambiguous=ambiguous, min_confidence=min_confidence)
        self.kept = Kept(database, rules=rules)
        self.claims = ClaimStore(database, lambda: NOW_MS / 1000)
        self.matcher = Matcher(activity=self.kept.activity, claims=self.claims, rules=rules)

    async def click(self, click_id: str, age_s: int = 42, network: int = HOME, link: Link = PROMO) -> None:
        click = Click(click_id, NOW_MS - age_s * 1000, link, "", Traits("ios", "iphone", 17))
        await self.kept.add((network, click))

    async def match(self, install: str, network: int = HOME, device: Traits = IOS) -> str | None:
        decision = await self.matcher.match(network, an_open(install, device))
        return decision.click.id if decision.click else None

    def found(self, install: str, network: int = HOME, ago_s: int = 0, device: Traits = IOS) -> None:
        """Let an install have been found by the link itself."""
        retirement = Retirement(named(install), PROMO.id, NOW_MS - ago_s * 1000, device)
        self.kept.activity.record_install(network, retirement)

    async def owners(self, *clicks: str) -> dict[str, str]:
        return dict(await self.claims.owners(clicks))


def named(install: str) -> str:
    """Return an install's keyed hash."""
    return blake2b(install.encode(), digest_size=8).hexdigest()


def an_open(install: str, device: Traits = IOS) -> FirstOpen:
    return FirstOpen(named(install), NOW_MS, device)


async def test_a_click_is_given_once(database: Database) -> None:
    """The first install gets it, a second gets none, the first asking again gets it again."""
    world = World(database)
    await world.click("one")
    assert await world.match("anna") == "one"
    assert await world.match("ben") is None
    assert await world.match("anna") == "one"


async def test_who_asks_at_once_shares_nothing(database: Database) -> None:
    """Installs that open in the same instant get different clicks, or none."""
    world = World(database)
    for number in range(3):
        await world.click(f"click {number}", 40 + number * (SECOND_CLICK_S + 1))
    given_out = await asyncio.gather(*(world.match(f"install {number}") for number in range(5)))
    found = [click for click in given_out if click is not None]
    assert sorted(found) == ["click 0", "click 1", "click 2"]


async def test_a_phones_second_click_is_nobody_elses(database: Database) -> None:
    """Whether Dub shows it before the match or after it; once the claim is released, it is free."""
    world = World(database)
    await world.click("first", 100)
    await world.click("second", 60)
    assert await world.match("anna") == "second"
    await world.click("third, shown late", 30)
    assert await world.match("ben") is None
    assert await world.match("anna") == "second"
    await world.claims.release("second", named("anna"))
    assert await world.match("ben") == "third, shown late"


async def test_of_two_who_ask_at_once_one_gets_the_phones_clicks(database: Database) -> None:
    """The loser of a race for a click is not given the other one."""
    world = World(database)
    await world.click("first", 100)
    await world.click("second", 60)
    given_out = await asyncio.gather(*(world.match(install) for install in ("anna", "ben")))
    assert sorted(given_out, key=str) == [None, "second"]


async def test_another_network_is_another_home(database: Database) -> None:
    """A click is only found from the network that it was made from."""
    world = World(database)
    await world.click("one")
    assert await world.match("anna", OFFICE) is None
    assert await world.match("anna") == "one"


async def test_crowds_are_counted_from_every_open(database: Database) -> None:
    """Opens of any kind make a crowd: among many installs a click is anybody's, elsewhere it is not."""
    world = World(database, min_confidence=0.9)
    await world.click("one", 900)
    await world.click("two", 900, network=OFFICE)
    for install in ("ben", *(f"install {number}" for number in range(10)), "install 0"):
        world.kept.activity.record_open(OFFICE, named(install), NOW_MS - 60_000)
        world.kept.activity.record_open(HOME, named("ben"), NOW_MS - 60_000)
    decision = await world.matcher.match(OFFICE, an_open("anna"))
    assert (decision.reason, decision.installs) == ("crowd", 12)
    assert await world.match("anna") == "one"


async def test_a_dry_run_changes_nothing(database: Database) -> None:
    """A preview says what a match would, claims nothing, and is not counted as an open."""
    world = World(database)
    await world.click("one")
    for number in range(9):
        preview = await world.matcher.preview(HOME, an_open(f"install {number}"))
        assert preview.installs == 1
    assert await world.owners("one") == {}
    assert preview == await world.matcher.match(HOME, an_open("install 8"))


async def test_dubs_answer_counts_once(database: Database) -> None:
    """What Dub itself answers is a candidate, unless the window knows the click already."""
    world = World(database)
    opened = an_open("anna")
    told = from_provider("dubs", PROMO, opened, Rules())
    assert (await world.matcher.preview(HOME, opened, told)).candidates == 1
    await world.click("dubs", 5)
    decision = await world.matcher.match(HOME, opened, told)
    assert (decision.candidates, decision.age_s) == (1, 5)
    assert await world.match("ben") is None


async def test_stronger_evidence_uses_clicks_up(database: Database) -> None:
    """An install found by its link uses up the link's clicks: those seen, and those that Dub shows later."""
    world = World(database)
    await world.click("seen")
    await world.click("another link's", link=OTHER)
    world.found("anna")
    assert await world.match("ben") == "another link's"
    await world.click("late", 30)
    decision = await world.matcher.match(HOME, an_open("carl"))
    rejected = {each.click_id: each.rejected for each in decision.considered}
    assert rejected == {
        "seen": Rejection.RETIRED,
        "late": Rejection.RETIRED,
        "another link's": Rejection.CLAIMED,
    }


async def test_a_second_click_of_one_that_is_used_up_is_used_up(database: Database) -> None:
    """The phone that was found by its link clicked once more, later than Dub's clock explains."""
    world = World(database)
    await world.click("first", 100)
    world.found("anna", ago_s=90)
    await world.click("second", 10)
    assert await world.match("ben") is None


async def test_stronger_evidence_is_its_networks_alone(database: Database) -> None:
    """It reaches no other network and no other system."""
    world = World(database)
    await world.click("one")
    world.found("anna", OFFICE)
    world.found("anna", device=ANDROID)
    assert await world.match("ben") == "one"


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 20), st.sampled_from([HOME, OFFICE])), max_size=30),
    st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from([HOME, OFFICE]), st.booleans()), min_size=1, max_size=30
    ),
    st.sampled_from(["refuse", "latest"]),
)
def test_no_click_is_ever_given_twice(
    seen: list[tuple[int, int]], asking: list[tuple[int, int, bool]], ambiguous: Ambiguous
) -> None:
    """Whatever the clicks and whoever asks when and how often: a click is one install's."""

    async def play(database: Database) -> None:
        world = World(database, ambiguous)
        for number, network in seen:
            await world.click(f"{network} {number}", number, network, PROMO if number % 2 else OTHER)
        waves = [asking[at : at + 4] for at in range(0, len(asking), 4)]
        given_to: dict[str, set[str]] = {}
        for wave in waves:
            answers = await asyncio.gather(*(one(world, *each) for each in wave))
            for (number, _, _), click in zip(wave, answers, strict=True):
                if click is not None:
                    given_to.setdefault(click, set()).add(f"install {number}")
        assert all(len(installs) == 1 for installs in given_to.values())

    async def one(world: World, number: int, network: int, is_certain: bool) -> str | None:  # noqa: FBT001
        if is_certain:
            world.found(f"install {number}", network)
            return None
        return await world.match(f"install {number}", network)

    async def run() -> None:
        with TemporaryDirectory() as folder:
            async with sqlite(Path(folder)) as database:
                await play(database)

    asyncio.run(run())
