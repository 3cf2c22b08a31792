"""What every route has: CORS, OPTIONS, its methods, and an error body for a body that cannot be read."""

import httpx
import pytest

from tests.contract import shapes
from tests.contract.targets import KEY_OF, Target, error_of
from tests.sandbox.support import PROMO

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATHS = sorted(KEY_OF)
POSTED = sorted(set(KEY_OF) - {"/events"})
PREFLIGHT = {
    "origin": "https://app.acme.com",
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}


def allows(response: httpx.Response, path: str) -> bool:
    """Tell whether an answer lets any web page ask, with Dub's three headers."""
    names = ("allow-origin", "allow-methods", "allow-headers")
    methods = "GET, OPTIONS" if path == "/events" else "POST, OPTIONS"
    found = [response.headers.get_list(f"access-control-{name}") for name in names]
    return found == [["*"], [methods], ["Content-Type, Authorization"]]


@pytest.mark.parametrize("path", PATHS)
async def test_options(shared: Target, path: str) -> None:
    """A preflight is a 204 without a body, with CORS headers, for anybody."""
    response = await shared.ask("OPTIONS", path, key=None, headers=PREFLIGHT)
    assert (response.status_code, response.content) == (204, b"")
    assert allows(response, path)


@pytest.mark.parametrize("path", PATHS)
async def test_cors_on_what_goes_wrong(shared: Target, path: str) -> None:
    """401, 404, 405, 422 and 400 carry the CORS headers too: a page's script may read why."""
    method = "GET" if path == "/events" else "POST"
    answers = [
        await shared.ask(method, path, key="dub_wrong", body={"deepLink": "https://acme.link/unknown"}),
        await shared.ask("DELETE", path),
        await shared.ask(method, path, body={"deepLink": 7}, params={"limit": "none"}),
        await shared.ask(method, path, body=b"{", params={"limit": "0"}),
    ]
    assert {response.status_code for response in answers} <= {400, 401, 404, 405, 422}
    assert all(allows(response, path) for response in answers)


@pytest.mark.parametrize("path", PATHS)
async def test_cors_on_what_goes_right(shared: Target, path: str) -> None:
    """A 200 carries them once each."""
    body = {"deepLink": PROMO, "customerExternalId": "user_1", "eventName": "Sign up", "amount": 1}
    if "lead" in path:
        body["clickId"] = await shared.click_id(phone=shared.somebodys_phone())
    method = "GET" if path == "/events" else "POST"
    response = await shared.ask(method, path, body=None if method == "GET" else body)
    assert response.status_code == 200
    assert allows(response, path)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_other_methods(shared: Target, path: str, method: str) -> None:
    """A method that a route does not have is a 405 in Dub's shape."""
    if method == ("GET" if path == "/events" else "POST"):
        assert (await shared.ask(method, path, body={})).status_code != 405
    else:
        assert error_of(await shared.ask(method, path, body={})) == (405, "method_not_allowed")


@pytest.mark.parametrize("path", POSTED)
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"deepLink": 7', b"a=b", b"\xff\xfe", b'{"deepLink": "\xff"}', b'{"a": 1} {"b": 2}'],
    ids=["empty", "cut off", "wrong and cut off", "a form", "UTF-16", "not UTF-8", "two"],
)
async def test_a_body_that_is_not_json(shared: Target, path: str, body: bytes) -> None:
    """What does not parse as JSON is a 400."""
    assert error_of(await shared.ask("POST", path, body=body)) == (400, "bad_request")


@pytest.mark.parametrize("path", POSTED)
@pytest.mark.parametrize("body", [b"[]", b'"text"', b"7", b"true", b"null"])
async def test_json_that_is_no_object(shared: Target, path: str, body: bytes) -> None:
    """JSON that is not an object is a 422."""
    assert error_of(await shared.ask("POST", path, body=body)) == (422, "unprocessable_entity")


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON"]
)
async def test_content_types(shared: Target, content_type: str) -> None:
    """JSON is JSON with a charset or without."""
    headers = {"content-type": content_type}
    assert (await shared.post("/track/open", {"deepLink": PROMO}, headers=headers)).status_code == 200


async def test_a_body_of_another_type(shared: Target) -> None:
    """A body that is called something else is read by Dub, refused by the service."""
    headers = {"content-type": "text/plain"}
    response = await shared.post("/track/open", {"deepLink": PROMO}, headers=headers)
    assert response.status_code == shared.expects("a body that is not called JSON")


async def test_a_large_body(shared: Target) -> None:
    """64 KiB are enough for every documented field at its limit; only the service draws that line."""
    body = {"deepLink": f"{PROMO}?x=".ljust(32_000, "x"), "more": ""}
    size = len(str(body))
    assert (await shared.post("/track/open", body | {"more": "x" * (65_536 - size)})).status_code == 200
    response = await shared.post("/track/open", body | {"more": "x" * (65_537 - size)})
    assert response.status_code == shared.expects("a body over 64 KiB")


@pytest.mark.parametrize("path", ["/track/nothing", "/track/lead/server", "/event", "/events/1"])
async def test_paths_that_do_not_exist(shared: Target, path: str) -> None:
    """Nothing is there: 404 in Dub's shape."""
    response = await shared.api.get(path)
    assert not shapes.problems(shapes.error(404), response.json())
    assert error_of(response) == (404, "not_found")
