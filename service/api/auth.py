"""Authenticate requests by API key. Keys are compared by hashes with a random salt: no timing leak."""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, Self, cast

from litestar import Request
from msgspec import Struct

from service.api.http import CALLER, LeanRequest, RequestHead
from service.domain.device_identity import USER_AGENT_MAX_CHARS, TrustedProxies
from service.domain.errors import CallerError, MissingKey, WrongKey, WrongKind
from service.domain.models import App, Caller
from service.domain.ports import RateLimiter

KEY_MAX_BYTES = 512

AnyRequest = Request[Any, Any, Any]


class AppKeys(Struct, frozen=True):
    """An app with its keys, as bytes."""

    app: App
    publishable: tuple[bytes, ...]
    server: tuple[bytes, ...] = ()

    def __repr__(self) -> str:
        """Return the app's name only, so that no key is printed."""
        return f"AppKeys({self.app!r})"


class _Known(NamedTuple):
    app: App
    server: bool
    name: bytes  # the key's name for the rate limiter


class Callers:
    """Finds the app of a request by its key, and the device's IP address behind trusted proxies.

    The time of a lookup does not depend on how much of a key is right, because keys are found by a hash that
    callers cannot compute. With a ``rate_limiter``, requests are counted.
    """

    def __init__(
        self, apps: Sequence[AppKeys], proxies: TrustedProxies, rate_limiter: RateLimiter | None = None
    ) -> None:
        self._salt = secrets.token_bytes(32)
        self._proxies = proxies
        self.replace(apps, rate_limiter)

    def replace(self, apps: Sequence[AppKeys], rate_limiter: RateLimiter | None) -> None:
        """Accept these apps' keys from now on, and no others."""
        self._rate_limiter = rate_limiter
        self._publishable = {key: known for each in apps for key, known in self._known(each, server=False)}
        self._server = {key: known for each in apps for key, known in self._known(each, server=True)}

    # The next six methods are ``before_request`` hooks of handlers: they run before the body is read. Each
    # sets the request's caller, or raises ``MissingKey``, ``WrongKey``, ``WrongKind``, or ``RateLimited``
    # after too many requests or failed authentications.

    async def publishable(self, request: AnyRequest) -> None:
        """Identify the caller by its publishable key, and count the request."""
        await (await self._identify(request, self._with_publishable_key)).check_rate_limit()

    async def publishable_uncounted(self, request: AnyRequest) -> None:
        """Identify the caller by its publishable key. The resolver counts the request if it is not cached."""
        await self._identify(request, self._with_publishable_key)

    async def server(self, request: AnyRequest) -> None:
        """Identify the caller by its server key, and count the request."""
        await (await self._identify(request, self._with_server_key)).check_rate_limit()

    async def leads(self, request: AnyRequest) -> None:
        """Identify a backend, or an app that may report leads by its settings; count the request."""
        await (await self._identify(request, self._with_any_key)).check_rate_limit()

    async def any_key(self, request: AnyRequest) -> None:
        """Identify a backend or an app; count the request. ``by_server`` of the request says which it is."""
        await (await self._identify(request, self._with_either_key)).check_rate_limit()

    async def client_leads(self, request: AnyRequest) -> None:
        """Identify an app that reports leads or sales itself, if its settings allow it; count the request."""
        await (await self._identify(request, self._with_leads_key)).check_rate_limit()

    def publishable_caller(self, head: RequestHead) -> Caller:
        """Return the caller by its publishable key, without counting anything; raises a ``CallerError``."""
        return self._caller(self._with_publishable_key(head), head)

    async def _identify(self, request: AnyRequest, find: Callable[[RequestHead], "_Known"]) -> Caller:
        lean = cast("LeanRequest", request)
        try:
            known = find(lean.head)
        except CallerError:
            await self._failed(lean.head)
            raise
        lean.caller = self._caller(known, lean.head)
        lean.by_server = known.server
        cast("dict[str, Any]", lean.scope)[CALLER] = lean.caller
        return lean.caller

    def __deepcopy__(self, memo: object) -> Self:
        """Return self: Litestar deep-copies handlers, whose hooks are bound to this object."""
        return self

    def _with_publishable_key(self, head: RequestHead) -> _Known:
        return self._found(head, "publishable", self._publishable, self._server)

    def _with_server_key(self, head: RequestHead) -> _Known:
        return self._found(head, "server", self._server, self._publishable)

    def _found(
        self, head: RequestHead, kind: str, right: Mapping[bytes, _Known], other: Mapping[bytes, _Known]
    ) -> _Known:
        digest = self._digest(_key_of(head, kind))
        known = right.get(digest)
        if known is not None:
            return known
        if digest in other:
            raise WrongKind(f"Authorization: this request needs a {kind} key of the app")
        raise WrongKey(f"Authorization: no app has this {kind} key")

    def _with_any_key(self, head: RequestHead) -> _Known:
        known = self._with_either_key(head)
        return known if known.server else _allowed_to_report_leads(known)

    def _with_either_key(self, head: RequestHead) -> _Known:
        digest = self._digest(_key_of(head, "publishable or server"))
        known = self._server.get(digest) or self._publishable.get(digest)
        if known is None:
            raise WrongKey("Authorization: no app has this key")
        return known

    def _with_leads_key(self, head: RequestHead) -> _Known:
        return _allowed_to_report_leads(self._with_publishable_key(head))

    def _caller(self, known: _Known, head: RequestHead) -> Caller:
        app, server, name = known
        rate_limit = None
        if self._rate_limiter is not None:  # not by a backend's address, which all its customers share
            rate_limit = self._rate_limiter.rate_limit(app.name, name, by_address=not server)
        return Caller(
            app,
            head.peer[0] if head.peer else None,
            head.forwarded_for.decode("latin-1"),
            head.user_agent[:USER_AGENT_MAX_CHARS].decode("latin-1"),
            head.arrived,
            self._proxies,
            rate_limit,
        )

    async def _failed(self, head: RequestHead) -> None:
        if self._rate_limiter is not None:
            forwarded_for = head.forwarded_for.decode("latin-1")
            ip = self._proxies.client_ip(head.peer[0] if head.peer else None, forwarded_for)
            await self._rate_limiter.failed(ip)

    def _known(self, each: AppKeys, *, server: bool) -> Iterator[tuple[bytes, _Known]]:
        for key in each.server if server else each.publishable:
            name = b"" if self._rate_limiter is None else self._rate_limiter.name_of(key)
            yield self._digest(key), _Known(each.app, server, name)

    def _digest(self, key: bytes) -> bytes:
        return blake2b(key, key=self._salt, digest_size=16).digest()


def _allowed_to_report_leads(known: _Known) -> _Known:
    """Return a publishable key; raises ``WrongKind`` if only the app's backend may report leads."""
    if not known.app.clients_report_leads:
        raise WrongKind('Authorization: leads and sales of this app need a server key (leads = "server")')
    return known


def _key_of(head: RequestHead, kind: str) -> bytes:
    scheme, _, key = head.authorization.partition(b" ")
    key = key.strip()
    if scheme.lower() != b"bearer" or not key:
        raise MissingKey(f"Authorization: expected 'Bearer' and a {kind} key of the app")
    return key[: KEY_MAX_BYTES + 1]
