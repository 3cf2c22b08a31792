"""Identify devices by keyed hashes, without storing installIds or IP addresses.

Dub distinguishes devices by IP address and User-Agent. Behind a backend, Dub would see the backend's address
for every phone. So the User-Agent sent to Dub is the client's plus a token that only firstopen can derive.
"""

import os
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b, sha256
from ipaddress import IPv6Address
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Literal

from service.domain.address_ranges import AddressRanges

Platform = Literal["ios", "android"]

USER_AGENT_MAX_CHARS = 512

_DEVICE_HEX_CHARS = 16
_SHA256_BLOCK_BYTES = 64
_LINK_HEX_CHARS = 32
_LEAD_KEY_HEX_CHARS = 32  # long enough to rule out collisions, which would drop a lead as a duplicate
_ID_BYTES = 16
_IDS_AT_A_TIME = 64
_RANDOM_BYTES = 10  # of an id; the other 6 are its time
_FORWARDED_MAX_CHARS = 1024  # of the right end: anybody can write the left part
_FORWARDED_MAX_HOPS = 16
_PLATFORM = re.compile(r"(?P<android>android|okhttp)|iphone|ipad|ipod|cfnetwork|darwin", re.IGNORECASE)
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_INSTALL_ID_MIN_CHARS = 8
_INSTALL_ID_MAX_CHARS = 128
_UUID = re.compile(r"\{?[0-9a-f]{8}(-?)(?:[0-9a-f]{4}\1){3}[0-9a-f]{12}\}?", re.IGNORECASE | re.ASCII)
_USUAL_UUID = re.compile(  # with dashes, and not one digit repeated
    r"(?!(.)(?:\1|-)*\Z)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII
)
_SEPARATORS = re.compile(r"[\W_]+")
# What apps send when they have no id, in lower case and without punctuation: null values of programming
# languages, and ids that many devices share (two ANDROID_IDs and a serial number of faulty firmware, and the
# MAC address that Android reports to every app). Repetitions of one character are detected separately.
_PLACEHOLDERS = frozenset(
    {
        *("undefined", "null", "nil", "none", "unknown", "nan", "objectobject", "optionalnil"),
        *("9774d56d682e549c", "dead00beef", "0123456789abcdef", "020000000000"),
    }
)


class Identity:
    """Derives keyed hashes with the first secret. Further secrets are old: they only find older records."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._keyed = [_Keyed(secret) for secret in secrets]

    def device(self, app: str, install_id: str | None, ip: str | None, user_agent: str) -> str:
        """Return the device's hash: 16 hex characters from the installId, else from IP and User-Agent."""
        subject = f"i\0{install_id}" if install_id is not None else f"a\0{ip or ''}\0{user_agent}"
        return _hashed(self._keyed[0], app, subject)

    def devices(self, app: str, install_id: str) -> list[str]:
        """Return an install's hash under each secret, the current secret first."""
        return [self.device(app, install_id, None, ""), *self.earlier_devices(app, install_id)]

    def earlier_devices(self, app: str, install_id: str) -> list[str]:
        """Return an install's hash under each secret except the current one."""
        return [_hashed(keyed, app, f"i\0{install_id}") for keyed in self._keyed[1:]]

    def open_id(self, key: bytes, before: str) -> str:
        """Return the openId of an answer: 32 hex characters that cannot be guessed.

        ``key`` is the answer's cache key; ``before`` distinguishes the answer from earlier ones under the
        key. The id is derived, not random: replicas that decide one open at the same moment get the same id.
        """
        return self._keyed[0].hexdigest(b"o\0%b\0%b" % (key, before.encode()))[: _ID_BYTES * 2]

    def customer(self, app: str, customer_id: str) -> str:
        """Return a customer's hash: 16 hex characters, specific to the app."""
        return _hashed(self._keyed[0], app, f"c\0{customer_id}")

    def link_names(self, app: str, what: str, install_id: str | None) -> list[str]:
        """Return the names of a short link, of an install if one is given: one under each secret."""
        subject = f"l\0{install_id or ''}\0{what}"
        return [f"fo_{_hashed(keyed, app, subject, _LINK_HEX_CHARS)}" for keyed in self._keyed]

    def lead_key(self, app: str, what: Literal["event", "idempotency", "body"], text: str) -> str:
        """Return a deduplication key of a lead: 32 hex characters.

        After a change of the secret, a lead that is reported again is not recognised; Dub's own
        deduplication then counts it once.
        """
        return _hashed(self._keyed[0], app, f"{what}\0{text}", _LEAD_KEY_HEX_CHARS)


class _Keyed:
    """HMAC-SHA-256 (RFC 2104) under one key, in half the time of ``hmac``: 3 % of a repeated open."""

    def __init__(self, key: bytes) -> None:
        block = (sha256(key).digest() if len(key) > _SHA256_BLOCK_BYTES else key).ljust(
            _SHA256_BLOCK_BYTES, b"\0"
        )
        self._inner = sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = sha256(bytes(byte ^ 0x5C for byte in block))

    def hexdigest(self, message: bytes) -> str:
        """Return the message's HMAC as 64 hex characters."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.hexdigest()


def _hashed(keyed: _Keyed, app: str, subject: str, chars: int = _DEVICE_HEX_CHARS) -> str:
    return keyed.hexdigest(f"{app}\0{subject}".encode("utf-8", "surrogatepass"))[:chars]


def canonical_install_id(text: str) -> str | None:
    """Return an installId in canonical form, or None if the text does not identify one install.

    Surrounding white space is removed, and UUIDs (with or without dashes or braces) are lower-cased: iOS
    writes them in upper case, most backends in lower case. Other ids keep their case. The result is None
    for placeholders (``undefined``, ``[object Object]``, all zeros, an ANDROID_ID that many devices share),
    for ids with unprintable characters, and for ids shorter than 8 or longer than 128 characters.
    """
    if _USUAL_UUID.fullmatch(text):
        return text.lower()
    install_id = text.strip()
    if not _INSTALL_ID_MIN_CHARS <= len(install_id) <= _INSTALL_ID_MAX_CHARS or not install_id.isprintable():
        return None
    bare = _SEPARATORS.sub("", install_id).lower()
    if bare in _PLACEHOLDERS or len(set(bare)) <= 1:
        return None
    return install_id.lower() if _UUID.fullmatch(install_id) else install_id


def platform_of(user_agent: str) -> Platform | None:
    """Read the platform from a User-Agent. okhttp means Android, CFNetwork means iOS; browsers name it."""
    found = _PLATFORM.search(user_agent, 0, USER_AGENT_MAX_CHARS)
    if found is None:
        return None
    return "android" if found["android"] else "ios"


def answer_key(app: str, device: str, target: str) -> bytes:
    """Return the answer's cache key for a device and a target: a hash of 16 bytes."""
    return blake2b(
        f"{app}\0{device}\0{target}".encode("utf-8", "surrogatepass"), digest_size=_ID_BYTES
    ).digest()


def upstream_user_agent(user_agent: str, device: str) -> str:
    """Return the User-Agent for Dub: up to 512 printable ASCII characters of the client's, and the device."""
    printable = _printable(user_agent[:USER_AGENT_MAX_CHARS])
    return f"{printable} firstopen-device/{device}" if printable else f"firstopen-device/{device}"


@lru_cache(1024)
def _printable(user_agent: str) -> str:
    return _UNPRINTABLE.sub("", user_agent).strip()


class NewIds:
    """Generates ids in hex: 48 bits of Unix milliseconds, then 80 random bits, so nobody can guess an id.

    In an index of such ids, the rows of one commit are neighbours, as with UUIDs of version 7. So a commit
    changes fewer pages. On a shared database most opens have derived ids instead: see ``Identity.open_id``.
    ``unix_time`` returns seconds. Random bytes are read for many ids at once.
    """

    def __init__(self, unix_time: Callable[[], float]) -> None:
        self._unix_time = unix_time
        self._ready: list[str] = []

    def __call__(self) -> str:
        """Return a new id of 32 hex digits."""
        if not self._ready:
            pool = os.urandom(_RANDOM_BYTES * _IDS_AT_A_TIME)
            self._ready = [pool[at : at + _RANDOM_BYTES].hex() for at in range(0, len(pool), _RANDOM_BYTES)]
        return f"{int(self._unix_time() * 1000):012x}{self._ready.pop()}"


class TrustedProxies:
    """The proxies whose ``X-Forwarded-For`` is trusted: networks, or ``*`` for every peer.

    The client is the right-most address that does not belong to a trusted proxy. The search stops at an entry
    that is not an address: entries further left come from an unknown source. No client address is stored,
    because addresses are personal data.
    """

    def __init__(self, networks: Sequence[str]) -> None:
        self._everyone = "*" in networks
        self._ranges = AddressRanges(entry for entry in networks if entry != "*")
        self._proxy: str | None = None  # the latest peer that is a trusted proxy, to skip the lookup

    def client_ip(self, peer: str | None, forwarded_for: str) -> str | None:
        """Return the client's normalised address, or None if it is unknown."""
        if not forwarded_for:
            return normal_ip(peer or "")
        if peer is None or peer != self._proxy:
            client = normal_ip(peer or "")
            if not self._everyone:
                if client is None or not self._ranges.hold(packed_ip(client)):
                    return client
                self._proxy = peer
        hops = forwarded_for[-_FORWARDED_MAX_CHARS:].split(",")
        nearest = peer or ""
        for hop in reversed(hops[-_FORWARDED_MAX_HOPS:]):
            address = normal_ip(hop)
            if address is None:
                break
            if not self._everyone and not self._ranges.hold(packed_ip(address)):
                return address
            nearest = address
        return normal_ip(nearest)


def packed_ip(normal: str) -> bytes:
    """Return a normalised address as 4 or 16 bytes."""
    return inet_pton(AF_INET6 if ":" in normal else AF_INET, normal)


def normal_ip(text: str) -> str | None:
    """Normalise an IP address; return None if the text is not one.

    Port, brackets and zone are removed; an IPv4-mapped IPv6 address becomes IPv4.
    """
    try:
        return inet_ntop(AF_INET, inet_pton(AF_INET, text))  # the most common case
    except (OSError, ValueError):
        text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    if ":" not in text:
        try:
            return inet_ntop(AF_INET, inet_pton(AF_INET, text))
        except (OSError, ValueError):
            return None
    try:
        address = IPv6Address(text.partition("%")[0])
    except ValueError:
        return None
    return str(address.ipv4_mapped or address)
