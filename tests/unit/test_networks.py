"""Addresses become networks: one home one key, and no key for what many share."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.domain.networks import Networks

NETWORKS = Networks(b"a secret for tests", ["198.18.7.0/24", "2a02:26f7::/32"])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("203.0.113.7", "::ffff:203.0.113.7"),
        ("203.0.113.7", " 203.0.113.7:4711 "),
        ("2a00:1:2:3::1", "2a00:1:2:3:ffff:1:2:3"),
        ("2a00:1:2:3::1", "[2a00:1:2:3::9]:443"),
        ("2a00:1:2:3::1", "2A00:0001:2:3:0:0:0:7%en0"),
    ],
)
def test_one_network_has_one_key(one: str, other: str) -> None:
    """However an address is written, and whatever an IPv6 device makes of its last 64 bits."""
    assert NETWORKS.of(one).key is not None
    assert NETWORKS.of(one) == NETWORKS.of(other)


@given(st.lists(st.ip_addresses(network="203.0.113.0/24"), min_size=2, max_size=2, unique=True))
def test_ipv4_counts_exactly(addresses: list[IPv4Address]) -> None:
    """Neighbours are neighbours, not one home."""
    one, other = addresses
    assert NETWORKS.of(str(one)).key != NETWORKS.of(str(other)).key


@given(st.ip_addresses(network="2a00::/16"), st.ip_addresses(network="2a00::/16"))
def test_ipv6_counts_by_64(one: IPv6Address, other: IPv6Address) -> None:
    """Two /64s are two networks, one /64 is one."""
    same = int(one) >> 64 == int(other) >> 64
    assert (NETWORKS.of(str(one)) == NETWORKS.of(str(other))) is same


@pytest.mark.parametrize(
    ("ip", "why"),
    [
        (None, "no_address"),
        ("", "no_address"),
        ("unknown", "no_address"),
        ("256.1.1.1", "no_address"),
        ("10.1.2.3", "private_address"),
        ("172.16.0.1", "private_address"),
        ("172.31.255.255", "private_address"),
        ("192.168.1.1", "private_address"),
        ("::ffff:192.168.1.1", "private_address"),
        ("127.0.0.1", "private_address"),
        ("169.254.10.1", "private_address"),
        ("0.0.0.0", "private_address"),
        ("224.0.0.1", "private_address"),
        ("255.255.255.255", "private_address"),
        ("::1", "private_address"),
        ("::", "private_address"),
        ("fe80::1%eth0", "private_address"),
        ("fd00::1", "private_address"),
        ("ff02::1", "private_address"),
        ("64:ff9b::203.0.113.7", "private_address"),
        ("100.64.0.0", "shared_network"),
        ("100.127.255.255", "shared_network"),
        ("2001:0:1:2::3", "shared_network"),
        ("198.18.7.200", "shared_network"),
        ("2a02:26f7:1::1", "shared_network"),
    ],
)
def test_what_many_share_never_matches(ip: str | None, why: str) -> None:
    """Private, loopback, link-local, carrier NAT and the configured ranges have no key, and say why."""
    network = NETWORKS.of(ip)
    assert (network.key, network.unmatchable) == (None, why)


@pytest.mark.parametrize(
    "ip",
    [
        *("9.255.255.255", "11.0.0.0", "172.15.0.1", "172.32.0.1", "100.63.255.255", "100.128.0.0"),
        *("198.18.8.0", "203.0.113.1", "2000::1", "2001:db8::1", "3fff::1", "2a02:26f8::1"),
    ],
)
def test_what_is_beside_them_does(ip: str) -> None:
    """The first address before and after a range is somebody's own."""
    assert NETWORKS.of(ip).key is not None


@given(st.text(max_size=50))
def test_any_text_is_an_answer(text: str) -> None:
    """Whatever a header holds, there is a network or a reason, and no error."""
    network = NETWORKS.of(text)
    assert (network.key is None) is (network.unmatchable is not None)


@given(st.ip_addresses(v=4))
def test_a_key_tells_nothing_without_the_secret(address: IPv4Address) -> None:
    """Another secret has other keys, and no key is the address itself."""
    key = NETWORKS.of(str(address)).key
    assume(key is not None)
    assert key != Networks(b"another secret").of(str(address)).key
    assert key != int(address)


def test_the_fingerprint_tells_when_keys_mean_something_else() -> None:
    """With another secret, or other ranges that are shared; never by itself."""
    named = [
        Networks(b"one"),
        Networks(b"another"),
        Networks(b"one", ["198.51.100.0/24"]),
        Networks(b"one", ["198.51.100.0/25"]),
    ]
    assert len({each.fingerprint for each in named}) == 4
    assert Networks(b"one").fingerprint == named[0].fingerprint
