"""One small client for Dub's API; nothing of the caller's but its User-Agent goes out.

It calls the transport itself instead of going through ``httpx.AsyncClient``: cookies, redirects and
environment proxies are not wanted here, and a call costs a third as much.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar, cast

import aiohttp
import httpx
from msgspec import DecodeError

from service.dub.wire import TrackOpen, decode_error, decode_opened, encode
from service.resolve.deadlines import Deadlines
from service.resolve.errors import (
    DubFailed,
    DubGarbled,
    DubTimedOut,
    DubUnavailable,
    DubUnreachable,
    LinkUnknown,
)
from service.resolve.model import App, OpenedLink

ANSWER_MAX_BYTES = 256 * 1024

_OK = 200
_NOT_FOUND = 404
_JSON = (b"Content-Type", b"application/json")

T = TypeVar("T")


class _Call:
    """A call under way, in its task."""

    def __init__(self) -> None:
        self.task = cast("asyncio.Task[object]", asyncio.current_task())
        self.expired = False

    def expire(self) -> None:
        """End the call: its time is over."""
        self.expired = True
        self.task.cancel()


class DubClient:
    """Fills ``resolve.ports.Dub`` over an httpx transport; closing the transport is its owner's.

    ``timeout_s`` bounds a whole call, from connecting to the last byte. It is no caller's budget: a
    call outlives the budgets that wait for it, so that a late answer still settles the open.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, base_url: str, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._deadlines = Deadlines()
        self._send = transport.handle_async_request
        base = httpx.URL(base_url)
        self._open_url = base.copy_with(path=base.path.rstrip("/") + "/track/open")

    async def track_open(
        self,
        app: App,  # noqa: ARG002  other endpoints take the app's key; this one checks none
        deep_link: str,
        *,
        user_agent: str,
        ip: str | None,
    ) -> OpenedLink:
        """Report a deep-link open to Dub, as this device; with its address, for a Dub that believes it.

        Raises ``LinkUnknown`` for Dub's own 404, else a ``DubUnavailable`` for anything that is not a
        well-formed 200 within the client's timeout.
        """
        headers = [_JSON, (b"User-Agent", user_agent.encode("ascii"))]
        if ip is not None:
            headers.append((b"X-Forwarded-For", ip.encode("ascii")))
        body = encode(TrackOpen(deep_link=deep_link))
        status, answer = await self._post(self._open_url, headers, body)
        if status == _OK:
            return _read(decode_opened, answer)
        if status == _NOT_FOUND and _read(decode_error, answer).error.code == "not_found":
            raise LinkUnknown
        raise DubFailed(status)

    async def _post(
        self, url: httpx.URL, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> tuple[int, bytes]:
        """Send one request and read its whole answer, up to ``ANSWER_MAX_BYTES``."""
        request = httpx.Request("POST", url, headers=headers, stream=httpx.ByteStream(body))
        request.read()  # as content= would, without guessing headers: the transport adds Host and length
        call = _Call()
        ticket = self._deadlines.add(self._timeout_s, call.expire)
        try:
            response = await self._send(request)
            try:
                return response.status_code, await _read_bounded(response)
            finally:
                await response.stream.aclose()  # type: ignore[union-attr]  # async transports answer async streams
        except asyncio.CancelledError:
            if not call.expired:
                raise
            call.task.uncancel()
            raise DubTimedOut(f"no answer within {self._timeout_s:g} s") from None
        except (httpx.TransportError, aiohttp.ClientError, OSError) as exc:
            raise _unavailable(exc) from exc
        except ValueError as exc:  # a head that aiohttp reads and httpx cannot
            raise DubGarbled(type(exc).__name__) from exc
        finally:
            self._deadlines.take_back(ticket)


def _unavailable(exc: Exception) -> DubUnavailable:
    """Tell time running out from a connection that failed: httpx-aiohttp calls both a timeout."""
    cause = exc.__cause__ if isinstance(exc.__cause__, aiohttp.ClientError) else exc
    if isinstance(cause, httpx.TimeoutException | aiohttp.ServerTimeoutError):
        return DubTimedOut(type(cause).__name__)
    return DubUnreachable(type(cause).__name__)


async def _read_bounded(response: httpx.Response) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.stream:  # type: ignore[union-attr]  # async transports answer async streams
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
