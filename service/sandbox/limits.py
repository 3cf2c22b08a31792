"""API keys, plans, and rate limits with Dub's form of a 429.

What can go wrong: `Retry-After` is read as seconds (Dub sends Unix milliseconds); one key's calls throttle
another key; a test is throttled although it chose no plan (without a plan nothing is limited).
"""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from litestar import Request

from service.sandbox.clock import SandboxClock
from service.sandbox.errors import DubError
from service.sandbox.links import WORKSPACE
from service.sandbox.urls import hostname
from service.sandbox.web import Headers, header

MINUTE_MS = 60_000
SECOND_MS = 1_000
CLIENT_CALLS_PER_MIN = 600  # of leads and sales together


class Plan(msgspec.Struct, frozen=True):
    """The limits of a Dub plan."""

    calls_per_min: int
    analytics_per_s: int
    conversions: bool


PlanName = Literal["free", "pro", "business", "advanced", "enterprise"]
PLANS: dict[PlanName, Plan] = {
    "free": Plan(60, 0, conversions=False),
    "pro": Plan(600, 2, conversions=False),
    "business": Plan(1_200, 4, conversions=True),
    "advanced": Plan(3_000, 8, conversions=True),
    "enterprise": Plan(3_000, 16, conversions=True),
}


class SandboxSettings(msgspec.Struct, kw_only=True):
    """Settings for behaviour of Dub that depends on the account, or on chance.

    `plan` None: no limits. `usage_exceeded`: the workspace has had more clicks this month than its plan
    allows, so `/events` is refused. `first_opens_unfound`: an open without a deep link finds no click, which
    may happen in Dub's large Redis. `events_delay_s`: seconds until an event appears in `/events`.
    `lead_lookup_delay_s`: seconds until a lead can find a web click (an app's open is found immediately).
    `allowed_hostnames`: hosts whose web pages may report clicks, leads and sales without a secret key
    (`acme.com`, or `*.acme.com` for its subdomains); if empty, any page may.
    `workspaces` maps API keys to workspaces; every other key belongs to "ws_sandbox".
    """

    plan: PlanName | None = None
    usage_exceeded: bool = False
    first_opens_unfound: bool = False
    events_delay_s: float = 0.0
    lead_lookup_delay_s: float = 0.0
    allowed_hostnames: tuple[str, ...] = ()
    case_sensitive_domains: frozenset[str] = frozenset()
    workspaces: dict[str, str] = {}


def rate_headers(limit: int, reset_ms: int) -> Headers:
    """Return the headers of a 429; both times are in Unix milliseconds, as at Dub."""
    reset = str(reset_ms).encode()
    return (
        (b"retry-after", reset),
        (b"x-ratelimit-limit", str(limit).encode()),
        (b"x-ratelimit-remaining", b"0"),
        (b"x-ratelimit-reset", reset),
    )


def throttled(limit: int, reset_ms: int) -> DubError:
    """Return Dub's 429."""
    return DubError("rate_limit_exceeded", "too many requests", rate_headers(limit, reset_ms))


class Gate:
    """Checks the key of a request, then its rate limit, then what its plan allows."""

    def __init__(
        self,
        clock: SandboxClock,
        settings: SandboxSettings,
        api_keys: Sequence[str],
        publishable_keys: Sequence[str],
    ) -> None:
        self._clock = clock
        self._settings = settings
        self._api_keys = frozenset(api_keys)
        self._publishable_keys = frozenset(publishable_keys)
        self._spent: dict[tuple[str, int], tuple[int, int]] = {}

    def links(self, request: Request[Any, Any, Any]) -> str:
        """Check a request with a secret key to `/links`; return the key's workspace."""
        key = _known_key(request, self._api_keys)
        plan = self._plan
        if plan is not None:
            self._spend(key, MINUTE_MS, plan.calls_per_min)
        return self._workspace(key)

    def conversions(self, request: Request[Any, Any, Any]) -> str:
        """Check a report of a lead or sale with a secret key; return the key's workspace."""
        workspace = self.links(request)
        self._require_business()
        return workspace

    def client_conversions(self, request: Request[Any, Any, Any]) -> str:
        """Check a report of a lead or sale with a publishable key; return the key's workspace."""
        key = _known_key(request, self._publishable_keys)
        self.page(request)
        if self._plan is not None:
            self._spend(key, MINUTE_MS, CLIENT_CALLS_PER_MIN)
        self._require_business()
        return self._workspace(key)

    def page(self, request: Request[Any, Any, Any]) -> None:
        """Raise a 403 for a web page whose host is not in `allowed_hostnames`, unless that is empty."""
        allowed = self._settings.allowed_hostnames
        page = header(request.scope, b"referer") or header(request.scope, b"origin")
        if allowed and not any(_covers(pattern, hostname(page)) for pattern in allowed):
            raise DubError("forbidden", f"the workspace does not allow requests from {page or 'no page'}")

    def analytics(self, request: Request[Any, Any, Any]) -> str:
        """Check a request with a secret key to `/events`; return the key's workspace."""
        key = _known_key(request, self._api_keys)
        self._require_business()
        if self._settings.usage_exceeded:
            raise DubError("exceeded_limit", "this month's clicks are over the limit of the plan")
        if self._plan is not None:
            self._spend(key, SECOND_MS, self._plan.analytics_per_s)
        return self._workspace(key)

    @property
    def _plan(self) -> Plan | None:
        return PLANS[self._settings.plan] if self._settings.plan else None

    def _workspace(self, key: str) -> str:
        return self._settings.workspaces.get(key, WORKSPACE)

    def _require_business(self) -> None:
        if self._plan is not None and not self._plan.conversions:
            raise DubError("forbidden", "this needs a Business plan or higher")

    def _spend(self, key: str, window_ms: int, limit: int) -> None:
        """Count one call of this key in the current window; raises a 429 if the limit is reached."""
        window = self._clock.now_ms() // window_ms
        counted_window, count = self._spent.get((key, window_ms), (window, 0))
        count = count if counted_window == window else 0
        if count >= limit:
            raise throttled(limit, (window + 1) * window_ms)
        self._spent[key, window_ms] = (window, count + 1)


def _covers(pattern: str, host: str) -> bool:
    """Return True if an allowed hostname matches a page's host; `*.` matches one or more subdomains."""
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    return host == pattern.removeprefix("www.")


def _known_key(request: Request[Any, Any, Any], keys: frozenset[str]) -> str:
    """Return the request's key; raises a 401 if it is missing or wrong, a 400 if it is no Bearer token."""
    given = request.headers.get("authorization", "")
    if not given:
        raise DubError("unauthorized", "the Authorization header is missing")
    scheme, _, key = given.partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise DubError("bad_request", "the Authorization header is not of the form: Bearer <key>")
    if keys and key.strip() not in keys:
        raise DubError("unauthorized", "the API key is not valid")
    return key.strip()
