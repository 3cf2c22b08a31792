"""A request without a right key costs nothing but its headers: its body is not read."""

from collections.abc import AsyncIterator

import pytest

from tests.support import KEY, SERVER_KEY, Service

POSTS = [
    "/v1/opens",
    "/v1/opens/dry-run",
    "/v1/leads",
    "/v1/installs/forget",
    "/track/open",
    "/track/lead",
    "/track/lead/client",
    "/track/sale",
    "/track/sale/client",
]
SERVERS = {"/v1/opens/dry-run", "/v1/installs/forget", "/track/lead", "/track/sale"}


async def unread() -> AsyncIterator[bytes]:
    raise AssertionError("the body was read")
    yield b"{}"


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("key", ["", "Bearer wrong", "Basic x"])
async def test_the_body_of_an_unauthenticated_request_is_not_read(
    service: Service, path: str, key: str
) -> None:
    """Without a key, or with one that no app has, the answer is 401 whatever the body is or is called."""
    headers = {"Authorization": key, "Content-Type": "text/plain"}
    reply = await service.post(path, content=unread(), headers=headers)
    assert reply.status_code == 401


@pytest.mark.parametrize("path", [path for path in POSTS if path != "/v1/leads"])
async def test_the_body_that_comes_with_a_key_of_the_other_kind_is_not_read(
    service: Service, path: str
) -> None:
    """A publishable key does not open a backend's routes, nor a server key an app's."""
    other = KEY if path in SERVERS else SERVER_KEY
    reply = await service.post(path, content=unread(), headers={"Authorization": f"Bearer {other}"})
    assert reply.status_code == 403


@pytest.mark.parametrize("path", POSTS)
async def test_the_body_of_an_authenticated_request_is_read(service: Service, path: str) -> None:
    """With the right key it is read: what is wrong with it is the answer then."""
    key = SERVER_KEY if path in SERVERS else KEY
    reply = await service.post(path, content=b"[", headers={"Authorization": f"Bearer {key}"})
    assert reply.status_code == 400
    assert reply.json()["error"]["message"].startswith("body: is not JSON")
