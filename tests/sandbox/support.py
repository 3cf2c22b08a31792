"""Phones, servers and time for the sandbox's own tests: everything goes through HTTP."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
from litestar import Litestar

from service.sandbox import SandboxDomain, SandboxLink, SandboxSettings, create_sandbox

DOMAIN = "acme.link"
PROMO = "https://acme.link/fb-promo"
APP_STORE = "https://apps.apple.com/us/app/acme/id1"
PLAY_STORE = "https://play.google.com/store/apps/details?id=com.acme"
NOON = 1_785_585_600.0  # 2026-08-01T12:00:00Z

IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
    " Version/17.5 Mobile/15E148 Safari/604.1"
)
PIXEL = (
    "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/126.0.0.0 Mobile Safari/537.36"
)
MAC = (
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/126.0.0.0 Safari/537.36"
)
OKHTTP = "okhttp/4.12.0"

LINKS = (
    SandboxLink(
        id="link_promo",
        domain=DOMAIN,
        key="fb-promo",
        url="https://acme.com/product/123?ref=mail&size=42",
        ios=APP_STORE,
        android=PLAY_STORE,
        external_id="promo",
        tenant_id="tenant_1",
    ),
    SandboxLink(id="link_plain", domain=DOMAIN, key="plain", url="https://acme.com/plain"),
    SandboxLink(id="link_root", domain=DOMAIN, key="_root", url="https://acme.com/"),
    SandboxLink(id="link_other", domain="other.link", key="fb-promo", url="https://other.com/"),
)


class FakeClock:
    """Unix time that moves only when it is told to."""

    def __init__(self) -> None:
        self.now_s = NOON

    def __call__(self) -> float:
        return self.now_s

    def advance(self, by_s: float) -> None:
        self.now_s += by_s


class FakeSleep:
    """Notes how long it was asked to sleep, and does not."""

    def __init__(self) -> None:
        self.slept_s: list[float] = []
        self.called = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.called.set()


class Sandbox:
    """A sandbox and the clients that speak to it."""

    def __init__(self, app: Litestar, http: httpx.AsyncClient) -> None:
        self.app = app
        self.http = http

    async def post(
        self, path: str, body: Any, *, key: str | None = "dub_test", **headers: str
    ) -> httpx.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            sent["authorization"] = f"Bearer {key}"
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return await self.http.post(path, content=content, headers=sent)

    async def open(self, deep_link: str = PROMO, *, ip: str = "", ua: str = OKHTTP) -> dict[str, Any]:
        """Report an open, which must be answered."""
        response = await self.post("/track/open", {"deepLink": deep_link}, **_phone(ip, ua))
        return _ok(response)

    async def first_open(self, domain: str = DOMAIN, *, ip: str = "", ua: str = OKHTTP) -> dict[str, Any]:
        """Report an open with nothing to go by, which must be answered."""
        response = await self.post("/track/open", {"dubDomain": domain}, **_phone(ip, ua))
        return _ok(response)

    async def click(
        self, path: str = "/fb-promo", *, ip: str = "", ua: str = MAC, **headers: str
    ) -> httpx.Response:
        """Follow a link in a browser."""
        host = headers.pop("host", DOMAIN)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.get(path, headers={"host": host, **_phone(ip, ua), **sent})

    async def lead(self, click_id: str = "", customer: str = "user_1", **fields: Any) -> httpx.Response:
        body = {"clickId": click_id, "eventName": "Sign up", "customerExternalId": customer}
        return await self.post("/track/lead", body | fields)

    async def sale(self, customer: str = "user_1", amount: int = 500, **fields: Any) -> httpx.Response:
        return await self.post("/track/sale", {"customerExternalId": customer, "amount": amount} | fields)

    async def ask_events(self, **params: Any) -> httpx.Response:
        return await self.http.get("/events", params=params, headers={"authorization": "Bearer dub_test"})

    async def events(self, event: str = "clicks", **params: Any) -> list[dict[str, Any]]:
        """List events, which must be answered."""
        response = await self.ask_events(event=event, **params)
        assert response.status_code == 200, response.text
        listed: list[dict[str, Any]] = response.json()
        return listed

    async def link(self, link_id: str = "link_promo") -> dict[str, Any]:
        return await self.link_info(linkId=link_id)

    async def link_info(self, **params: str) -> dict[str, Any]:
        """Look a link up by id, or by domain and key."""
        response = await self.http.get(
            "/links/info", params=params, headers={"authorization": "Bearer dub_test"}
        )
        return _ok(response)

    async def change_link(self, link_id: str = "link_promo", **fields: Any) -> None:
        response = await self.http.patch(
            f"/links/{link_id}", json=fields, headers={"authorization": "Bearer dub_test"}
        )
        assert response.status_code == 200, response.text

    async def delete_link(self, link_id: str = "link_promo") -> None:
        response = await self.http.delete(f"/links/{link_id}", headers={"authorization": "Bearer dub_test"})
        assert response.status_code == 200, response.text

    async def fault(self, **fields: Any) -> str:
        """Set a fault, which must be accepted; return its id."""
        response = await self.http.post("/sandbox/faults", json=fields)
        assert response.status_code == 201, response.text
        return str(response.json()["id"])

    async def set_up(self, domain: str = DOMAIN, **fields: Any) -> None:
        """Set a domain up in the dashboard, which must be accepted."""
        response = await self.http.put(f"/sandbox/domains/{domain}", json=fields)
        assert response.status_code == 200, response.text

    async def settings(self, **fields: Any) -> None:
        response = await self.http.patch("/sandbox/settings", json=fields)
        assert response.status_code == 200, response.text

    async def calls(self, **params: str) -> list[dict[str, Any]]:
        response = await self.http.get("/sandbox/calls", params=params)
        listed: list[dict[str, Any]] = response.json()
        return listed


def build(
    clock: FakeClock,
    *,
    links: Sequence[SandboxLink] = LINKS,
    domains: Sequence[SandboxDomain] = (),
    peer: str = "127.0.0.1",
    data: Path | None = None,
    sleep: FakeSleep | None = None,
    settings: SandboxSettings | None = None,
) -> Sandbox:
    """Build a sandbox with its client; `peer` is the address that calls come from."""
    app = create_sandbox(
        links, domains=domains, clock=clock, data=data, sleep=sleep or FakeSleep(), settings=settings
    )
    return Sandbox(app, client_of(app, peer))


def client_of(app: Litestar, peer: str = "127.0.0.1") -> httpx.AsyncClient:
    """Return a client of an app that runs in this process."""
    transport = httpx.ASGITransport(app, client=(peer, 50_000))  # type: ignore[arg-type]  # two ASGI vocabularies
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8001")


def error_of(response: httpx.Response) -> tuple[int, str, str]:
    """Return an error's status, code and message; its shape is Dub's or the test fails."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "doc_url"}
    code = body["error"]["code"]
    docs = "https://dub.co/docs/api-reference/errors#"
    assert body["error"]["doc_url"] == docs + code.replace("_", "-", 1)
    return response.status_code, code, body["error"]["message"]


def _phone(ip: str, ua: str) -> dict[str, str]:
    return {"user-agent": ua, **({"x-real-ip": ip} if ip else {})}


def _ok(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body
