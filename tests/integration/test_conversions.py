"""Leads and sales on Dub's own wire."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.config.settings import parse
from tests.support import CONFIG, ENV, KEY, SERVER_KEY, FakeClock, FakeDub, LogLines, Service, running

LEAD = {"clickId": "click00000000000", "eventName": "Sign up", "customerExternalId": "user_1"}
SALE = {"customerExternalId": "user_1", "amount": 500, "invoiceId": "in_1"}
LEAD_ANSWER = {
    "click": {"id": "click00000000000"},
    "link": {
        "id": "link_1",
        "domain": "acme.link",
        "key": "fb-promo",
        "shortLink": "https://acme.link/fb-promo",
        "url": "https://acme.com/product/123",
        "partnerId": None,
        "programId": None,
        "tenantId": None,
        "externalId": None,
    },
    "customer": {"name": "Anna", "email": None, "avatar": None, "externalId": "user_1"},
}
SALE_ANSWER = {
    "eventName": "Purchase",
    "customer": {"id": "cus_1", "name": "Anna", "email": None, "avatar": None, "externalId": "user_1"},
    "sale": {
        "amount": 500,
        "currency": "usd",
        "paymentProcessor": "custom",
        "invoiceId": "in_1",
        "metadata": None,
    },
}
AS_SERVER = {"Authorization": f"Bearer {SERVER_KEY}"}
AS_APP = {"Authorization": f"Bearer {KEY}"}
PATHS = [("/track/lead", LEAD, AS_SERVER), ("/track/sale", SALE, AS_SERVER)]
CLIENT_PATHS = [("/track/lead/client", LEAD, AS_APP), ("/track/sale/client", SALE, AS_APP)]


@pytest.fixture(autouse=True)
def answering(dub: FakeDub) -> None:
    dub.script = answer()


def answer(lead: Any = LEAD_ANSWER) -> Callable[[httpx.Request], Any]:
    async def script(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=lead if request.url.path == "/track/lead" else SALE_ANSWER)

    return script


def refuse(status: int, code: str, message: str = "no", **headers: str) -> Callable[[httpx.Request], Any]:
    async def script(_: httpx.Request) -> httpx.Response:
        error = {"code": code, "message": message, "doc_url": "https://dub.co/docs"}
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.Response(status, json={"error": error}, headers=sent)

    return script


def sent(dub: FakeDub) -> list[tuple[str, Any]]:
    return [(request.url.path, json.loads(request.content)) for request in dub.requests]


@pytest.mark.parametrize(("path", "body", "key"), PATHS + CLIENT_PATHS)
async def test_dubs_answer_comes_back_unchanged(
    service: Service, dub: FakeDub, path: str, body: dict[str, Any], key: dict[str, str]
) -> None:
    """Both SDK families get Dub's own JSON, and Dub gets the app's secret key, never the caller's."""
    reply = await service.post(path, json=body, headers=key)
    assert reply.status_code == 200
    assert reply.json() == (LEAD_ANSWER if "lead" in path else SALE_ANSWER)
    for request in dub.requests:
        assert request.url.path == path.removesuffix("/client")
        assert request.headers["authorization"] == f"Bearer {ENV['ACME_DUB_API_KEY']}"
        assert SERVER_KEY not in str(request.headers)


async def test_an_unknown_click_is_dubs_404_and_burns_no_key(service: Service, dub: FakeDub) -> None:
    """A lead is asked for as deferred first; a 404 there means that no real one was ever sent."""
    dub.script = refuse(404, "not_found", "Click not found.")
    reply = await service.post("/track/lead", json=LEAD, headers=AS_SERVER)
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "not_found"
    assert reply.json()["error"]["message"] == "Click not found."
    assert [body["mode"] for _, body in sent(dub)] == ["deferred"]


@pytest.mark.parametrize("older", ["externalId", "customerId"])
async def test_older_field_names_are_accepted(service: Service, dub: FakeDub, older: str) -> None:
    """What goes on to Dub has the current name."""
    body = {name: value for name, value in LEAD.items() if name != "customerExternalId"}
    reply = await service.post("/track/lead", json={**body, older: "user_1"}, headers=AS_SERVER)
    assert reply.status_code == 200
    assert all(body["customerExternalId"] == "user_1" and older not in body for _, body in sent(dub))


@pytest.mark.parametrize(
    ("path", "wrong", "field"),
    [
        ("/track/lead", {"eventName": "  "}, "eventName"),
        ("/track/lead", {"eventName": "x" * 256}, "eventName"),
        ("/track/lead", {"customerExternalId": "x" * 101}, "customerExternalId"),
        ("/track/lead", {"customerExternalId": None}, "customerExternalId"),
        ("/track/lead", {"customerName": "x" * 101}, "customerName"),
        ("/track/lead", {"customerEmail": "anna"}, "customerEmail"),
        ("/track/lead", {"customerEmail": "a" * 95 + "@b.com"}, "customerEmail"),
        ("/track/lead", {"eventQuantity": 0}, "eventQuantity"),
        ("/track/lead", {"eventQuantity": 101}, "eventQuantity"),
        ("/track/lead", {"eventQuantity": 1.5}, "eventQuantity"),
        ("/track/lead", {"metadata": {"x": "y" * 9_993}}, "metadata"),
        ("/track/lead", {"mode": "later"}, "mode"),
        ("/track/sale", {"amount": -1}, "amount"),
        ("/track/sale", {"amount": 1.5}, "amount"),
        ("/track/sale", {"amount": None}, "amount"),
        ("/track/sale", {"currency": "euro"}, "currency"),
        ("/track/sale", {"eventName": "x" * 256}, "eventName"),
        ("/track/sale", {"paymentProcessor": "cash"}, "paymentProcessor"),
        ("/track/sale", {"customerExternalId": ""}, "customerExternalId"),
    ],
)
async def test_a_wrong_field_is_422_and_costs_no_call(
    service: Service, dub: FakeDub, path: str, wrong: dict[str, Any], field: str
) -> None:
    """The message names the field."""
    body = LEAD if path == "/track/lead" else SALE
    reply = await service.post(path, json={**body, **wrong}, headers=AS_SERVER)
    assert reply.status_code == 422
    assert reply.json()["error"]["message"].startswith(field)
    assert dub.requests == []


@pytest.mark.parametrize(("path", "body", "key"), PATHS + CLIENT_PATHS)
async def test_the_other_kind_of_key_is_403(
    service: Service, dub: FakeDub, path: str, body: dict[str, Any], key: dict[str, str]
) -> None:
    """Server keys for a backend's routes, publishable ones for an app's; no key at all is 401."""
    other = AS_APP if key is AS_SERVER else AS_SERVER
    assert (await service.post(path, json=body, headers=other)).status_code == 403
    assert (await service.post(path, json=body, headers={"Authorization": ""})).status_code == 401
    assert (await service.post(path, json=body, headers={"Authorization": "Bearer x"})).status_code == 401
    assert dub.requests == []


@pytest.mark.parametrize(
    ("header", "seconds"), [("1785585600500", "1"), ("7", "7"), ("soon", "1"), ("0", "1")]
)
async def test_dubs_429_says_when_in_seconds(
    service: Service, dub: FakeDub, header: str, seconds: str
) -> None:
    """Dub's Retry-After is Unix milliseconds; ours is seconds, and at least one."""
    dub.script = refuse(429, "rate_limit_exceeded", Retry_After=header)
    body = {**LEAD, "mode": "wait"}
    reply = await service.post("/track/lead", json=body, headers=AS_SERVER)
    assert reply.status_code == 429
    assert reply.json()["error"]["code"] == "rate_limit_exceeded"
    assert reply.headers["retry-after"] == seconds


async def test_dubs_refusal_of_our_key_is_not_the_callers_fault(
    service: Service, dub: FakeDub, logs: LogLines
) -> None:
    """A 401 from Dub is a 503 here: the caller's key was right. The log says what is wrong."""
    dub.script = refuse(401, "unauthorized", "Invalid API key.")
    reply = await service.post("/track/lead", json={**LEAD, "mode": "wait"}, headers=AS_SERVER)
    assert reply.status_code == 503
    assert logs.events("upstream.failed")
    assert ENV["ACME_DUB_API_KEY"] not in reply.text + logs.text


async def test_an_app_without_a_dub_key_says_so(service: Service, dub: FakeDub) -> None:
    """globex has no Dub API key: nothing can be sent, and the answer says why."""
    keys = {"Authorization": "Bearer dub_pk_globex"}
    reply = await service.post("/track/lead/client", json=LEAD, headers=keys)
    assert reply.status_code == 503
    assert "Dub API key" in reply.json()["error"]["message"]
    assert dub.requests == []


@pytest.fixture
async def strict_service(dub: FakeDub, clock: FakeClock, logs: LogLines) -> AsyncIterator[Service]:  # noqa: ARG001
    """Serve apps that do not say who may report leads: the default is their backends."""
    config = CONFIG.replace('leads = "client"\n', "")
    async with running(create_app(parse(config, ENV), transport=dub, clock=clock)) as service:
        yield service


@pytest.mark.parametrize(("path", "body", "key"), [*CLIENT_PATHS, ("/v1/leads", LEAD, AS_APP)])
async def test_leads_and_sales_need_a_server_key(
    strict_service: Service, dub: FakeDub, path: str, body: dict[str, Any], key: dict[str, str]
) -> None:
    """A publishable key is in every copy of the app: it reports nothing unless the settings let it.

    The answer is a 403 in Dub's shape, as Dub's client routes give it (dub-api.md, "Errors and limits").
    """
    reply = await strict_service.post(path, json=body, headers=key)
    assert reply.status_code == 403
    error = reply.json()["error"]
    assert (error["code"], error["doc_url"]) == (
        "forbidden",
        "https://dub.co/docs/api-reference/errors#forbidden",
    )
    assert 'leads = "server"' in error["message"]
    assert dub.requests == []
    backend = await strict_service.post(path.removesuffix("/client"), json=body, headers=AS_SERVER)
    assert backend.status_code == 200
