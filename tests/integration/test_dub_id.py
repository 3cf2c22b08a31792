"""A URL that names its own click: Dub adds ``dub_id`` to the destinations of links with conversion tracking.

dub-api.md, "What the web side of a link does": an app link on the destination's own host arrives with its
click in the URL.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.app import create_app
from service.config.settings import parse
from tests.integration.world import AS_SERVER, REFERRER, Disk, World, build, embedded_dub, started_over
from tests.support import ANNA, BEN, CONFIG, ENV, FB_PROMO, FakeClock, FakeDub, LogLines, Service, running

CLICK = "d0UtZqE0BZuBPrJS"
PRODUCT = f"https://acme.com/product/123?dub_id={CLICK}"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the outbox look at the (fake) clock often."""
    monkeypatch.setattr("service.outbox.drain.POLL_S", 0.01)


@pytest.fixture
async def world(clock: FakeClock, logs: LogLines) -> AsyncIterator[World]:  # noqa: ARG001
    async for each in build(clock):
        yield each


async def test_a_url_that_names_its_click_has_it(service: Service, dub: FakeDub, logs: LogLines) -> None:
    """The click comes without a call to Dub, the route from the URL, which is handed out without it."""
    answer = await service.open(PRODUCT, install_id=ANNA)
    assert answer.click_id == CLICK
    assert (answer.match.type, answer.match.guaranteed) == ("dub_id", True)
    assert (answer.route.screen, answer.route.params, answer.route.reason) == (
        "product",
        {"id": "123"},
        "matched",
    )
    assert answer.route.url == "https://acme.com/product/123"
    assert (answer.link, answer.source, answer.pending, answer.repeat) == (None, "parsed", False, False)
    assert dub.requests == []
    again = await service.open(PRODUCT, install_id=ANNA)
    assert (again.open_id, again.click_id, again.repeat) == (answer.open_id, CLICK, True)
    assert (await service.recall(answer.open_id)).click_id == CLICK
    assert [(line["match"], line["level"]) for line in logs.events("open.resolved")] == [("dub_id", "info")]


@pytest.mark.parametrize(
    ("deep_link", "click_id", "url"),
    [
        (f"https://www.acme.com/product/1?a=b%20c&dub_id={CLICK}&d=e#f", CLICK, "?a=b%20c&d=e#f"),
        (f"https://acme.com/not/listed?dub_id={CLICK}", CLICK, "/not/listed"),
        (f"acme://product/7?dub_id={CLICK}", CLICK, "acme://product/7"),
        (f"acme:anything?x=1&dub_id={CLICK}", CLICK, "acme:anything?x=1"),
        (f"https://acme.com/product/1?dub_id=&dub_id={CLICK}", CLICK, "/product/1"),
        ("https://acme.com/product/1?dub_id=", None, "/product/1"),
        ("https://acme.com/product/1?dub_id", None, "/product/1"),
        ("https://acme.com/product/1?dub_id=tooShort", None, "/product/1"),
        (f"https://acme.com/product/1?dub_id={CLICK}0", None, "/product/1"),
        ("https://acme.com/product/1?dub_id=d0UtZqE0BZuBPrJ%2F", None, "/product/1"),
        (f"https://acme.com/product/1?x=dub_id%3D{CLICK}", None, f"?x=dub_id%3D{CLICK}"),
        (f"https://acme.com/product/1#dub_id={CLICK}", None, f"#dub_id={CLICK}"),
        (f"https://somewhere.example/product/1?dub_id={CLICK}", None, f"?dub_id={CLICK}"),
        (f"https://acme.com.example/product/1?dub_id={CLICK}", None, f"?dub_id={CLICK}"),
    ],
)
async def test_a_click_is_read_wherever_the_app_is_at_home(
    service: Service, deep_link: str, click_id: str | None, url: str
) -> None:
    """On hosts of its routes and on its schemes; 16 letters and digits, or it is removed and ignored."""
    answer = await service.open(deep_link, install_id=ANNA)
    assert answer.click_id == click_id
    assert answer.match.type == ("dub_id" if click_id else "none")
    assert answer.route.url
    assert answer.route.url.endswith(url)


async def test_a_trace_says_what_is_wrong_with_a_click(service: Service) -> None:
    opened = await service.open("https://acme.com/product/1?dub_id=tooShort", install_id=ANNA)
    trace = (await service.get(f"/v1/opens/{opened.open_id}/trace", headers=AS_SERVER)).json()
    assert ("dub_id", "skipped") in [(item["type"], item["outcome"]) for item in trace["evidence"]]


async def test_a_click_in_a_url_is_one_installs(service: Service) -> None:
    """A URL that is passed on to a friend brings the friend to the screen, and no click."""
    assert (await service.open(PRODUCT, install_id=ANNA)).click_id == CLICK
    ben = await service.open(PRODUCT, install_id=BEN)
    assert (ben.click_id, ben.match.type, ben.pending) == (None, "none", False)
    assert (ben.route.screen, ben.route.url) == ("product", "https://acme.com/product/123")
    trace = (await service.get(f"/v1/opens/{ben.open_id}/trace", headers=AS_SERVER)).json()
    (said,) = [item for item in trace["evidence"] if item["type"] == "dub_id"]
    assert (said["outcome"], "claimed" in said["detail"]) == ("none", True)


async def test_a_restart_forgets_no_claim(dub: FakeDub, data_dir: Path) -> None:  # noqa: ARG001
    """The claim is on disk before the answer leaves."""
    for install, click_id in ((ANNA, CLICK), (BEN, None), (ANNA, CLICK)):
        async with running(create_app(parse(CONFIG, ENV), transport=dub)) as service:
            assert (await service.open(PRODUCT, install_id=install)).click_id == click_id


async def test_a_claim_that_the_disk_refuses_is_made_later(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No click is given that is not on disk; the open is routed, and has its click once the disk takes it."""
    disk = Disk(monkeypatch)
    async with started_over(embedded_dub(clock), clock) as world:
        disk.full = True
        first = await world.service.open(PRODUCT, install_id=ANNA)
        assert (first.pending, first.click_id, first.route.params) == (True, None, {"id": "123"})
        disk.full = False
        found = await world.settled(first)
        assert (found.click_id, found.match.type, found.route) == (CLICK, "dub_id", first.route)


async def test_a_short_link_is_stronger_than_a_click_in_its_query(service: Service, dub: FakeDub) -> None:
    """What Dub says of the short link goes first; of one that it does not know, the click is still known."""
    known = await service.open(f"{FB_PROMO}?dub_id={CLICK}&ref=ig", install_id=ANNA)
    assert (known.match.type, known.route.url) == ("deep_link", "https://acme.com/product/123?ref=ig")
    assert known.click_id not in (None, CLICK)
    unknown = await service.open(f"https://acme.link/page?dub_id={CLICK}&ref=ig", install_id=ANNA)
    assert (unknown.match.type, unknown.click_id) == ("dub_id", CLICK)
    assert unknown.route.url == "https://acme.link/page?ref=ig"
    assert dub.calls("/track/open") == 2


async def test_a_click_in_the_url_is_stronger_than_a_referrer(service: Service, dub: FakeDub) -> None:
    answer = await service.open(PRODUCT, install_id=ANNA, install_referrer=REFERRER)
    assert (answer.match.type, answer.click_id) == ("dub_id", CLICK)
    assert dub.requests == []


async def test_a_dry_run_claims_no_click(service: Service) -> None:
    body = {"deepLink": PRODUCT, "installId": ANNA}
    dry = (await service.post("/v1/opens/dry-run", json=body, headers=AS_SERVER)).json()["answer"]
    assert (dry["match"]["type"], dry["clickId"]) == ("dub_id", CLICK)
    assert (await service.open(PRODUCT, install_id=BEN)).click_id == CLICK
    dry = (await service.post("/v1/opens/dry-run", json=body, headers=AS_SERVER)).json()["answer"]
    assert (dry["match"]["type"], dry["clickId"]) == ("none", None)


async def test_dubs_own_sdks_get_the_click_too(service: Service) -> None:
    """Dub itself knows no link of this host and would answer 404."""
    reply = await service.post("/track/open", json={"deepLink": PRODUCT})
    assert (reply.status_code, reply.json()) == (200, {"clickId": CLICK, "link": None})


async def test_a_lead_is_credited_to_the_click_of_the_url(world: World) -> None:
    """A phone whose link opens the app at its destination: the web click is its lead's."""
    await world.click()
    listed = await world.service.get("/events", params={"event": "clicks"}, headers=AS_SERVER)
    (click,) = listed.json()
    click_id = click["click"]["id"]
    opened = await world.service.open(f"https://acme.com/product/123?dub_id={click_id}", install_id=ANNA)
    assert opened.click_id == click_id
    lead = await world.lead(installId=ANNA)
    assert lead.json()["click"]["id"] == click_id
    assert (await world.launch(BEN)).click_id is None
