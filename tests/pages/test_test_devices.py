"""Test devices over HTTP: started with a server key, not counted, forgotten without touching others."""

import pytest

from service.domain.device_sessions import SESSIONS_MAX
from tests.integration.test_metrics import scraped
from tests.pages.support import log_in, submit, text_of, token_in
from tests.support import ANNA, BEN, FB_PROMO, FakeClock, Service

DEVICES = "/console/devices"
CAROL = "install-carol"


async def start_session(browser: Service) -> tuple[str, str]:
    """Log in and start a session; return its name, and the token of forms."""
    await log_in(browser)
    token = token_in(await browser.get(DEVICES))
    started = await submit(browser, DEVICES, token)
    assert started.status_code == 303
    return started.headers["location"].rpartition("/")[2], token


def clicked(click_id: str) -> str:
    return f"https://acme.com/product/1?dub_id={click_id}"


async def test_a_test_device_counts_in_no_metric_of_opens(service: Service) -> None:
    name, _ = await start_session(service)
    before = await scraped(service)
    for _ in range(2):
        reply = await service.report({"deepLink": FB_PROMO, "installId": ANNA, "testDevice": name.upper()})
        assert "Firstopen-Ignored" not in reply.headers
    after = await scraped(service)
    for metric in ("firstopen_opens_total", "firstopen_matching_refused"):
        assert [
            each for each in after if each.startswith(metric) and after[each] != before.get(each, 0)
        ] == []
    await service.open(FB_PROMO, install_id=BEN)
    assert any(each.startswith("firstopen_opens_total{") for each in await scraped(service))


@pytest.mark.parametrize("name", ["aaaa-aaaa", "not a name", 7])
async def test_an_invented_name_is_ignored_and_counted(service: Service, name: object) -> None:
    reply = await service.report({"deepLink": FB_PROMO, "installId": ANNA, "testDevice": name})
    assert reply.status_code == 200
    assert reply.headers["Firstopen-Ignored"] == "testDevice"
    found = await scraped(service)
    assert found['firstopen_ignored_fields_total{field="testDevice"}'] == 1
    assert any(each.startswith("firstopen_opens_total{") for each in found)


async def test_forgetting_releases_the_claims_of_the_session_s_installs_only(
    service: Service, clock: FakeClock
) -> None:
    """The next launch is a first launch with the same click; another install keeps its own click."""
    name, token = await start_session(service)
    first = await service.open(clicked("clickOfThePhone1"), install_id=ANNA, test_device=name)
    await service.open(clicked("clickOfBenBenBen"), install_id=BEN)
    assert first.click_id == "clickOfThePhone1"
    assert (await service.open(clicked("clickOfThePhone1"), install_id=CAROL)).click_id is None
    page = text_of(await service.get(f"{DEVICES}/{name}"))
    assert f"test {name}" in page
    assert "product" in page

    forgotten = await submit(service, f"{DEVICES}/{name}/forget", token)
    assert forgotten.headers["location"] == f"{DEVICES}/{name}?forgotten=yes"
    assert "The next launch is a first launch" in text_of(await service.get(forgotten.headers["location"]))
    clock.advance(1)
    again = await service.open(clicked("clickOfThePhone1"), install_id=ANNA, test_device=name)
    assert (again.click_id, again.repeat) == ("clickOfThePhone1", False)
    assert again.open_id != first.open_id
    assert (await service.open(clicked("clickOfBenBenBen"), install_id="install-dora")).click_id is None
    assert (await service.open(clicked("clickOfBenBenBen"), install_id=BEN)).repeat


async def test_an_install_from_before_the_session_is_forgotten_too(
    service: Service, clock: FakeClock
) -> None:
    """Its open is a repeat, and names the session only now."""
    before = await service.open(FB_PROMO, install_id=ANNA)
    name, token = await start_session(service)
    assert (await service.open(FB_PROMO, install_id=ANNA, test_device=name)).repeat
    await submit(service, f"{DEVICES}/{name}/forget", token)
    clock.advance(1)
    again = await service.open(FB_PROMO, install_id=ANNA, test_device=name)
    assert (again.repeat, again.open_id == before.open_id) == (False, False)


async def test_sessions_need_a_server_key_and_a_form_of_ours(service: Service) -> None:
    name, _ = await start_session(service)
    for path in (DEVICES, f"{DEVICES}/{name}/forget", f"{DEVICES}/{name}/end"):
        assert (await submit(service, path, "forged")).status_code == 403
    assert (await service.get(f"{DEVICES}/aaaa-aaaa")).status_code == 404
    service.cookies.clear()
    assert (await service.get(f"{DEVICES}/{name}")).headers["location"].startswith("/console/login")


async def test_links_of_others_get_no_code(service: Service) -> None:
    name, _ = await start_session(service)
    for link, said in (
        ("acme.link/fb-promo", "https://acme.link/fb-promo"),
        ("https://evil.example/x", "on none of the app's domains"),
        ("acme.link/" + "x" * 600, "too long"),
    ):
        page = await service.get(f"{DEVICES}/{name}", params={"link": link})
        assert said in text_of(page)
        assert page.text.count('class="qr"') == (2 if said.startswith("https") else 1)


async def test_a_bounded_number_of_sessions_is_started(service: Service) -> None:
    _, token = await start_session(service)
    for _ in range(SESSIONS_MAX - 1):
        assert (await submit(service, DEVICES, token)).status_code == 303
    refused = await submit(service, DEVICES, token)
    assert refused.status_code == 429
    assert f"{SESSIONS_MAX} test sessions are active" in text_of(refused)
