"""`POST /track/open`: which click and link an open belongs to."""

import re

import pytest

from tests.contract.targets import PROMO_URL, Phone, Target, error_of
from tests.sandbox.support import DOMAIN, IPHONE, PIXEL, PROMO, FakeClock

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOUR_S = 3_600
NOWHERE = {"clickId": None, "link": None}
UNKNOWN = "https://acme.link/unknown"


async def test_a_known_link_answers_its_click_and_itself(shared: Target) -> None:
    """The answer is a clickId of 16 letters and digits, and the link's id, domain, key and URL."""
    opened = await shared.open()
    assert re.fullmatch(r"[A-Za-z0-9]{16}", opened["clickId"])
    assert opened["link"] == {"id": "link_promo", "domain": DOMAIN, "key": "fb-promo", "url": PROMO_URL}


@pytest.mark.parametrize(
    "deep_link",
    [
        UNKNOWN,
        "acme.link/unknown?utm_source=ig",
        "https://acme.link/fb-promo/more",
        "https://WWW.acme.link/Unknown#top",
        "https://nobody.example/fb-promo",
        "acme://product/5",
    ],
)
async def test_an_unknown_link_is_dubs_404(shared: Target, deep_link: str) -> None:
    """The 404 repeats the link as it was sent, and nothing is recorded."""
    response = await shared.ask_open(deepLink=deep_link)
    assert error_of(response) == (404, "not_found")
    assert response.json()["error"]["message"] == f"Deep link not found: {deep_link}"
    assert await shared.clicks() == []


@pytest.mark.parametrize("deep_link", ["https://acme.link/fb-promo/", "https://acme.link//fb-promo"])
async def test_a_slash_too_many(shared: Target, deep_link: str) -> None:
    """Dub takes the path without its first slash as the key; the service finds what a browser would."""
    response = await shared.ask_open(deepLink=deep_link)
    assert response.status_code == shared.expects("a link with a slash too many")


async def test_an_unknown_link_never_falls_back(shared: Target) -> None:
    """A 404 of the deep link stays one, although the domain has a click from this address."""
    await shared.click(PROMO, ip=shared.phone.ip, ua=IPHONE)
    response = await shared.ask_open(deepLink=UNKNOWN, dubDomain=DOMAIN)
    assert error_of(response) == (404, "not_found")


async def test_the_deep_link_goes_before_the_domain(shared: Target) -> None:
    """With both, the deep link decides."""
    earlier = await shared.click("https://go.acme.com/Deal", ip=shared.phone.ip, ua=IPHONE)
    response = await shared.ask_open(deepLink=PROMO, dubDomain="go.acme.com")
    assert response.json()["link"]["id"] == "link_promo"
    assert response.json()["clickId"] != earlier


async def test_the_same_device_keeps_its_click_for_an_hour(shared: Target, shared_clock: FakeClock) -> None:
    """One address and User-Agent is one device: its click is the same until an hour after it was made."""
    first = await shared.click_id()
    assert await shared.click_id() == first
    shared_clock.advance(HOUR_S - 1)
    assert await shared.click_id("acme.link/fb-promo?utm_source=ig") == first
    shared_clock.advance(1)
    assert await shared.click_id() != first
    assert len(await shared.clicks()) == 2


@pytest.mark.parametrize("other", ["address", "User-Agent"])
async def test_two_devices_never_share_a_click(shared: Target, other: str) -> None:
    """Another address, or another User-Agent, is another device with a click of its own."""
    apple = Phone(shared.phone.ip, "Acme/12 CFNetwork/1568 Darwin/24.0.0")
    phone = shared.somebodys_phone() if other == "address" else apple
    ours, theirs = await shared.click_id(), await shared.click_id(phone=phone)
    assert ours != theirs
    assert {event["click"]["id"] for event in await shared.clicks()} == {ours, theirs}


@pytest.mark.parametrize("other", ["https://acme.link/plain", "https://go.acme.com/Deal"])
async def test_each_link_has_its_own_click(shared: Target, other: str) -> None:
    """One device that opens two links gets two clicks."""
    assert await shared.click_id() != await shared.click_id(other)


async def test_an_open_is_a_click_that_was_made_by_a_deep_link(shared: Target) -> None:
    """The open is listed with its link, its trigger, and where it came from as Dub saw it."""
    click_id = await shared.click_id()
    (event,) = await shared.clicks()
    click = event["click"]
    assert (click["id"], click["trigger"], event["link"]["id"]) == (click_id, "deeplink", "link_promo")
    assert click["url"] == PROMO_URL
    assert click["ua"].startswith(shared.expects("the User-Agent that an open was made with"))
    addresses = {"the phone's": shared.phone.ip, "the service's": "127.0.0.1"}
    assert click["ip"] == addresses[shared.expects("whose address an open came from")]


@pytest.mark.parametrize("value", ["true", "1", "false"])
async def test_do_not_track_header(shared: Target, value: str) -> None:
    """The header dub-no-track, whatever it says, gives the link without a click, and records nothing."""
    headers = shared.phone.headers | {"dub-no-track": value}
    response = await shared.post("/track/open", {"deepLink": PROMO}, headers=headers)
    assert (response.status_code, response.json()["clickId"]) == (200, None)
    assert response.json()["link"]["id"] == "link_promo"
    assert await shared.clicks() == []
    assert await shared.click_id() is not None
    assert len(await shared.clicks()) == 1


@pytest.mark.parametrize("query", ["dub-no-track", "dub-no-track=", "dub-no-track=1", "a=b&dub-no-track=0"])
async def test_do_not_track_parameter(shared: Target, query: str) -> None:
    """The query parameter does the same, with a value or without, also after an open that was tracked."""
    await shared.open()
    body, headers = {"deepLink": PROMO}, shared.phone.headers
    response = await shared.ask("POST", "/track/open", params=query, body=body, headers=headers)
    assert (response.status_code, response.json()["clickId"]) == (200, None)
    assert response.json()["link"]["id"] == "link_promo"
    assert len(await shared.clicks()) == 1


async def test_do_not_track_an_unknown_link(shared: Target) -> None:
    """An unknown link is the same 404, tracked or not."""
    response = await shared.post("/track/open", {"deepLink": UNKNOWN}, headers={"dub-no-track": "1"})
    assert error_of(response) == (404, "not_found")
    assert response.json()["error"]["message"] == f"Deep link not found: {UNKNOWN}"


@pytest.mark.parametrize("age_s", [0, 60, 1_800, HOUR_S - 1])
async def test_a_first_open_finds_the_click_that_led_to_the_store(
    shared: Target, shared_clock: FakeClock, age_s: int
) -> None:
    """Within an hour a store-bound click from this address is the open's, also when it is asked again."""
    click_id = await shared.click(PROMO, ip=shared.phone.ip, ua=PIXEL)
    shared_clock.advance(age_s)
    link = {"id": "link_promo", "domain": DOMAIN, "key": "fb-promo", "url": PROMO_URL}
    assert await shared.first_open() == {"clickId": click_id, "link": link}
    assert await shared.first_open() == {"clickId": click_id, "link": link}


async def test_a_first_open_after_the_hour(shared: Target, shared_clock: FakeClock) -> None:
    """A click of more than an hour ago brings nobody any more."""
    await shared.click(PROMO, ip=shared.phone.ip, ua=PIXEL)
    shared_clock.advance(HOUR_S + 1)
    assert await shared.first_open() == NOWHERE


async def test_a_first_open_after_a_click_to_the_web(shared: Target) -> None:
    """A click on a link without a store target is nobody's to Dub; the service knows it from /events."""
    click_id = await shared.click("https://acme.link/plain", ip=shared.phone.ip, ua=PIXEL)
    subject = {"nobody's": None, "the install's": click_id}
    expected = subject[shared.expects("a click on a link that leads to no store")]
    assert (await shared.first_open())["clickId"] == expected


async def test_two_first_opens_at_one_address(shared: Target) -> None:
    """Dub gives a store-bound click to whoever opens from its address; the service gives it to one."""
    click_id = await shared.click(PROMO, ip=shared.phone.ip, ua=PIXEL)
    assert (await shared.first_open())["clickId"] == click_id
    other = await shared.first_open(phone=Phone(shared.phone.ip, "okhttp/5.0.0"))
    given = {"the same click": click_id, "no click": None}
    assert other["clickId"] == given[shared.expects("another install at an address that was matched")]


@pytest.mark.parametrize(
    ("url", "domain", "same_phone"),
    [
        (PROMO, DOMAIN, False),
        (PROMO, "go.acme.com", True),
    ],
    ids=["another address", "another domain"],
)
async def test_a_first_open_that_nobody_clicked_for(
    shared: Target, url: str, domain: str, *, same_phone: bool
) -> None:
    """No store-bound click from this address on this domain: 200, with neither click nor link."""
    await shared.click(url, ip=shared.phone.ip, ua=PIXEL)
    phone = shared.phone if same_phone else shared.somebodys_phone()
    assert await shared.first_open(domain, phone) == NOWHERE


@pytest.mark.parametrize("domain", ["globex.link", "*", "acme.*"])
async def test_a_first_open_on_somebody_elses_domain(shared: Target, domain: str) -> None:
    """A domain that is not the team's own, or a glob, is asked of Dub only by those who ask it directly."""
    response = await shared.ask_open(dubDomain=domain)
    assert response.status_code == shared.expects("an open for somebody else's domain")


async def test_somebody_elses_link(shared: Target) -> None:
    """Another team's link is Dub's to know; to the service it is a 404 like any unknown one."""
    response = await shared.ask_open(deepLink="https://globex.link/x")
    assert response.status_code == shared.expects("a link of somebody else's domain")


async def test_a_link_with_a_password_in_it(shared: Target) -> None:
    """User info in a URL is dropped by Dub, refused by the service."""
    response = await shared.ask_open(deepLink="https://anna:secret@acme.link/fb-promo")
    assert response.status_code == shared.expects("a link with user info")
