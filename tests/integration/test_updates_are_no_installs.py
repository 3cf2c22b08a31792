"""An update that introduces the SDK reports old users' "first" opens: their referrer and network say nothing.

Google Play keeps a referrer for 90 days (dub-api.md, "What the web side of a link does").
"""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.integration.world import AS_SERVER, MATCHING, REFERRER, World, build, embedded_dub, started_over
from tests.support import ANNA, BEN, FB_PROMO, FakeClock, LogLines

HOUR_S = 3600
DAY_S = 86_400


@pytest.fixture
async def world(clock: FakeClock, logs: LogLines) -> AsyncIterator[World]:  # noqa: ARG001
    async for each in build(clock):
        yield each


async def trace_of(world: World, open_id: str) -> dict[str, Any]:
    trace: dict[str, Any] = (await world.service.get(f"/v1/opens/{open_id}/trace", headers=AS_SERVER)).json()
    return trace


@pytest.mark.parametrize("evidence", [{"install_referrer": REFERRER}, {"clipboard": FB_PROMO}, {}])
@pytest.mark.parametrize("age_h", [73, 24 * 89])
async def test_an_old_install_has_had_its_first_launch(
    world: World, evidence: dict[str, str], age_h: int
) -> None:
    """Neither the referrer nor a stranger's click is its own; the trace says why, and Dub is not asked."""
    await world.click()
    installed_at = world.clock.unix_time() - age_h * HOUR_S
    answer = await world.launch(installed_at=installed_at, **evidence)
    assert (answer.match.type, answer.match.reason, answer.click_id) == ("none", "old_install", None)
    assert (answer.route.reason, answer.pending) == ("default", False)
    chain = (await trace_of(world, answer.open_id))["evidence"]
    assert {item["outcome"] for item in chain} == {"skipped"}
    assert all(f"installed {age_h} hours ago" in item["detail"] for item in chain)
    assert await world.calls("/track/open") == await world.calls("/events") == 0
    assert (await world.lead(installId=ANNA)).json()["status"] == "organic"
    assert (await world.launch(BEN)).click_id  # whose click it is


async def test_an_old_install_opens_links_as_ever(world: World) -> None:
    """A deep link, a URL of the app's own and a click that a URL names are no evidence of a first launch."""
    await world.click("invite")
    old: Any = {"installed_at": world.clock.unix_time() - 400 * DAY_S, "install_referrer": REFERRER}
    assert (await world.launch(deep_link=FB_PROMO, **old)).match.type == "deep_link"
    opened = await world.launch(deep_link="acme://product/7", **old)
    assert (opened.route.url, opened.click_id) == ("acme://product/7", None)
    named = await world.launch(deep_link="https://acme.com/product/7?dub_id=d0UtZqE0BZuBPrJS", **old)
    assert named.match.type == "dub_id"


@pytest.mark.parametrize("installed_ago_s", [0, 71 * HOUR_S, -HOUR_S])
async def test_a_young_install_is_one(world: World, installed_ago_s: float) -> None:
    """Also by a clock that is ahead."""
    installed_at = world.clock.unix_time() - installed_ago_s
    answer = await world.launch(install_referrer=REFERRER, installed_at=installed_at)
    assert (answer.match.type, answer.match.guaranteed) == ("install_referrer", True)


@pytest.mark.parametrize(("hours", "found"), [(1, False), (2, True)])
async def test_each_app_says_how_old_an_install_may_be(
    clock: FakeClock,
    logs: LogLines,  # noqa: ARG001
    hours: int,
    found: bool,  # noqa: FBT001
) -> None:
    config = MATCHING.replace("analytics", f"first_launch_max_age_h = {hours}\nanalytics")
    async for world in build(clock, config):
        installed_at = clock.unix_time() - 1.5 * HOUR_S
        answer = await world.launch(install_referrer=REFERRER, installed_at=installed_at)
        assert (answer.click_id is not None) is found


async def test_an_install_counts_for_the_matching_window_at_least(
    clock: FakeClock,
    logs: LogLines,  # noqa: ARG001
) -> None:
    """A window of three days is no use to installs that count for one."""
    config = MATCHING.replace("analytics", "first_launch_max_age_h = 1\nmatch_window_s = 259200\nanalytics")
    async for world in build(clock, config):
        await world.click()
        clock.advance(60)
        installed_at = clock.unix_time()
        clock.advance(1.5 * HOUR_S)
        answer = await world.launch(installed_at=installed_at)
        assert answer.match.reason != "old_install"


@pytest.mark.parametrize(("later_s", "found"), [(-30, True), (55, True), (65, False)])
async def test_a_click_later_than_the_install_is_rejected(
    world: World,
    later_s: float,
    found: bool,  # noqa: FBT001
) -> None:
    """Whoever has the app taps no link to get it; a minute is allowed for clocks that differ."""
    installed_at = world.clock.unix_time()
    world.clock.advance(70)
    await world.click()
    clicked_at = world.clock.unix_time()
    world.clock.advance(20)
    answer = await world.launch(installed_at=clicked_at - later_s)
    assert installed_at < clicked_at
    assert (answer.click_id is not None) is found
    (candidate,) = (await trace_of(world, answer.open_id))["candidates"]
    assert candidate["rejected"] == (None if found else "it is later than the install")


async def test_a_referrer_later_than_the_install_is_rejected(world: World) -> None:
    """The user had the app, and tapped a link that led to its page in the store."""
    now = world.clock.unix_time()
    times: dict[str, Any] = {"installed_at": now - HOUR_S, "referrer_clicked_at": now - HOUR_S + 61}
    answer = await world.launch(install_referrer=REFERRER, **times)
    assert answer.click_id is None
    chain = (await trace_of(world, answer.open_id))["evidence"]
    said = {item["type"]: (item["outcome"], item["detail"]) for item in chain}
    assert said["install_referrer"] == ("skipped", "its click is later than the install")


@pytest.mark.parametrize(("later_s", "guaranteed"), [(-30, True), (0, True), (1, False)])
async def test_a_referrer_later_than_the_install_began_is_suspicious(
    world: World,
    later_s: float,
    guaranteed: bool,  # noqa: FBT001
) -> None:
    """Fraud sees an install begin and clicks before it ends; it is answered, and not as certain."""
    now = world.clock.unix_time()
    times: dict[str, Any] = {
        "install_began_at": now - 60,
        "referrer_clicked_at": now - 60 + later_s,
        "installed_at": now - 20,
    }
    answer = await world.launch(install_referrer=REFERRER, **times)
    assert (answer.match.type, answer.match.guaranteed) == ("install_referrer", guaranteed)
    assert answer.click_id
    (said,) = [
        item for item in (await trace_of(world, answer.open_id))["evidence"] if item["outcome"] == "resolved"
    ]
    assert ("later than the install began" in said["detail"]) is not guaranteed
    assert (await world.service.recall(answer.open_id)).match.guaranteed is guaranteed


async def test_a_suspicious_referrer_stays_so_while_dub_is_away(
    clock: FakeClock,
    logs: LogLines,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Reported to Dub later, from the outbox, it is no more certain than it was."""
    monkeypatch.setattr("service.outbox.drain.POLL_S", 0.01)
    async with started_over(embedded_dub(clock), clock) as world:
        await world.fail("/track/open")
        now = clock.unix_time()
        times: dict[str, Any] = {"install_began_at": now - 60, "referrer_clicked_at": now - 50}
        first = await world.launch(install_referrer=REFERRER, **times)
        assert first.pending
        await world.mend()
        found = await world.settled(first)
        assert (found.match.type, found.match.guaranteed) == ("install_referrer", False)


async def test_times_may_be_milliseconds_or_text(world: World) -> None:
    await world.click()
    for installed_at in (
        (world.clock.unix_time() - 4 * DAY_S) * 1000,
        str(int(world.clock.unix_time() - 4 * DAY_S)),
    ):
        answer = await world.launch(f"install-{installed_at}", installed_at=installed_at)
        assert answer.match.reason == "old_install"
