"""Short links through Dub: created once, by templates or with a server key, and never queued."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.world import AS_SERVER, World, embedded_dub, started_over
from tests.support import ANNA, BEN, CONFIG, FakeClock

TEMPLATES = """
[[apps.acme.link_templates]]
name = "invite"
url = "https://acme.com/invite/{from}"
parameters = { from = 20 }
prefix = "i/"
per_install_per_day = 2

[[apps.acme.link_templates]]
name = "open_app"
url = "acme://product/{id}"
parameters = { id = 20 }
domain = "go.acme.com"
"""
WITH_TEMPLATES = CONFIG.replace("\n[[apps.acme.routes]]", f"{TEMPLATES}\n[[apps.acme.routes]]", 1)
INVITE = {"template": "invite", "parameters": {"from": "anna"}, "installId": ANNA}


@pytest.fixture
async def world(clock: FakeClock) -> AsyncIterator[World]:
    async with started_over(embedded_dub(clock), clock, WITH_TEMPLATES) as found:
        yield found


async def create(world: World, body: dict[str, Any], *, server: bool = False) -> httpx.Response:
    return await world.service.post("/v1/links", json=body, headers=AS_SERVER if server else {})


async def test_an_app_creates_an_invite_that_works(world: World) -> None:
    """The link has the template's prefix and destination; who opens it lands there, with a click."""
    reply = await create(world, INVITE)
    assert reply.status_code == 200, reply.text
    link = reply.json()
    assert list(link) == ["id", "domain", "key", "shortLink", "url", "repeat"]
    assert link["key"].startswith("i/")
    assert link["shortLink"] == f"https://acme.link/{link['key']}"
    assert (link["domain"], link["url"], link["repeat"]) == (
        "acme.link",
        "https://acme.com/invite/anna",
        False,
    )
    opened = await world.service.open(link["shortLink"], install_id=BEN)
    assert (opened.route.screen, opened.route.params) == ("invite", {"from": "anna"})
    assert opened.click_id


async def test_the_same_request_gets_the_same_link(clock: FakeClock, tmp_path: Path) -> None:
    """Once per template, parameters and install: from memory, the database, and without both from Dub."""
    dub = embedded_dub(clock)
    async with started_over(dub, clock, WITH_TEMPLATES) as world:
        first = (await create(world, INVITE)).json()
        assert (await create(world, {**INVITE, "installId": f" {ANNA} "})).json() == {**first, "repeat": True}
        assert (await create(world, {**INVITE, "installId": BEN})).json()["id"] != first["id"]
        assert await world.calls("/links") == 2
    async with started_over(dub, clock, WITH_TEMPLATES) as restarted:
        assert (await create(restarted, INVITE)).json() == {**first, "repeat": True}
        assert await restarted.calls("/links") == 2
    async with started_over(
        dub, clock, WITH_TEMPLATES, {"FIRSTOPEN_DATA_DIR": str(tmp_path / "empty")}
    ) as forgetful:
        assert (await create(forgetful, INVITE)).json() == {**first, "repeat": True}
        assert (await forgetful.calls("/links"), await forgetful.calls("/links/info")) == (3, 1)


async def test_a_hundred_requests_are_one_call(world: World) -> None:
    """Whoever asks while a link is created waits for that link."""
    replies = await asyncio.gather(*(create(world, INVITE) for _ in range(100)))
    links = [reply.json() for reply in replies]
    assert {reply.status_code for reply in replies} == {200}
    assert len({link["id"] for link in links}) == 1
    assert sum(not link["repeat"] for link in links) == 1
    assert await world.calls("/links") == 1


async def test_the_quota_is_for_each_install_and_day(world: World, clock: FakeClock) -> None:
    """A third invite of a day is refused until midnight UTC; a repeat of an earlier one is not."""
    for number in range(2):
        assert (await create(world, {**INVITE, "parameters": {"from": f"a{number}"}})).status_code == 200
    third = {**INVITE, "parameters": {"from": "a3"}}
    refused = await create(world, third)
    assert refused.status_code == 429
    left_s = int(refused.headers["Retry-After"])
    assert refused.json()["error"]["message"] == "installId: has created 2 links of this template today"
    assert (await create(world, {**INVITE, "parameters": {"from": "a0"}})).json()["repeat"]
    assert (await create(world, {**third, "installId": BEN})).status_code == 200
    assert (await create(world, third, server=True)).status_code == 200
    assert await world.calls("/links") == 4
    fourth = {**INVITE, "parameters": {"from": "a4"}}
    assert (await create(world, fourth)).status_code == 429
    clock.advance(left_s + 1)
    assert (await create(world, fourth)).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        ({}, 403, "needs a server key"),
        ({"url": "https://evil.example/"}, 403, "needs a server key"),
        ({**INVITE, "url": "https://evil.example/"}, 403, "needs a server key"),
        ({**INVITE, "domain": "acme.link"}, 403, "needs a server key"),
        ({**INVITE, "key": "admin"}, 403, "needs a server key"),
        ({"template": "invite", "parameters": {"from": "anna"}}, 422, "installId: is required"),
        ({**INVITE, "installId": "00000000"}, 422, "installId: does not identify one install"),
        ({**INVITE, "template": "no-such"}, 422, "template: the app has no template"),
        ({**INVITE, "parameters": {"to": "x"}}, 422, "parameters: expected only from"),
        ({**INVITE, "parameters": {}}, 422, "parameters.from: is required"),
        ({**INVITE, "parameters": {"from": "a" * 21}}, 422, "parameters.from: expected 1 to 20"),
        ({**INVITE, "parameters": {"from": 7}}, 422, "parameters"),
        ([], 422, "body"),
    ],
)
async def test_an_app_cannot_choose_a_destination(world: World, body: Any, status: int, problem: str) -> None:
    """A publishable key is in every copy of the app: with it, only templates can be filled in."""
    reply = await create(world, body)
    assert (reply.status_code, problem in reply.json()["error"]["message"]) == (status, True), reply.text
    assert await world.calls("/links") == 0


async def test_a_backend_creates_any_link_of_its_domains(world: World) -> None:
    """With a server key: a destination, a key and a tenant of its own, and an external id if it likes."""
    body = {"url": "https://shop.example/?a=1", "key": "summer26", "domain": "go.acme.com", "tenantId": "t1"}
    link = (await create(world, body, server=True)).json()
    assert (link["shortLink"], link["url"]) == ("https://go.acme.com/summer26", "https://shop.example/?a=1")
    assert (await create(world, body, server=True)).json() == {**link, "repeat": True}
    own = {"url": "https://shop.example/b", "externalId": "order/7", "prefix": "o"}
    first = (await create(world, own, server=True)).json()
    assert first["key"].startswith("o/")
    seen = (
        await world.dub.get(
            "/links/info",
            params={"externalId": "ext_order/7"},
            headers={"Authorization": "Bearer dub_secret_of_acme"},
        )
    ).json()
    assert seen["id"] == first["id"]
    changed = {**own, "url": "https://shop.example/other"}
    assert (await create(world, changed, server=True)).json() == {**first, "repeat": True}
    of_template = {"template": "open_app", "parameters": {"id": "5"}}
    assert (await create(world, of_template, server=True)).json()["url"] == "acme://product/5"
    assert (await create(world, of_template, server=True)).json()["repeat"]


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        ({}, 422, "url: is required"),
        ({"url": "javascript:alert(1)"}, 422, "url: expected a URL"),
        ({"url": "https://a.example/", "domain": "globex.link"}, 403, "dubDomain"),
        ({**INVITE, "tenantId": "t"}, 422, "tenantId: cannot be set for a link of a template"),
        ({"url": "https://a.example/", "parameters": {"a": "b"}}, 422, "parameters: expected only with"),
        ({"url": "https://a.example/", "key": "fb-promo"}, 409, "fb-promo"),
        ({"url": "https://a.example/", "externalId": "x" * 256}, 422, "externalId"),
    ],
)
async def test_what_a_backend_cannot_create(world: World, body: Any, status: int, problem: str) -> None:
    """A key of another link is Dub's 409; what is wrong otherwise is named."""
    reply = await create(world, body, server=True)
    assert (reply.status_code, problem in reply.json()["error"]["message"]) == (status, True), reply.text


async def test_a_slow_dub_gets_503_and_the_link_is_kept(world: World, clock: FakeClock) -> None:
    """The caller waits for its budget; what Dub creates later is the answer to the next request."""
    await world.dub.post("/sandbox/faults", json={"route": "/links", "delayMs": 3000})
    waiting = asyncio.create_task(create(world, {**INVITE, "budgetMs": 100}))
    reply = await waiting
    assert (reply.status_code, reply.headers["Retry-After"]) == (503, "2")
    assert reply.json()["error"]["message"] == "the link is not created yet; ask for it again"
    await world.mend()
    clock.advance(3.1)

    async def created() -> bool:
        return (await create(world, INVITE)).status_code == 200

    await world.eventually(created)
    assert (await create(world, INVITE)).json()["repeat"]
    assert await world.calls("/links") == 1


async def test_an_answer_that_was_lost_is_found_again(world: World) -> None:
    """Dub created the link but its answer never came: the retry finds it by its external id.

    Dub refuses a second link with an external id that exists in the workspace with 409 conflict, and returns
    a link by its external id, prefixed with ``ext_`` (Dub's pages "Organizing links" and "Retrieve a link").
    """
    lost = {"route": "/links", "status": 503, "handled": True}
    assert (await world.dub.post("/sandbox/faults", json=lost)).is_success
    assert (await create(world, INVITE)).status_code == 503
    await world.mend()
    link = await create(world, INVITE)
    assert link.status_code == 200


async def test_a_breaker_of_links_leaves_opens_alone(world: World) -> None:
    """While Dub fails at links, nobody waits for it; opens are answered as ever."""
    await world.fail("/links")
    replies = [
        await create(
            world, {**INVITE, "parameters": {"from": f"a{number}"}, "installId": f"install-{number:02}"}
        )
        for number in range(15)
    ]
    assert {reply.status_code for reply in replies} == {503}
    assert {reply.headers["Retry-After"] for reply in replies} == {"2"}
    assert await world.calls("/links") <= 15
    opened = await world.service.open("https://acme.link/fb-promo", install_id=ANNA)
    assert opened.click_id
    await world.mend()


async def test_an_erased_install_has_no_links(world: World) -> None:
    """Its rows are deleted, and a later request is new: Dub still has the link, and is asked for it."""
    first = (await create(world, INVITE)).json()
    await create(world, {**INVITE, "installId": BEN})
    erased = await world.service.post("/v1/installs/forget", json={"installId": ANNA}, headers=AS_SERVER)
    assert erased.json() == {"answers": 0, "claims": 0, "outbox": 0, "touches": 0, "links": 1}
    again = (await create(world, INVITE)).json()
    assert (again["id"], again["repeat"]) == (first["id"], True)
    assert await world.calls("/links/info") == 1


async def test_an_app_without_a_dub_api_key_creates_none(clock: FakeClock) -> None:
    """It is told so, and nothing is stored."""
    keyless = WITH_TEMPLATES.replace('dub_api_key_env = "ACME_DUB_API_KEY"\n', "")
    async with started_over(embedded_dub(clock), clock, keyless) as world:
        reply = await create(world, INVITE)
        assert (reply.status_code, reply.json()["error"]["message"]) == (503, "this app has no Dub API key")
