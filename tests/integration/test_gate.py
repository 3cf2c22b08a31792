"""The gate in the answers: new and repeated ones, asked for again, in a dry run and in a trace."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.app import create_app
from service.config.settings import parse
from service.domain.gate import Gate
from tests.integration.world import MATCHING, embedded_dub, started_over
from tests.support import ANNA, CONFIG, ENV, FB_PROMO, SERVER_KEY, FakeClock, FakeDub, Service, running

STORE = "https://apps.apple.com/app/id1234567890"
PLAY = "https://play.google.com/store/apps/details?id=com.acme.app"
OLD = f"""
[apps.acme.gate]
min_supported_version = "2.0"
[apps.acme.gate.ios]
update_url = "{STORE}"
[apps.acme.gate.android]
min_supported_version = "2.1"
update_url = "{PLAY}"
"""
CLOSED = """
[apps.acme.gate]
maintenance = true
message = "Back at 14:00 UTC"
"""
MAINTENANCE = Gate("maintenance", "maintenance", None, "Back at 14:00 UTC")
AS_SERVER = {"Authorization": f"Bearer {SERVER_KEY}"}


@asynccontextmanager
async def gated(gate: str, dub: FakeDub, clock: FakeClock) -> AsyncIterator[Service]:
    app = create_app(parse(CONFIG + gate, ENV), transport=dub, clock=clock, unix_time=clock.unix_time)
    async with running(app) as service:
        yield service


async def test_an_old_build_is_held_and_still_credited(dub: FakeDub, clock: FakeClock) -> None:
    """The gate changes neither route nor click; the update of the app is let in by its repeat of the open."""
    async with gated(OLD, dub, clock) as service:
        held = await service.open(FB_PROMO, install_id=ANNA, app_version="1.9")
        assert held.gate == Gate("update", "update", STORE, None)
        assert held.route.screen == "product"
        again = await service.open(FB_PROMO, install_id=ANNA, app_version="1.9")
        assert (again.repeat, again.gate) == (True, held.gate)
        updated = await service.open(FB_PROMO, install_id=ANNA, app_version="2.0")
        assert (updated.repeat, updated.gate, updated.click_id) == (True, None, held.click_id)


async def test_a_remembered_open_knows_its_platform(dub: FakeDub, clock: FakeClock) -> None:
    """An open that is asked for after a restart has the gate of the build that reported it.

    Flutter's HTTP client does not name the platform in its User-Agent; the app reports it in the open only.
    """
    flutter = {"User-Agent": "Dart/3.5 (dart:io)"}
    async with gated(OLD, dub, clock) as service:
        held = await service.open(
            FB_PROMO, headers=flutter, install_id=ANNA, platform="android", app_version="2.0.5"
        )
        assert held.gate == Gate("update", "update", PLAY, None)
    async with gated(OLD, dub, clock) as service:
        assert (await service.recall(held.open_id)).gate == held.gate
    async with gated(CLOSED, dub, clock) as service:
        assert (await service.recall(held.open_id)).gate == MAINTENANCE
        repeated = await service.open(FB_PROMO, headers=flutter, install_id=ANNA, app_version="2.0.5")
        assert (repeated.repeat, repeated.gate) == (True, MAINTENANCE)
    async with gated("", dub, clock) as service:
        assert (await service.recall(held.open_id)).gate is None


async def test_a_dry_run_and_a_trace_show_the_gate(dub: FakeDub, clock: FakeClock) -> None:
    """An operator can check whom a gate holds before and after it does."""
    async with gated(OLD, dub, clock) as service:
        body = {"deepLink": FB_PROMO, "platform": "android", "appVersion": "2.0.5"}
        dry = (await service.post("/v1/opens/dry-run", json=body, headers=AS_SERVER)).json()
        assert dry["answer"]["gate"] == {"kind": "update", "screen": "update", "url": PLAY, "message": None}
        opened = await service.open(FB_PROMO, install_id=ANNA, platform="android", app_version="2.0.5")
        trace = (await service.get(f"/v1/opens/{opened.open_id}/trace", headers=AS_SERVER)).json()
        assert trace["answer"]["gate"] == dry["answer"]["gate"]


async def test_the_kill_switch_stops_matching_and_nothing_else(clock: FakeClock) -> None:
    """With ``matching = false`` an open without a link gets no click, one with a link does."""
    switched_off = MATCHING + "\n[apps.acme.gate]\nmatching = false\n"
    dub = embedded_dub(clock)
    async with started_over(dub, clock, switched_off) as world:
        await world.click()
        trace = (await world.dry_run())["trace"]
        said = {each["type"]: (each["outcome"], each["detail"]) for each in trace["evidence"]}
        assert said["ip"] == ("skipped", "matching is switched off (gate.matching = false)")
        none = await world.launch()
        assert (none.click_id, none.match.type, none.pending) == (None, "none", False)
        linked = await world.launch(deep_link=FB_PROMO)
        assert (linked.match.type, linked.match.guaranteed) == ("deep_link", True)
    async with started_over(dub, clock) as world:
        await world.click(ip="203.0.113.8")
        assert (await world.launch("install-ben", ip="203.0.113.8")).match.type == "ip"
