"""`/links`, and the links a sandbox is built with."""

import os
from pathlib import Path
from typing import Any

import pytest
from litestar.testing import AsyncTestClient

from service.sandbox import SandboxLink, create_sandbox
from tests.sandbox.support import DOMAIN, LINKS, FakeClock, Sandbox, build, error_of

KEY = {"authorization": "Bearer dub_test"}


async def test_create_and_read_back(sandbox: Sandbox) -> None:
    """A link that was created is read back by all three ways, and clicked."""
    body = {
        "domain": "ACME.link",
        "key": "/spring",
        "url": "https://acme.com/spring",
        "externalId": "own",
        "tagIds": ["a", "b"],
        "utm_source": "mail",
        "proxy": True,
    }
    created = await sandbox.post("/links", body)
    assert created.status_code == 200
    link = created.json()
    assert (link["domain"], link["key"], link["shortLink"]) == (DOMAIN, "spring", "https://acme.link/spring")
    assert (link["externalId"], link["utm_source"], link["clicks"]) == ("own", "mail", 0)
    assert [tag["id"] for tag in link["tags"]] == ["a", "b"]
    for params in ({"domain": DOMAIN, "key": "spring"}, {"linkId": link["id"]}, {"externalId": "ext_own"}):
        assert (await sandbox.http.get("/links/info", params=params, headers=KEY)).json() == link
    assert (await sandbox.click("/spring")).status_code == 302


async def test_defaults(sandbox: Sandbox) -> None:
    """Without a key a link gets seven random characters, without a domain the workspace's."""
    link = (await sandbox.post("/links", {"url": "https://acme.com/", "tagIds": "one"})).json()
    assert (len(link["key"]), link["domain"]) == (7, "acme.link")
    assert [tag["id"] for tag in link["tags"]] == ["one"]


async def test_random_keys_and_external_ids(sandbox: Sandbox) -> None:
    """A prefix comes before a random key and is ignored beside a key; `ext_` is no part of an external id.

    As Dub's reference of `POST /links` and its page "Organizing links" say.
    """
    link = (
        await sandbox.post("/links", {"url": "https://acme.com/", "prefix": "/i/", "keyLength": 4})
    ).json()
    assert (link["key"][:2], len(link["key"])) == ("i/", 6)
    assert (await sandbox.click(f"/{link['key']}")).status_code == 302
    named = {"url": "https://acme.com/", "prefix": "i", "key": "mine", "externalId": "ext_order/7"}
    assert (await sandbox.post("/links", named)).json()["key"] == "mine"
    found = await sandbox.http.get("/links/info", params={"externalId": "ext_order/7"}, headers=KEY)
    assert (found.json()["key"], found.json()["externalId"]) == ("mine", "order/7")
    again = {"url": "https://acme.com/", "externalId": "order/7"}
    assert error_of(await sandbox.post("/links", again))[0] == 409


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"domain": DOMAIN, "key": "FB-promo", "url": "https://x.com"}, 409),
        ({"domain": DOMAIN, "key": "new", "url": "https://x.com", "externalId": "promo"}, 409),
        ({"domain": DOMAIN, "key": "new"}, 422),
        ({"domain": DOMAIN, "key": "new", "url": 7}, 422),
        ([], 422),
        (b"{", 400),
    ],
)
async def test_what_cannot_be_created(sandbox: Sandbox, body: Any, status: int) -> None:
    """A key or an own id that is taken is a 409, a bad body a 422 or a 400."""
    assert error_of(await sandbox.post("/links", body))[0] == status


async def test_change(sandbox: Sandbox) -> None:
    """PATCH changes what it names and leaves the rest; by own id too; a taken key is a 409."""
    response = await sandbox.http.patch("/links/ext_promo", json={"url": "https://acme.com/new"}, headers=KEY)
    link = response.json()
    assert (link["url"], link["ios"], link["id"]) == ("https://acme.com/new", LINKS[0].ios, "link_promo")
    taken = await sandbox.http.patch("/links/link_promo", json={"key": "plain"}, headers=KEY)
    assert error_of(taken)[:2] == (409, "conflict")


async def test_delete(sandbox: Sandbox) -> None:
    """A deleted link is gone everywhere, and its key is free again; the domain stays a domain."""
    await sandbox.delete_link("link_plain")
    assert (await sandbox.click("/plain")).status_code == 404
    assert (await sandbox.post("/track/open", {"deepLink": "https://acme.link/plain"})).status_code == 404
    again = await sandbox.http.delete("/links/link_plain", headers=KEY)
    assert error_of(again)[:2] == (404, "not_found")
    body = {"domain": DOMAIN, "key": "plain", "url": "https://acme.com/2"}
    assert (await sandbox.post("/links", body)).json()["id"] != "link_plain"


async def test_last_link_of_a_domain(sandbox: Sandbox) -> None:
    """A domain whose links are all deleted still answers clicks, with its 404 page."""
    await sandbox.delete_link("link_other")
    response = await sandbox.click("/fb-promo", host="other.link")
    assert response.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/links/info?linkId=x"), ("PATCH", "/links/x"), ("DELETE", "/links/x")],
)
async def test_unknown_link(sandbox: Sandbox, method: str, path: str) -> None:
    """An unknown link is a 404; without a key it is not even looked for."""
    assert error_of(await sandbox.http.request(method, path, json={}, headers=KEY))[0] == 404
    assert error_of(await sandbox.http.request(method, path, json={}))[0] == 401


async def test_info_wants_something(sandbox: Sandbox) -> None:
    """`/links/info` without a way to find a link is a 422."""
    assert error_of(await sandbox.http.get("/links/info", headers=KEY))[0] == 422


async def test_lifespan_closes_the_file(tmp_path: Path) -> None:
    """Served with a lifespan it works under Litestar's own client too, and lets go of its file at the end."""
    data = tmp_path / "dub.sqlite"
    async with AsyncTestClient(create_sandbox(LINKS, data=data), base_url="http://dub.localhost") as client:
        opened = await client.post("/track/open", json={"deepLink": "acme.link/plain"})
        assert opened.json()["link"]["id"] == "link_plain"
    assert os.listdir(tmp_path) == ["dub.sqlite"]  # noqa: PTH208  no write-ahead log is left


async def test_a_file_keeps_everything(tmp_path: Path, clock: FakeClock) -> None:
    """A second sandbox over the same file knows links, clicks, customers and what was burned."""
    data = tmp_path / "sub" / "dub.sqlite"
    first = build(clock, data=data)
    async with first.http:
        click_id = (await first.open())["clickId"]
        await first.lead(click_id)
        await first.post("/links", {"domain": "new.link", "key": "k", "url": "https://new.com"})
    renamed = SandboxLink(domain=DOMAIN, key="fb-promo", url="https://acme.com/changed")
    second = build(clock, data=data, links=[renamed])
    async with second.http:
        opened = await second.open()
        assert opened["clickId"] == click_id
        assert opened["link"]["id"] == "link_promo"
        assert opened["link"]["url"] == "https://acme.com/changed"
        assert (await second.lead(click_id)).json()["link"] is None
        assert len(await second.events("leads")) == 1
        assert (await second.click("/k", host="new.link")).status_code == 302
