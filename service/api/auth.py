"""Whose key this is. Keys are compared in constant time, by their hashes under a key of this process."""

import secrets
from collections.abc import Mapping, Sequence
from hashlib import blake2b

from service.api.http import LeanRequest
from service.resolve.errors import MissingKey, WrongKey
from service.resolve.identity import TrustedProxies
from service.resolve.model import App, Caller

KEY_MAX_BYTES = 512


class Callers:
    """Finds the app that a request speaks for, and the device's address behind trusted proxies.

    A lookup costs the same however much of a key is right: keys are found by a hash that no caller
    can compute.
    """

    def __init__(self, apps: Mapping[App, Sequence[str]], proxies: TrustedProxies) -> None:
        self._salt = secrets.token_bytes(32)
        self._apps = {self._digest(key.encode()): app for app, keys in apps.items() for key in keys}
        self._proxies = proxies

    def identify(self, request: LeanRequest) -> Caller:
        """Name the caller by its publishable key; raises ``MissingKey`` or ``WrongKey``."""
        scheme, _, key = request.authorization.partition(b" ")
        key = key.strip()
        if scheme.lower() != b"bearer" or not key:
            raise MissingKey("Authorization: expected 'Bearer' and a publishable key of the app")
        app = self._apps.get(self._digest(key)) if len(key) <= KEY_MAX_BYTES else None
        if app is None:
            raise WrongKey("Authorization: no app has this publishable key")
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
