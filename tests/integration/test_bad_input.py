"""Bad input is a clear 4xx in Dub's shape that names the field: never a 5xx, never a call to Dub."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support import FB_PROMO, KEY, FakeDub, LogLines, Service

DEEP = b"[" * 32_000 + b"]" * 32_000

# body, what the message starts with
BODIES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "body: is empty"),
    "not JSON": (b"deepLink=x", "body: is not JSON"),
    "cut off": (b'{"deepLink": "https://acme', "body: is not JSON"),
    "wrong and cut off": (b'{"budgetMs": "x", "deepLink": "https://acme', "body: is not JSON"),
    "two": (b"{} {}", "body: is not JSON"),
    "NaN": (b"NaN", "body: is not JSON"),
    "a huge number and cut off": (b'{"x": 1' + b"0" * 5000 + b', "y": NaN', "body: is not JSON"),
    "NaN inside": (b'{"budgetMs": NaN}', "body: is not JSON"),
    "control characters": (b'{"deepLink": "a\nb"}', "body: is not JSON"),
    "not UTF-8": (b'{"deepLink": "\xff"}', "body: is not UTF-8"),
    "byte order mark": (b"\xef\xbb\xbf{}", "body: is not JSON"),
    "nested": (b'{"x": ' + DEEP + b"}", "body: is nested too deep"),
    "nested in a field": (b'{"deepLink": ' + DEEP + b"}", "body: is nested too deep"),
    "nested and no object": (DEEP, "body: is nested too deep"),
    "64 kB of escapes": (b'["' + b'\\"' * 32_700, "body: is not JSON"),
    "array": (b"[]", "body: expected a JSON object"),
    "string": (b'"x"', "body: expected a JSON object"),
    "null": (b"null", "body: expected a JSON object"),
}


@pytest.fixture(autouse=True)
async def nothing_goes_wrong_behind(dub: FakeDub, logs: LogLines) -> AsyncIterator[None]:
    """Hold for every case here: Dub is not asked, and no mistake of ours is logged."""
    yield
    assert dub.requests == []
    assert logs.events("request.failed") == []


def assert_problem(response: httpx.Response, status: int, code: str, message: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    (error,) = response.json().values()
    assert list(error) == ["code", "message", "doc_url"]
    assert error["code"] == code
    assert error["message"].startswith(message)
    anchor = code.replace("_", "-", 1)
    assert error["doc_url"] == f"https://dub.co/docs/api-reference/errors#{anchor}"


@pytest.mark.parametrize("name", BODIES)
async def test_bodies(service: Service, name: str) -> None:
    """A body that is no JSON object is refused, saying so."""
    body, message = BODIES[name]
    assert_problem(await service.report(body), 400, "bad_request", message)


@pytest.mark.parametrize("count", [2, 3, 4])
async def test_several_keys_are_none(service: Service, count: int) -> None:
    """A request with several Authorization headers has no key, however many there are."""
    keys = [(b"Authorization", f"Bearer {KEY}".encode())] * count
    async with httpx.AsyncClient(transport=service._transport, base_url="http://firstopen") as client:
        response = await client.post("/v1/opens", json={"deepLink": FB_PROMO}, headers=keys)
    assert_problem(response, 401, "unauthorized", "Authorization: expected 'Bearer'")


async def test_a_host_that_is_none(service: Service) -> None:
    """A Host header that is no host name is named."""
    response = await service.report({"deepLink": FB_PROMO}, Host="a b")
    assert_problem(response, 400, "bad_request", "Host: is not a host name")


@pytest.mark.parametrize("domain", ["globex.link", "acme.link.globex.link", "sub.acme.link"])
async def test_domains(service: Service, domain: str) -> None:
    """A domain that is not on the app's list is refused, also beside a deep link."""
    response = await service.report({"deepLink": FB_PROMO, "dubDomain": domain})
    assert_problem(response, 403, "forbidden", "dubDomain: is not one of this app's domains")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"deepLink": 7}', "deepLink: expected text of 1 to 32000 characters"),
        (b'{"dubDomain": ["acme.link"]}', "dubDomain: expected text of 1 to 253 characters"),
        (b'{"deepLink": "https://acme.link/\\ud83d"}', "deepLink: must not contain lone surrogates"),
        (b'{"extra": {"a": ["\\udc00"]}}', "extra: must not contain lone surrogates"),
        (b'{"\\udc00": 1}', "body: must not contain lone surrogates"),
        (b'{"deepLink": "https://anna:secret@acme.link/x"}', "deepLink: must not contain user info"),
        (b'{"deepLink": "https://acme.link/\\u0000x"}', "deepLink: must not contain control characters"),
        (b'{"deepLink": "fb-promo"}', "deepLink: is not a URL"),
        (b'{"deepLink": " "}', "deepLink: must not be blank"),
        (b"{}", "deepLink: is required"),
        (b"[]", "body: expected an object"),
    ],
)
async def test_dubs_own_wire_is_strict(service: Service, body: bytes, message: str) -> None:
    """What Dub refuses is refused there, with the field's name, and without msgspec's types."""
    reply = await service.post("/track/open", content=body, headers={"Content-Type": "application/json"})
    assert_problem(reply, 422, "unprocessable_entity", message)
    assert "secret" not in reply.text


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", KEY, f"Basic {KEY}"])
async def test_no_key(service: Service, header: str) -> None:
    """A request without a key says how to send one."""
    response = await service.report({"deepLink": FB_PROMO}, Authorization=header)
    assert_problem(response, 401, "unauthorized", "Authorization: expected 'Bearer' and a publishable key")


@pytest.mark.parametrize("key", ["dub_pk_acm", "dub_pk_acme2", "DUB_PK_ACME", "x" * 5000, "d\u00fcb"])
async def test_a_wrong_key(service: Service, key: str) -> None:
    """A key that no app has is refused, and not repeated."""
    response = await service.post(
        "/v1/opens", json={"deepLink": FB_PROMO}, headers=[(b"Authorization", f"Bearer {key}".encode())]
    )
    assert_problem(response, 401, "unauthorized", "Authorization: no app has this publishable key")
    assert key not in response.text


async def test_a_key_is_needed_to_ask_again(service: Service) -> None:
    """GET /v1/opens/{openId} takes a key as well."""
    response = await service.get("/v1/opens/0123", headers={"Authorization": ""})
    assert_problem(response, 401, "unauthorized", "Authorization: expected")


async def test_the_bearer_scheme_is_case_insensitive(service: Service) -> None:
    """HTTP's schemes are case-insensitive."""
    response = await service.report({"dubDomain": "acme.link"}, Authorization=f"bEARER  {KEY} ")
    assert response.status_code == 200


async def test_a_body_over_64_kib(service: Service) -> None:
    """A body over the limit is refused, whether its length is announced or not."""
    body = b'{"deepLink": "' + b"x" * 65_536 + b'"}'
    assert_problem(await service.report(body), 413, "payload_too_large", "body: must be at most 65536 bytes")

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(70):
            yield b" " * 1024

    response = await service.post("/v1/opens", content=chunks(), headers={"Content-Type": "application/json"})
    assert "content-length" not in response.request.headers
    assert_problem(response, 413, "payload_too_large", "body: must be at most 65536 bytes")


async def test_a_body_in_pieces(service: Service) -> None:
    """A body under the limit may come in pieces."""

    async def chunks() -> AsyncIterator[bytes]:
        for piece in (b'{"dubDomain"', b': "acme', b'.link"}'):
            yield piece

    response = await service.post("/v1/opens", content=chunks(), headers={"Content-Type": "application/json"})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "json", "\u00e9"],
)
async def test_an_unknown_content_type(service: Service, content_type: str) -> None:
    """What is not sent as JSON is not read as JSON."""
    response = await service.post(
        "/v1/opens", content=b'{"deepLink": "a.b"}', headers=[(b"Content-Type", content_type.encode())]
    )
    assert_problem(response, 415, "unsupported_media_type", "Content-Type: expected application/json")


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.a+json"]
)
async def test_json_by_other_names(service: Service, content_type: str) -> None:
    """JSON with a charset, in capitals or with a suffix is JSON."""
    response = await service.post(
        "/v1/opens", content=b'{"dubDomain": "acme.link"}', headers={"Content-Type": content_type}
    )
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "allow"),
    [
        ("GET", "/nowhere", 404, "not_found", None),
        ("GET", "/v1", 404, "not_found", None),
        ("POST", "/v1/opens/x/y/z", 404, "not_found", None),
        ("PUT", "/v1/opens", 405, "method_not_allowed", "GET, OPTIONS, POST"),
        ("DELETE", "/v1/opens", 405, "method_not_allowed", "GET, OPTIONS, POST"),
        ("POST", "/v1/opens/0123", 405, "method_not_allowed", "GET, OPTIONS"),
        ("DELETE", "/v1/opens/", 405, "method_not_allowed", "GET, OPTIONS, POST"),
        ("GET", "/schema/nothing", 404, "not_found", None),
        ("POST", "/health/live", 405, "method_not_allowed", "GET, HEAD, OPTIONS"),
    ],
)
async def test_litestars_own_errors(
    service: Service, method: str, path: str, status: int, code: str, allow: str | None
) -> None:
    """What Litestar refuses by itself has Dub's shape too, and a 405 says what is allowed."""
    response = await service.request(method, path)
    assert_problem(response, status, code, "")
    assert response.headers.get("allow") == allow
