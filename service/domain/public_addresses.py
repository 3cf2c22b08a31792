"""Tell public IP addresses from those of this machine, its network and its cloud.

A backend's URL is configured, but the name in it is resolved by DNS, which others may control: without this
check, a webhook could be sent to a service that trusts its own network, such as a cloud's metadata service.

The networks are listed here, because ``ipaddress.is_global`` differs between versions of Python (192.0.0.192
was global until 3.11.9), and counts multicast and IPv4-compatible addresses as global.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_NOT_PUBLIC = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared by a provider's customers
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's metadata
        "169.254.0.0/16",  # link-local, and the metadata of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments, and Oracle's metadata
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/3",  # multicast, reserved and broadcast
    )
)
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
    return not any(address in network for network in _NOT_PUBLIC)


def _last_32_bits(address: IPv6Address) -> IPv4Address:
    return IPv4Address(int(address) & 0xFFFFFFFF)
