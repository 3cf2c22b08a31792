"""Checks of Dub: its address, the key and plan of each app on each endpoint, the age of clicks, the clock.

Nothing is recorded at Dub: the open is sent with ``dub-no-track``, and the lead and the sale have no fields,
so that Dub checks their key and refuses them with 422.
"""

import asyncio
import socket
import time
import urllib.request
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
import msgspec

from service.config.settings import Settings
from service.doctor.checks import Check, fail, ok, warn
from service.doctor.network import Fetched, fetch
from service.dub.event_time import read_time_ms

_CLOCK_WARN_S, _CLOCK_FAIL_S = 5, 60  # clicks are compared with a tolerance of 60 s
_REFUSED = "unprocessable: the key is accepted"
_JSON = "application/json"
_SLOW_DNS_MS = 1000
_HOUR_S = 3600


async def dub_checks(
    settings: Settings, http: httpx.AsyncClient, unix_time: Callable[[], float] = time.time
) -> list[Check]:
    """Check Dub for every app."""
    base = settings.dub_base_url
    checks = [await _name_check(base), _proxy_check(base)]
    asked_at = unix_time()
    first = next(iter(settings.apps.values()))
    opened = await fetch(
        http,
        f"{base}/track/open",
        headers={"Content-Type": _JSON, "dub-no-track": "1"},
        body=msgspec.json.encode({"dubDomain": first.domains[0]}),
    )
    checks.append(_open_check(opened))
    if opened.status:
        checks.append(_clock_check(opened, asked_at, unix_time()))
    for name in settings.apps:
        checks += await _app_checks(name, settings, http, unix_time)
    return checks


async def _name_check(base: str) -> Check:
    host = urlsplit(base).hostname or ""
    began = time.monotonic()
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as exc:
        return fail(
            "DNS", f"{host}: {exc.strerror or exc}", "check the resolver of this machine, and DUB_BASE_URL"
        )
    took_ms = (time.monotonic() - began) * 1000
    detail = f"{host}: {len({each[4][0] for each in found})} addresses in {took_ms:.0f} ms"
    if took_ms > _SLOW_DNS_MS:
        return warn("DNS", detail, "a slow resolver delays the first call of each connection")
    return ok("DNS", detail)


def _proxy_check(base: str) -> Check:
    parts = urlsplit(base)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy is None or urllib.request.proxy_bypass(parts.hostname or ""):
        return ok("proxy", "none: Dub is called directly")
    return ok("proxy", f"Dub is called through {urlsplit(proxy).hostname}")


def _open_check(reply: Fetched) -> Check:
    name = "Dub /track/open"
    if reply.problem:
        return fail(name, reply.problem, "check the network and DUB_BASE_URL; opens are answered meanwhile")
    if reply.status in (200, 404) and _is_json(reply):
        return ok(name, f"{reply.status}")
    if reply.status == httpx.codes.TOO_MANY_REQUESTS:
        return warn(name, "429: too many requests", "try again later; Dub limits by address")
    return fail(name, _said(reply), "is DUB_BASE_URL Dub's API? https://api.dub.co by default")


def _clock_check(reply: Fetched, asked_at: float, answered_at: float) -> Check:
    try:
        theirs = parsedate_to_datetime(reply.headers["date"]).timestamp()
    except (KeyError, ValueError):
        return warn(
            "clock", "Dub's answer has no date to compare with", "compare this machine's clock yourself"
        )
    # The header has whole seconds, servers renew it now and then, and it was written between both times.
    ahead = max(asked_at - theirs - 1, 0) - max(theirs - answered_at, 0)
    if abs(ahead) <= _CLOCK_WARN_S:
        return ok("clock", f"as Dub's, within {_CLOCK_WARN_S} s")
    detail = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} Dub's"
    if abs(ahead) > _CLOCK_FAIL_S:
        return fail(
            "clock", detail, "set the clock (NTP): clicks seem to be later than the opens they led to"
        )
    return warn("clock", detail, "set the clock (NTP)")


async def _app_checks(
    name: str, settings: Settings, http: httpx.AsyncClient, unix_time: Callable[[], float]
) -> list[Check]:
    key = settings.dub_api_keys.get(name)
    app = settings.apps[name]
    if not key:
        return [
            warn(
                f"{name}: Dub key",
                "apps without a Dub API key have no leads, sales and matching by IP address",
                f"set apps.{name}.dub_api_key_env",
            )
        ]
    base, headers = settings.dub_base_url, {"Authorization": f"Bearer {key}"}
    query = urlencode({"event": "clicks", "interval": "24h", "limit": 1, "sortOrder": "desc"})
    events = await fetch(http, f"{base}/events?{query}", headers=headers)
    checks = [_events_check(name, events, app.ip_matching, unix_time())]
    for path in ("/track/lead", "/track/sale"):
        reply = await fetch(http, f"{base}{path}", headers={**headers, "Content-Type": _JSON}, body=b"{}")
        checks.append(_conversion_check(f"{name}: Dub {path}", reply, app.dub_api_key_env or ""))
    return checks


def _conversion_check(name: str, reply: Fetched, variable: str) -> Check:
    if reply.problem:
        return fail(name, reply.problem, "check the network; leads wait in the outbox meanwhile")
    if reply.status in (httpx.codes.UNPROCESSABLE_ENTITY, httpx.codes.BAD_REQUEST):
        return ok(name, _REFUSED)
    return _refused(name, reply, variable, "a plan with conversion tracking (Business or higher)")


def _events_check(app: str, reply: Fetched, ip_matching: str, now: float) -> Check:
    name = f"{app}: Dub /events"
    if reply.problem:
        return fail(name, reply.problem, "check the network; first launches stay pending meanwhile")
    if reply.status == httpx.codes.FORBIDDEN and ip_matching == "off":
        return ok(name, "403, and apps without matching by IP address do not need it")
    if reply.status != httpx.codes.OK:
        return _refused(name, reply, "the key", 'Dub\'s Business plan; without it, set ip_matching = "off"')
    return _age_check(name, reply.body, now)


def _age_check(name: str, body: bytes, now: float) -> Check:
    try:
        events: list[dict[str, Any]] = msgspec.json.decode(body, type=list[dict[str, Any]])
        times = [read_time_ms(each["timestamp"]) for each in events]
    except (msgspec.DecodeError, KeyError) as exc:
        return fail(
            name, f"200, but the events cannot be read ({type(exc).__name__})", "report this as a bug"
        )
    if None in times:
        return fail(name, "200, but an event has a time that cannot be read", "report this as a bug")
    if not times:
        return warn(name, "no click within a day", "are the links of this workspace in use?")
    newest_ms = max(filter(None, times))
    return ok(name, f"the newest click is {_age(now - newest_ms / 1000)} old")


def _age(seconds: float) -> str:
    return f"{seconds / _HOUR_S:.0f} h" if seconds > 2 * _HOUR_S else f"{seconds / 60:.0f} min"


def _refused(name: str, reply: Fetched, variable: str, plan: str) -> Check:
    if reply.status == httpx.codes.UNAUTHORIZED:
        return fail(name, _said(reply), f"{variable}: expected a valid Dub API key of this workspace")
    if reply.status == httpx.codes.FORBIDDEN:
        return fail(name, _said(reply), f"needs {plan}")
    if reply.status == httpx.codes.TOO_MANY_REQUESTS:
        return warn(name, _said(reply), "lower analytics_calls_per_s, or try again later")
    if reply.is_redirect:
        return fail(
            name, f"{reply.status}: a redirect", "is DUB_BASE_URL Dub's API? https://api.dub.co by default"
        )
    return fail(name, _said(reply), "try again later; nothing is lost meanwhile")


def _is_json(reply: Fetched) -> bool:
    try:
        msgspec.json.decode(reply.body)
    except msgspec.DecodeError:
        return False
    return True


def _said(reply: Fetched) -> str:
    """Return the status and Dub's own message."""
    try:
        message = str(msgspec.json.decode(reply.body)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        message = "" if _is_json(reply) else "not JSON"
    return f"{reply.status}: {message}"[:200].rstrip(": ")
