"""Faults that tests set: which calls fail, and how.

    {"route": "/track/open", "status": 503, "times": 3}     three calls get Dub's 503
    {"route": "/track/*", "stall": true}                     accepted, never answered
    {"route": "/track/lead", "reset": "before", "handled": true}    recorded, then the connection is reset
    {"route": "/events", "throttle": true, "retryAfterS": 5} 429, Retry-After in Unix milliseconds
    {"route": "*", "delayMs": 800, "probability": 0.1}       one call in ten is slow

What can go wrong: a test does not know whether a failed call took effect, so it proves nothing about retries;
a stalled call keeps a server from stopping; a random failure cannot be reproduced.
"""

import asyncio
from collections.abc import Awaitable, Callable
from fnmatch import fnmatchcase
from random import Random
from typing import Annotated, Any, Literal

import msgspec

from service.sandbox.clock import SandboxClock
from service.sandbox.errors import DubError, code_of, error_reply, unprocessable
from service.sandbox.limits import throttled
from service.sandbox.web import Reply, html_reply
from service.sandbox.wire import Wire

TOO_MANY_REQUESTS = 429
HTTP_OK = 200
THROTTLE_LIMIT = 600
_HTML = (
    "<!doctype html><title>Bad gateway</title><h1>Bad gateway</h1><p>Not from Dub: something in between.</p>"
)

Sleep = Callable[[float], Awaitable[object]]


class Fault(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A fault. The first one whose `route`, `method` and `host` match a call is applied to it.

    `route` and `host` are globs (`*` matches everything; the path of a click is the link's key). Without
    `handled`, a call with a status, a throttle or a reset has no effect; with it, the call takes effect and
    only its answer is lost. `delayMs` can be combined with everything, and comes first. A stall ends when
    the fault is deleted (the call is then answered) or when the client disconnects. `times` is the maximum
    number of calls; `probability` uses a generator seeded with `seed`, so that runs are reproducible.
    """

    route: Annotated[str, msgspec.Meta(min_length=1)]
    method: str | None = None
    host: str | None = None
    status: Annotated[int, msgspec.Meta(ge=200, le=599)] | None = None
    delay_ms: Annotated[int, msgspec.Meta(ge=0, le=600_000)] = 0
    stall: bool = False
    reset: Literal["before", "midBody"] | None = None
    throttle: bool = False
    retry_after_s: Annotated[float, msgspec.Meta(ge=0)] = 60
    html: bool = False
    truncate: bool = False
    trickle_ms: Annotated[int, msgspec.Meta(ge=1, le=60_000)] | None = None
    handled: bool = False
    probability: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    seed: int = 0
    times: Annotated[int, msgspec.Meta(ge=1)] | None = None

    def check(self) -> None:
        """Raise a 422 for a fault without an effect, or with effects that exclude each other."""
        kinds = {"status": self.status, "stall": self.stall, "reset": self.reset, "throttle": self.throttle}
        chosen = [name for name, value in kinds.items() if value]
        if len(chosen) > 1:
            raise unprocessable(f"{' and '.join(chosen)}: expected one of status, stall, reset, throttle")
        if not chosen and not (self.delay_ms or self.html or self.truncate or self.trickle_ms):
            effects = "status, delayMs, stall, reset, throttle, html, truncate, trickleMs"
            raise unprocessable(f"expected a fault with an effect: one or more of {effects}")

    def fits(self, method: str, host: str, path: str) -> bool:
        """Return True if the fault matches a call."""
        return (
            fnmatchcase(path, self.route)
            and (self.method is None or self.method.upper() == method)
            and (self.host is None or fnmatchcase(host, self.host))
        )


class Armed:
    """An active fault."""

    def __init__(self, fault_id: str, fault: Fault) -> None:
        self.id = fault_id
        self.fault = fault
        self.cleared = asyncio.Event()
        self._applied = 0
        self._random = Random(fault.seed)  # noqa: S311  not a secret

    def takes(self, method: str, host: str, path: str) -> bool:
        """Return True, and count the call, if the fault is applied to it."""
        spent = self.fault.times is not None and self._applied >= self.fault.times
        if spent or not self.fault.fits(method, host, path):
            return False
        if self._random.random() >= self.fault.probability:
            return False
        self._applied += 1
        return True

    def view(self) -> dict[str, Any]:
        """Return the fault as JSON data, with the number of calls that it was applied to."""
        body: dict[str, Any] = msgspec.to_builtins(self.fault)
        return {"id": self.id, **body, "applied": self._applied}


class FaultBook:
    """The active faults, in the order in which they were added."""

    def __init__(self, clock: SandboxClock, sleep: Sleep) -> None:
        self._clock = clock
        self._sleep = sleep
        self._armed: dict[str, Armed] = {}
        self._next = 1

    def add(self, fault: Fault) -> dict[str, Any]:
        """Add a fault; raises a 422 if it is invalid."""
        fault.check()
        armed = Armed(f"fault_{self._next}", fault)
        self._next += 1
        self._armed[armed.id] = armed
        return armed.view()

    def all(self) -> list[dict[str, Any]]:
        """Return all faults, also those that have reached `times`."""
        return [armed.view() for armed in self._armed.values()]

    def clear(self, fault_id: str | None = None) -> int:
        """Remove one fault, or all; return how many were removed. Their stalled calls are answered."""
        if fault_id is not None and fault_id not in self._armed:
            raise DubError("not_found", f"no fault {fault_id}")
        gone = [fault_id] if fault_id else list(self._armed)
        for each in gone:
            self._armed.pop(each).cleared.set()
        return len(gone)

    def pick(self, method: str, host: str, path: str) -> Armed | None:
        """Return the fault to apply to this call, or None."""
        if not self._armed:
            return None
        return next((armed for armed in self._armed.values() if armed.takes(method, host, path)), None)

    async def play(self, armed: Armed, wire: Wire, answer: Callable[[], Awaitable[Reply]]) -> None:
        """Apply a fault to a call; `answer` handles the call as usual.

        If the server stops during a stall or a delay, the call is cancelled, and its connection is reset.
        """
        try:
            await self._act(armed, wire, answer)
        except asyncio.CancelledError:
            if not wire.has_connection:
                raise
            await wire.drop()

    async def _act(self, armed: Armed, wire: Wire, answer: Callable[[], Awaitable[Reply]]) -> None:
        fault = armed.fault
        reply = await answer() if fault.handled else None
        if fault.delay_ms:
            await self._sleep(fault.delay_ms / 1_000)
        if fault.stall:
            if await wire.wait_until(armed.cleared):
                await wire.send(reply or await answer())
            return
        if fault.reset == "before":
            await wire.drop()
            return
        reply = self._deformed(fault, self._refusal(fault) or reply or await answer())
        if fault.reset == "midBody":
            await wire.send_half(reply)
        elif fault.trickle_ms is not None:
            await wire.trickle(reply, self._sleep, fault.trickle_ms / 1_000)
        else:
            await wire.send(reply)

    def _refusal(self, fault: Fault) -> Reply | None:
        """Return the answer that the fault sends instead of the sandbox's; None if it replaces none."""
        if fault.throttle or fault.status == TOO_MANY_REQUESTS:
            reset_ms = self._clock.now_ms() + int(fault.retry_after_s * 1_000)
            return throttled(THROTTLE_LIMIT, reset_ms).as_reply()
        if fault.status is not None:
            return error_reply(fault.status, code_of(fault.status), "a fault of the sandbox")
        return None

    def _deformed(self, fault: Fault, reply: Reply) -> Reply:
        if fault.html:
            return html_reply(reply.status, _HTML)
        if fault.truncate:
            return Reply(reply.status, reply.headers, reply.body[: len(reply.body) // 2])
        return reply
