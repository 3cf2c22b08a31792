"""``GET /v1/opens``: every open of an app, once, in the order in which they came."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.app import create_app
from service.config.settings import parse
from tests.support import (
    ANNA,
    BEN,
    CONFIG,
    ENV,
    FB_PROMO,
    KEY,
    SERVER_KEY,
    FakeClock,
    FakeDub,
    Service,
    running,
)

AS_SERVER = {"Authorization": f"Bearer {SERVER_KEY}"}
GLOBEX_KEY = "server-key-of-globex"
UNSETTLED_S = 5


@pytest.fixture(params=["sqlite", "postgres"])
async def service(request: pytest.FixtureRequest, dub: FakeDub, clock: FakeClock) -> AsyncIterator[Service]:
    url = "" if request.param == "sqlite" else request.getfixturevalue("postgres").database()
    config = CONFIG + 'server_keys_env = "GLOBEX_SERVER_KEYS"\n'
    env = {**ENV, "GLOBEX_SERVER_KEYS": GLOBEX_KEY, "FIRSTOPEN_DATABASE_URL": url}
    app = create_app(parse(config, env), transport=dub, clock=clock, unix_time=clock.unix_time)
    async with running(app) as service:
        yield service


async def page(service: Service, key: str = SERVER_KEY, **query: str) -> dict[str, Any]:
    reply = await service.get("/v1/opens", params=query, headers={"Authorization": f"Bearer {key}"})
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


async def every_page(service: Service, key: str = SERVER_KEY, **query: str) -> list[list[dict[str, Any]]]:
    """Return the opens of each page, until there are no more."""
    pages = []
    while True:
        found = await page(service, key, **query)
        pages.append(found["opens"])
        if not found["hasMore"]:
            return pages
        query["after"] = found["next"]


async def written(service: Service) -> None:
    """Let what is written behind be written: an erasure waits for it, also of an install that is unknown."""
    reply = await service.post("/v1/installs/forget", json={"installId": "install-nobody"}, headers=AS_SERVER)
    assert reply.status_code == 200, reply.text


async def settled(service: Service, clock: FakeClock) -> None:
    """Let the last opens be written, and old enough to be listed."""
    await written(service)
    clock.advance(UNSETTLED_S + 0.001)


async def opened(service: Service, clock: FakeClock, who: str, count: int) -> list[str]:
    """Report so many opens, some of them within one millisecond; return their ids."""
    ids = []
    for number in range(count):
        clock.advance(0.25 if number % 3 else 0)
        ids.append((await service.open(FB_PROMO, install_id=f"{who}-{number:04}")).open_id)
    await settled(service, clock)
    return ids


async def test_an_open_as_it_is_listed(service: Service, clock: FakeClock) -> None:
    """How it was decided: each field as the answer had it, and when."""
    linked = await service.open(f"{FB_PROMO}?to=anna", install_id=ANNA, app_version="2.1")
    clock.advance(1.5)
    await service.open(install_id=BEN)
    await settled(service, clock)
    found = await page(service)
    first, second = found["opens"]
    assert first == {
        "openId": linked.open_id,
        "app": "acme",
        "openedAt": "2026-08-01T12:16:40.000Z",
        "updatedAt": "2026-08-01T12:16:40.000Z",
        "matchType": "deep_link",
        "guaranteed": True,
        "confidence": None,
        "reason": None,
        "source": "dub",
        "pending": False,
        "clickId": linked.click_id,
        "linkId": "link_fb-promo",
        "linkDomain": "acme.link",
        "linkKey": "fb-promo",
        "appVersion": "2.1",
    }
    assert second["openedAt"] == "2026-08-01T12:16:41.500Z"
    assert (second["matchType"], second["guaranteed"], second["clickId"]) == ("none", False, None)
    assert (second["linkId"], second["linkDomain"], second["linkKey"]) == (None, None, None)
    assert found["hasMore"] is False


async def test_nothing_personal_is_listed(service: Service, clock: FakeClock) -> None:
    """No install, address, query, URL or destination."""
    await service.open(
        f"{FB_PROMO}?to=secret-query",
        install_id="install-private",
        headers={"X-Forwarded-For": "203.0.113.7"},
    )
    await service.open("https://acme.com/reset?token=secret-token", install_id="install-private")
    await settled(service, clock)
    text = json.dumps(await page(service))
    for private in ("secret", "install-", "203.0.113", "https", "acme.com", "query"):
        assert private not in text


async def test_pages_have_every_open_once(service: Service, clock: FakeClock) -> None:
    """In order, whatever their size; the last page's end goes on with what came since."""
    ids = await opened(service, clock, "early", 23)
    for limit in (1, 5, 23, 100):
        pages = await every_page(service, limit=f"{limit}")
        listed = [each for found in pages for each in found]
        assert sorted(each["openId"] for each in listed) == sorted(ids)
        times = [each["openedAt"] for each in listed]
        assert times == sorted(times)
        assert all(len(found) <= limit for found in pages)
    end = (await page(service, limit="100"))["next"]
    assert (await page(service, after=end))["opens"] == []
    later = await opened(service, clock, "late", 2)
    assert sorted(each["openId"] for each in (await page(service, after=end))["opens"]) == sorted(later)


async def test_since_is_the_earliest_time(service: Service, clock: FakeClock) -> None:
    """It is inclusive, in each form; a cursor further on goes before it."""
    times = []
    for number in range(4):
        clock.advance(10)
        times.append(clock.unix_time())
        await service.open(FB_PROMO, install_id=f"install-{number:04}")
    await settled(service, clock)
    everything = (await page(service))["opens"]
    for since in (
        f"{times[2]:.0f}",
        everything[2]["openedAt"],
        everything[2]["openedAt"].replace("Z", "+00:00"),
    ):
        assert (await page(service, since=since))["opens"] == everything[2:]
    assert (await page(service, since=f"{times[2] + 1:.0f}"))["opens"] == everything[3:]
    assert (await page(service, since="2026-08-02"))["opens"] == []
    after = (await page(service, limit="3"))["next"]
    assert (await page(service, since="2026-08-01", after=after))["opens"] == everything[3:]


async def test_the_last_moments_are_not_listed_yet(service: Service, clock: FakeClock) -> None:
    """An open that another replica is still writing may come before one that is written already."""
    answer = await service.open(FB_PROMO, install_id=ANNA)
    await written(service)
    clock.advance(UNSETTLED_S - 0.1)
    early = await page(service)
    assert early["opens"] == []
    clock.advance(0.2)
    [listed] = (await page(service, after=early["next"]))["opens"]
    assert listed["openId"] == answer.open_id


async def test_an_app_lists_its_own_opens(
    service: Service, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they are rare among another app's: a page that was bounded says where to go on."""
    monkeypatch.setattr("service.storage.open_pages._LOOKED_AT_MAX", 4)
    ids = await opened(service, clock, "early", 9)
    globex = {"Authorization": "Bearer dub_pk_globex"}
    rare = await service.open("https://globex.link/x", install_id=ANNA, headers=globex)
    ids += await opened(service, clock, "late", 9)
    listed = [each["openId"] for found in await every_page(service) for each in found]
    assert sorted(listed) == sorted(ids)
    pages = await every_page(service, GLOBEX_KEY)
    assert [each["openId"] for found in pages for each in found] == [rare.open_id]
    assert [] in pages[:-1]


async def test_what_is_erased_is_not_listed(service: Service, clock: FakeClock) -> None:
    await service.open(FB_PROMO, install_id=ANNA)
    stays = await service.open(FB_PROMO, install_id=BEN)
    await settled(service, clock)
    reply = await service.post("/v1/installs/forget", json={"installId": ANNA}, headers=AS_SERVER)
    assert reply.status_code == 200
    assert [each["openId"] for each in (await page(service))["opens"]] == [stays.open_id]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        *((f"limit={text}", "limit") for text in ("0", "1001", "-1", "x", "1.5", "", "9" * 100, "%D9%A2")),
        *((f"since={text}", "since") for text in ("", "yesterday", "2026-13-01", "1" * 15)),
        *((f"after={text}", "after") for text in ("", "x", "A" * 32 + "=", "A" * 10_000)),
    ],
)
async def test_a_bad_parameter_is_named(service: Service, query: str, field: str) -> None:
    reply = await service.get(f"/v1/opens?{query}", headers=AS_SERVER)
    assert reply.status_code == 422, reply.text
    assert reply.json()["error"]["message"].startswith(f"{field}: expected ")


async def test_it_takes_a_server_key(service: Service) -> None:
    """401 without a key, 403 with the app's publishable key."""
    assert (await service.get("/v1/opens", headers={"Authorization": ""})).status_code == 401
    assert (await service.get("/v1/opens", headers={"Authorization": f"Bearer {KEY}"})).status_code == 403


async def test_it_is_documented(service: Service) -> None:
    """With each parameter and its bounds, and every status."""
    operation = (await service.get("/schema/openapi.json")).json()["paths"]["/v1/opens"]["get"]
    parameters = {each["name"]: each for each in operation["parameters"]}
    assert sorted(parameters) == ["after", "limit", "since"]
    assert not any(each["required"] for each in parameters.values())
    assert operation["security"] == [{"serverKey": []}]
    assert sorted(operation["responses"]) == ["200", "400", "401", "403", "422", "429", "503"]
    assert "UNSETTLED" not in operation["description"]
    assert "5 seconds" in operation["description"]
    limit = parameters["limit"]["schema"]
    assert "1000" in json.dumps(limit)
