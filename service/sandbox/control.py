"""`/sandbox/*`: control routes for tests. They need no key, and are never recorded, failed or throttled.

What can go wrong: a misspelt field makes a fault without effect (unknown fields are refused); a clock stops
after it was moved; a web page's script reads the calls (there are no CORS headers here).
"""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Request, delete, get, patch, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery
from litestar.status_codes import HTTP_200_OK

from service.sandbox.calls import CallLog
from service.sandbox.clock import SandboxClock, iso
from service.sandbox.domains import DomainBook, SandboxDomain
from service.sandbox.errors import unprocessable
from service.sandbox.faults import Fault, FaultBook
from service.sandbox.fields import convert, fields_of, json_of
from service.sandbox.limits import PlanName, SandboxSettings

Seconds = Annotated[float, msgspec.Meta(ge=0)]


class ClockMove(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Either `advanceS`, seconds (negative: back), or `now`, Unix seconds or ISO 8601 with an offset."""

    advance_s: float | None = None
    now: float | Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class SettingsChange(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Settings that may change while the sandbox runs; `plan` null removes all limits."""

    plan: PlanName | msgspec.UnsetType | None = msgspec.UNSET
    usage_exceeded: bool | msgspec.UnsetType = msgspec.UNSET
    first_opens_unfound: bool | msgspec.UnsetType = msgspec.UNSET
    events_delay_s: Seconds | msgspec.UnsetType = msgspec.UNSET
    lead_lookup_delay_s: Seconds | msgspec.UnsetType = msgspec.UNSET
    allowed_hostnames: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET


def control_routes(
    clock: SandboxClock, calls: CallLog, faults: FaultBook, settings: SandboxSettings, domains: DomainBook
) -> list[HTTPRouteHandler]:
    """Build the control routes."""
    return [
        *_clock_routes(clock),
        *_call_routes(calls),
        *_fault_routes(faults),
        *_settings_routes(settings),
        *_domain_routes(domains),
    ]


def _clock_routes(clock: SandboxClock) -> list[HTTPRouteHandler]:
    def shown() -> dict[str, Any]:
        return {"now": iso(clock.now_ms()), "unixS": clock.now_s()}

    @get("/sandbox/clock")
    async def read_clock() -> dict[str, Any]:
        """Return the sandbox's time."""
        return shown()

    @post("/sandbox/clock", status_code=HTTP_200_OK)
    async def move_clock(request: Request[Any, Any, Any]) -> dict[str, Any]:
        """Move the sandbox's clock, which keeps running from there."""
        move = fields_of(await request.body(), ClockMove)
        if (move.advance_s is None) == (move.now is None):
            raise unprocessable("expected either advanceS or now")
        try:
            if move.advance_s is not None:
                clock.advance(move.advance_s)
            elif move.now is not None:
                clock.set(move.now.timestamp() if isinstance(move.now, datetime) else move.now)
        except ValueError as error:
            raise unprocessable(str(error)) from None
        return shown()

    @delete("/sandbox/clock", status_code=HTTP_200_OK)
    async def reset_clock() -> dict[str, Any]:
        """Return to the machine's time."""
        clock.reset()
        return shown()

    return [read_clock, move_clock, reset_clock]


def _call_routes(calls: CallLog) -> list[HTTPRouteHandler]:
    @get("/sandbox/calls")
    async def list_calls(
        path: FromQuery[str | None] = None, method: FromQuery[str | None] = None
    ) -> list[dict[str, Any]]:
        """Return the recorded calls, oldest first."""
        return calls.matching(path, method.upper() if method else None)

    @delete("/sandbox/calls", status_code=HTTP_200_OK)
    async def clear_calls() -> dict[str, int]:
        """Delete the recorded calls."""
        return {"cleared": calls.clear()}

    return [list_calls, clear_calls]


def _fault_routes(faults: FaultBook) -> list[HTTPRouteHandler]:
    @get("/sandbox/faults")
    async def list_faults() -> list[dict[str, Any]]:
        """Return the faults, with the number of calls that each was applied to."""
        return faults.all()

    @post("/sandbox/faults")
    async def add_fault(request: Request[Any, Any, Any]) -> dict[str, Any]:
        """Add a fault."""
        return faults.add(fields_of(await request.body(), Fault))

    @delete("/sandbox/faults", status_code=HTTP_200_OK)
    async def clear_faults() -> dict[str, int]:
        """Remove every fault."""
        return {"cleared": faults.clear()}

    @delete("/sandbox/faults/{fault_id:str}", status_code=HTTP_200_OK)
    async def clear_fault(fault_id: FromPath[str]) -> dict[str, int]:
        """Remove one fault."""
        return {"cleared": faults.clear(fault_id)}

    return [list_faults, add_fault, clear_faults, clear_fault]


def _settings_routes(settings: SandboxSettings) -> list[HTTPRouteHandler]:
    def shown() -> dict[str, Any]:
        return {
            "plan": settings.plan,
            "usageExceeded": settings.usage_exceeded,
            "firstOpensUnfound": settings.first_opens_unfound,
            "eventsDelayS": settings.events_delay_s,
            "leadLookupDelayS": settings.lead_lookup_delay_s,
            "allowedHostnames": settings.allowed_hostnames,
        }

    @get("/sandbox/settings")
    async def read_settings() -> dict[str, Any]:
        """Return the sandbox's settings."""
        return shown()

    @patch("/sandbox/settings")
    async def change_settings(request: Request[Any, Any, Any]) -> dict[str, Any]:
        """Change the sandbox's settings."""
        change = fields_of(await request.body(), SettingsChange)
        for name, value in msgspec.structs.asdict(change).items():
            if value is not msgspec.UNSET:
                setattr(settings, name, value)
        return shown()

    return [read_settings, change_settings]


def _domain_routes(domains: DomainBook) -> list[HTTPRouteHandler]:
    @get("/sandbox/domains")
    async def list_domains() -> list[SandboxDomain]:
        """Return the domains with their configuration."""
        return domains.all()

    @put("/sandbox/domains/{domain:str}")
    async def set_domain_up(request: Request[Any, Any, Any], domain: FromPath[str]) -> SandboxDomain:
        """Replace a domain's configuration; fields that the body omits get their defaults."""
        body = json_of(await request.body())
        if not isinstance(body, dict):
            raise unprocessable("expected an object")
        return domains.put(convert(body | {"domain": domain}, SandboxDomain))

    return [list_domains, set_domain_up]
