"""A web page on the developer's machine can neither control the sandbox nor read what it was asked."""

import httpx
import pytest

from service.sandbox import create_sandbox
from tests.sandbox.support import LINKS, MAC, PROMO, Sandbox, client_of, error_of

FAULT = b'{"route": "*", "status": 500}'


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
async def test_a_form_cannot_set_a_fault(sandbox: Sandbox, content_type: str) -> None:
    """The types that a page may post to another origin without a preflight are a 415, and set nothing."""
    headers = {"content-type": content_type} if content_type else {}
    response = await sandbox.http.post("/sandbox/faults", content=FAULT, headers=headers)
    assert error_of(response)[:2] == (415, "unsupported_media_type")
    assert (await sandbox.http.get("/sandbox/faults")).json() == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/sandbox/faults"),
        ("POST", "/sandbox/clock"),
        ("PATCH", "/sandbox/settings"),
        ("DELETE", "/sandbox/calls"),
        ("GET", "/sandbox/calls"),
    ],
)
@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:3000", "http://localhost:8001"]
)
async def test_a_page_of_another_origin_is_refused(
    sandbox: Sandbox, method: str, path: str, origin: str
) -> None:
    """A page of another host, of another port, or in a sandboxed frame controls nothing, JSON or not."""
    headers = {"origin": origin, "content-type": "application/json"}
    response = await sandbox.http.request(method, path, content=FAULT, headers=headers)
    assert error_of(response)[:2] == (403, "forbidden")


async def test_a_page_of_the_sandbox_itself_is_no_stranger(sandbox: Sandbox) -> None:
    """The same origin is let in, and JSON may say its charset."""
    headers = {"origin": "http://127.0.0.1:8001", "content-type": "Application/JSON; charset=utf-8"}
    response = await sandbox.http.post("/sandbox/faults", content=FAULT, headers=headers)
    assert response.status_code == 201


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8001", "localhost.evil.example", "xlocalhost", "."]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/sandbox/calls"), ("POST", "/sandbox/faults"), ("POST", "/track/open"), ("GET", "/events")],
)
async def test_a_rebound_name_is_refused(sandbox: Sandbox, host: str, method: str, path: str) -> None:
    """A name that somebody made resolve to this machine gets a 403, and its call is not even noted."""
    headers = {"host": host, "content-type": "application/json", "authorization": "Bearer dub_x"}
    response = await sandbox.http.request(method, path, content=FAULT, headers=headers)
    assert error_of(response)[:2] == (403, "forbidden")
    assert await sandbox.calls() == []


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8001",
        "api.localhost:8001",
        "127.0.0.1",
        "[::1]:8001",
        "10.0.2.2:8001",
        "192.168.1.5:8001",
        "api.dub.co",
        "acme.link",
        "dub.test:8001",
        "",
    ],
)
async def test_names_of_its_own(host: str) -> None:
    """This machine's names, any address (an emulator's too), links' domains and the names it was given."""
    async with client_of(create_sandbox(LINKS, hosts=["Dub.test"])) as http:
        response = await http.post("/track/open", json={"deepLink": PROMO}, headers={"host": host})
    assert response.status_code == 200


async def test_a_new_links_domain_is_a_name(sandbox: Sandbox) -> None:
    """A domain is refused until a link on it exists."""
    headers = {"host": "new.link", "user-agent": MAC}
    assert (await sandbox.http.get("/k", headers=headers)).status_code == httpx.codes.FORBIDDEN
    await sandbox.post("/links", {"domain": "new.link", "key": "k", "url": "https://new.com/"})
    assert (await sandbox.http.get("/k", headers=headers)).headers["location"] == "https://new.com/"
