"""An install keeps its first answer: after twenty opens, a restart, a full disk or a late page of clicks."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from service.attribution import delayed_matching
from service.domain.models import Answer
from tests.integration.world import HOME, MATCHING, REFERRER, Disk, World, build, embedded_dub, started_over
from tests.support import ANNA, BEN, FB_PROMO, FakeClock, LogLines

UNKNOWN = "https://acme.link/no-such-link"
HOUR_S = 3600


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the outbox look at the (fake) clock often."""
    monkeypatch.setattr("service.outbox.drain.POLL_S", 0.01)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
async def world(clock: FakeClock, logs: LogLines) -> AsyncIterator[World]:  # noqa: ARG001
    async for each in build(clock):
        yield each


@pytest.fixture
def dub(clock: FakeClock, logs: LogLines) -> httpx.ASGITransport:  # noqa: ARG001
    """Embed a Dub that outlives the service."""
    return embedded_dub(clock)


async def use(world: World, install: str, times: int = 20) -> None:
    for number in range(times):
        await world.launch(install, deep_link=f"https://acme.com/page/{number}")


def seen(answer: Answer) -> tuple[str, str | None, str]:
    return answer.open_id, answer.click_id, answer.match.type


def on_disk(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


@pytest.mark.parametrize("referrer", [None, REFERRER])
async def test_a_first_launch_outlives_use_and_a_restart(
    dub: httpx.ASGITransport, clock: FakeClock, referrer: str | None
) -> None:
    """The same first launch after twenty opens, a restart and an hour: the same open, no second click."""
    async with started_over(dub, clock) as world:
        await world.click()
        clock.advance(1)
        first = await world.launch(install_referrer=referrer)
        assert first.click_id
        await use(world, ANNA)
    clock.advance(HOUR_S + 60)
    async with started_over(dub, clock) as world:
        assert seen(await world.launch(install_referrer=referrer)) == seen(first)
        assert await world.calls("/track/open") == bool(referrer)


async def test_a_second_look_that_a_restart_ends_is_pending_no_more(
    dub: httpx.ASGITransport, clock: FakeClock
) -> None:
    """Nobody looks for its click any more: a minute later it is none, for good."""
    async with started_over(dub, clock) as world:
        await world.fail("/events")
        first = await world.launch()
        assert first.pending
    clock.advance(61)
    async with started_over(dub, clock) as world:
        recalled = await world.service.recall(first.open_id)
        assert (recalled.pending, recalled.click_id, recalled.match.type) == (False, None, "none")


async def test_a_claim_that_the_disk_refused_is_made_later(world: World, disk: Disk) -> None:
    """No click is given that is not on disk; once the disk takes it, the same open has it."""
    await world.click()
    disk.full = True
    first = await world.launch()
    assert (first.pending, first.click_id, first.match.reason) == (True, None, "not_recorded")
    disk.full = False
    found = await world.settled(first)
    assert found.click_id
    assert (await world.launch(BEN)).click_id is None


async def test_too_many_second_looks_are_final_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An open that nobody will look for again is not left pending."""
    monkeypatch.setattr(delayed_matching, "_WAITING_MAX_BYTES", 0)
    await world.fail("/events")
    first = await world.launch()
    recalled = await world.service.recall(first.open_id)
    assert (recalled.pending, recalled.match.type) == (False, "none")


async def test_an_unknown_referrer_that_is_replayed_falls_to_the_address(world: World) -> None:
    """Dub away at first makes no difference: no such link, so the address decides, under the same openId."""
    await world.click()
    await world.fail("/track/open")
    first = await world.launch(install_referrer="deepLink=https%3A%2F%2Facme.link%2Fgone")
    assert (first.pending, first.click_id) == (True, None)
    await world.mend()
    found = await world.settled(first)
    assert (found.match.type, found.route.screen) == ("ip", "product")
    assert found.click_id
    assert (await world.launch(BEN)).click_id is None


async def test_a_referrer_after_a_linkless_open_is_not_overwritten(world: World) -> None:
    """Late looks for the linkless open give the install no second click, and leave a housemate's alone."""
    linkless = await world.launch()
    assert linkless.click_id is None
    referred = await world.launch(install_referrer=REFERRER)
    assert (referred.match.type, referred.match.guaranteed) == ("install_referrer", True)
    assert (await world.launch()).click_id == referred.click_id
    await world.click("invite")
    settled = await world.settle(linkless, 35)
    assert settled.click_id in (None, referred.click_id)
    assert seen(await world.service.recall(referred.open_id)) == seen(referred)
    assert (await world.launch(BEN)).link is not None
    world.clock.advance(HOUR_S + 60)
    assert seen(await world.launch(install_referrer=REFERRER)) == seen(referred)


async def test_a_referrer_during_a_linkless_open_is_not_overwritten(world: World) -> None:
    """The address is still looked at when the referrer comes: it finds nothing then, and claims nothing."""
    await world.click("invite")
    await world.dub.post("/sandbox/faults", json={"route": "/events", "delayMs": 500, "times": 1})
    linkless = await world.launch(budget_ms=100)
    assert linkless.pending
    referred = await world.launch(install_referrer=REFERRER)
    assert referred.match.type == "install_referrer"
    settled = await world.settled(linkless)
    assert settled.click_id in (None, referred.click_id)
    assert (await world.settled(await world.launch(BEN))).link is not None
    world.clock.advance(HOUR_S + 60)
    assert seen(await world.launch(install_referrer=REFERRER)) == seen(referred)


async def test_claims_outlive_the_matching_window(dub: httpx.ASGITransport, clock: FakeClock) -> None:
    """Opens may be kept for less long than a click can be matched: it is still nobody else's."""
    days = 'match_window_s = 259200\nambiguous = "latest"\nanalytics'
    config = f"{MATCHING.replace('analytics', days, 1)}\n[installs]\ninstall_ttl_days = 1\n"
    async with started_over(dub, clock, config) as world:
        await world.click()
        opened = await world.launch(ANNA)
        assert opened.click_id
    clock.advance(86_400 + 60)
    async with started_over(dub, clock, config) as world:

        async def forgotten() -> bool:
            return (await world.service.get(f"/v1/opens/{opened.open_id}")).status_code == 404

        await world.eventually(forgotten)
        assert (await world.launch(BEN)).click_id is None


async def test_certain_evidence_outlives_the_matching_window(
    dub: httpx.ASGITransport, clock: FakeClock
) -> None:
    """An install that its link has found uses up the link's clicks for as long as any could be matched."""
    days = 'match_window_s = 259200\nambiguous = "latest"\nanalytics'
    config = f"{MATCHING.replace('analytics', days, 1)}\n[installs]\ninstall_ttl_days = 1\n"
    async with started_over(dub, clock, config) as world:
        await world.click()
        elsewhere = await world.launch("install-else", ip="198.51.100.7")
        assert (await world.launch(ANNA, deep_link=FB_PROMO)).match.guaranteed
    clock.advance(86_400 + 60)
    async with started_over(dub, clock, config) as world:

        async def forgotten() -> bool:
            return (await world.service.get(f"/v1/opens/{elsewhere.open_id}")).status_code == 404

        await world.eventually(forgotten)
        assert (await world.launch(BEN)).click_id is None


async def test_regulars_make_a_crowd_too(dub: httpx.ASGITransport, clock: FakeClock) -> None:
    """Installs that open again where they live are a crowd for a new one; also after a restart."""
    regulars = [f"install-{number:04}" for number in range(12)]
    async with started_over(dub, clock) as world:
        for install in regulars:
            await world.launch(install)
        clock.advance(2 * HOUR_S)
        for install in regulars:
            assert (await world.launch(install)).match.type == "none"
        await world.click()
        clock.advance(600)
        crowded = await world.launch(ANNA)
        assert (crowded.match.type, crowded.match.reason) == ("none", "crowd")
    async with started_over(dub, clock) as world:
        crowded = await world.launch(BEN)
        assert (crowded.match.type, crowded.match.reason) == ("none", "crowd")


async def test_consent_that_is_given_later_is_looked_at(clock: FakeClock, logs: LogLines) -> None:  # noqa: ARG001
    """A report with consent says more than one without: it is no repeat of "none"."""
    config = MATCHING.replace("analytics", 'ip_matching = "consented"\nanalytics', 1)
    async for world in build(clock, config):
        await world.click()
        assert (await world.launch(ANNA)).click_id is None
        consented = await world.launch(ANNA, consent=True)
        assert (consented.match.type, consented.repeat) == ("ip", False)
        assert (await world.launch(BEN, consent=True)).click_id is None


async def test_an_unknown_deep_link_with_a_referrer_is_no_repeat(world: World) -> None:
    """The same link that Dub does not know, now with evidence that it does."""
    unknown = await world.launch(deep_link=UNKNOWN)
    assert unknown.click_id is None
    known = await world.launch(deep_link=UNKNOWN, install_referrer=REFERRER)
    assert (known.match.type, known.repeat) == ("install_referrer", False)
    assert known.click_id


async def test_the_disk_shows_nothing_of_a_deep_link(world: World, data_dir: Path) -> None:
    """No token, e-mail address or query is legible in any file; what Dub says of a link may be."""
    secrets = [f"{kind}-somebodys-own" for kind in ("token", "query", "clip", "later")]
    await world.launch(deep_link=f"https://acme.com/login?token={secrets[0]}&email=anna@example.com")
    promo = await world.launch(BEN, deep_link=f"{FB_PROMO}?email={secrets[1]}")
    assert secrets[1] in (promo.route.url or "")
    await world.launch("install-clip", clipboard=f"{FB_PROMO}?mail={secrets[2]}")
    await world.fail("/track/open")
    assert (await world.launch("install-late", deep_link=f"{FB_PROMO}?mail={secrets[3]}")).pending
    assert (await world.lead(installId=BEN)).status_code == 200  # what was written behind is on disk now
    kept = on_disk(data_dir)
    assert bytes.fromhex(promo.open_id) in kept
    for secret in (*secrets, "example.com", ANNA, BEN, HOME):
        assert secret.encode() not in kept, secret
