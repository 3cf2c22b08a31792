"""One small client for Dub's API; nothing of the caller's but its User-Agent goes out.

It calls the transport itself instead of going through ``httpx.AsyncClient``: cookies, redirects and
environment proxies are not wanted here, and a call costs a third as much.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from email.utils import parsedate_to_datetime
from typing import Self, TypeVar, cast

import aiohttp
import httpx
from msgspec import DecodeError

from service.dub.guard import Guard, Guards
from service.dub.wire import TrackOpen, check_lead, check_sale, decode_error, decode_opened, encode
from service.resolve.deadlines import Deadlines
from service.resolve.errors import (
    DubFailed,
    DubGarbled,
    DubRefused,
    DubThrottled,
    DubTimedOut,
    DubUnavailable,
    DubUnreachable,
    FirstopenError,
    LinkUnknown,
)
from service.resolve.model import App, OpenedLink

ENDPOINTS = ("/track/open", "/track/lead", "/track/sale", "/events")
ANSWER_MAX_BYTES = 256 * 1024
RETRY_AFTER_MAX_S = 3600.0

_OK = 200
_NOT_FOUND = 404
_THROTTLED = 429
_CLIENT_ERROR = 400
_SERVER_ERROR = 500
_SECONDS_MAX = 10_000_000_000  # larger numbers are milliseconds: as seconds they are the year 2286
_LONGEST_NUMBER = 18
_JSON = (b"Content-Type", b"application/json")
_NO_TRACK = (b"dub-no-track", b"true")

T = TypeVar("T")


class DubClient:
    """Fills ``Dub``, ``DubConversions`` and ``DubEvents`` of ``resolve.ports``.

    ``timeout_s`` bounds a whole call, from connecting to the last byte. It is no caller's budget: a
    call outlives the budgets that wait for it, so that a late answer still settles the open.
    Every call may raise its guard's ``DubHeldBack``, ``DubCrowded`` or ``DubThrottled`` instead of asking;
    ``patience_s`` is how long it waits for a place.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        base_url: str,
        timeout_s: float,
        guards: Guards,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._wall = wall
        self._timeout_s = timeout_s
        self._deadlines = Deadlines()
        self._send = transport.handle_async_request
        base = base_url.rstrip("/")
        self._open_url = httpx.URL(f"{base}/track/open")
        self._lead_url = httpx.URL(f"{base}/track/lead")
        self._sale_url = httpx.URL(f"{base}/track/sale")
        self._events_url = httpx.URL(f"{base}/events")
        self._opens, self._leads, self._sales, self._events = (guards[each] for each in ENDPOINTS)

    async def track_open(
        self,
        app: str,
        deep_link: str,
        *,
        user_agent: str,
        ip: str | None,
        patience_s: float,
        no_track: bool = False,
    ) -> OpenedLink:
        """Report a deep-link open to Dub, as this device; with its address, for a Dub that believes it.

        No key goes along: ``/track/open`` checks none. Raises ``LinkUnknown`` for Dub's own 404, else a
        ``DubUnavailable`` for anything that is not a well-formed 200 within the client's timeout.
        """
        headers = [_JSON, (b"User-Agent", user_agent.encode("ascii"))]
        if ip is not None:
            headers.append((b"X-Forwarded-For", ip.encode("ascii")))
        if no_track:
            headers.append(_NO_TRACK)
        request = _post(self._open_url, headers, encode(TrackOpen(deep_link=deep_link)))
        return await self._ask(self._opens, app, patience_s, request, self._opened)

    async def track_first_open(
        self, app: str, domain: str, *, user_agent: str, ip: str, patience_s: float, no_track: bool
    ) -> OpenedLink:
        """Report an open with no link, to a Dub that believes addresses; raises as ``track_open``."""
        headers = [
            _JSON,
            (b"User-Agent", user_agent.encode("ascii")),
            (b"X-Forwarded-For", ip.encode("ascii")),
            *([_NO_TRACK] if no_track else ()),
        ]
        request = _post(self._open_url, headers, encode(TrackOpen(dub_domain=domain)))
        return await self._ask(self._opens, app, patience_s, request, self._opened)

    async def track_lead(self, app: App, body: bytes, *, patience_s: float) -> bytes:
        """Send a lead and return Dub's JSON; raises ``DubRefused`` or a ``DubUnavailable``."""
        request = _post(self._lead_url, [_JSON, _key_header(app)], body)
        return await self._ask(self._leads, app.name, patience_s, request, self._checked(check_lead))

    async def track_sale(self, app: App, body: bytes, *, patience_s: float) -> bytes:
        """Send a sale and return Dub's JSON; raises ``DubRefused`` or a ``DubUnavailable``."""
        request = _post(self._sale_url, [_JSON, _key_header(app)], body)
        return await self._ask(self._sales, app.name, patience_s, request, self._checked(check_sale))

    async def events(self, app: App, query: str, *, patience_s: float) -> "Arriving":
        """Ask for a page of events, to be read as it arrives; raises ``DubRefused`` or a ``DubUnavailable``.

        The client's timeout bounds the time to the first byte, and then the time between pieces.
        """
        url = self._events_url.copy_with(query=query.encode("ascii"))
        request = httpx.Request("GET", url, headers=[_key_header(app)], stream=httpx.ByteStream(b""))
        request.read()
        call = await self._events.enter(app.name, patience_s)
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
            self._events.leave(call, answered=answered)

    async def _first_byte(self, request: httpx.Request) -> "Arriving":
        async with self._bounded() as bounded:
            response = await self._send(request)
            bounded.answered = True
            if response.status_code == _OK:
                return Arriving(response, self._bounded)
            try:
                answer = await _read_bounded(response)
            finally:
                await _close(response)
        raise _refusal(response.status_code, response.headers, answer, self._wall())

    async def _ask(
        self,
        guard: Guard,
        app: str,
        patience_s: float,
        request: httpx.Request,
        read: Callable[[int, httpx.Headers, bytes], T],
    ) -> T:
        """Send one request behind its guard, and read its whole answer."""
        call = await guard.enter(app, patience_s)
        answered = None
        try:
            result = read(*await self._exchange(request))
            answered = True
        except FirstopenError as exc:
            answered = self._judge(guard, app, exc)
            raise
        else:
            return result
        finally:
            guard.leave(call, answered=answered)

    async def _exchange(self, request: httpx.Request) -> tuple[int, httpx.Headers, bytes]:
        async with self._bounded() as bounded:
            response = await self._send(request)
            bounded.answered = True
            try:
                return response.status_code, response.headers, await _read_bounded(response)
            finally:
                await _close(response)

    def _judge(self, guard: Guard, app: str, exc: FirstopenError) -> bool | None:
        """Say what an error means for Dub's health; a 429 is the app's, and holds its calls back."""
        if isinstance(exc, DubThrottled):
            guard.hold(app, exc.retry_after_s)
            return None
        return not isinstance(exc, DubUnavailable)

    def _opened(self, status: int, headers: httpx.Headers, answer: bytes) -> OpenedLink:
        if status == _OK:
            return _read(decode_opened, answer)
        if status == _NOT_FOUND and _read(decode_error, answer).error.code == "not_found":
            raise LinkUnknown
        if status == _THROTTLED:
            raise _refusal(status, headers, answer, self._wall())
        raise DubFailed(status)

    def _checked(self, check: Callable[[bytes], object]) -> Callable[[int, httpx.Headers, bytes], bytes]:
        def read(status: int, headers: httpx.Headers, answer: bytes) -> bytes:
            if status != _OK:
                raise _refusal(status, headers, answer, self._wall())
            _read(check, answer)
            return answer

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
        self.answered = False  # Dub has begun to answer

    async def __aenter__(self) -> Self:
        self._ticket = self._deadlines.add(self._timeout_s, self._expire)
        return self

    async def __aexit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        self._deadlines.take_back(self._ticket)
        match exc:
            case None:
                return
            case asyncio.CancelledError() if self._expired:
                if self._task.uncancel() > 0:  # somebody else wants it to stop, too
                    raise exc
                raise DubTimedOut(f"no answer within {self._timeout_s:g} s") from None
            case httpx.TransportError() | aiohttp.ClientError() | OSError():
                raise _unavailable(exc, answered=self.answered) from exc
            case ValueError():  # a head that aiohttp reads and httpx cannot
                raise DubGarbled(type(exc).__name__) from exc

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
            async with self._bounded():
                piece = await anext(pieces, None)
            if piece is None:
                return
            yield piece

    async def aclose(self) -> None:
        """Give the connection back."""
        await _close(self._response)


def _post(url: httpx.URL, headers: list[tuple[bytes, bytes]], body: bytes) -> httpx.Request:
    request = httpx.Request("POST", url, headers=headers, stream=httpx.ByteStream(body))
    request.read()  # as content= would, without guessing headers: the transport adds Host and length
    return request


def _key_header(app: App) -> tuple[bytes, bytes]:
    return b"Authorization", b"Bearer " + app.dub_api_key.encode("ascii")


async def _close(response: httpx.Response) -> None:
    await cast("httpx.AsyncByteStream", response.stream).aclose()


def _refusal(status: int, headers: httpx.Headers, answer: bytes, now: float) -> FirstopenError:
    """Name what Dub says against a request."""
    if status == _THROTTLED:
        return DubThrottled(retry_after_s(headers.get("Retry-After", ""), now))
    if status < _CLIENT_ERROR or status >= _SERVER_ERROR:
        return DubFailed(status)
    try:
        error = decode_error(answer).error
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return DubGarbled(f"a {status} that does not read as Dub's")
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
    """Tell time running out from a connection that failed: httpx-aiohttp calls both a timeout."""
    cause = exc.__cause__ if isinstance(exc.__cause__, aiohttp.ClientError) else exc
    if isinstance(cause, httpx.TimeoutException | aiohttp.ServerTimeoutError):
        return DubTimedOut(type(cause).__name__)
    return DubUnreachable(type(cause).__name__, answered=answered)


async def _read_bounded(response: httpx.Response) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in cast("httpx.AsyncByteStream", response.stream):
        size += len(chunk)
        if size > ANSWER_MAX_BYTES:
            raise DubGarbled(f"an answer over {ANSWER_MAX_BYTES} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _read(decode: Callable[[bytes], T], answer: bytes) -> T:
    try:
        return decode(answer)
    except (DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise DubGarbled("an answer that does not read as Dub's") from exc
