"""Checks of the way from the internet to the service: the proxies, and what they expose.

The service itself says which address it saw: a dry run with a server key has it in a response header. A
request with an ``X-Forwarded-For`` of its own shows whether callers can choose their address.
"""

from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx
import msgspec

from service.config.settings import Settings
from service.doctor.checks import Check, fail, ok, warn
from service.doctor.network import fetch

SEEN_ADDRESS = "firstopen-seen-address"
_FORGED = "203.0.113.77"  # of a range for documentation: nobody has it
_PRIVATE_PATHS = ("/metrics", "/schema", "/console")


async def public_checks(settings: Settings, http: httpx.AsyncClient, url: str) -> list[Check]:
    """Check the chain of proxies through the public URL."""
    url = url.rstrip("/")
    checks = [await _chain_check(settings, http, url)]
    if _is_loopback(urlsplit(url).hostname or ""):
        return checks
    if urlsplit(url).scheme != "https":
        checks.append(warn("HTTPS", f"{url} is not encrypted", "put HTTPS in front: keys travel in a header"))
    for path in _PRIVATE_PATHS:
        reply = await fetch(http, f"{url}{path}")
        if reply.status and not httpx.codes.is_error(reply.status):
            checks.append(
                warn(
                    f"exposed {path}",
                    f"{url}{path} answers {reply.status}",
                    "route only /v1, /track and /events",
                )
            )
    return checks


async def _chain_check(settings: Settings, http: httpx.AsyncClient, url: str) -> Check:
    name = "X-Forwarded-For"
    found = next(((app, keys[0]) for app, keys in settings.server_keys.items() if keys), None)
    if found is None:
        return warn(name, "not checked: no app has a server key", "set server_keys_env")
    app, key = found
    body = msgspec.json.encode({"dubDomain": settings.apps[app].domains[0]})
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    plain = await fetch(http, f"{url}/v1/opens/dry-run", headers=headers, body=body)
    if plain.problem:
        return fail(name, f"{url}: {plain.problem}", "does the name resolve, and is the proxy running?")
    seen = plain.headers.get(SEEN_ADDRESS, "")
    if plain.status != httpx.codes.OK or not seen:
        return fail(name, f"{url}/v1/opens/dry-run answers {plain.status}", "route /v1 to firstopen")
    if _is_loopback(seen) and _is_loopback(urlsplit(url).hostname or ""):
        return ok(name, "not used: the URL is the service's own, without a proxy")
    forged = await fetch(
        http, f"{url}/v1/opens/dry-run", headers={**headers, "X-Forwarded-For": _FORGED}, body=body
    )
    return _seen_check(name, seen, forged.headers.get(SEEN_ADDRESS, ""))


def _seen_check(name: str, seen: str, seen_with_header: str) -> Check:
    if seen_with_header == _FORGED:
        return fail(
            name,
            "callers can choose their address: a header of theirs is believed",
            "let the outermost proxy replace X-Forwarded-For, and narrow FIRSTOPEN_FORWARDED_ALLOW_IPS",
        )
    if not ip_address(seen).is_global:
        return fail(
            name,
            f"the service sees {seen}, the address of a proxy",
            "list the proxy in FIRSTOPEN_FORWARDED_ALLOW_IPS; let it set X-Forwarded-For",
        )
    return ok(name, f"the service sees {seen}; is that this machine's public address?")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
