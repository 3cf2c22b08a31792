"""Learned rates: an app's own first opens change what matching assumes, within bounds."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from service.attribution.rate_learning import EVERY_S, PER_NETWORK
from service.domain.device_sessions import new_session
from service.domain.errors import StoreFailed
from service.domain.learned_rates import PRIORS
from service.storage.database import Database
from service.storage.device_sessions import DeviceSessionStore
from service.storage.engines.sqlite import SqliteEngine
from tests.integration.test_metrics import scraped
from tests.integration.world import MATCHING, REFERRER, World, build, embedded_dub, started_over
from tests.support import ANNA, BEN, FB_PROMO, FakeClock

ORGANIC = "utm_source=google-play&utm_medium=organic"  # what Google Play reports of an organic install
ANDROID = {"platform": "android"}
INVENTED = 400
OFFICE = "203.0.113.8"


@pytest.fixture
async def world(clock: FakeClock) -> AsyncIterator[World]:
    async for each in build(clock):
        yield each


def address(number: int) -> str:
    return f"198.{18 + number // 65_536}.{number // 256 % 256}.{number % 256}"


async def installed(world: World, install_id: str, **fields: Any) -> None:
    """Open an app for the first time, ten seconds after it was installed."""
    await world.launch(install_id, installed_at=world.clock.unix_time() - 10, **fields)


async def rates(world: World) -> dict[str, tuple[float, float]]:
    """Return each learned rate and the number of first opens that it rests on."""
    found = await scraped(world.service)
    values = (
        'firstopen_learned_rate{app="acme",rate="%s"}',
        'firstopen_rate_observations{app="acme",rate="%s"}',
    )
    return {
        name: (found[values[0] % name], found[values[1] % name])
        for name in PRIORS
        if values[0] % name in found
    }


async def observed(world: World, name: str, opens: int) -> float:
    """Let time pass until a rate rests on so many first opens, and return the rate."""

    async def done() -> bool:
        return (await rates(world)).get(name, (0, 0))[1] >= opens

    await world.eventually(done, step_s=EVERY_S / 4)
    value, found = (await rates(world))[name]
    assert found == opens
    return value


async def session_name(data_dir: Path) -> str:
    """Start a test session, as the console does, and return its name."""
    session = new_session("acme", time.time())
    database = Database(SqliteEngine(data_dir, exclusive=False), structlog.get_logger())
    await database.open()
    await DeviceSessionStore(database, time.time).add(session)
    await database.close()
    return session.name


async def test_first_opens_are_learned_from(world: World) -> None:
    """The platform of each, the referrer of those that have one, and the click of a certain link."""
    await world.click(ip=address(0))
    world.clock.advance(30)
    await installed(world, "install-0", ip=address(0), clipboard=FB_PROMO)
    for number in range(1, 5):
        await installed(world, f"install-{number}", ip=address(number), install_referrer=ORGANIC, **ANDROID)
    await installed(world, "install-5", ip=address(5), install_referrer=REFERRER, **ANDROID)
    ios = await observed(world, "ios", 6)
    assert ios == pytest.approx((10 + 1) / (20 + 6), abs=1e-4)
    found = await rates(world)
    assert found["organic"] == (0.5, 5)  # too few referrers that name a link
    assert await observed(world, "click_here", 2) == pytest.approx((24 + 1) / (40 + 2), abs=1e-4)
    assert (await rates(world))["delay_s"][1] == 1


async def test_a_click_in_the_opened_url_is_a_first_open_with_a_link(world: World) -> None:
    """It counts, and as not organic, whatever Google Play says."""
    url = "https://acme.com/c/shoes?dub_id=d0UtZqE0BZuBPrJS"
    await installed(world, ANNA, deep_link=url, install_referrer=ORGANIC, **ANDROID)
    await observed(world, "ios", 1)
    assert (await rates(world))["organic"][1] == 1


async def test_a_referrer_that_was_skipped_does_not_make_an_install_organic(world: World) -> None:
    """The referrer had a link, so the install may have come from it, although the link is not used."""
    now = world.clock.unix_time()
    await installed(world, ANNA, install_referrer=REFERRER, referrer_clicked_at=now + 3600, **ANDROID)
    foreign = "deepLink=https%3A%2F%2Felsewhere.example%2Fsale"
    await installed(world, BEN, ip=address(1), install_referrer=foreign, **ANDROID)
    await observed(world, "ios", 2)
    assert (await rates(world)).get("organic", (0, 0))[1] == 0


async def test_what_says_nothing_is_not_counted(world: World, clock: FakeClock, data_dir: Path) -> None:
    """Updates, later opens, installs of unknown age, dry runs, and opens of test devices."""
    await installed(world, ANNA)  # this one counts
    clock.advance(1)
    await world.launch(ANNA, installed_at=clock.unix_time() - 90 * 86_400)
    await world.launch("install-old", installed_at=clock.unix_time() - 90 * 86_400, deep_link=FB_PROMO)
    await world.launch(BEN, ip=address(1))
    await world.launch(None, ip=address(2), installed_at=clock.unix_time() - 10)
    await world.dry_run(ip=address(3), installedAt=clock.unix_time() - 10)
    await installed(world, "install-test", ip=address(4), test_device=await session_name(data_dir))
    await observed(world, "ios", 1)


async def test_a_network_says_little(world: World) -> None:
    """However many installs open there in a day, three count; on the next day three more."""
    for number in range(20):
        await installed(world, f"install-{number}", ip=OFFICE)
    await observed(world, "ios", PER_NETWORK)
    world.clock.advance(86_400)
    for number in range(20, 40):
        await installed(world, f"install-{number}", ip=OFFICE)
    await observed(world, "ios", 2 * PER_NETWORK)


async def test_invented_opens_stay_within_the_bounds(world: World) -> None:
    """First opens with certain evidence from as many networks move a rate to its bound, no further.

    tests/unit/test_learned_rates.py holds the same for 10,000.
    """
    for number in range(INVENTED):
        await installed(world, f"install-{number}", ip=address(number), clipboard=FB_PROMO)
    value = await observed(world, "ios", INVENTED)
    assert value == PRIORS["ios"].most
    for name, (found, _) in (await rates(world)).items():
        assert PRIORS[name].least <= found <= PRIORS[name].most


async def test_matching_uses_what_was_learned(clock: FakeClock) -> None:
    """Where 400 installs by a link had no click on their network, a click says less than by default."""
    dub = embedded_dub(clock)
    confidence = []
    async with started_over(dub, clock) as world:
        for learned in (False, True):
            if learned:
                for number in range(400):
                    ip = address(number)
                    await installed(world, f"install-{number}", ip=ip, clipboard=FB_PROMO)
                    if number % 100 == 99:
                        await observed(world, "quiet", number + 1)
            home = address(1000 + learned)
            await world.click("invite", ip=home)
            clock.advance(600)
            answer = await world.launch(f"install-new-{learned}", ip=home)
            confidence.append(answer.match.confidence or 0)
    assert 0.9 < confidence[1] < confidence[0]
    async with started_over(dub, clock) as world:  # a restart knows what was learned
        home = address(2000)
        await world.click("invite", ip=home)
        clock.advance(600)
        answer = await world.launch("install-again", ip=home)
        assert answer.match.confidence == pytest.approx(confidence[1], abs=0.002)


async def asked_again(world: World, failing: "Failing") -> None:
    """Let time pass until the rates were read in vain a few times."""

    async def several_times() -> bool:
        await rates(world)
        return failing.calls > 2

    await world.eventually(several_times, step_s=EVERY_S / 4)


class Failing:
    """Stands in for ``RateStore.read`` while the disk is gone."""

    def __init__(self) -> None:
        self.calls = 0

    async def read(self) -> Any:
        self.calls += 1
        raise StoreFailed("the disk is gone")


async def test_without_a_database_the_rates_hold(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be read changes nothing."""
    async for world in build(clock, MATCHING):
        await installed(world, ANNA)
        before = await observed(world, "ios", 1)

        failing = Failing()
        monkeypatch.setattr("service.storage.learned_rates.RateStore.read", failing.read)
        await installed(world, BEN, ip=OFFICE)

        await asked_again(world, failing)
        assert (await rates(world))["ios"] == (before, 1)
        monkeypatch.undo()
        assert await observed(world, "ios", 2) > before
