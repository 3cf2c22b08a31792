"""The open that is reported, and the app that it is reported for."""

from collections.abc import Mapping

from msgspec import json

INSTALL = "8d7e6f5a-1234-4abc-9def-001122334455"
SECRET = "bench-0123456789abcdef0123456789abcdef"

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


def body(install: str) -> str:
    """Return an open as a phone reports it."""
    return json.encode(
        {
            "deepLink": "https://acme.link/fb-promo?ref=ig",
            "installId": install,
            "platform": "ios",
            "appVersion": "2.4.1",
            "budgetMs": 1500,
        }
    ).decode()


def request(install: str, netloc: str) -> bytes:
    """Return that report as the bytes of a whole HTTP request."""
    content = body(install)
    headers = {"Host": netloc, **HEADERS, "Content-Length": str(len(content))}
    lines = ["POST /v1/opens HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n" + content).encode()
