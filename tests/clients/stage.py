"""The scene that real clients play on: base URLs, phones that open links, and a script for bad days."""

from itertools import count
from typing import Any

import httpx

from tests.support import KEY

LINK = "https://acme.link/fb-promo"
DOMAIN = "acme.link"
SERVER_KEY = "dub_server_key_of_acme"
HASTY_SERVER_KEY = "dub_server_key_of_globex"
ANDROID = "okhttp/4.12.0"

SANDBOX_LINKS = f"""
[[links]]
domain = "{DOMAIN}"
key = "fb-promo"
url = "https://acme.com/product/123"

[[links]]
domain = "globex.link"
key = "x"
url = "https://globex.com/x"
"""
SERVICE_CONFIG = f"""
[apps.acme]
publishable_keys = ["{KEY}"]
server_keys_env = "ACME_SERVER_KEYS"
dub_api_key_env = "ACME_DUB_API_KEY"
domains = ["{DOMAIN}"]
default_screen = "home"
leads = "client"
analytics_calls_per_s = 100

[[apps.acme.routes]]
pattern = "https://acme.com/product/:id"
screen = "product"

[apps.globex]
publishable_keys = ["dub_pk_globex"]
server_keys_env = "GLOBEX_SERVER_KEYS"
dub_api_key_env = "GLOBEX_DUB_API_KEY"
domains = ["globex.link"]
default_screen = "home"
analytics_calls_per_s = 1
"""
SERVICE_ENV = {
    "FIRSTOPEN_CONFIG": "firstopen.toml",
    "FIRSTOPEN_SECRET": "a secret for tests of 32 characters or more",
    "ACME_SERVER_KEYS": SERVER_KEY,
    "ACME_DUB_API_KEY": "dub_secret_of_acme",
    "GLOBEX_SERVER_KEYS": HASTY_SERVER_KEY,
    "GLOBEX_DUB_API_KEY": "dub_secret_of_globex",
}

_numbers = count(1)


class Stage:
    """Where the service and the sandbox are, and what phones do there."""

    def __init__(self, service: str, sandbox: str, http: httpx.Client) -> None:
        self.service = service
        self.sandbox = sandbox
        self.http = http

    def open_at_dub(self, user_agent: str = ANDROID) -> str:
        """Open the link as one phone, straight at the sandbox, and return the click."""
        return self._click("/track/open", {"deepLink": LINK}, self.sandbox, user_agent)

    def open(self, install_id: str, user_agent: str = ANDROID) -> str:
        """Open the link as one install, through the service, and return the click."""
        body = {"deepLink": LINK, "installId": install_id}
        return self._click("/v1/opens", body, self.service, user_agent)

    def new_click(self) -> str:
        """Open the link as a phone that nobody else has been."""
        return self.open(f"install-{next(_numbers)}")

    def new_name(self, kind: str) -> str:
        """Return a name that nobody else has."""
        return f"{kind}-{next(_numbers)}"

    def goes_wrong(self, **fault: Any) -> None:
        """Script a bad day at the sandbox."""
        self.http.post(f"{self.sandbox}/sandbox/faults", json=fault).raise_for_status()

    def heal(self) -> None:
        """End every bad day."""
        self.http.delete(f"{self.sandbox}/sandbox/faults").raise_for_status()

    def calls(self, path: str) -> int:
        """Count the calls of a path that reached the sandbox."""
        response = self.http.get(f"{self.sandbox}/sandbox/calls", params={"path": path})
        return len(response.raise_for_status().json())

    def _click(self, path: str, body: dict[str, str], base: str, user_agent: str) -> str:
        headers = {"Authorization": f"Bearer {KEY}", "User-Agent": user_agent}
        response = self.http.post(f"{base}{path}", json=body, headers=headers)
        click_id = response.raise_for_status().json()["clickId"]
        assert isinstance(click_id, str)
        return click_id
