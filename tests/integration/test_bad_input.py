"""Bad input is a clear 4xx in Dub's shape that names the field: never a 5xx, never a call to Dub."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.support import ANNA, FB_PROMO, KEY, FakeDub, LogLines, Service

DEEP = b"[" * 2000 + b"]" * 2000

# body, status, what the message starts with
BODIES: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 400, "body: is empty"),
    "not JSON": (b"deepLink=x", 400, "body: is not JSON"),
    "cut off": (b'{"deepLink": "https://acme', 400, "body: is not JSON"),
    "NaN": (b"NaN", 400, "body: is not JSON"),
    "not UTF-8": (b'{"deepLink": "\xff"}', 400, "body: is not UTF-8"),
    "byte order mark": (b"\xef\xbb\xbf{}", 400, "body: is not JSON"),
    "2,000 levels": (b'{"x": ' + DEEP + b"}", 400, "body: is nested too deep"),
    "2,000 levels in a field": (b'{"deepLink": ' + DEEP + b"}", 400, "body: is nested too deep"),
    "array": (b"[]", 422, "body: expected an object"),
    "string": (b'"x"', 422, "body: expected an object"),
    "null": (b"null", 422, "body: expected an object"),
    "lone surrogate": (
        b'{"deepLink": "https://acme.link/\\ud83d"}',
        422,
        "deepLink: must not contain lone surrogates",
    ),
    "lone surrogate elsewhere": (b'{"installId": "\\udc00-------"}', 422, "installId: must not contain lone"),
    "lone surrogate inside": (b'{"extra": {"a": ["\\udc00"]}}', 422, "extra: must not contain lone"),
    "lone surrogate as a name": (b'{"\\udc00": 1}', 422, "body: must not contain lone"),
    "escaped null": (
        b'{"deepLink": "https://acme.link/\\u0000x"}',
        422,
        "deepLink: must not contain control",
    ),
    "twice": (
        b'{"budgetMs": 1500, "budgetMs": 5, "deepLink": "a.b"}',
        422,
        "budgetMs: expected an integer from 100 to 10000",
    ),
    "a number beyond all": (
        b'{"budgetMs": 1' + b"0" * 400 + b"}",
        422,
        "budgetMs: expected an integer from 100 to 10000",
    ),
}

LIMITS: list[tuple[str, Any, str]] = [
    ("deepLink", "https://acme.link/" + "x" * 31_983, "expected text of at most 32000 characters"),
    ("installReferrer", "x" * 8193, "expected text of at most 8192 characters"),
    ("clipboard", "x" * 2049, "expected text of at most 2048 characters"),
    ("dubDomain", "x" * 254, "expected text of at most 253 characters"),
    ("installId", "x" * 129, "expected text of 8 to 128 characters"),
    ("installId", "x" * 7, "expected text of 8 to 128 characters"),
    ("appVersion", "1" * 65, "expected text of at most 64 characters"),
    ("budgetMs", 10_001, "expected an integer from 100 to 10000"),
    ("budgetMs", 99, "expected an integer from 100 to 10000"),
    ("platform", "windows", "expected one of 'android', 'ios'"),
]

TYPES = [
    *[
        (field, 3)
        for field in ("deepLink", "installReferrer", "clipboard", "dubDomain", "installId", "appVersion")
    ],
    *[(field, ["x"]) for field in ("deepLink", "installId", "platform", "budgetMs", "consent")],
    *[(field, {"a": 1}) for field in ("deepLink", "clipboard")],
    ("platform", 1),
    ("budgetMs", "1500"),
    ("budgetMs", 1500.5),
    ("budgetMs", True),
    ("consent", "true"),
    ("consent", 1),
]

LINKS = {
    "": "must not be blank",
    " \u00a0 ": "must not be blank",
    "fb-promo": "is not a URL",
    "https://": "is not a URL",
    "https://acme.link:port/x": "is not a URL",
    "https://anna:secret@acme.link/x": "must not contain user info",
    "acme://anna@x/y": "must not contain user info",
    "https://acme.link/\u0000x": "must not contain control characters",
    "https://acme.com/a\r\nb": "must not contain control characters",
    "https://acme.link/\u0084x": "must not contain control characters",
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
    body, status, message = BODIES[name]
    code = "bad_request" if status == 400 else "unprocessable_entity"
    assert_problem(await service.report(body), status, code, message)


@pytest.mark.parametrize(("field", "value", "problem"), LIMITS, ids=lambda value: str(value)[:20])
async def test_every_field_one_over_its_limit(service: Service, field: str, value: Any, problem: str) -> None:
    """Each limit is held to the character, and named."""
    response = await service.report({"deepLink": FB_PROMO, "installId": ANNA, field: value})
    assert_problem(response, 422, "unprocessable_entity", f"{field}: {problem}")


async def test_every_field_at_its_limit(service: Service, dub: FakeDub) -> None:
    """The limits themselves are allowed."""
    response = await service.report(
        {
            "deepLink": "https://elsewhere.example/" + "x" * (32_000 - 26),
            "installReferrer": "x" * 8192,
            "clipboard": "x" * 2048,
            "installId": "x" * 128,
            "appVersion": "1" * 64,
            "budgetMs": 10_000,
        }
    )
    assert response.status_code == 200
    assert (
        await service.report({"deepLink": "a.b/c", "installId": "x" * 8, "budgetMs": 100})
    ).status_code == 200
    assert dub.requests == []


@pytest.mark.parametrize(("field", "value"), TYPES, ids=lambda value: str(value)[:20])
async def test_wrong_types(service: Service, field: str, value: Any) -> None:
    """A value of another type is refused, not converted."""
    response = await service.report({"deepLink": FB_PROMO, field: value})
    assert_problem(response, 422, "unprocessable_entity", f"{field}: expected ")


@pytest.mark.parametrize("link", LINKS, ids=lambda link: ascii(link)[:30])
async def test_deep_links(service: Service, link: str) -> None:
    """A deep link that is blank, no URL, or carries what it must not, is refused and not repeated."""
    response = await service.report(json.dumps({"deepLink": link}, ensure_ascii=False).encode())
    assert_problem(response, 422, "unprocessable_entity", f"deepLink: {LINKS[link]}")
    assert "secret" not in response.text


@pytest.mark.parametrize("field", ["installReferrer", "dubDomain", "installId", "appVersion"])
async def test_control_characters(service: Service, field: str) -> None:
    """Control characters are refused in every field but the clipboard."""
    response = await service.report({"deepLink": FB_PROMO, field: "12345\n678"})
    assert_problem(response, 422, "unprocessable_entity", f"{field}: must not contain control characters")


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


async def test_a_clipboard_may_hold_anything(service: Service) -> None:
    """Clipboards hold lines and tabs; that is no mistake of the caller's."""
    assert (await service.report({"clipboard": "two\nlines\t\u0000", "installId": ANNA})).status_code == 200


async def test_nothing_to_go_by(service: Service) -> None:
    """At least one kind of evidence is required; nulls are absent, unknown fields are ignored."""
    for body in ({}, {"deepLink": None, "dubDomain": None}, {"installId": ANNA}, {"deeplink": FB_PROMO}):
        assert_problem(await service.report(body), 422, "unprocessable_entity", "deepLink: is required")
    assert (await service.report({"dubDomain": "acme.link", "future": {"a": [1]}})).status_code == 200


async def test_domains(service: Service) -> None:
    """A domain that is not on the app's list is refused, also beside a deep link."""
    for domain in ("globex.link", "*", "acme.*", "acme.link/x"):
        response = await service.report({"deepLink": FB_PROMO, "dubDomain": domain})
        assert_problem(response, 403, "forbidden", "dubDomain: is not one of this app's domains")
    assert_problem(
        await service.report({"dubDomain": " "}), 422, "unprocessable_entity", "dubDomain: must not be blank"
    )
    assert (await service.report({"dubDomain": "WWW.Go.Acme.com"})).status_code == 200


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
        ("GET", "/v1/opens", 405, "method_not_allowed", "OPTIONS, POST"),
        ("DELETE", "/v1/opens", 405, "method_not_allowed", "OPTIONS, POST"),
        ("POST", "/v1/opens/0123", 405, "method_not_allowed", "GET, OPTIONS"),
        ("DELETE", "/v1/opens/", 405, "method_not_allowed", "OPTIONS, POST"),
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
