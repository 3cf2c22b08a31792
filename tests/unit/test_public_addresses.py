"""Which addresses webhooks may go to."""

import pytest

from service.domain.public_addresses import is_public

PUBLIC = [
    *("1.1.1.1", "8.8.8.8", "93.184.215.14", "172.15.255.255", "172.32.0.1", "100.63.255.255", "100.128.0.1"),
    *("2606:4700:4700::1111", "2a00:1450:4001:81b::200e"),
    *("::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "64:ff9b::808:808"),
]
NOT_PUBLIC = {
    "private": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fd12:3456::1", "fc00::1"],
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "link-local": ["169.254.0.1", "fe80::1", "fe80::1%eth0"],
    "site-local": ["fec0::1"],
    "unspecified": ["0.0.0.0", "0.1.2.3", "::"],
    "shared by a provider's customers": ["100.64.0.1", "100.127.255.255"],
    "multicast and broadcast": ["224.0.0.1", "239.255.255.250", "255.255.255.255", "ff02::1"],
    "reserved or documentation": [
        *("192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.7", "203.0.113.7", "240.0.0.1"),
        *("2001:db8::1", "3fff::1", "100::1", "192.88.99.1"),
    ],
    "metadata": ["169.254.169.254", "fd00:ec2::254", "100.100.100.200", "192.0.0.192", "168.63.129.16"],
    "mapped": ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe", "::ffff:168.63.129.16"],
    "compatible": ["::127.0.0.1", "::a00:1"],
    "NAT64": ["64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808"],
    "6to4 and Teredo": ["2002:7f00:1::", "2002:a00:1::1", "2001:0:4136:e378::1"],
    "no addresses": ["", "localhost", "example.com", "1.1.1", "0x7f.1", "2130706433", "1.1.1.1:80"],
}


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_on_the_internet_are_public(address: str) -> None:
    """Also IPv4 addresses within IPv6 ones, as a mapped socket or a NAT64 gateway has them."""
    assert is_public(address)


@pytest.mark.parametrize(
    ("kind", "address"), [(kind, address) for kind, group in NOT_PUBLIC.items() for address in group]
)
def test_others_are_not(kind: str, address: str) -> None:
    """Whatever way they are written."""
    assert not is_public(address), kind
