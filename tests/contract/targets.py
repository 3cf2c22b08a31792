"""The two targets, and how a test speaks to either: the sandbox itself, or the service in front of it.

Whatever is asked of a target goes through ``Target.ask``, which holds the answer to its schema and to
Dub's CORS headers, and whatever was accepted to the schema of its request.
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Literal, cast

import httpx
from litestar import Litestar

from service.app import create_app
from service.config.settings import parse
from service.sandbox import SandboxLink, SandboxSettings, create_sandbox
from tests.contract import shapes
from tests.contract.differences import DIFFERENCES
from tests.sandbox.support import (
    APP_STORE,
    DOMAIN,
    MAC,
    NOON,
    PLAY_STORE,
    PROMO,
    FakeClock,
)
from tests.support import running

TargetName = Literal["sandbox", "service"]
TARGETS: tuple[TargetName, ...] = ("sandbox", "service")

APP_KEY, OTHER_APP_KEY = "dub_pk_acme", "dub_pk_globex"
SERVER_KEY, OTHER_SERVER_KEY = "dub_acme_backend", "dub_globex_backend"
DUB_KEY, OTHER_DUB_KEY = "dub_acme_of_firstopen", "dub_globex_of_firstopen"
KEY_OF = {
    "/track/open": APP_KEY,
    "/track/lead": SERVER_KEY,
    "/track/lead/client": APP_KEY,
    "/track/sale": SERVER_KEY,
    "/track/sale/client": APP_KEY,
    "/events": SERVER_KEY,
}
KEYED = tuple(path for path in KEY_OF if path != "/track/open")
CONVERSIONS = tuple(path for path in KEYED if path != "/events")
LEAD_PATHS = ("/track/lead", "/track/lead/client")
SALE_PATHS = ("/track/sale", "/track/sale/client")

PROMO_URL = "https://acme.com/product/123?ref=mail&size=42"
LINKS = (
    SandboxLink(
        id="link_promo",
        domain=DOMAIN,
        key="fb-promo",
        url=PROMO_URL,
        external_id="promo",
        tenant_id="tenant_1",
        ios=APP_STORE,
        android=PLAY_STORE,
    ),
    SandboxLink(id="link_plain", domain=DOMAIN, key="plain", url="https://acme.com/plain"),
    SandboxLink(id="link_root", domain=DOMAIN, key="_root", url="https://acme.com/"),
    SandboxLink(id="link_cafe", domain=DOMAIN, key="café/menu", url="https://acme.com/menu"),
    SandboxLink(
        id="link_deal",
        domain="go.acme.com",
        key="Deal",
        url="https://acme.com/deal",
        external_id="deal",
        tenant_id="tenant_2",
        folder_id="folder_1",
        group_id="group_1",
        partner_id="partner_1",
        program_id="program_1",
        tag_ids=("red", "blue"),
        ios=APP_STORE,
        android=PLAY_STORE,
    ),
    SandboxLink(
        id="link_globex",
        domain="globex.link",
        key="x",
        url="https://globex.com/x",
        workspace="ws_globex",
        ios=APP_STORE,
        android=PLAY_STORE,
    ),
)
CONFIG = """
[dub]
timeout_ms = 60000

[apps.acme]
publishable_keys = ["dub_pk_acme"]
server_keys_env = "ACME_SERVER_KEYS"
dub_api_key_env = "ACME_DUB_API_KEY"
domains = ["acme.link", "go.acme.com"]
default_screen = "home"
leads = "client"
analytics_calls_per_s = 100

[apps.globex]
publishable_keys = ["dub_pk_globex"]
server_keys_env = "GLOBEX_SERVER_KEYS"
dub_api_key_env = "GLOBEX_DUB_API_KEY"
domains = ["globex.link"]
default_screen = "start"
leads = "client"
"""
ENV = {
    "FIRSTOPEN_SECRET": "a secret for tests of 32 characters or more",
    "DUB_BASE_URL": "http://127.0.0.1:8001",
    "ACME_SERVER_KEYS": SERVER_KEY,
    "ACME_DUB_API_KEY": DUB_KEY,
    "GLOBEX_SERVER_KEYS": OTHER_SERVER_KEY,
    "GLOBEX_DUB_API_KEY": OTHER_DUB_KEY,
}
_SHOWN_CHARS = 16
LOOPBACK = ("127.0.0.1", 50_000)


@dataclass(frozen=True)
class Phone:
    """One device, as the network shows it."""

    ip: str
    user_agent: str = "okhttp/4.12.0"

    @property
    def headers(self) -> dict[str, str]:
        """Say whose call it is: Dub's edge in ``X-Real-IP``, a proxy before the service in the other."""
        return {"user-agent": self.user_agent, "x-real-ip": self.ip, "x-forwarded-for": self.ip}


ANNA, BEN = Phone("203.0.113.7"), Phone("203.0.113.8")


class Target:
    """What a contract test speaks to: ``api`` is under test, ``dub`` the sandbox behind (or in) it."""

    def __init__(self, name: TargetName, api: httpx.AsyncClient, dub: httpx.AsyncClient) -> None:
        self.name = name
        self.api = api
        self.dub = dub
        self.phone = ANNA
        self.customer = "user_1"
        self.began_s = NOON
        self._numbers = count(2)

    def begin(self, now_s: float) -> None:
        """Let the next case be about somebody else: another device, another customer, from now on."""
        self.began_s, self.phone, self.customer = now_s, self.somebodys_phone(), self.somebody()

    def somebody(self) -> str:
        """Return the id of a customer whom nobody else has used."""
        return f"user_{next(self._numbers)}."

    def somebodys_phone(self) -> Phone:
        """Return a device that nobody else has used."""
        number = next(self._numbers)
        return Phone(f"198.51.{number // 200}.{number % 200 + 1}")

    def expects(self, difference: str) -> Any:
        """Return this target's side of a known difference."""
        return getattr(DIFFERENCES[difference], self.name)

    async def ask(
        self, method: str, path: str, *, key: str | None = "", body: Any = None, **more: Any
    ) -> httpx.Response:
        """Ask, with the endpoint's own kind of key unless told otherwise, and hold the answer."""
        headers = dict(more.pop("headers", {}))
        if key is not None:
            headers.setdefault("authorization", f"Bearer {key or KEY_OF[path]}")
        if body is not None:
            more["content"] = body if isinstance(body, bytes) else json.dumps(body).encode()
            headers.setdefault("content-type", "application/json")
        response = await self.api.request(method, path, headers=headers, **more)
        shapes.hold(path, response)
        assert response.headers["access-control-allow-origin"] == "*"
        assert response.headers["access-control-allow-headers"] == "Content-Type, Authorization"
        return response

    async def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        """Send a body; one that is accepted must be one that the request's schema describes."""
        response = await self.ask("POST", path, body=body, **more)
        if response.status_code == 200 and isinstance(body, dict):
            assert not shapes.problems(shapes.request_of(path), body), body
        return response

    async def ask_rightly(self, path: str, key: str | None = "", **headers: str) -> httpx.Response:
        """Ask a route for something that is right but for its key, and for the click, which nobody made."""
        if path == "/events":
            return await self.ask("GET", path, key=key, headers=headers)
        body = {"clickId": "x", "eventName": "Sign up", "customerExternalId": "nobody", "amount": 1}
        return await self.ask("POST", path, key=key, body=body, headers=headers)

    async def ask_open(self, phone: Phone | None = None, **fields: Any) -> httpx.Response:
        return await self.post("/track/open", fields, headers=(phone or self.phone).headers)

    async def open(self, deep_link: str = PROMO, phone: Phone | None = None) -> dict[str, Any]:
        """Report an open that must be answered."""
        return _ok(await self.ask_open(phone, deepLink=deep_link))

    async def first_open(self, domain: str = DOMAIN, phone: Phone | None = None) -> dict[str, Any]:
        """Report an open with nothing to go by, which must be answered."""
        return _ok(await self.ask_open(phone, dubDomain=domain))

    async def click_id(self, deep_link: str = PROMO, phone: Phone | None = None) -> str:
        """Return the click of an open."""
        return str((await self.open(deep_link, phone))["clickId"])

    async def ask_lead(self, click_id: str, path: str = "/track/lead", **fields: Any) -> httpx.Response:
        body = {"clickId": click_id, "eventName": "Sign up", "customerExternalId": self.customer}
        return await self.post(path, body | fields)

    async def lead(self, click_id: str, path: str = "/track/lead", **fields: Any) -> dict[str, Any]:
        """Report a lead that must be answered."""
        return _ok(await self.ask_lead(click_id, path, **fields))

    async def ask_sale(self, path: str = "/track/sale", **fields: Any) -> httpx.Response:
        return await self.post(path, {"customerExternalId": self.customer, "amount": 500} | fields)

    async def sale(self, path: str = "/track/sale", **fields: Any) -> dict[str, Any]:
        """Report a sale that must be answered."""
        return _ok(await self.ask_sale(path, **fields))

    async def ask_events(self, **params: Any) -> httpx.Response:
        return await self.ask("GET", "/events", params=params)

    async def events(self, event: str = "clicks", **params: Any) -> list[dict[str, Any]]:
        """List events, which must be answered."""
        response = await self.ask_events(event=event, **params)
        assert response.status_code == 200, response.text
        return cast("list[dict[str, Any]]", response.json())

    async def clicks(self) -> list[dict[str, Any]]:
        """List the clicks since this case began, newest first: Dub itself returns whole days."""
        began = datetime.fromtimestamp(self.began_s, UTC)
        listed = await self.events(start=began.isoformat(), limit=1_000)
        return [event for event in listed if datetime.fromisoformat(event["click"]["timestamp"]) >= began]

    async def click(self, url: str = PROMO, *, ip: str = ANNA.ip, ua: str = MAC, **headers: str) -> str:
        """Follow a link in a browser, straight at Dub; return the click that the cookie names."""
        link = httpx.URL(url)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        response = await self.dub.get(
            link.raw_path.decode(),
            headers={"host": link.host, "user-agent": ua, "x-real-ip": ip, **sent},
        )
        return next(value for name, value in response.cookies.items() if name.startswith("dub_id_"))

    async def at_dub(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Set the stage at the sandbox itself: links, settings, what it was asked."""
        response = await self.dub.request(
            method, path, json=body, headers={"authorization": f"Bearer {SERVER_KEY}"}
        )
        assert response.is_success, response.text
        return response.json()


@asynccontextmanager
async def targeted(
    name: TargetName, clock: FakeClock, folder: Path, budget_ms: int = 10_000
) -> AsyncIterator[Target]:
    """Build a target of this name, with one clock for all its parts and a folder for what they keep.

    The budget is long, so that a machine which is busy with other things degrades no open.
    """
    others = (APP_KEY, OTHER_APP_KEY)
    workspaces = dict.fromkeys((OTHER_APP_KEY, OTHER_SERVER_KEY, OTHER_DUB_KEY), "ws_globex")
    sandbox = create_sandbox(
        LINKS,
        clock=clock,
        api_keys=(SERVER_KEY, OTHER_SERVER_KEY, DUB_KEY, OTHER_DUB_KEY),
        publishable_keys=others,
        settings=SandboxSettings(workspaces=workspaces),
    )
    async with _client(sandbox) as dub:
        if name == "sandbox":
            yield Target(name, dub, dub)
            return
        settings = parse(
            CONFIG, ENV | {"FIRSTOPEN_DATA_DIR": str(folder), "FIRSTOPEN_BUDGET_MS": str(budget_ms)}
        )
        app = create_app(settings, transport=_in_process(sandbox), clock=clock, unix_time=clock)
        async with running(app), _client(app) as api:
            yield Target(name, api, dub)


def error_of(response: httpx.Response) -> tuple[int, str]:
    """Return an error's status and code."""
    return response.status_code, response.json()["error"]["code"]


def refused(response: httpx.Response, field: str) -> None:
    """Fail unless this is the 422 that names the field."""
    assert error_of(response) == (422, "unprocessable_entity"), response.text
    assert field in response.json()["error"]["message"]


def case_id(value: object) -> str:
    """Name a case by its first field and how its value begins."""
    if not isinstance(value, dict):
        return str(value)
    name, given = next(iter(value.items()), ("nothing", ""))
    size = len(str(given))
    return f"{name}={str(given)[:_SHOWN_CHARS]}" + (f"...{size}" if size > _SHOWN_CHARS else "")


def _client(app: Litestar) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=_in_process(app), base_url="http://127.0.0.1:8001")


def _in_process(app: Litestar) -> httpx.ASGITransport:
    return httpx.ASGITransport(cast("Any", app), client=LOOPBACK)


def _ok(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return cast("dict[str, Any]", response.json())
