"""Which device this is, without keeping who it is.

Dub tells devices apart by address and User-Agent. Behind a backend every phone has the backend's
address, so each gets its own User-Agent: its own, then a token that only we can derive.
"""

import hmac
import os
import re
from collections.abc import Callable, Sequence
from hashlib import blake2b
from ipaddress import IPv6Address, ip_network
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Literal

Platform = Literal["ios", "android"]

USER_AGENT_MAX_CHARS = 512

_DEVICE_HEX_CHARS = 16
_OPEN_ID_HEX_CHARS = 32
_LEAD_KEY_HEX_CHARS = 32  # so that no two leads are ever taken for one
_ID_BYTES = 16
_IDS_AT_A_TIME = 64
_FORWARDED_MAX_CHARS = 1024  # the right-most part counts; the left is anybody's
_FORWARDED_MAX_HOPS = 16
_PLATFORM = re.compile(r"(?P<android>android|okhttp)|iphone|ipad|ipod|cfnetwork|darwin", re.IGNORECASE)
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_INSTALL_ID_MIN_CHARS = 8
_INSTALL_ID_MAX_CHARS = 128
_UUID = re.compile(r"\{?[0-9a-f]{8}(-?)(?:[0-9a-f]{4}\1){3}[0-9a-f]{12}\}?", re.IGNORECASE | re.ASCII)
_USUAL_UUID = re.compile(  # with dashes, and not a run of one digit
    r"(?!(.)(?:\1|-)*\Z)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII
)
_SEPARATORS = re.compile(r"[\W_]+")
# What apps send when they have no id, in lower case and without punctuation: languages' words for "nothing",
# and the ids that many devices share (two ANDROID_IDs and a serial number of faulty firmware, and the
# MAC address that Android tells every app). Runs of one character are recognised by rule.
_PLACEHOLDERS = frozenset(
    {
        *("undefined", "null", "nil", "none", "unknown", "nan", "objectobject", "optionalnil"),
        *("9774d56d682e549c", "dead00beef", "0123456789abcdef", "020000000000"),
    }
)


class Identity:
    """Keyed hashes under the current secret, which is the first; older ones only find what is older."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._keyed = [hmac.new(secret, digestmod="sha256") for secret in secrets]

    def device(self, app: str, install_id: str | None, ip: str | None, user_agent: str) -> str:
        """Return 16 hex characters: stable for an install, or for an address and User-Agent without one."""
        who = f"i\0{install_id}" if install_id is not None else f"a\0{ip or ''}\0{user_agent}"
        return _hashed(self._keyed[0], app, who)

    def devices(self, app: str, install_id: str) -> list[str]:
        """Return what an install was called under each secret, the current one first."""
        return [self.device(app, install_id, None, ""), *self.earlier_devices(app, install_id)]

    def earlier_devices(self, app: str, install_id: str) -> list[str]:
        """Return what an install was called under each secret but the current one."""
        return [_hashed(keyed, app, f"i\0{install_id}") for keyed in self._keyed[1:]]

    def open_id(self, key: bytes, before: str) -> str:
        """Return the openId of an answer: 32 hex characters that nobody can guess.

        ``key`` is what it answers, ``before`` what tells it from earlier answers under the key: replicas that
        decide one open at the same moment give it one id.
        """
        mine = self._keyed[0].copy()
        mine.update(b"o\0%b\0%b" % (key, before.encode()))
        return mine.hexdigest()[:_OPEN_ID_HEX_CHARS]

    def customer(self, app: str, customer_id: str) -> str:
        """Return 16 hex characters for a customer of the app's workspace."""
        return _hashed(self._keyed[0], app, f"c\0{customer_id}")

    def lead_key(self, app: str, what: Literal["event", "idempotency", "body"], text: str) -> str:
        """Return 32 hex characters for what a lead is recognised by when it is reported again.

        Under another secret a lead is not recognised: then Dub's own deduplication counts it once.
        """
        return _hashed(self._keyed[0], app, f"{what}\0{text}", _LEAD_KEY_HEX_CHARS)


def _hashed(keyed: hmac.HMAC, app: str, who: str, chars: int = _DEVICE_HEX_CHARS) -> str:
    mine = keyed.copy()  # half the time of beginning with the key again
    mine.update(f"{app}\0{who}".encode("utf-8", "surrogatepass"))
    return mine.hexdigest()[:chars]


def canonical_install_id(text: str) -> str | None:
    """Return the one form of an installId, or ``None`` for text that does not tell installs apart.

    Surrounding white space is dropped, and UUIDs (with or without dashes or braces) are lower-cased: iOS
    writes them in upper case, most backends in lower case. Other ids keep their case. ``None`` are
    placeholders (``undefined``, ``[object Object]``, a run of zeros, an ANDROID_ID that many devices share),
    ids with unprintable characters, and those that are not 8 to 128 characters long.
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
    """Read the platform from a User-Agent: browsers say it, okhttp is Android's, CFNetwork is Apple's."""
    found = _PLATFORM.search(user_agent, 0, USER_AGENT_MAX_CHARS)
    if found is None:
        return None
    return "android" if found["android"] else "ios"


def answer_key(app: str, device: str, target: str) -> bytes:
    """Return the cache key of one device's open of one target: 16 bytes, whatever the target's length."""
    return blake2b(f"{app}\0{device}\0{target}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


def upstream_user_agent(user_agent: str, device: str) -> str:
    """Return the User-Agent that Dub sees: the client's in printable ASCII, cut to 512, and the device."""
    own = _UNPRINTABLE.sub("", user_agent[:USER_AGENT_MAX_CHARS]).strip()
    return f"{own} firstopen-device/{device}" if own else f"firstopen-device/{device}"


class RandomIds:
    """Makes openIds: 128 random bits in hex. The system is asked for many at a time."""

    def __init__(self, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._random_bytes = random_bytes
        self._ready: list[str] = []

    def __call__(self) -> str:
        """Return an id that nobody can guess and that was never returned before."""
        if not self._ready:
            pool = self._random_bytes(_ID_BYTES * _IDS_AT_A_TIME)
            self._ready = [pool[at : at + _ID_BYTES].hex() for at in range(0, len(pool), _ID_BYTES)]
        return self._ready.pop()


class TrustedProxies:
    """Whose ``X-Forwarded-For`` is believed: networks, or ``*`` for everybody's.

    The client is the right-most address that is no trusted proxy's. An entry that is not an address
    ends the walk: what is left of it was written by somebody we cannot name. Nothing is remembered:
    addresses are people's.
    """

    def __init__(self, networks: Sequence[str]) -> None:
        self._everyone = "*" in networks
        parsed = [ip_network(entry, strict=False) for entry in networks if entry != "*"]
        self._ranges = [(len(each[0].packed), each[0].packed, each[-1].packed) for each in parsed]
        self._proxy: str | None = None  # the latest peer that is one: no person's address

    def client_ip(self, peer: str | None, forwarded_for: str) -> str | None:
        """Return the client's address, normalised; ``None`` if there is none to be known."""
        if not forwarded_for:
            return normal_ip(peer or "")
        if peer is None or peer != self._proxy:
            client = normal_ip(peer or "")
            if not self._everyone:
                if client is None or not self._trusts(client):
                    return client
                self._proxy = peer
        hops = forwarded_for[-_FORWARDED_MAX_CHARS:].split(",")
        nearest = peer or ""
        for hop in reversed(hops[-_FORWARDED_MAX_HOPS:]):
            address = normal_ip(hop)
            if address is None:
                break
            if not self._everyone and not self._trusts(address):
                return address
            nearest = address
        return normal_ip(nearest)

    def _trusts(self, address: str) -> bool:
        packed = packed_ip(address)
        return any(low <= packed <= high and len(packed) == size for size, low, high in self._ranges)


def packed_ip(normal: str) -> bytes:
    """Return the bytes of a normalised address: 4 or 16 of them."""
    return inet_pton(AF_INET6 if ":" in normal else AF_INET, normal)


def normal_ip(text: str) -> str | None:
    """Normalise one address (IPv4-mapped to IPv4; port, brackets, zone dropped); ``None`` if it is none."""
    try:
        return inet_ntop(AF_INET, inet_pton(AF_INET, text))  # nearly always
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
