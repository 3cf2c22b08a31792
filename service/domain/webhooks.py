"""Webhooks: the events, the endpoint of an app's backend, and signatures by the Standard Webhooks scheme.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hmac
import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Literal, get_args
from urllib.parse import urlsplit

import ada_url
from msgspec import Struct

from service.domain.public_addresses import is_public

EventType = Literal["open.matched", "open.settled", "lead.delivered", "lead.dead", "install.erased"]
EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)

_WHSEC = re.compile(r"whsec_([A-Za-z0-9+/]+={0,2})")
_KEY_BYTES = range(24, 65)  # as the specification recommends
_WHSEC_EXPECTED = (
    "expected whsec_ and 24 to 64 random bytes in base64, several separated by spaces or commas, the current"
    " one first (generate one: echo whsec_$(openssl rand -base64 32))"
)
_URL_MAX_CHARS = 2000
_ID_BYTES = 16
_IP_LITERAL = re.compile(r"[0-9.]+|\[.*\]")


class InvalidEndpoint(ValueError):
    """A webhook's URL (``of_url``) or secret cannot be used; the message says what was expected."""

    def __init__(self, problem: str, *, of_url: bool) -> None:
        super().__init__(problem)
        self.of_url = of_url


class Endpoint(Struct, frozen=True):
    """Where an app's webhooks are sent. ``keys`` sign; the first is the current one."""

    url: str
    keys: tuple[bytes, ...]
    allow_private: bool = False

    @property
    def host(self) -> str:
        """Return the URL's host, which may be logged: the rest of the URL may contain a secret."""
        return urlsplit(self.url).hostname or ""

    def __repr__(self) -> str:
        """Return a text without secrets."""
        return f"Endpoint({self.host})"


def parse_endpoint(url: str, secrets: str, *, allow_private: bool) -> Endpoint:
    """Build an endpoint from its two variables; raises ``InvalidEndpoint``."""
    keys = tuple(_key(secret) for secret in secrets.replace(",", " ").split())
    if not keys:
        raise InvalidEndpoint(_WHSEC_EXPECTED, of_url=False)
    return Endpoint(_checked_url(url.strip(), allow_private=allow_private), keys, allow_private)


def signatures(keys: Sequence[bytes], event_id: str, timestamp: int, body: bytes) -> str:
    """Return the ``webhook-signature`` header: one signature for each key. ``timestamp``: Unix seconds."""
    signed = b"%b.%d.%b" % (event_id.encode(), timestamp, body)
    digests = (hmac.digest(key, signed, "sha256") for key in keys)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


def event_id(event: EventType, *subject: str) -> str:
    """Return the id of what has happened: the same one whenever, and on whichever replica, it is derived."""
    text = "\0".join((event, *subject)).encode("utf-8", "surrogatepass")
    return f"msg_{blake2b(text, digest_size=_ID_BYTES).hexdigest()}"


def _checked_url(text: str, *, allow_private: bool) -> str:
    try:
        url = ada_url.URL(text)
    except ValueError:
        url = None
    schemes = ("https:", "http:") if allow_private else ("https:",)
    if (
        url is None
        or url.protocol not in schemes
        or url.username
        or url.password
        or len(text) > _URL_MAX_CHARS
    ):
        wanted = "an https" if not allow_private else "an http or https"
        raise InvalidEndpoint(f"expected {wanted} URL without user info", of_url=True)
    host = str(url.hostname)
    if not allow_private and _IP_LITERAL.fullmatch(host) and not is_public(host.strip("[]")):
        problem = "expected a public address; allow_private_targets = true allows those of your own network"
        raise InvalidEndpoint(problem, of_url=True)
    return str(url.href).partition("#")[0]


def _key(secret: str) -> bytes:
    found = _WHSEC.fullmatch(secret)
    if found is None:
        raise InvalidEndpoint(_WHSEC_EXPECTED, of_url=False)
    bare = found[1].rstrip("=")
    try:
        key = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except binascii.Error as exc:
        raise InvalidEndpoint(_WHSEC_EXPECTED, of_url=False) from exc
    if len(key) not in _KEY_BYTES:
        raise InvalidEndpoint(_WHSEC_EXPECTED, of_url=False)
    return key
