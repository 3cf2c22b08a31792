"""Send one signed webhook over HTTP.

What can go wrong:
- The URL's name leads into our own network, perhaps only from the second lookup on (SSRF): the resolver of
  the connection itself refuses addresses that are not public, so the checked address is the one that is
  used. Literal addresses do not reach a resolver; they are checked before. Redirects are not followed.
- The receiver never answers, or without end: an attempt takes ``TIMEOUT_S`` seconds at most, and at most
  ``ANSWER_MAX_BYTES`` of an answer are read.
- Its DNS server stalls: lookups have threads of their own, so that those to Dub have theirs.
- A log shows a secret: URLs may contain one, so messages contain none.

With a proxy (``HTTPS_PROXY``), the proxy looks the name up and connects: it must refuse private targets.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from functools import partial
from importlib.metadata import version
from ipaddress import ip_address

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from msgspec import Struct
from yarl import URL

from service.domain.errors import WebhookFailed
from service.domain.public_addresses import is_public
from service.domain.webhooks import Endpoint, signatures

TIMEOUT_S = 10.0
ANSWER_MAX_BYTES = 1024

_LOOKUP_THREADS = 4
_DNS_CACHE_S = 10  # of checked addresses
_KEEPALIVE_S = 15
_PRIVATE = "its address is not public (allow_private_targets = true allows your own network)"


class Sent(Struct, frozen=True):
    """The receiver's answer. ``retry_after_s``: for how long it asks to wait, if it does."""

    status: int
    retry_after_s: float | None


class PrivateTarget(OSError):
    """A name has an address that is not public."""


class WebhookSender:
    """Sends webhooks. ``proxy_for`` returns the proxy for a URL, or None; ``unix_time`` Unix seconds."""

    def __init__(
        self,
        *,
        tls: ssl.SSLContext,
        proxy_for: Callable[[str], str | None],
        unix_time: Callable[[], float],
    ) -> None:
        self._tls = tls
        self._proxy_for = proxy_for
        self._unix_time = unix_time
        self._user_agent = f"firstopen/{version('firstopen')}"  # read from disk: once
        self._threads = ThreadPoolExecutor(_LOOKUP_THREADS, "firstopen-webhook-dns")
        self._sessions: dict[bool, aiohttp.ClientSession] = {}  # by whether only public addresses are allowed

    async def send(self, endpoint: Endpoint, event_id: str, body: bytes) -> Sent:
        """Send a webhook once, and return the answer's status; raises ``WebhookFailed`` if there is none."""
        proxy = self._proxy_for(endpoint.url)
        if not endpoint.allow_private and not _may_be_public(endpoint.host):
            raise WebhookFailed(_PRIVATE)
        session = self._session(only_public=proxy is None and not endpoint.allow_private)
        headers = self._headers(endpoint, event_id, body)
        url = URL(endpoint.url, encoded=True)
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                session.post(url, data=body, headers=headers, proxy=proxy, allow_redirects=False) as response,
            ):
                if len(await response.content.read(ANSWER_MAX_BYTES + 1)) > ANSWER_MAX_BYTES:
                    response.close()
                return Sent(response.status, self._retry_after_s(response.headers))
        except TimeoutError as exc:
            raise WebhookFailed(f"no answer within {TIMEOUT_S:.0f} s") from exc
        except (aiohttp.ClientError, OSError, ValueError, RuntimeError) as exc:  # uvloop raises RuntimeErrors
            raise WebhookFailed(_problem(exc)) from exc

    async def close(self) -> None:
        """Close every connection."""
        for session in self._sessions.values():
            await session.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _headers(self, endpoint: Endpoint, event_id: str, body: bytes) -> dict[str, str]:
        timestamp = int(self._unix_time())
        return {
            "Content-Type": "application/json",
            "User-Agent": self._user_agent,
            "webhook-id": event_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signatures(endpoint.keys, event_id, timestamp, body),
        }

    def _retry_after_s(self, headers: Mapping[str, str]) -> float | None:
        """Return the seconds of a Retry-After header, which is a number or a date; None if it is neither."""
        text = headers.get("Retry-After", "").strip()
        if text.isdecimal():
            return float(text[:9])
        try:
            return max(parsedate_to_datetime(text).timestamp() - self._unix_time(), 0)
        except (ValueError, OverflowError):
            return None

    def _session(self, *, only_public: bool) -> aiohttp.ClientSession:
        session = self._sessions.get(only_public)
        if session is None:
            session = self._sessions[only_public] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0,  # the outbox limits attempts
                    keepalive_timeout=_KEEPALIVE_S,
                    resolver=_Resolver(self._threads, only_public=only_public),
                    ssl=self._tls,
                    ttl_dns_cache=_DNS_CACHE_S,
                ),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(),
            )
        return session


class _Resolver(AbstractResolver):
    """Looks names up; with ``only_public``, a name with any address that is not public is refused."""

    def __init__(self, threads: ThreadPoolExecutor, *, only_public: bool) -> None:
        self._threads = threads
        self._only_public = only_public

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return a name's addresses; raises ``OSError``."""
        look_up = partial(
            socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
        found = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        addresses = [(each[0], each[2], str(each[4][0])) for each in found]
        if self._only_public and not all(is_public(address) for _, _, address in addresses):
            raise PrivateTarget(_PRIVATE)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=family,
                proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for family, proto, address in addresses
        ]

    async def close(self) -> None:
        """Do nothing: the threads belong to the sender."""


def _may_be_public(host: str) -> bool:
    """Return False for a literal address that is not public; names are checked when they are looked up."""
    try:
        ip_address(host)
    except ValueError:
        return True
    return is_public(host)


def _problem(exc: Exception) -> str:
    """Return what went wrong, without the URL, which aiohttp's messages contain."""
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, PrivateTarget):
            return _PRIVATE
        cause = cause.__cause__ or getattr(cause, "os_error", None)
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return "its host name cannot be resolved"
    if isinstance(exc, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return f"TLS: {type(exc).__name__}"
    if isinstance(exc, aiohttp.ClientConnectorError) and exc.errno:
        return os.strerror(exc.errno)
    return type(exc).__name__
