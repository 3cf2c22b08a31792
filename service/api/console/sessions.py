"""Log in with a server key, and recognise the browser by a cookie.

The cookie does not hold the key: it is encrypted (Fernet, with a key derived from FIRSTOPEN_SECRET), holds a
keyed hash of the server key, and expires. So it cannot be used as an API key, and a server key's sessions end
on every replica when the key is removed from the settings.

What can go wrong: a page of another site sends a form (the cookie is SameSite=Strict, each form has a token
that is in the cookie, too, and a request that says that it comes from elsewhere is refused); somebody guesses
keys (attempts are counted by address, and found keys are compared by hashes); a person's cookie shows another
app (each page asks for the session's app only).
"""

import base64
import hmac
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from urllib.parse import urlsplit

from cryptography.fernet import Fernet, InvalidToken
from litestar.datastructures import Cookie
from msgspec import Struct

from service.api.auth import KEY_MAX_BYTES, AppKeys
from service.domain.errors import WrongKey, WrongKind
from service.domain.models import App

COOKIE = "firstopen_console"
PATH = "/console"
SESSION_S = 12 * 3600  # a working day
_LOGIN_S = 3600  # for which a login form may stand open
_COOKIE_MAX_CHARS = 1024
_TOKEN_BYTES = 16


class Session(Struct, frozen=True):
    """A browser. ``app`` is None until it has logged in; ``token`` is in each of its forms."""

    token: str
    app: App | None = None
    key: str = ""  # a keyed hash of the server key

    def owns(self, token: str) -> bool:
        """Return True if a form has this session's token."""
        return hmac.compare_digest(self.token.encode(), token.encode("utf-8", "replace"))


class Sessions:
    """Makes and reads sessions. The first of ``server_secrets`` encrypts; ``unix_time`` is in seconds."""

    def __init__(
        self, apps: Sequence[AppKeys], server_secrets: Sequence[str], unix_time: Callable[[], float]
    ) -> None:
        secret = server_secrets[0].encode("utf-8", "surrogateescape")
        sealing = blake2b(secret, digest_size=32, person=b"firstopen.web").digest()
        self._hash_key = blake2b(secret, digest_size=32, person=b"firstopen.webkey").digest()
        self._fernet = Fernet(base64.urlsafe_b64encode(sealing))
        self._unix_time = unix_time
        self.replace(apps)

    def replace(self, apps: Sequence[AppKeys]) -> None:
        """Accept these apps' server keys from now on; the sessions of others end."""
        self._server = {self._hashed(key): each.app for each in apps for key in each.server}
        self._publishable = {self._hashed(key) for each in apps for key in each.publishable}

    def begin(self) -> Session:
        """Return a session for a browser that has not logged in."""
        return Session(secrets.token_urlsafe(_TOKEN_BYTES))

    def log_in(self, key: str) -> Session:
        """Return a new session for a server key; raises ``WrongKey`` or ``WrongKind``."""
        hashed = self._hashed(key.strip().encode("utf-8", "replace")[: KEY_MAX_BYTES + 1])
        app = self._server.get(hashed)
        if app is not None:
            return Session(secrets.token_urlsafe(_TOKEN_BYTES), app, hashed)
        if hashed in self._publishable:
            raise WrongKind("This is a publishable key. The console needs a server key.")
        raise WrongKey("No app has this server key.")

    def read(self, cookies: Mapping[str, str]) -> Session | None:
        """Return the session of a request's cookies; None if there is no valid one.

        A session ends with its time, or when its server key is removed from the settings.
        """
        sealed = cookies.get(COOKIE, "")
        if not sealed or len(sealed) > _COOKIE_MAX_CHARS:
            return None
        try:
            opened = self._fernet.decrypt_at_time(sealed.encode(), SESSION_S, int(self._unix_time()))
        except InvalidToken:
            return None
        token, key, until = json.loads(opened)
        app = self._server.get(key)
        if until <= self._unix_time() or (key and app is None):
            return None
        return Session(token, app, key)

    def cookie(self, session: Session, *, secure: bool) -> Cookie:
        """Return the cookie that brings a session back."""
        lasts_s = _LOGIN_S if session.app is None else SESSION_S
        now = int(self._unix_time())
        content = json.dumps([session.token, session.key, now + lasts_s]).encode()
        sealed = self._fernet.encrypt_at_time(content, now).decode()
        return _cookie(sealed, lasts_s, secure=secure)

    def _hashed(self, key: bytes) -> str:
        return blake2b(key, key=self._hash_key, digest_size=16).hexdigest()


def no_cookie(*, secure: bool) -> Cookie:
    """Return a cookie that deletes the session's."""
    return _cookie("", 0, secure=secure)


def comes_from_elsewhere(headers: Mapping[str, str]) -> bool:
    """Return True if a browser says that a form was sent by a page of another origin.

    Browsers send ``Sec-Fetch-Site`` over https and from localhost only, and ``Origin`` with every form.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site != "same-origin"
    origin = headers.get("origin")
    if origin is None:
        return False
    try:
        return urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
    except ValueError:
        return True


def _cookie(value: str, max_age_s: int, *, secure: bool) -> Cookie:
    return Cookie(
        key=COOKIE, value=value, path=PATH, max_age=max_age_s, httponly=True, samesite="strict", secure=secure
    )
