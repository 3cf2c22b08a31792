"""Rate limits over HTTP: who is refused, who never is, and what the answers say."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.config.settings import parse
from tests.integration.test_metrics import scraped
from tests.support import (
    ANNA,
    BEN,
    CONFIG,
    ENV,
    FB_PROMO,
    KEY,
    OTHER_KEY,
    SERVER_KEY,
    FakeClock,
    FakeDub,
    LogLines,
    Service,
    running,
)

Limited = Callable[[str], AbstractAsyncContextManager[Service]]

AS_SERVER = {"Authorization": f"Bearer {SERVER_KEY}"}
HOME, OFFICE = "203.0.113.7", "203.0.113.8"
LEAD = {"eventName": "Sign up", "customerExternalId": "anna"}
SALE = {**LEAD, "amount": 100, "currency": "eur"}
OPEN = {"deepLink": FB_PROMO, "installId": ANNA}
STANDING = ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset")
CLIENT = [
    ("POST", "/v1/opens", OPEN),
    ("GET", "/v1/opens/01a229395aa2469fa16570867728950e", None),
    ("POST", "/v1/leads", {**LEAD, "clickId": "nobodysclick0000"}),
    ("GET", "/v1/leads/01a229395aa2469fa16570867728950e", None),
    ("POST", "/track/open", {"deepLink": FB_PROMO}),
    ("POST", "/track/open?dub-no-track", {"deepLink": FB_PROMO}),
    ("POST", "/track/lead/client", {**LEAD, "clickId": "nobodysclick0000"}),
    ("POST", "/track/sale/client", SALE),
]
SERVER = [
    ("POST", "/v1/leads", {**LEAD, "clickId": "nobodysclick0000"}),
    ("GET", "/v1/opens/01a229395aa2469fa16570867728950e/trace", None),
    ("POST", "/v1/opens/dry-run", {**OPEN, "deepLink": "https://acme.com/product/1"}),
    ("POST", "/v1/installs/forget", {"installId": ANNA}),
    ("POST", "/track/lead", {**LEAD, "clickId": "nobodysclick0000"}),
    ("POST", "/track/sale", SALE),
    ("GET", "/events", None),
]


@pytest.fixture
def limited(dub: FakeDub, clock: FakeClock, logs: LogLines) -> Limited:  # noqa: ARG001
    @asynccontextmanager
    async def serve(limits: str) -> AsyncIterator[Service]:
        app = create_app(
            parse(f"{CONFIG}\n[limits]\n{limits}", ENV), transport=dub, clock=clock, unix_time=clock.unix_time
        )
        async with running(app) as service:
            yield service

    return serve


async def opened(service: Service, install: str, ip: str = HOME) -> httpx.Response:
    return await service.report({"deepLink": FB_PROMO, "installId": install}, X_Forwarded_For=ip)


async def statuses(service: Service, *ips: str) -> list[int]:
    """Open as so many installs, one from each address."""
    start = len(ips) * 1000
    return [(await opened(service, f"install-{start + at}", ip)).status_code for at, ip in enumerate(ips)]


def refusal(response: httpx.Response) -> tuple[int, str]:
    """Return the status and code of a refusal, whose headers are whole."""
    if response.status_code == 429:
        assert int(response.headers["retry-after"]) >= 1
        assert response.headers["ratelimit-remaining"] == "0"
        assert set(response.json()["error"]) == {"code", "message", "doc_url"}
    return response.status_code, response.json().get("error", {}).get("code", "")


async def test_there_are_no_limits_unless_configured(service: Service) -> None:
    """Without a [limits] table nobody is refused, and no header speaks of it."""
    for number in range(100):
        reply = await opened(service, f"install-{number}")
        assert reply.status_code == 200
        assert not reply.headers.keys() & set(STANDING)


async def test_a_key_may_do_so_much(limited: Limited, dub: FakeDub, clock: FakeClock) -> None:
    """Each answer says what is left; what is over gets 429 in Dub's shape; the next window is a new one."""
    async with limited('per_key = "3/minute"') as service:
        replies = [await opened(service, f"install-{number}", f"203.0.113.{number}") for number in range(4)]
        assert [reply.status_code for reply in replies] == [200, 200, 200, 429]
        assert [reply.headers["ratelimit-remaining"] for reply in replies] == ["2", "1", "0", "0"]
        assert {reply.headers["ratelimit-limit"] for reply in replies} == {"3"}
        assert refusal(replies[3]) == (429, "rate_limit_exceeded")
        assert replies[3].json()["error"]["message"] == "rate limit: 3 requests per 60 seconds with this key"
        assert dub.calls("/track/open") == 3
        assert replies[3].headers["retry-after"] == replies[3].headers["ratelimit-reset"] == "20"
        clock.advance(19.5)
        assert (await opened(service, "install-5")).headers["retry-after"] == "1"
        clock.advance(0.5)
        assert (await opened(service, "install-5")).status_code == 200


async def test_a_repeat_from_memory_is_never_limited(limited: Limited, dub: FakeDub) -> None:
    """Whoever was answered gets that answer again, on both wires, whatever the limits say."""
    async with limited('per_key = "2/minute"\nper_address = "2/minute"') as service:
        assert (await opened(service, ANNA)).status_code == 200
        dubs = {"deepLink": "https://acme.link/invite"}
        assert (await service.post("/track/open", json=dubs)).status_code == 200
        assert (await opened(service, BEN)).status_code == 429
        for _ in range(20):
            again = await opened(service, ANNA)
            assert (again.status_code, again.json()["repeat"]) == (200, True)
            assert not again.headers.keys() & set(STANDING)
            assert (await service.post("/track/open", json=dubs)).status_code == 200
        assert dub.calls("/track/open") == 2


async def test_addresses_are_told_apart(limited: Limited, clock: FakeClock) -> None:
    """Each address has its own count, the shortest window is over first, and the longer one holds too."""
    async with limited('per_address = "3/minute;2/second"') as service:
        assert await statuses(service, HOME, HOME, HOME, OFFICE) == [200, 200, 429, 200]
        clock.advance(1)
        assert await statuses(service, HOME, HOME, OFFICE, OFFICE, OFFICE) == [200, 429, 200, 200, 429]
        clock.advance(60)
        assert await statuses(service, HOME) == [200]


async def test_an_ipv6_customer_is_a_64(limited: Limited) -> None:
    """Addresses of one /64 are counted together: a phone has 2^64 of them to choose from."""
    async with limited('per_address = "2/minute"') as service:
        ips = ["2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:1::3", "2001:db8:0:2::1"]
        assert await statuses(service, *ips) == [200, 200, 429, 200]
        assert await statuses(service, "::ffff:203.0.113.7", HOME, HOME) == [200, 200, 429]


async def test_an_address_cannot_be_made_up(limited: Limited) -> None:
    """The right-most address that is no proxy of ours counts: what a client writes before it does not."""
    async with limited('per_address = "2/minute"') as service:
        spoofed = [f"198.51.100.{number}, {HOME}" for number in range(4)]
        assert await statuses(service, *spoofed) == [200, 200, 429, 429]


async def test_one_address_cannot_use_up_a_key(limited: Limited) -> None:
    """What an address is refused is not counted against the key, which everybody has."""
    async with limited('per_key = "4/minute"\nper_address = "2/minute"') as service:
        assert await statuses(service, *[HOME] * 50) == [200, 200] + [429] * 48
        assert await statuses(service, OFFICE, OFFICE) == [200, 200]
        assert "with this key" in (await opened(service, "install-x", "192.0.2.1")).text


async def test_failed_authentications_count(limited: Limited) -> None:
    """Keys cannot be tried out: the address is refused, with any key, until its window is over."""
    async with limited('per_address = "3/minute"') as service:
        headers = {"X-Forwarded-For": HOME}
        tries = [
            await service.post("/v1/opens", json=OPEN, headers={**headers, "Authorization": "Bearer x"}),
            await service.get("/events", headers={**headers, "Authorization": ""}),
            await service.post("/v1/leads", json=LEAD, headers={**headers, "Authorization": "Bearer y"}),
        ]
        assert [reply.status_code for reply in tries] == [401, 401, 401]
        one_more = await service.post("/track/open", json=OPEN, headers={**headers, "Authorization": "x"})
        assert refusal(one_more) == (429, "rate_limit_exceeded")
        assert (await opened(service, ANNA)).status_code == 429
        assert (await opened(service, ANNA, OFFICE)).status_code == 200


@pytest.mark.parametrize(("method", "path", "body"), CLIENT)
@pytest.mark.parametrize("limit", ["per_key", "per_address"])
async def test_what_an_app_asks_is_counted(
    limited: Limited, dub: FakeDub, method: str, path: str, body: Any, limit: str
) -> None:
    """Each route of an app counts against its key and its address, whatever becomes of it."""
    dub.script = _refuses
    async with limited(f'{limit} = "1/minute"') as service:
        first = await service.request(method, path, json=body)
        assert first.status_code != 429, first.text
        assert first.headers["ratelimit-remaining"] == "0"
        other = {**body, "installId": BEN} if path == "/v1/opens" else body
        again = await service.request(method, path, json=other, headers={"User-Agent": "other"})
        assert refusal(again) == (429, "rate_limit_exceeded")
        if path.startswith("/track"):
            assert again.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(("method", "path", "body"), SERVER)
async def test_what_a_backend_asks_is_counted(
    limited: Limited, dub: FakeDub, clock: FakeClock, method: str, path: str, body: Any
) -> None:
    """A server key is counted, but not its address: that is every customer's."""
    dub.script = _refuses
    async with limited('per_key = "3/minute"\nper_address = "1/minute"') as service:
        found = []
        for _ in range(4):
            found.append(await service.request(method, path, json=body, headers=AS_SERVER))
            clock.advance(1)  # /events has a budget of its own, per second
        assert [reply.headers["ratelimit-limit"] for reply in found] == ["3"] * 4
        assert [reply.status_code == 429 for reply in found] == [False, False, False, True], found[0].text
        assert refusal(found[3]) == (429, "rate_limit_exceeded")


BAD: dict[str, tuple[bytes, dict[str, str]]] = {
    "no JSON": (b"{", {}),
    "nothing": (b"", {}),
    "no object": (b"[]", {}),
    "too long": (b" " * 70_000, {}),
    "no UTF-8": (b"\xff", {}),
    "another type": (b"{}", {"Content-Type": "text/plain"}),
    "another app's domain": (b'{"dubDomain": "globex.link", "deepLink": "https://globex.link/x"}', {}),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v1/opens", {}),
        ("/v1/opens/dry-run", AS_SERVER),
        ("/v1/leads", {}),
        ("/v1/installs/forget", AS_SERVER),
        ("/track/open", {}),
        ("/track/open?dub-no-track", {}),
        ("/track/lead", AS_SERVER),
        ("/track/sale/client", {}),
    ],
)
async def test_a_request_is_counted_once_whatever_its_body_is(
    limited: Limited, dub: FakeDub, path: str, headers: dict[str, str], bad: str
) -> None:
    """With a right key a body that is refused counts as one that is not; beyond the limit it gets the 429."""
    body, more = BAD[bad]
    headers = {"Content-Type": "application/json", **headers, **more}
    async with limited('per_key = "2/minute"') as service:
        replies = [await service.post(path, content=body, headers=headers) for _ in range(3)]
        assert [reply.headers["ratelimit-remaining"] for reply in replies] == ["1", "0", "0"]
        assert 400 <= replies[0].status_code < 429
        assert replies[1].status_code == replies[0].status_code
        assert refusal(replies[2]) == (429, "rate_limit_exceeded")
    assert dub.requests == []


async def test_a_page_of_events_says_what_is_left(limited: Limited, dub: FakeDub) -> None:
    """Answers that are passed on as they arrive say it, too."""

    async def page(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=[])

    dub.script = page
    async with limited('per_key = "3/minute"') as service:
        reply = await service.get("/events", headers=AS_SERVER)
        assert (reply.status_code, reply.headers["ratelimit-remaining"]) == (200, "2")


async def test_an_operator_is_never_limited(limited: Limited) -> None:
    """Health, metrics and the schema answer whatever the limits say, and count nothing."""
    async with limited('per_key = "1/day"\nper_address = "1/day"') as service:
        assert await statuses(service, "127.0.0.1", "127.0.0.1") == [200, 429]
        for path in ("/health/live", "/health/ready", "/metrics", "/schema/openapi.json") * 3:
            assert (await service.get(path)).status_code == 200


async def test_an_app_may_have_a_limit_of_its_own(dub: FakeDub, clock: FakeClock) -> None:
    """``rate_limit`` stands in for ``limits.per_key`` in its app, and keys of other apps are not counted."""
    config = CONFIG.replace("[apps.globex]", '[apps.globex]\nrate_limit = "1/minute"')
    config += '\n[limits]\nper_key = "2/minute"'
    app = create_app(parse(config, ENV), transport=dub, clock=clock, unix_time=clock.unix_time)
    globex = {"Authorization": f"Bearer {OTHER_KEY}"}
    async with running(app) as service:
        link = {"deepLink": "https://globex.link/x"}
        first = await service.post("/v1/opens", json={**link, "installId": ANNA}, headers=globex)
        found = [first, await service.post("/v1/opens", json={**link, "installId": BEN}, headers=globex)]
        assert [reply.status_code for reply in found] == [200, 429]
        assert await statuses(service, HOME, HOME, HOME) == [200, 200, 429]


async def test_refusals_are_counted_and_nobody_is_named(limited: Limited, logs: LogLines) -> None:
    """Metrics say how many, by key or by address; no address and no key is in them or in a log line."""
    async with limited('per_key = "5/minute"\nper_address = "2/minute"') as service:
        await statuses(service, HOME, HOME, HOME, OFFICE, OFFICE, "192.0.2.1", "192.0.2.2", "192.0.2.3")
        found = await scraped(service)
        assert found['firstopen_rate_limited_total{by="address"}'] == 1
        assert found['firstopen_rate_limited_total{by="key"}'] == 2
        text = (await service.get("/metrics")).text + logs.text
    for secret in (KEY, HOME, OFFICE, "192.0.2."):
        assert secret not in text


async def test_the_schema_documents_the_429(service: Service) -> None:
    """Every operation that is counted has a 429, with its headers; no other has."""
    paths = (await service.get("/schema/openapi.json")).json()["paths"]
    for path, operations in paths.items():
        counted = path.startswith(("/v1", "/track", "/events"))
        for operation in operations.values():
            responses = operation["responses"]
            assert ("429" in responses) == counted, path
            if counted:
                assert set(STANDING) <= {name.lower() for name in responses["200"]["headers"]}
                assert {*STANDING, "retry-after"} == {name.lower() for name in responses["429"]["headers"]}


async def _refuses(_: httpx.Request) -> httpx.Response:
    return httpx.Response(404, json={"error": {"code": "not_found", "message": "x", "doc_url": "y"}})
