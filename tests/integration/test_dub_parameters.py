"""The parameters of a short link that are meant for Dub, and ``dub-no-track``, over HTTP."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.integration.world import World, build, embedded_dub, started_over
from tests.support import ANNA, BEN, ENV, FB_PROMO, FakeClock, FakeDub, LogLines, Service

SECRET = "hunter2hunter2"
FOR_DUB = (
    f"pw={SECRET}&qr=1&skip_deeplink_preview=1&redir_url=https%3A%2F%2Fx.example"
    "&dub-client-reference-id=c1&utm_source=ig"
)
UNTRACKED = f"{FB_PROMO}?dub-no-track=1&utm_source=ig"
DUB_KEY = {"Authorization": f"Bearer {ENV['ACME_DUB_API_KEY']}"}


@pytest.fixture
async def world(clock: FakeClock, logs: LogLines) -> AsyncIterator[World]:  # noqa: ARG001
    async for each in build(clock):
        yield each


@pytest.mark.parametrize("evidence", ["deep_link", "install_referrer", "clipboard"])
async def test_a_links_password_never_reaches_the_app(
    service: Service, logs: LogLines, evidence: str
) -> None:
    """Dub's own parameters end at Dub (dub-api.md, "What the web side of a link does"), the rest goes on."""
    link = f"{FB_PROMO}?{FOR_DUB}"
    text = f"deepLink={quote(link, safe='')}" if evidence == "install_referrer" else link
    given: Any = {evidence: text}
    answer = await service.open(**given, install_id=ANNA)
    assert answer.match.type == evidence
    assert answer.route.url == "https://acme.com/product/123?utm_source=ig"
    again = await service.recall(answer.open_id)
    assert again.route == answer.route
    assert SECRET not in logs.text


async def test_they_make_no_second_click(service: Service, dub: FakeDub) -> None:
    """Play's referrer always carries ``skip_deeplink_preview=1``: it is the same link, and a repeat."""
    first = await service.open(f"{FB_PROMO}?skip_deeplink_preview=1", install_id=ANNA)
    again = await service.open(FB_PROMO, install_id=ANNA)
    assert (again.open_id, again.repeat) == (first.open_id, True)
    assert dub.calls("/track/open") == 1


@pytest.mark.parametrize("known", [True, False])
async def test_a_degraded_answer_holds_none_of_them(service: Service, dub: FakeDub, known: bool) -> None:  # noqa: FBT001
    """Dub away: neither the remembered destination nor the URL itself carries a password."""
    if known:
        await service.open(FB_PROMO, install_id=BEN)
    dub.script = _away
    answer = await service.open(f"{FB_PROMO}?{FOR_DUB}", install_id=ANNA)
    assert answer.source == ("stale" if known else "parsed")
    assert answer.route.url is not None
    assert answer.route.url.partition("?")[2] == "utm_source=ig"


async def test_a_link_that_is_not_to_be_tracked(service: Service, dub: FakeDub) -> None:
    """``dub-no-track`` gives a link and no click, and Dub records nothing (dub-api.md, "POST /track/open").

    The same link without it is another open, which has its click.
    """
    answer = await service.open(UNTRACKED, install_id=ANNA)
    assert answer.link is not None
    assert (answer.click_id, answer.pending, answer.match.type) == (None, False, "deep_link")
    assert answer.route.url == "https://acme.com/product/123?utm_source=ig"
    assert "dub-no-track" in dub.requests[-1].headers
    tracked = await service.open(f"{FB_PROMO}?utm_source=ig", install_id=ANNA)
    assert (tracked.click_id is not None, tracked.repeat) == (True, False)
    assert "dub-no-track" not in dub.requests[-1].headers


async def test_no_lead_is_credited_to_a_link_that_is_not_tracked(world: World) -> None:
    """Nothing was recorded at Dub that a sign-up could be credited to, so none is sent."""
    await world.click()
    await world.launch(deep_link=UNTRACKED)
    reply = await world.lead(installId=ANNA)
    assert reply.json()["status"] == "organic"
    assert await world.calls("/track/lead") == 0
    events = (await world.dub.get("/events", params={"interval": "all"}, headers=DUB_KEY)).json()
    assert [each["click"]["trigger"] for each in events] == ["link"]  # the web click, and no open


async def test_a_web_click_is_not_used_up_by_an_open_that_is_not_tracked(world: World) -> None:
    """The next install from that network still gets the click."""
    await world.click()
    await world.launch(deep_link=UNTRACKED)
    assert (await world.launch(BEN)).match.type == "ip"


async def test_dub_away_a_link_that_is_not_tracked_is_asked_about_later(
    clock: FakeClock, logs: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outbox asks as the open would have: the answer is completed, and Dub records nothing."""
    monkeypatch.setattr("service.outbox.drain.POLL_S", 0.01)
    async with started_over(embedded_dub(clock), clock) as world:
        await world.fail("/track/open")
        pending = await world.launch(deep_link=UNTRACKED)
        assert pending.pending
        await world.mend()
        settled = await world.settled(pending)
        assert settled.link is not None
        assert settled.click_id is None
        assert logs.events("open.replayed")


async def _away(_: httpx.Request) -> httpx.Response:
    return httpx.Response(503)
