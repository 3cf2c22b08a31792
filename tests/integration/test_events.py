"""`GET /events`: held to the app's own domains, coalesced, within a budget, streamed."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlencode

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.dub_compat.event_filters import events_query
from service.domain.errors import ForeignDomain, InvalidField
from tests.support import ENV, KEY, SERVER_KEY, FakeClock, FakeDub, Service, until

AS_SERVER = {"Authorization": f"Bearer {SERVER_KEY}"}


@pytest.fixture(autouse=True)
def answering(dub: FakeDub) -> None:
    async def script(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=[{"event": "click"}])

    dub.script = script


def query_of(dub: FakeDub) -> dict[str, str]:
    return dict(dub.requests[-1].url.params)


async def events(service: Service, **params: str) -> httpx.Response:
    return await service.get("/events", params=params, headers=AS_SERVER)


async def test_events_come_back_as_dub_sent_them(service: Service, dub: FakeDub) -> None:
    """The page passes through; Dub got the app's key and the app's domains."""
    reply = await events(service, event="leads", limit="10", page="2", country="US,CA", ignored="x")
    assert reply.status_code == 200
    assert reply.json() == [{"event": "click"}]
    assert query_of(dub) == {
        "event": "leads",
        "limit": "10",
        "page": "2",
        "country": "US,CA",
        "domain": "acme.link,go.acme.com",
    }
    assert dub.requests[0].headers["authorization"] == f"Bearer {ENV['ACME_DUB_API_KEY']}"


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ("", "acme.link,go.acme.com"),
        ("acme.link", "acme.link"),
        ("www.ACME.link,go.acme.com", "acme.link,go.acme.com"),
        ("-acme.link", "go.acme.com"),
        ("-evil.com", "acme.link,go.acme.com"),
    ],
)
async def test_domains_are_held_to_the_apps_own(
    service: Service, dub: FakeDub, asked: str, sent: str
) -> None:
    """What is asked for is never more than the app's own list."""
    await events(service, domain=asked)
    assert query_of(dub)["domain"] == sent


@pytest.mark.parametrize("asked", ["globex.link", "acme.link,globex.link", "*", "acme.link,*"])
async def test_a_foreign_domain_is_403(service: Service, dub: FakeDub, asked: str) -> None:
    """Another app's events are not shown."""
    reply = await events(service, domain=asked)
    assert reply.status_code == 403
    assert dub.requests == []


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"domain": "-acme.link,-go.acme.com"}, "domain"),
        ({"key": "fb-promo"}, "key"),
        ({"domain": "acme.link," * 100}, "domain"),
        ({f"city{number}": "x" for number in range(101)}, "query"),
    ],
    ids=["no domain left", "key alone", "many domains", "many parameters"],
)
async def test_a_query_that_dub_could_not_refuse(
    service: Service, dub: FakeDub, asked: dict[str, str], named: str
) -> None:
    """Without a domain of the app left, with a key and no domain, or with too much: 422 names why."""
    reply = await events(service, **asked)
    assert reply.status_code == 422
    assert reply.json()["error"]["message"].startswith(named)
    assert dub.requests == []


@pytest.mark.parametrize(
    "asked",
    [
        {"timezone": "undefined"},
        {"timezone": "Asia/Calcutta", "start": "2026-08-02", "end": "2026-08-01"},
        {"interval": "1h"},
        {"limit": "none", "country": "Germany"},
        {"city": "São Paulo", "url": "https://acme.com/?a=b&c=d#e"},
    ],
)
async def test_values_are_dubs_to_check(service: Service, dub: FakeDub, asked: dict[str, str]) -> None:
    """They go on as they came, right or wrong, within the app's domains and as one call."""
    assert (await events(service, **asked)).status_code == 200
    assert query_of(dub) == asked | {"domain": "acme.link,go.acme.com"}
    assert dub.calls("/events") == 1


@given(st.dictionaries(st.sampled_from(["domain", "key", "linkId", "event", "domains"]), st.text()))
def test_no_query_leaves_the_apps_domains(given_params: dict[str, str]) -> None:
    """Whatever is asked is refused, or names the app's own domains and nothing that is not on the list."""
    try:
        query = events_query(urlencode(given_params).encode(), ("acme.link", "go.acme.com"))
    except (ForeignDomain, InvalidField):
        return
    sent = parse_qs(query, strict_parsing=True)
    assert set(sent) <= {"domain", "key", "linkId", "event"}
    (domains,) = sent["domain"]
    assert set(domains.split(",")) <= {"acme.link", "go.acme.com"}


async def test_only_a_server_key_reads_events(service: Service) -> None:
    """Events hold people's data: a publishable key is 403, none is 401."""
    assert (await service.get("/events", headers={"Authorization": f"Bearer {KEY}"})).status_code == 403
    assert (await service.get("/events", headers={"Authorization": ""})).status_code == 401


async def test_calls_beyond_the_budget_are_429(service: Service, dub: FakeDub, clock: FakeClock) -> None:
    """Two analytics calls a second and workspace by default; a refused one says when to come back."""
    for page in "12":
        assert (await events(service, page=page)).status_code == 200
    refused = await events(service, page="3")
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert dub.calls("/events") == 2
    clock.advance(1)
    assert (await events(service, page="3")).status_code == 200


async def test_identical_queries_in_flight_are_asked_once(service: Service, dub: FakeDub) -> None:
    """Forty dashboards that refresh at once are one analytics call."""
    dub.blocked = asyncio.Event()
    asked = [asyncio.create_task(events(service, event="clicks")) for _ in range(40)]
    await until(lambda: dub.calls("/events") == 1)
    dub.blocked.set()
    replies = await asyncio.gather(*asked)
    assert {reply.status_code for reply in replies} == {200}
    assert {reply.text for reply in replies} == {'[{"event":"click"}]'}
    assert dub.calls("/events") == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (403, "forbidden"),
        (403, "exceeded_limit"),
        (404, "not_found"),
        (422, "unprocessable_entity"),
    ],
)
async def test_a_refusal_of_dubs_is_passed_on(service: Service, dub: FakeDub, status: int, code: str) -> None:
    """A plan without events, a month's clicks used up, an unknown key, a wrong value: in Dub's own words."""

    async def script(_: httpx.Request) -> httpx.Response:
        error = {"code": code, "message": "Dub says why.", "doc_url": "x"}
        return httpx.Response(status, json={"error": error})

    dub.script = script
    reply = await events(service)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["message"]) == (status, code, "Dub says why.")


class _Cut(httpx.AsyncByteStream):
    """A page that breaks off."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b'[{"event":"click"},'
        raise httpx.ReadError("reset")


async def test_a_page_cut_short_is_not_passed_off_as_whole(service: Service, dub: FakeDub) -> None:
    """Nothing ends the body: a client sees a broken transfer, not a short page."""

    async def script(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=_Cut())

    dub.script = script
    reply = await events(service)
    with pytest.raises(ValueError, match=r"Expecting|JSON"):
        reply.json()


async def test_a_dub_that_is_away_is_503(service: Service, dub: FakeDub) -> None:
    """There is no page to make up."""

    async def script(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    dub.script = script
    reply = await events(service)
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "service_unavailable"
