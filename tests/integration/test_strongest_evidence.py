"""The strongest evidence wins, whatever arrives first: a guess by the address gives way to a certain link."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from service.domain.models import Answer
from tests.integration.world import AS_SERVER, HOME, REFERRER, World, build, embedded_dub, started_over
from tests.support import ANNA, FB_PROMO, FakeClock, LogLines

APP_URL = "acme://product/7"
INSTALLS = 100
GAP_MAX_S = 0.3


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the outbox look at the (fake) clock often."""
    monkeypatch.setattr("service.outbox.drain.POLL_S", 0.01)


@pytest.fixture
async def world(clock: FakeClock, logs: LogLines) -> AsyncIterator[World]:  # noqa: ARG001
    async for each in build(clock):
        yield each


async def freed(world: World, ip: str = HOME) -> str | None:
    """Wait until a click at an address is given back; return the link that a house-mate is matched to."""

    async def is_free() -> bool:
        dry = await world.dry_run(dubDomain="acme.link", ip=ip)
        return bool(dry["answer"]["match"]["type"] == "ip")

    await world.eventually(is_free)
    return await house_mates(world, ip)


async def house_mates(world: World, ip: str = HOME) -> str | None:
    """Return the link that a house-mate is matched to, if there is one."""
    world.clock.advance(0.1)  # within the calls to /events that a second has
    housemate = await world.launch(f"house-mate at {ip}", ip=ip)
    return housemate.link.key if housemate.link else None


CERTAIN: dict[str, dict[str, Any]] = {
    "deep_link": {"deep_link": FB_PROMO},
    "dub_id": {"deep_link": "https://acme.com/product/123?dub_id=d0UtZqE0BZuBPrJS"},
    "install_referrer": {"install_referrer": REFERRER},
    "clipboard": {"clipboard": FB_PROMO},
    "with a URL of its own": {"deep_link": APP_URL, "install_referrer": REFERRER},
}


@pytest.mark.parametrize("name", CERTAIN)
async def test_a_certain_answer_supersedes_a_guess(world: World, logs: LogLines, name: str) -> None:
    """The guess's open says so and has no click; its leads are the certain open's; its click is free."""
    await world.click("invite")
    guess = await world.launch()
    assert (guess.match.type, guess.route.screen) == ("ip", "invite")
    world.clock.advance(0.3)
    certain = await world.launch(**CERTAIN[name])
    assert certain.match.guaranteed
    assert certain.click_id not in (None, guess.click_id)
    recalled = await world.service.recall(guess.open_id)
    assert (recalled.click_id, recalled.link, recalled.pending) == (None, None, False)
    assert (recalled.match.type, recalled.match.reason) == ("none", "superseded")
    assert recalled.route.reason == "default"
    assert [(line["open_id"], line["by"]) for line in logs.events("open.superseded")] == [
        (guess.open_id, certain.open_id)
    ]
    assert await freed(world) == "invite"
    leads = ({"installId": ANNA}, {"openId": guess.open_id}, {"openId": certain.open_id})
    for number, subject in enumerate(leads):
        customer = f"{name} {number}"
        if name == "dub_id":  # which Dub knows nothing of, here
            continue
        assert (await world.lead(customer, **subject)).json()["click"]["id"] == certain.click_id
    again = await world.launch()
    if certain.match.type == "deep_link":
        assert (again.open_id, again.click_id, again.repeat) == (guess.open_id, None, True)
    assert again.click_id != guess.click_id


@pytest.mark.parametrize("name", CERTAIN)
async def test_a_guess_after_a_certain_answer_is_not_made(world: World, name: str) -> None:
    """In the other order nothing is claimed, and the launch's leads are the certain open's all the same."""
    await world.click("invite")
    certain = await world.launch(**CERTAIN[name])
    world.clock.advance(0.3)
    launch = await world.launch()
    assert launch.match.type in ("none", certain.match.type)
    assert await freed(world) == "invite"
    if name != "dub_id":
        for subject in ({"installId": ANNA}, {"openId": launch.open_id}):
            reply = await world.lead(f"by {next(iter(subject))}", **subject)
            assert reply.json()["click"]["id"] == certain.click_id


async def test_the_installs_own_web_click_stays_used_up(world: World) -> None:
    """A guess on the very link that is certain was right: the click led here, and is no house-mate's."""
    await world.click("fb-promo")
    guess = await world.launch()
    assert guess.match.type == "ip"
    certain = await world.launch(deep_link=FB_PROMO)
    assert (await world.lead(openId=guess.open_id)).json()["click"]["id"] == certain.click_id
    assert await house_mates(world) is None


async def test_opens_that_shared_a_guess_are_superseded_with_it(world: World) -> None:
    """A URL of the app's own that was opened in between keeps its route, and loses the click."""
    await world.click("invite")
    guess = await world.launch()
    shared = await world.launch(deep_link=APP_URL)
    assert shared.click_id == guess.click_id
    certain = await world.launch(deep_link=FB_PROMO)

    async def revised() -> bool:
        return (await world.service.recall(shared.open_id)).click_id is None

    await world.eventually(revised)
    recalled = await world.service.recall(shared.open_id)
    assert (recalled.match.reason, recalled.route) == ("superseded", shared.route)
    assert (await world.lead(openId=shared.open_id)).json()["click"]["id"] == certain.click_id
    again = await world.launch(deep_link=APP_URL)
    assert (again.open_id, again.click_id) == (shared.open_id, None)


async def test_a_referrer_is_superseded_for_leads_only(world: World) -> None:
    """Both clicks are the install's own, made at Dub for it: each open keeps its click."""
    referred = await world.launch(install_referrer=REFERRER)
    opened = await world.launch(deep_link="https://acme.link/invite")
    assert (await world.service.recall(referred.open_id)).click_id == referred.click_id
    assert (await world.lead(installId=ANNA)).json()["click"]["id"] == opened.click_id


async def test_a_lead_waits_for_a_certain_link_that_is_on_its_way(world: World) -> None:
    """Dub has not answered for the link yet: the guess is settled, and still not what the lead goes to."""
    await world.click("invite")
    guess = await world.launch()
    assert guess.match.type == "ip"
    await world.fail("/track/open")
    pending = await world.launch(deep_link=FB_PROMO)
    assert pending.pending
    lead = (await world.lead(installId=ANNA)).json()
    assert lead["status"] == "queued"
    world.clock.advance(300)
    await world.mend()
    await world.lead_is(lead["leadId"], "delivered")
    found = await world.service.recall(pending.open_id)
    assert (found.match.type, await credited(world)) == ("deep_link", {"anna": found.click_id})
    assert (await world.service.recall(guess.open_id)).match.reason == "superseded"
    assert await freed(world) == "invite"


async def test_a_lead_that_dub_has_not_taken_follows_the_certain_link(world: World) -> None:
    """It was written down for the guess, which is superseded while Dub takes no leads."""
    await world.click("invite")
    guess = await world.launch()
    await world.fail("/track/lead")
    lead = (await world.lead(installId=ANNA)).json()
    assert (guess.match.type, lead["status"]) == ("ip", "queued")
    certain = await world.launch(deep_link=FB_PROMO)
    await world.mend()
    await world.lead_is(lead["leadId"], "delivered")
    assert await credited(world) == {"anna": certain.click_id}


async def test_a_link_that_turns_out_to_be_none_leaves_the_guess(world: World) -> None:
    """A lead that waited for it goes to the guess."""
    await world.click("invite")
    guess = await world.launch()
    await world.fail("/track/open")
    pending = await world.launch(deep_link="https://acme.link/gone")
    lead = (await world.lead(installId=ANNA)).json()
    assert (pending.pending, lead["status"]) == (True, "queued")
    await world.mend()
    await world.lead_is(lead["leadId"], "delivered")
    assert await credited(world) == {"anna": guess.click_id}


async def test_a_click_that_shows_late_does_not_override_a_certain_link(
    clock: FakeClock,
    logs: LogLines,  # noqa: ARG001
) -> None:
    """Looked for again after 2 s, it is left to others."""
    async for world in build(clock, events_delay_s=1):
        await world.click("invite")
        launch = await world.launch()
        assert launch.click_id is None
        certain = await world.launch(deep_link=FB_PROMO)
        settled = await world.settle(launch, 12)
        assert (settled.click_id, settled.match.reason, settled.pending) == (None, "superseded", False)
        assert (await world.lead(openId=launch.open_id)).json()["click"]["id"] == certain.click_id
        assert await freed(world) == "invite"


async def test_a_device_without_an_install_id_is_one_for_a_minute(world: World) -> None:
    """A house-mate's deep link, from the same address and app, takes nothing back later."""
    await world.click("invite")
    guess = await world.launch(None)
    assert guess.match.type == "ip"
    world.clock.advance(61)
    assert (await world.launch(None, deep_link=FB_PROMO)).match.type == "deep_link"
    assert (await world.service.recall(guess.open_id)).click_id == guess.click_id


class SlowDub(httpx.AsyncBaseTransport):
    """A Dub whose answers take their time, each its own."""

    def __init__(self, dub: httpx.AsyncBaseTransport, clock: FakeClock, delays: random.Random) -> None:
        self._dub = dub
        self._clock = clock
        self._delays = delays
        self.is_slow = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await self._take_time(request.url.path)
        answer = await self._dub.handle_async_request(request)
        await self._take_time(request.url.path)
        return answer

    async def _take_time(self, path: str) -> None:
        longest_s = {"/track/open": 0.4, "/events": 0.1}.get(path, 0)
        if self.is_slow and longest_s:
            await self._clock.sleep(self._delays.uniform(0, longest_s))


RACES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a launch and its link": ({}, CERTAIN["deep_link"]),
    "a launch and a URL with its referrer": ({}, CERTAIN["with a URL of its own"]),
    "a URL without and with its referrer": ({"deep_link": APP_URL}, CERTAIN["with a URL of its own"]),
}


@pytest.mark.parametrize("race", RACES)
@pytest.mark.parametrize("guess_first", [True, False])
async def test_cold_starts_that_report_twice(
    clock: FakeClock,
    logs: LogLines,  # noqa: ARG001
    capsys: pytest.CaptureFixture[str],
    race: str,
    guess_first: bool,  # noqa: FBT001
) -> None:
    """A hundred installs, each with a web click on another link: no lead and no claim goes to the guess."""
    dub = SlowDub(embedded_dub(clock), clock, random.Random(race))  # the same delays in each run
    async with started_over(dub, clock) as world:
        for number in range(INSTALLS):
            await world.click("invite", ip=f"198.51.100.{number}")
        dub.is_slow = True
        racing = asyncio.create_task(_race(world, *RACES[race], guess_first=guess_first))
        while not racing.done():
            clock.advance(0.005)
            await asyncio.sleep(0.001)
        opens = racing.result()
        dub.is_slow = False
        counts: Counter[str] = Counter()
        leads = []
        for number, (guess, _) in enumerate(opens):
            counts["guesses that were answered"] += guess.match.type == "ip"
            leads.append((await world.lead(f"customer-{number}", installId=f"install-{number:03}")).json())
        for lead in leads:
            await world.lead_is(lead["leadId"], "delivered")
        settled = [await world.settled(strong) for _, strong in opens]
        clicks = await credited(world)
        for number, strong in enumerate(settled):
            to_the_link = clicks[f"customer-{number}"] == strong.click_id
            counts["leads to the certain link" if to_the_link else "leads to weaker evidence"] += 1
            counts["web clicks that are free again"] += await freed(world, f"198.51.100.{number}") == "invite"
        for guess, _ in opens:
            launch = await world.settled(guess)
            counts["launches that keep their guess"] += launch.match.type == "ip"
        with capsys.disabled():
            print(f"\n{race}, guess first: {guess_first}: {dict(counts)}")  # noqa: T201  what the run has shown
        assert counts["leads to weaker evidence"] == counts["launches that keep their guess"] == 0
        assert counts["leads to the certain link"] == counts["web clicks that are free again"] == INSTALLS
        assert not guess_first or counts["guesses that were answered"] > 10


async def _race(
    world: World, weak: dict[str, Any], certain: dict[str, Any], *, guess_first: bool
) -> list[tuple[Answer, Answer]]:
    """Report each install's cold start twice, at gaps from 0 to 300 ms; return guesses and certain opens."""

    async def report(number: int, after_s: float, **fields: Any) -> Answer:
        await world.clock.sleep(after_s)
        return await world.service.open(
            dub_domain="acme.link",
            install_id=f"install-{number:03}",
            platform="ios",
            budget_ms=10_000,
            headers={"X-Forwarded-For": f"198.51.100.{number}"},
            **fields,
        )

    async def install(number: int) -> tuple[Answer, Answer]:
        gap_s = GAP_MAX_S * number / (INSTALLS - 1)
        guess_s, certain_s = (0.0, gap_s) if guess_first else (gap_s, 0.0)
        guess, strong = await asyncio.gather(
            report(number, guess_s, **weak), report(number, certain_s, **certain)
        )
        return guess, strong

    return await asyncio.gather(*map(install, range(INSTALLS)))


async def credited(world: World) -> dict[str, str]:
    """Return the click that Dub has credited, by customer."""
    world.clock.advance(5)  # until Dub shows its leads
    query = {"event": "leads", "interval": "all", "limit": "1000"}
    reply = await world.service.get("/events", params=query, headers=AS_SERVER)
    assert reply.status_code == 200, reply.text
    return {lead["customer"]["externalId"]: lead["click"]["id"] for lead in reply.json()}
