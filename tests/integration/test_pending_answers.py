"""``pending: false`` is final; ``pending: true`` says when it is worthwhile to ask again."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from service.attribution import delayed_matching
from tests.integration.world import ANOTHER_IN_APP_BROWSER, HOME, IN_APP_BROWSER, REFERRER, World, build
from tests.support import ANNA, FB_PROMO, FakeClock, FakeDub, LogLines, Service


@pytest.fixture
async def world(clock: FakeClock, logs: LogLines) -> AsyncIterator[World]:  # noqa: ARG001
    async for each in build(clock):
        yield each


async def asked(world: World, open_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = (await world.service.get(f"/v1/opens/{open_id}")).json()
    return answer


async def test_a_first_launch_without_a_click_is_pending_until_the_last_look(world: World) -> None:
    """Looked for again after 2, 10 and 30 s: each answer says when the next look is over."""
    launch = await world.launch()
    assert (launch.match.reason, launch.pending, launch.retry_after_ms) == ("no_click", True, 2500)
    for seconds, left_ms in ((1, 1500), (2, 7500), (20, 7500)):
        world.clock.advance(seconds)
        again = await world.launch()
        assert (again.open_id, again.pending, again.repeat) == (launch.open_id, True, True)
        assert isinstance(again.retry_after_ms, int)
        assert abs(again.retry_after_ms - left_ms) < 100
        assert (await asked(world, launch.open_id))["retryAfterMs"] == again.retry_after_ms
    await world.settled(launch)
    final = await asked(world, launch.open_id)
    assert (final["pending"], final["clickId"], "retryAfterMs" in final) == (False, None, False)
    assert not (await world.launch()).pending


@pytest.mark.parametrize("delay_s", [1, 8, 25])
async def test_asking_again_when_it_is_worthwhile_finds_a_late_click(
    clock: FakeClock,
    logs: LogLines,  # noqa: ARG001
    delay_s: float,
) -> None:
    """Whenever Dub shows the click, one of three further questions has it, and nothing changes after that."""
    async for world in build(clock, events_delay_s=delay_s):
        await world.click()
        answer = await world.launch()
        questions = 0
        while answer.pending:
            assert answer.click_id is None
            assert isinstance(answer.retry_after_ms, int)
            answer = await world.settle(answer, answer.retry_after_ms / 1000 + 1)
            questions += 1
        assert (answer.match.type, questions <= 3) == ("ip", True)
        assert (await world.settle(answer, 40)) == answer


async def test_what_dub_has_not_confirmed_is_asked_for_again_soon(service: Service, dub: FakeDub) -> None:
    async def away(_: httpx.Request) -> httpx.Response:
        return httpx.Response(503)

    dub.script = away
    answer = (await service.report({"deepLink": FB_PROMO, "installId": ANNA})).json()
    assert (answer["pending"], answer["retryAfterMs"]) == (True, 2000)


async def test_an_answer_that_is_final_says_no_time(service: Service) -> None:
    """Also one without a click: nobody looks for one."""
    for body in ({"deepLink": FB_PROMO}, {"dubDomain": "acme.link"}, {"deepLink": "https://acme.link/gone"}):
        answer = (await service.report({**body, "installId": f"install of {body}"[:64]})).json()
        assert (answer["pending"], "retryAfterMs" in answer) == (False, False)


async def test_what_no_click_can_change_is_final(world: World) -> None:
    """Clicks of several links do not become fewer."""
    await world.click("fb-promo", user_agent=IN_APP_BROWSER)
    await world.click("invite", user_agent=ANOTHER_IN_APP_BROWSER)
    launch = await world.launch()
    assert (launch.match.reason, launch.pending) == ("several_links", False)


async def test_an_open_that_nobody_looks_for_is_final_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many are looked for already: its first answer says so."""
    monkeypatch.setattr(delayed_matching, "_WAITING_MAX_BYTES", 0)
    launch = await world.launch()
    assert (launch.pending, launch.match.type) == (False, "none")


async def test_a_look_that_is_due_holds_back_no_referrer(world: World) -> None:
    """The install's referrer arrives while its click is looked for: it is answered, and final."""
    assert (await world.launch()).pending
    referred = await world.launch(install_referrer=REFERRER)
    assert (referred.match.type, referred.pending, referred.repeat) == ("install_referrer", False, False)


async def test_dubs_own_wire_names_an_open_that_is_looked_for(world: World) -> None:
    """An SDK's backend may ask for the click that Dub shows late."""
    reply = await world.service.post(
        "/track/open", json={"dubDomain": "acme.link"}, headers={"X-Forwarded-For": HOME}
    )
    assert reply.json() == {"clickId": None, "link": None}
    assert (await asked(world, reply.headers["Firstopen-Open-Id"]))["pending"]


async def test_an_open_that_is_looked_for_is_no_degraded_one(world: World) -> None:
    """The metrics count it as answered: ``pending`` there are opens that were answered without Dub."""
    assert (await world.launch()).pending
    text = (await world.service.get("/metrics")).text
    assert 'firstopen_opens_total{app="acme",match="none",outcome="new",source="dub"} 1' in text
    assert 'firstopen_matching_refused_total{app="acme",reason="no_click"} 1' in text


async def test_the_schema_describes_it(service: Service) -> None:
    schema = (await service.get("/schema/openapi.json")).json()["components"]["schemas"]["Answer"]
    assert "final" in schema["properties"]["pending"]["description"]
    assert schema["properties"]["retryAfterMs"]["description"].startswith("Only if pending is true")
    assert "pending" in schema["required"]
    assert "retryAfterMs" not in schema["required"]
