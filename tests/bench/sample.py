"""The open and the lead that are reported, and the app that they are reported for."""

from collections.abc import Mapping

from msgspec import json

INSTALL = "8d7e6f5a-1234-4abc-9def-001122334455"
BUDGET_MS = 1500
SECRET = "bench-0123456789abcdef0123456789abcdef"
SERVER_KEY = "server_secret_of_acme"
KEYS = {"BENCH_DUB_API_KEY": "dub_secret_of_acme", "BENCH_SERVER_KEYS": SERVER_KEY}

HEADERS: Mapping[str, str] = {
    "Content-Type": "application/json",
    "Authorization": "Bearer dub_pk_acme",
    "User-Agent": "Acme/12 CFNetwork/1568.100.1 Darwin/24.0.0",
    "X-Forwarded-For": "203.0.113.7",
}

CONFIG = """
[apps.acme]
publishable_keys = ["dub_pk_acme"]
domains = ["acme.link"]
default_screen = "home"
leads = "client"
analytics_calls_per_s = 100
dub_api_key_env = "BENCH_DUB_API_KEY"
server_keys_env = "BENCH_SERVER_KEYS"

[[apps.acme.routes]]
pattern = "https://acme.com/invite/:code"
screen = "invite"

[[apps.acme.routes]]
pattern = "https://acme.com/c/:category"
screen = "category"

[[apps.acme.routes]]
pattern = "https://acme.com/product/:id"
screen = "product"
min_version = "2.3"
"""


def body(install: str, *, budget_ms: int = BUDGET_MS) -> str:
    """Return an open as a phone reports it."""
    return json.encode(
        {
            "deepLink": "https://acme.link/fb-promo?ref=ig",
            "installId": install,
            "platform": "ios",
            "appVersion": "2.4.1",
            "budgetMs": budget_ms,
        }
    ).decode()


def ip_matching(install: str) -> str:
    """Return an open without a link, as a phone reports it on its first launch."""
    return json.encode(
        {"installId": install, "platform": "ios", "appVersion": "2.4.1", "budgetMs": BUDGET_MS}
    ).decode()


def lead(customer: str) -> str:
    """Return a sign-up as a backend reports it."""
    return json.encode(
        {
            "clickId": "d0UtZqE0BZuBPrJS",
            "eventName": "Sign up",
            "customerExternalId": customer,
            "customerEmail": "somebody@example.com",
        }
    ).decode()


def request(install: str, netloc: str, *, budget_ms: int = BUDGET_MS) -> bytes:
    """Return that report of an open as the bytes of a whole HTTP request."""
    content = body(install, budget_ms=budget_ms)
    headers = {"Host": netloc, **HEADERS, "Content-Length": str(len(content))}
    lines = ["POST /v1/opens HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n" + content).encode()
