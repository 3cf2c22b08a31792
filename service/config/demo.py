"""Settings of the demo: one app, with the four demo links of the embedded Dub.

``firstopen serve`` runs the demo if FIRSTOPEN_CONFIG is not set. The demo listens on loopback only.
"""

from collections.abc import Mapping

import msgspec

from service.config.settings import Settings, SettingsError, parse

HOST = "127.0.0.1"
DOMAIN = "acme.localhost"
PUBLISHABLE_KEY = "dub_pk_acme"
SERVER_KEY = "dub_demo_acme"

_DATA_DIR = "var/demo"  # apart from real data, because the demo's secret is public
_LAST_PORT = 65_535

CONFIG = f"""
[apps.acme]
publishable_keys = ["{PUBLISHABLE_KEY}"]
server_keys_env = "ACME_SERVER_KEYS"
dub_api_key_env = "ACME_DUB_API_KEY"
domains = ["{DOMAIN}"]
default_screen = "home"
schemes = ["acme"]
leads = "client"

[[apps.acme.routes]]
pattern = "https://acme.com/product/:id"
screen = "product"

[[apps.acme.routes]]
pattern = "https://acme.com/category/:name"
screen = "category"
query = ["sort", "size"]

[[apps.acme.routes]]
pattern = "https://acme.com/invite/:from"
screen = "invite"
min_version = "2.3"

[[apps.acme.link_templates]]
name = "invite"
url = "https://acme.com/invite/{{from}}"
parameters = {{ from = 64 }}

[apps.acme.ios]
app_ids = ["ABCDE12345.com.acme.app"]

[apps.acme.android]
package = "com.acme.app"
sha256_cert_fingerprints = ["{":".join(["00"] * 32)}"]
"""


def settings(env: Mapping[str, str]) -> Settings:
    """Return the demo's settings: fixed app, secret and Dub, the rest from the environment.

    Raises ``SettingsError`` if the environment does not fit the demo.
    """
    own = {
        "FIRSTOPEN_HOST": HOST,
        "FIRSTOPEN_SECRET": env.get("FIRSTOPEN_SECRET") or "the demo's secret known to everybody",
        "FIRSTOPEN_DATA_DIR": env.get("FIRSTOPEN_DATA_DIR") or _DATA_DIR,
        "ACME_SERVER_KEYS": SERVER_KEY,
        "ACME_DUB_API_KEY": "dub_sandbox",
    }
    if env.get("FIRSTOPEN_HOST") not in (None, "", HOST, "localhost"):
        raise SettingsError(
            f"FIRSTOPEN_HOST: the demo listens on {HOST} only; set FIRSTOPEN_CONFIG to listen elsewhere"
        )
    demo = parse(CONFIG, {**env, **own}, name="the demo's settings", demo=True)
    if demo.port == _LAST_PORT:
        raise SettingsError(
            f"FIRSTOPEN_PORT: the demo also needs the next port, and {_LAST_PORT} is the last"
        )
    if demo.ops_port == sandbox_port(demo.port):
        raise SettingsError(f"FIRSTOPEN_OPS_PORT: {demo.ops_port} is the port of the demo's sandbox")
    return msgspec.structs.replace(demo, dub_base_url=f"http://{HOST}:{sandbox_port(demo.port)}")


def sandbox_port(port: int) -> int:
    """Return the embedded Dub's port: the one after the service's."""
    return port + 1


def curl(port: int) -> str:
    """Return a shell command that reports an open through the first demo link."""
    link = f"http://{DOMAIN}:{sandbox_port(port)}/fb-promo?ref=ig"
    body = f'{{"deepLink": "{link}", "installId": "install-anna"}}'
    return curl_command(HOST, port, PUBLISHABLE_KEY, body)


def curl_command(host: str, port: int, key: str, body: str) -> str:
    """Return a shell command that reports an open."""
    return (
        f"curl -s http://{host}:{port}/v1/opens -H 'Authorization: Bearer {key}' "
        f"-H 'Content-Type: application/json' -d '{body}'"
    )
