"""The outermost ASGI application of the sandbox, which receives every request.

It refuses requests that a web page may have forged (see `hosts`), separates clicks from API calls (a `GET` on
a link's domain is a click, whatever its path), records the call, applies faults, and adds Dub's CORS headers
to answers. Control calls (`/sandbox/*`) are neither recorded nor failed, so that a fault on `*` can always be
removed.
"""

from collections.abc import Collection

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from service.sandbox.calls import Call, CallLog
from service.sandbox.domains import DomainBook
from service.sandbox.errors import DubError
from service.sandbox.faults import FaultBook
from service.sandbox.hosts import check_control, check_host
from service.sandbox.web import host_of, method_of, read_body, send_reply
from service.sandbox.wire import Wire, replay, reply_of

BODY_MAX_BYTES = 4_500_000  # the limit of Dub's host
CONTROL = "/sandbox/"
_METHODS = {"/track/": b"POST, OPTIONS", "/events": b"GET, OPTIONS"}


class Front:
    """The outermost ASGI application."""

    def __init__(
        self,
        api: ASGIApp,
        redirector: ASGIApp,
        domains: DomainBook,
        calls: CallLog,
        faults: FaultBook,
        *,
        hosts: Collection[str],
    ) -> None:
        """`hosts` are the names to answer for besides this machine and the links' domains."""
        self._api = api
        self._redirector = redirector
        self._domains = domains
        self._calls = calls
        self._faults = faults
        self._hosts = frozenset(name.lower() for name in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != ScopeType.HTTP:
            await self._api(scope, receive, send)
            return
        host = host_of(scope)
        method, path = method_of(scope), scope["path"]
        clicked = method in {"GET", "HEAD"} and host in self._domains
        control = not clicked and path.startswith(CONTROL)
        try:
            check_host(host, self._hosts, self._domains)
            if control:
                check_control(scope)
        except DubError as refusal:
            await send_reply(send, refusal.as_reply())
            return
        if control:
            await self._api(scope, receive, send)
            return
        body = await read_body(receive, BODY_MAX_BYTES)
        call = self._calls.begin(scope, body or b"")
        answer = _observed(send, call, () if clicked else _cors(path))
        if body is None:
            await send_reply(answer, DubError("payload_too_large", "the body is too large").as_reply())
            return
        app = self._redirector if clicked else self._api
        fault = self._faults.pick(method, host, path)
        if fault is None:
            await app(scope, replay(body, receive), answer)
            return
        call.fault = fault.id
        again = replay(body, receive)
        wire = Wire(receive, send, answer)
        await self._faults.play(fault, wire, lambda: reply_of(lambda keep: app(scope, again, keep)))


def _observed(send: Send, call: Call, cors: tuple[tuple[bytes, bytes], ...]) -> Send:
    """Return a `send` that records the status and adds the CORS headers."""

    async def observed(message: Message) -> None:
        if message["type"] == "http.response.start":
            call.status = message["status"]
            message["headers"] = [*message["headers"], *cors]
        await send(message)

    return observed


def _cors(path: str) -> tuple[tuple[bytes, bytes], ...]:
    """Return the CORS headers of every answer on this path, also of errors and to OPTIONS."""
    methods = next((methods for prefix, methods in _METHODS.items() if path.startswith(prefix)), None)
    if methods is None:
        return ()
    return (
        (b"access-control-allow-origin", b"*"),
        (b"access-control-allow-methods", methods),
        (b"access-control-allow-headers", b"Content-Type, Authorization"),
    )
