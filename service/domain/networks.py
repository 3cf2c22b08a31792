"""Compute the network of an IP address as a keyed hash, which does not reveal the address.

What can go wrong: thousands of people behind one address are taken for one home (carrier NAT, relays and
Teredo are never matched); two notations of one address are taken for different addresses (IPv4-mapped IPv6,
zones and brackets are normalised first); the stored clicks reveal people's addresses (only keyed hashes are
stored).

An IPv4 network is the exact address. An IPv6 network is the /64, which one home or one phone keeps although
devices change the rest of the address often.
"""

from collections.abc import Sequence
from hashlib import blake2b
from socket import AF_INET, inet_pton
from typing import Literal

from msgspec import Struct

from service.domain.address_ranges import AddressRanges
from service.domain.device_identity import normal_ip, packed_ip

Unmatchable = Literal["no_address", "private_address", "shared_network"]

_HASH_BYTES = 8
_NETWORK_BYTES = 8  # the /64 of an IPv6 address; an IPv4 address has only 4 bytes
# Documentation ranges (192.0.2.0/24 and the like) are matched like public ones, because the demo uses them.
_PRIVATE = (
    *("0.0.0.0/8", "10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"),
    *("224.0.0.0/3", "::/3", "4000::/2", "8000::/1"),  # multicast and reserved; all IPv6 except 2000::/3
)
_SHARED = ("100.64.0.0/10", "2001::/32")  # carrier NAT; Teredo, where a /64 is a server, not a home


class Network(Struct, frozen=True, gc=False):
    """A network's keyed hash, or the reason why clicks and opens from the address are never matched."""

    key: int | None
    unmatchable: Unmatchable | None = None
    is_home: bool = False  # an IPv6 /64, which is one home or one phone


_NO_ADDRESS = Network(None, "no_address")
_PRIVATE_ADDRESS = Network(None, "private_address")
_SHARED_NETWORK = Network(None, "shared_network")


class Networks:
    """Hashes networks with a secret. ``shared`` are further ranges that many people share, such as a relay's.

    ``private``: private addresses are matched, too, for devices on the network of a developer's machine.

    All replicas of a deployment use the same secret, so a network has the same key on each of them.
    """

    def __init__(self, secret: bytes, shared: Sequence[str] = (), *, private: bool = False) -> None:
        key = blake2b(secret, person=b"networks", digest_size=32).digest()
        self._keyed = blake2b(key=key, digest_size=_HASH_BYTES)
        # Changes with the secret and the ranges, because keys computed before the change cannot be compared.
        self.fingerprint = blake2b("\n".join(shared).encode(), key=key, digest_size=8).hexdigest()
        self._private = AddressRanges(_PRIVATE)
        self._unmatchable = AddressRanges((*(() if private else _PRIVATE), *_SHARED, *shared))

    def of(self, ip: str | None) -> Network:
        """Return the hashed network. ``key`` is None for invalid, private or shared addresses."""
        packed = _packed(ip)
        if packed is None:
            return _NO_ADDRESS
        if self._unmatchable.hold(packed):
            return _PRIVATE_ADDRESS if self._private.hold(packed) else _SHARED_NETWORK
        prefix = packed[:_NETWORK_BYTES]
        hashed = self._keyed.copy()
        hashed.update(prefix)
        return Network(int.from_bytes(hashed.digest(), "big"), is_home=len(packed) > len(prefix))


def _packed(ip: str | None) -> bytes | None:
    """Return an address as 4 or 16 bytes, or None if it is invalid. IPv4-mapped IPv6 becomes IPv4."""
    if not ip:
        return None
    try:
        return inet_pton(AF_INET, ip)  # the most common case: a normalised IPv4 address
    except (OSError, ValueError):
        normal = normal_ip(ip)
    return None if normal is None else packed_ip(normal)
