"""Whose key this is. Keys are compared in constant time, by their hashes under a key of this process."""

import secrets
from collections.abc import Sequence
from hashlib import blake2b

from msgspec import Struct

from service.api.http import LeanRequest
from service.resolve.errors import MissingKey, WrongKey, WrongKind
from service.resolve.identity import TrustedProxies
from service.resolve.model import App, Caller

KEY_MAX_BYTES = 512


class AppKeys(Struct, frozen=True):
    """An app with its keys, as bytes."""

    app: App
    publishable: tuple[bytes, ...]
    server: tuple[bytes, ...] = ()

    def __repr__(self) -> str:
        """Show no secret."""
        return f"AppKeys({self.app!r})"


class Callers:
    """Finds the app that a request speaks for, and the device's address behind trusted proxies.

    A lookup costs the same however much of a key is right: keys are found by a hash that no caller
    can compute.
    """

    def __init__(self, apps: Sequence[AppKeys], proxies: TrustedProxies) -> None:
        self._salt = secrets.token_bytes(32)
        self._publishable = {self._digest(key): each.app for each in apps for key in each.publishable}
        self._server = {self._digest(key): each.app for each in apps for key in each.server}
        self._proxies = proxies

    def identify(self, request: LeanRequest, *, server: bool = False) -> Caller:
        """Name the caller by its publishable key, or by its server key.

        Raises ``MissingKey``, ``WrongKey``, or ``WrongKind`` for a key of the other kind.
        """
        kind = "server" if server else "publishable"
        digest = self._digest(_key_of(request, kind))
        right, other = (self._server, self._publishable) if server else (self._publishable, self._server)
        app = right.get(digest)
        if app is None:
            if digest in other:
                raise WrongKind(
                    f"Authorization: this takes a {kind} key of the app, not one of the other kind"
                )
            raise WrongKey(f"Authorization: no app has this {kind} key")
        return self._caller(app, request)

    def of_leads(self, request: LeanRequest) -> Caller:
        """Name who reports a lead: an app's backend, or the app itself where its settings let it.

        Raises ``MissingKey``, ``WrongKey`` or ``WrongKind``.
        """
        digest = self._digest(_key_of(request, "publishable or server"))
        app = self._server.get(digest)
        if app is None:
            app = self._publishable.get(digest)
            if app is None:
                raise WrongKey("Authorization: no app has this key")
            if not app.clients_report_leads:
                raise WrongKind(
                    "Authorization: this app's leads are reported by its backend, with a server key"
                )
        return self._caller(app, request)

    def _caller(self, app: App, request: LeanRequest) -> Caller:
        peer = request.scope["client"]
        return Caller(
            app,
            peer[0] if peer else None,
            request.forwarded_for.decode("latin-1"),
            request.user_agent.decode("latin-1"),
            request.arrived,
            self._proxies,
        )

    def _digest(self, key: bytes) -> bytes:
        return blake2b(key, key=self._salt, digest_size=16).digest()


def _key_of(request: LeanRequest, kind: str) -> bytes:
    scheme, _, key = request.authorization.partition(b" ")
    key = key.strip()
    if scheme.lower() != b"bearer" or not key:
        raise MissingKey(f"Authorization: expected 'Bearer' and a {kind} key of the app")
    return key[: KEY_MAX_BYTES + 1]
