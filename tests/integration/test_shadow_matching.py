"""Shadow matches: how good matching would have been for first opens whose link is certain."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from service.attribution import shadow_matching
from service.domain.models import Answer
from tests.integration.test_metrics import scraped
from tests.integration.world import (
    ANOTHER_IN_APP_BROWSER,
    AS_SERVER,
    HOME,
    IN_APP_BROWSER,
    IPHONE_BROWSER,
    MATCHING,
    PIXEL_BROWSER,
    REFERRER,
    World,
    build,
    embedded_dub,
    started_over,
)
from tests.support import ANNA, BEN, FB_PROMO, FakeClock

CARLA = "install-carla"
OFFICE, CAFE = "203.0.113.8", "203.0.113.9"
CARRIER = "100.64.3.4"
SHADOWS = 'firstopen_shadow_matches_total{app="acme",outcome="%s"}'
CONSENTED = MATCHING.replace("analytics_calls_per_s", 'ip_matching = "consented"\nanalytics_calls_per_s')


@pytest.fixture
async def world(clock: FakeClock) -> AsyncIterator[World]:
    async for each in build(clock):
        yield each


async def installed(world: World, install_id: str = ANNA, **fields: Any) -> Answer:
    """Open an app for the first time, ten seconds after it was installed."""
    return await world.launch(install_id, installed_at=world.clock.unix_time() - 10, **fields)


async def shadows(world: World) -> Mapping[str, float]:
    """Return the counted outcomes."""
    found = await scraped(world.service)
    outcomes = {
        outcome: found.get(SHADOWS % outcome, 0) for outcome in ("agreed", "other_click", "refused", "none")
    }
    return {outcome: count for outcome, count in outcomes.items() if count}


async def counted(world: World, **outcomes: float) -> None:
    """Let time pass until something is counted: it must be exactly these outcomes."""

    async def some() -> bool:
        return sum((await shadows(world)).values()) >= sum(outcomes.values())

    await world.eventually(some, step_s=0.5)
    assert await shadows(world) == outcomes


async def stored(world: World, opens: int) -> None:
    """Wait until opens are written: an open reported right after them must know of them."""

    async def written() -> bool:
        reply = await world.service.get("/v1/opens", headers=AS_SERVER)
        return len(reply.json()["opens"]) == opens

    await world.eventually(written)


CERTAIN: dict[str, dict[str, Any]] = {
    "deep_link": {"deep_link": FB_PROMO},
    "install_referrer": {"install_referrer": REFERRER},
    "clipboard": {"clipboard": FB_PROMO},
}


@pytest.mark.parametrize("evidence", CERTAIN)
async def test_the_click_of_the_certain_link_agrees(world: World, evidence: str) -> None:
    """The confidence that a real match would have stated is in the histogram."""
    await world.click()
    answer = await installed(world, **CERTAIN[evidence])
    assert (answer.match.type, answer.match.guaranteed) == (evidence, True)
    await counted(world, agreed=1)
    found = await scraped(world.service)
    labels = 'app="acme",outcome="agreed"'
    assert found[f"firstopen_shadow_confidence_count{{{labels}}}"] == 1
    assert 0.5 < found[f"firstopen_shadow_confidence_sum{{{labels}}}"] <= 1


async def test_every_outcome(world: World) -> None:
    """A click on another link, one that is not sure enough, none, and an address that many people share."""
    await world.click("invite")
    await installed(world, ANNA, clipboard=FB_PROMO)
    await world.click("invite", ip=OFFICE, user_agent=IN_APP_BROWSER)
    await world.click("fb-promo", ip=OFFICE, user_agent=ANOTHER_IN_APP_BROWSER)
    await installed(world, BEN, ip=OFFICE, clipboard=FB_PROMO)
    await world.click(ip=CAFE, user_agent=PIXEL_BROWSER)
    await installed(world, CARLA, ip=CAFE, clipboard=FB_PROMO)
    await installed(world, "install-dora", ip=CARRIER, clipboard=FB_PROMO)
    await counted(world, other_click=1, refused=2, none=1)
    found = await scraped(world.service)
    confidences = 'firstopen_shadow_confidence_count{app="acme",outcome="%s"}'
    assert (found[confidences % "other_click"], found[confidences % "refused"]) == (1, 1)


async def test_nothing_is_claimed(world: World) -> None:
    """A click that the shadow match found goes to the install that really made it."""
    await world.click("invite")
    await installed(world, ANNA, clipboard=FB_PROMO)
    await counted(world, other_click=1)
    ben = await installed(world, BEN)
    assert ben.link is not None
    assert (ben.match.type, ben.link.key) == ("ip", "invite")


async def test_the_answer_does_not_wait_and_opens_share_a_call(world: World) -> None:
    """No call to /events before the answer; opens that come within half a minute share a sync."""
    await world.click()
    for number in range(20):
        await installed(world, f"install-{number}", ip=f"203.0.113.{number + 100}", clipboard=FB_PROMO)
    assert await world.calls("/events") == 0
    await counted(world, none=20)
    assert await world.calls("/events") <= 4  # the first open and the others; a short page, then an empty one


async def test_an_erased_install_is_left_out(world: World) -> None:
    """What waits for its shadow match is deleted with the install."""
    await world.click()
    await world.click(ip=OFFICE)
    await installed(world, ANNA, clipboard=FB_PROMO)
    await installed(world, BEN, ip=OFFICE, clipboard=FB_PROMO)
    reply = await world.service.post("/v1/installs/forget", json={"installId": ANNA}, headers=AS_SERVER)
    assert reply.status_code == 200
    await counted(world, agreed=1)
    world.clock.advance(2 * shadow_matching.WAIT_S)
    await installed(world, CARLA, ip=CAFE, clipboard=FB_PROMO)
    await counted(world, agreed=1, none=1)


async def test_dub_gets_no_open(world: World) -> None:
    """A visit that a page reported has no click id yet: its link is compared, and Dub is not asked for it."""
    page = {"url": FB_PROMO}
    headers = {"X-Forwarded-For": HOME, "User-Agent": IPHONE_BROWSER}
    assert (await world.service.post("/v1/touches", json=page, headers=headers)).is_success
    await installed(world, ANNA, clipboard=FB_PROMO)
    before = await world.calls("/track/open")
    await counted(world, agreed=1)
    assert await world.calls("/track/open") == before


async def test_further_opens_are_left_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits in memory is bounded."""
    monkeypatch.setattr(shadow_matching, "WAITING_MAX", 2)
    for number in range(5):
        await installed(world, f"install-{number}", clipboard=FB_PROMO)
    await counted(world, none=2)
    await installed(world, "install-5", clipboard=FB_PROMO)
    await counted(world, none=3)


async def test_only_installs_with_certain_evidence_count(world: World) -> None:
    """Later opens, updates, installs of unknown age, a doubtful referrer and opens without a link do not."""
    now = world.clock.unix_time()
    await installed(world, ANNA, clipboard=FB_PROMO)  # this one counts
    await installed(world, BEN)
    await stored(world, 2)
    await installed(world, ANNA, deep_link=FB_PROMO)
    await installed(world, BEN, deep_link=FB_PROMO)
    await world.launch("install-old", deep_link=FB_PROMO, installed_at=now - 90 * 86_400)
    await world.launch("install-undated", deep_link=FB_PROMO)
    fraud = {"referrer_clicked_at": now - 15, "install_began_at": now - 20}
    await installed(world, "install-fraud", install_referrer=REFERRER, **fraud)
    await world.launch(None, deep_link=FB_PROMO, installed_at=now - 10)
    await installed(world, "install-unknown", deep_link="https://acme.link/no-such-link")
    await world.dry_run(deepLink=FB_PROMO, installedAt=now - 10)
    await counted(world, none=1)
    world.clock.advance(shadow_matching.WAIT_S)
    await installed(world, CARLA, clipboard=FB_PROMO)
    await counted(world, none=2)


async def test_addresses_are_compared_only_with_consent(clock: FakeClock) -> None:
    """Where matching by IP address needs consent, so does its shadow."""
    async for world in build(clock, CONSENTED):
        await world.click()
        await world.click(ip=OFFICE)
        await installed(world, ANNA, clipboard=FB_PROMO)
        await installed(world, BEN, ip=OFFICE, clipboard=FB_PROMO, consent=True)
        await counted(world, agreed=1)


async def test_clicks_that_cannot_be_read_count_as_nothing(world: World) -> None:
    """While Dub is down, nothing is learned about matching; then the next open counts."""
    await world.click()
    await world.fail("/events")
    await installed(world, ANNA, clipboard=FB_PROMO)

    async def asked() -> bool:
        return await world.calls("/events") > 0

    await world.eventually(asked, step_s=0.5)
    await world.mend()
    await world.click(ip=OFFICE)
    await installed(world, BEN, ip=OFFICE, clipboard=FB_PROMO)
    await counted(world, agreed=1)


async def test_a_stop_does_not_wait_for_shadow_matches(clock: FakeClock) -> None:
    """An open that waits for its shadow match when the service stops is left out."""
    dub = embedded_dub(clock)
    async with started_over(dub, clock) as world:
        await world.click()
        await installed(world, ANNA, clipboard=FB_PROMO)
    async with started_over(dub, clock) as world:
        await world.click(ip=OFFICE)
        await installed(world, BEN, ip=OFFICE, clipboard=FB_PROMO)
        await counted(world, agreed=1)
