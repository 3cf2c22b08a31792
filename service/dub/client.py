"""One small client for Dub's API; nothing of the caller's but its User-Agent goes out.

It calls the transport itself instead of going through ``httpx.AsyncClient``: cookies and redirects are not
wanted here, and a call costs a third as much. A User-Agent is printable ASCII by the time it gets here.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Self, TypeVar, cast

import aiohttp
import httpx
from msgspec import DecodeError

from service.aio.deadlines import Deadlines
from service.domain.errors import (
    DubFailed,
    DubLinkNotFound,
    DubRefused,
    DubThrottled,
    DubTimedOut,
    DubUnavailable,
    DubUnreachable,
    FirstopenError,
    InvalidDubResponse,
)
from service.domain.models import App, OpenedLink
from service.dub.guard import Guard, Guards
from service.dub.transport import Answer, close, posting_over, read_bounded
from service.dub.wire import TrackOpen, check_lead, check_sale, decode_error, decode_opened, encode

ENDPOINTS = ("/track/open", "/track/lead", "/track/sale", "/events")
RETRY_AFTER_MAX_S = 3600.0

_OK = 200
_NOT_FOUND = 404
_THROTTLED = 429
_CLIENT_ERROR = 400
_SERVER_ERROR = 500
_SECONDS_MAX = 10_000_000_000  # larger numbers are milliseconds: as seconds they are the year 2286
_LONGEST_NUMBER = 18
_JSON = "application/json"

T = TypeVar("T")


class DubClient:
    """Fills ``Dub``, ``DubConversions`` and ``DubEvents`` of ``resolve.ports``.

    ``timeout_s`` bounds a whole call, from connecting to the last byte. It is no caller's budget: a
    call outlives the budgets that wait for it, so that a late answer still settles the open.
    Every call may raise its guard's ``CircuitOpen``, ``BulkheadFull`` or ``DubThrottled`` instead of asking;
    ``queue_timeout_s`` is how long it waits for a place.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        base_url: str,
        timeout_s: float,
        guards: Guards,
        unix_time: Callable[[], float] = time.time,
    ) -> None:
        self._unix_time = unix_time
        self._timeout_s = timeout_s
        self._deadlines = Deadlines()
        self._post = posting_over(transport)
        self._send = transport.handle_async_request
        base = base_url.rstrip("/")
        self._open_url = f"{base}/track/open"
        self._lead_url = f"{base}/track/lead"
        self._sale_url = f"{base}/track/sale"
        self._events_url = httpx.URL(f"{base}/events")
        self._opens, self._leads, self._sales, self._events = (guards[each] for each in ENDPOINTS)

    async def track_open(
        self,
        app: str,
        deep_link: str,
        *,
        user_agent: str,
        ip: str | None,
        queue_timeout_s: float,
        no_track: bool = False,
        replay: bool = False,
    ) -> OpenedLink:
        """Report a deep-link open to Dub, as this device; with its address, for a Dub that believes it.

        No key goes along: ``/track/open`` checks none. Raises ``DubLinkNotFound`` for Dub's own 404, else a
        ``DubUnavailable`` for anything that is not a well-formed 200 within the client's timeout.
        """
        headers = {"Content-Type": _JSON, "User-Agent": user_agent}
        if ip is not None:
            headers |= _forwarding(ip)
        if no_track:
            headers["dub-no-track"] = "true"
        body = encode(TrackOpen(deep_link=deep_link))
        return await self._ask(
            self._opens, app, queue_timeout_s, self._open_url, headers, body, self._opened, replay=replay
        )

    async def track_first_open(
        self, app: str, domain: str, *, user_agent: str, ip: str, queue_timeout_s: float, no_track: bool
    ) -> OpenedLink:
        """Report an open with no link, to a Dub that believes addresses; raises as ``track_open``."""
        headers = {"Content-Type": _JSON, "User-Agent": user_agent, **_forwarding(ip)}
        if no_track:
            headers["dub-no-track"] = "true"
        body = encode(TrackOpen(dub_domain=domain))
        return await self._ask(self._opens, app, queue_timeout_s, self._open_url, headers, body, self._opened)

    async def track_lead(self, app: App, body: bytes, *, queue_timeout_s: float) -> bytes:
        """Send a lead and return Dub's JSON; raises ``DubRefused`` or a ``DubUnavailable``."""
        read = self._checked(check_lead)
        return await self._ask(
            self._leads, app.name, queue_timeout_s, self._lead_url, _with_key(app), body, read
        )

    async def track_sale(self, app: App, body: bytes, *, queue_timeout_s: float) -> bytes:
        """Send a sale and return Dub's JSON; raises ``DubRefused`` or a ``DubUnavailable``."""
        read = self._checked(check_sale)
        return await self._ask(
            self._sales, app.name, queue_timeout_s, self._sale_url, _with_key(app), body, read
        )

    async def events(self, app: App, query: str, *, queue_timeout_s: float) -> "Arriving":
        """Ask for a page of events, to be read as it arrives; raises ``DubRefused`` or a ``DubUnavailable``.

        The client's timeout bounds the time to the first byte, and then the time between pieces.
        """
        url = self._events_url.copy_with(query=query.encode("ascii"))
        request = httpx.Request("GET", url, headers=_key_of(app), stream=httpx.ByteStream(b""))
        request.read()
        call = await self._events.acquire(app.name, queue_timeout_s)
        answered = None
        try:
            arriving = await self._first_byte(request)
            answered = True
        except FirstopenError as exc:
            answered = self._judge(self._events, app.name, exc)
            raise
        else:
            return arriving
        finally:
            self._events.release(call, answered=answered)

    async def _first_byte(self, request: httpx.Request) -> "Arriving":
        with self._bounded() as bounded:
            response = await self._send(request)
            bounded.on_head()
            if response.status_code == _OK:
                return Arriving(response, self._bounded)
            try:
                text = await read_bounded(response)
            finally:
                await close(response)
        answer = Answer(response.status_code, response.headers.get("Retry-After", ""), text)
        raise _refusal(answer, self._unix_time())

    async def _ask(
        self,
        guard: Guard,
        app: str,
        queue_timeout_s: float,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        read: Callable[[Answer], T],
        *,
        replay: bool = False,
    ) -> T:
        """Post one request behind its guard, and read its whole answer."""
        call = await guard.acquire(app, queue_timeout_s, replay=replay)
        answered = None
        try:
            with self._bounded() as bounded:
                answer = await self._post(url, headers, body, bounded.on_head)
            result = read(answer)
            answered = True
        except FirstopenError as exc:
            answered = self._judge(guard, app, exc)
            raise
        else:
            return result
        finally:
            guard.release(call, answered=answered)

    def _judge(self, guard: Guard, app: str, exc: FirstopenError) -> bool | None:
        """Say what an error means for Dub's health, as ``Guard.leave`` takes it.

        A 429 holds back the app's calls. ``/track/open`` takes no key, so there it is our address that Dub
        limits, and with it every app.
        """
        if isinstance(exc, DubThrottled):
            guard.throttle(app, exc.retry_after_s)
            return False if guard is self._opens else None
        if isinstance(exc, DubUnavailable):
            return False if exc.is_outage else None
        return True

    def _opened(self, answer: Answer) -> OpenedLink:
        if answer.status == _OK:
            return _read(decode_opened, answer.body)
        if answer.status == _NOT_FOUND and _read(decode_error, answer.body).error.code == "not_found":
            raise DubLinkNotFound
        if answer.status == _THROTTLED:
            raise _refusal(answer, self._unix_time())
        raise DubFailed(answer.status)

    def _checked(self, check: Callable[[bytes], object]) -> Callable[[Answer], bytes]:
        def read(answer: Answer) -> bytes:
            if answer.status != _OK:
                raise _refusal(answer, self._unix_time())
            _read(check, answer.body)
            return answer.body

        return read

    def _bounded(self) -> "_Bounded":
        return _Bounded(self._deadlines, self._timeout_s)


class _Bounded:
    """Ends what it holds when its time is over, and gives every failure its own name."""

    def __init__(self, deadlines: Deadlines, timeout_s: float) -> None:
        self._deadlines = deadlines
        self._timeout_s = timeout_s
        self._task = cast("asyncio.Task[object]", asyncio.current_task())
        self._expired = False
        self._answered = False

    def on_head(self) -> None:
        """Note that Dub has begun to answer."""
        self._answered = True

    def __enter__(self) -> Self:
        self._ticket = self._deadlines.add(self._timeout_s, self._expire)
        return self

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        self._deadlines.cancel(self._ticket)
        if self._expired and not isinstance(exc, asyncio.CancelledError):
            self._task.uncancel()  # our cancellation became another error: it is not the caller's
        match exc:
            case None:
                return
            case asyncio.CancelledError() if self._expired:
                if self._task.uncancel() > 0:  # somebody else wants it to stop, too
                    raise exc
                raise DubTimedOut(f"no answer within {self._timeout_s:g} s") from None
            case httpx.TransportError() | aiohttp.ClientError() | OSError():
                raise _unavailable(exc, answered=self._answered) from exc
            case ValueError():  # a head that aiohttp reads and httpx cannot
                raise InvalidDubResponse(type(exc).__name__) from exc

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()


class Arriving:
    """A page of events on its way: fills ``resolve.ports.EventStream``."""

    def __init__(self, response: httpx.Response, bounded: Callable[[], _Bounded]) -> None:
        self._response = response
        self._bounded = bounded

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = aiter(cast("httpx.AsyncByteStream", self._response.stream))
        while True:
            with self._bounded():
                piece = await anext(pieces, None)
            if piece is None:
                return
            yield piece

    async def aclose(self) -> None:
        """Give the connection back."""
        await close(self._response)


def _with_key(app: App) -> dict[str, str]:
    return {"Content-Type": _JSON, **_key_of(app)}


def _key_of(app: App) -> dict[str, str]:
    return {"Authorization": f"Bearer {app.dub_api_key}"}


def _forwarding(ip: str) -> dict[str, str]:
    """Return the headers that tell a Dub whose address an open came from.

    A self-hosted Dub reads ``X-Real-IP`` alone; ``X-Forwarded-For`` is for an edge in front of it.
    """
    return {"X-Real-IP": ip, "X-Forwarded-For": ip}


def _refusal(answer: Answer, now: float) -> FirstopenError:
    """Name what Dub says against a request."""
    status = answer.status
    if status == _THROTTLED:
        return DubThrottled(retry_after_s(answer.retry_after, now))
    if status < _CLIENT_ERROR or status >= _SERVER_ERROR:
        return DubFailed(status)
    try:
        error = decode_error(answer.body).error
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return InvalidDubResponse(f"a {status} that does not read as Dub's")
    return DubRefused(status, error.code, error.message)


def retry_after_s(text: str, now: float) -> float:
    """Read a Retry-After: Dub's is Unix milliseconds, a proxy's may be seconds or an HTTP date.

    ``now`` is Unix seconds. Returns seconds, from 0 to ``RETRY_AFTER_MAX_S``; 1 for what cannot be read.
    """
    text = text.strip()
    if text.isdecimal() and len(text) <= _LONGEST_NUMBER:
        number = int(text)
        seconds = number / 1000 - now if number > _SECONDS_MAX else number
    else:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            seconds = 1
    return min(max(seconds, 0), RETRY_AFTER_MAX_S)


def _unavailable(exc: Exception, *, answered: bool) -> DubUnavailable:
    """Name what a transport raised; ``answered``: after the head of an answer had been read."""
    name = type(exc).__name__
    match exc:
        case httpx.TimeoutException() | aiohttp.ServerTimeoutError():
            return DubTimedOut(name)
        case aiohttp.ClientHttpProxyError():  # the proxy does not connect us: Dub was not asked
            return DubUnreachable(f"{name}, status {exc.status}")
        case aiohttp.ClientResponseError():  # the head of an answer is no HTTP, or over aiohttp's bounds
            return InvalidDubResponse(name)
        case _:
            return DubUnreachable(name, answered=answered)


def _read(decode: Callable[[bytes], T], answer: bytes) -> T:
    try:
        return decode(answer)
    except (DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidDubResponse("an answer that does not read as Dub's") from exc
