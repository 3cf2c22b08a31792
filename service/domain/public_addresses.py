"""Tell public IP addresses from those of this machine, its network and its cloud.

A backend's URL is configured, but the name in it is resolved by DNS, which others may control: without this
check, a webhook could be sent to a service that trusts its own network, such as a cloud's metadata service.
"""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

_METADATA = frozenset(
    {IPv4Address("168.63.129.16")}
)  # Azure's: a public address that only its machines reach
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NOT_GLOBAL = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, among them Teredo, which contains an IPv4 address
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which contains an IPv4 address
        "3fff::/20",  # documentation
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")  # the way to an IPv4 address, which is in the last 32 bits
_RELAY_6TO4 = ip_network("192.88.99.0/24")


def is_public(text: str) -> bool:
    """Return True if this is the address of one host on the Internet; False also for what is no address.

    IPv4 addresses within IPv6 ones (mapped, NAT64) are judged themselves.
    """
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or (_last_32_bits(address) if address in _NAT64 else None)
        if inner is None:
            return address in _GLOBAL_UNICAST and not any(address in network for network in _NOT_GLOBAL)
        address = inner
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and address not in _RELAY_6TO4
        and address not in _METADATA
    )


def _last_32_bits(address: IPv6Address) -> IPv4Address:
    return IPv4Address(int(address) & 0xFFFFFFFF)
