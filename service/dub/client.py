"""The client of Dub's API. Of the caller's headers, only the User-Agent is sent to Dub.

It calls the transport directly instead of ``httpx.AsyncClient``: cookies and redirects are not wanted here,
and a call takes a third of the time. The User-Agent must be printable ASCII.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Self, TypeVar, cast
from urllib.parse import quote

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
from service.domain.short_links import ShortLink
from service.dub.guard import Guard, Guards
from service.dub.transport import Answer, close, posting_over, read_bounded
from service.dub.wire import (
    TrackOpen,
    check_lead,
    check_sale,
    decode_error,
    decode_opened,
    decode_short_link,
    encode,
)

ENDPOINTS = ("/track/open", "/track/lead", "/track/sale", "/events", "/links")
RETRY_AFTER_MAX_S = 3600.0

_OK = 200
_NOT_FOUND = 404
_THROTTLED = 429
_CLIENT_ERROR = 400
_SERVER_ERROR = 500
_SECONDS_MAX = 10_000_000_000  # larger numbers are milliseconds: as seconds, this is the year 2286
_LONGEST_NUMBER = 18
_JSON = "application/json"

T = TypeVar("T")


class DubClient:
    """Implements the providers of ``ports``.

    ``timeout_s`` limits a whole call, from connecting to the last byte. It does not depend on callers'
    budgets: a call continues after their end, so that a late answer still completes the open. Every call may
    raise its guard's ``CircuitOpen``, ``BulkheadFull`` or ``DubThrottled`` without calling Dub;
    ``queue_timeout_s`` is the longest time to wait for a slot.
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
        self._links_url = f"{base}/links"
        self._opens, self._leads, self._sales, self._events, self._links = map(guards.__getitem__, ENDPOINTS)

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
        """Report an open with a deep link to Dub; ``ip`` only for a Dub that trusts forwarded addresses.

        No key is sent: ``/track/open`` requires none. Raises ``DubLinkNotFound`` for Dub's own 404, and a
        ``DubUnavailable`` for anything else than a valid 200 within the client's timeout.
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
        """Report an open without a link, for a Dub that trusts forwarded addresses.

        Raises as ``track_open``.
        """
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

    async def create_link(self, app: App, body: bytes, *, queue_timeout_s: float) -> ShortLink:
        """Create a short link; raises ``DubRefused`` or a ``DubUnavailable``."""
        return await self._ask(
            self._links, app.name, queue_timeout_s, self._links_url, _with_key(app), body, self._short_link
        )

    async def find_link(self, app: App, external_id: str, *, queue_timeout_s: float) -> ShortLink:
        """Return the short link with this external id; raises ``DubRefused`` or a ``DubUnavailable``."""
        url = f"{self._links_url}/info?externalId=ext_{quote(external_id, safe='')}"
        return await self._ask(
            self._links, app.name, queue_timeout_s, url, _key_of(app), None, self._short_link
        )

    async def events(self, app: App, query: str, *, queue_timeout_s: float) -> "Arriving":
        """Request a page of events, to be read as it arrives; raises ``DubRefused`` or a ``DubUnavailable``.

        The client's timeout limits the time to the first byte, and then the time between chunks.
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
        body: bytes | None,
        read: Callable[[Answer], T],
        *,
        replay: bool = False,
    ) -> T:
        """Send one request through its guard, and return what ``read`` makes of the whole answer.

        It is a POST, or without a body a GET.
        """
        call = await guard.acquire(app, queue_timeout_s, replay=replay)
        answered = None
        try:
            with self._bounded() as bounded:
                if body is None:
                    answer = await self._get(url, headers, bounded.on_head)
                else:
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

    async def _get(self, url: str, headers: Mapping[str, str], on_head: Callable[[], None]) -> Answer:
        request = httpx.Request("GET", url, headers=headers, stream=httpx.ByteStream(b""))
        request.read()
        response = await self._send(request)
        on_head()
        try:
            text = await read_bounded(response)
        finally:
            await close(response)
        return Answer(response.status_code, response.headers.get("Retry-After", ""), text)

    def _judge(self, guard: Guard, app: str, exc: FirstopenError) -> bool | None:
        """Return what an error says about Dub's health, in the form of ``answered`` of ``Guard.release``.

        After a 429, the app's calls are refused for a while. As ``/track/open`` has no key, Dub limits it by
        our address, for all apps together; so there a 429 counts as a failure.
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

    def _short_link(self, answer: Answer) -> ShortLink:
        if answer.status != _OK:
            raise _refusal(answer, self._unix_time())
        return _read(decode_short_link, answer.body)

    def _bounded(self) -> "_Bounded":
        return _Bounded(self._deadlines, self._timeout_s)


class _Bounded:
    """Cancels the block inside after a time, and translates the transport's exceptions."""

    def __init__(self, deadlines: Deadlines, timeout_s: float) -> None:
        self._deadlines = deadlines
        self._timeout_s = timeout_s
        self._task = cast("asyncio.Task[object]", asyncio.current_task())
        self._expired = False
        self._answered = False

    def on_head(self) -> None:
        """Record that Dub has begun to answer."""
        self._answered = True

    def __enter__(self) -> Self:
        self._ticket = self._deadlines.add(self._timeout_s, self._expire)
        return self

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        self._deadlines.cancel(self._ticket)
        if self._expired and not isinstance(exc, asyncio.CancelledError):
            self._task.uncancel()  # our cancellation was replaced by another error
        match exc:
            case None:
                return
            case asyncio.CancelledError() if self._expired:
                if self._task.uncancel() > 0:  # the task was also cancelled by another caller
                    raise exc
                raise DubTimedOut(f"no answer within {self._timeout_s:g} s") from None
            case httpx.TransportError() | aiohttp.ClientError() | OSError():
                raise _unavailable(exc, answered=self._answered) from exc
            case ValueError():  # a head that aiohttp accepts and httpx does not
                raise InvalidDubResponse(type(exc).__name__) from exc

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()


class Arriving:
    """A page of events that is being received: implements ``ports.EventStream``."""

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
        """Return the connection to the pool."""
        await close(self._response)


def _with_key(app: App) -> dict[str, str]:
    return {"Content-Type": _JSON, **_key_of(app)}


def _key_of(app: App) -> dict[str, str]:
    return {"Authorization": f"Bearer {app.dub_api_key}"}


def _forwarding(ip: str) -> dict[str, str]:
    """Return the headers that tell Dub the device's address.

    A self-hosted Dub reads only ``X-Real-IP``; ``X-Forwarded-For`` is for a proxy in front of it.
    """
    return {"X-Real-IP": ip, "X-Forwarded-For": ip}


def _refusal(answer: Answer, now: float) -> FirstopenError:
    """Return the error for an answer other than 200."""
    status = answer.status
    if status == _THROTTLED:
        return DubThrottled(retry_after_s(answer.retry_after, now))
    if status < _CLIENT_ERROR or status >= _SERVER_ERROR:
        return DubFailed(status)
    try:
        error = decode_error(answer.body).error
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return InvalidDubResponse(f"a {status} without Dub's error body")
    return DubRefused(status, error.code, error.message)


def retry_after_s(text: str, now: float) -> float:
    """Parse a Retry-After header: Dub's is in Unix milliseconds, a proxy's in seconds or an HTTP date.

    ``now`` is in Unix seconds. Return seconds, from 0 to ``RETRY_AFTER_MAX_S``; 1 for an invalid header.
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
    """Translate a transport's exception; ``answered``: it was raised after the head of the answer."""
    name = type(exc).__name__
    match exc:
        case httpx.TimeoutException() | aiohttp.ServerTimeoutError():
            return DubTimedOut(name)
        case aiohttp.ClientHttpProxyError():  # the proxy did not connect to Dub
            return DubUnreachable(f"{name}, status {exc.status}")
        case aiohttp.ClientResponseError():  # the head is not HTTP, or exceeds aiohttp's limits
            return InvalidDubResponse(name)
        case _:
            return DubUnreachable(name, answered=answered)


def _read(decode: Callable[[bytes], T], answer: bytes) -> T:
    try:
        return decode(answer)
    except (DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidDubResponse("an answer that is not as Dub documents it") from exc
