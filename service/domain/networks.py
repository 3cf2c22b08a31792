"""Which network an address belongs to, as a number that tells nothing about the address.

What can go wrong: thousands behind one address taken for one home (carrier NAT, relays, Teredo: they
never match); two forms of one address kept apart (IPv4-mapped IPv6, zones, brackets: normalised first);
a window of clicks that turns into a list of people's addresses (it holds keyed hashes only).

IPv4 counts exactly; IPv6 by /64, which is one home's or one phone's, however often its devices change
the rest of their addresses.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from ipaddress import (
    IPv4Network,
    IPv6Network,
    collapse_addresses,
    ip_network,
)
from socket import AF_INET, inet_pton
from typing import Literal

from msgspec import Struct

from service.domain.device_identity import normal_ip, packed_ip

Unmatchable = Literal["no_address", "private_address", "shared_network"]

_HASH_BYTES = 8
_NETWORK_BYTES = 8  # of IPv6: the rest devices change as they like; IPv4's 4 are all of them
# Documentation ranges (192.0.2.0/24 and the like) are nobody's and match like any other: demos live there.
_PRIVATE = (
    *("0.0.0.0/8", "10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"),
    *("224.0.0.0/3", "::/3", "4000::/2", "8000::/1"),  # multicast and reserved; of IPv6 all but 2000::/3
)
_SHARED = ("100.64.0.0/10", "2001::/32")  # carrier NAT; Teredo, where a /64 is a server, not a home


class Network(Struct, frozen=True, gc=False):
    """A network by its keyed hash, or why clicks and opens from this address are never matched."""

    key: int | None
    unmatchable: Unmatchable | None = None


_NO_ADDRESS = Network(None, "no_address")
_PRIVATE_ADDRESS = Network(None, "private_address")
_SHARED_NETWORK = Network(None, "shared_network")


class Networks:
    """Names networks under a secret. ``shared`` are more ranges that many people share, such as a relay's.

    The secret is the deployment's: the same network has the same key on every replica.
    """

    def __init__(self, secret: bytes, shared: Sequence[str] = ()) -> None:
        self._secret = blake2b(secret, person=b"networks", digest_size=32).digest()
        # Changes with the secret and the ranges: keys that were given before mean nothing any more then.
        self.fingerprint = blake2b("\n".join(shared).encode(), key=self._secret, digest_size=8).hexdigest()
        self._private = _Ranges(_PRIVATE)
        self._unmatchable = _Ranges((*_PRIVATE, *_SHARED, *shared))

    def of(self, ip: str | None) -> Network:
        """Return an address's network; an address that is none, or nobody's alone, has no key."""
        packed = _packed(ip)
        if packed is None:
            return _NO_ADDRESS
        if self._unmatchable.hold(packed):
            return _PRIVATE_ADDRESS if self._private.hold(packed) else _SHARED_NETWORK
        named = packed[:_NETWORK_BYTES]
        hashed = blake2b(named, key=self._secret, digest_size=_HASH_BYTES).digest()
        return Network(int.from_bytes(hashed, "big"))


def _packed(ip: str | None) -> bytes | None:
    """Parse an address into its 4 or 16 bytes; IPv4 within IPv6 is IPv4."""
    if not ip:
        return None
    try:
        return inet_pton(AF_INET, ip)  # nearly always: it was normalised before
    except (OSError, ValueError):
        normal = normal_ip(ip)
    return None if normal is None else packed_ip(normal)


class _Ranges:
    """Networks, asked for by packed address: as quick for ten thousand ranges as for ten."""

    def __init__(self, texts: Iterable[str]) -> None:
        parsed = [ip_network(text, strict=False) for text in texts]
        v4 = collapse_addresses(each for each in parsed if isinstance(each, IPv4Network))
        v6 = collapse_addresses(each for each in parsed if isinstance(each, IPv6Network))
        self._by_size = {
            size: ([each[0].packed for each in ranges], [each[-1].packed for each in ranges])
            for size, ranges in ((4, list(v4)), (16, list(v6)))
        }

    def hold(self, packed: bytes) -> bool:
        first, last = self._by_size[len(packed)]
        at = bisect_right(first, packed)
        return at > 0 and packed <= last[at - 1]
