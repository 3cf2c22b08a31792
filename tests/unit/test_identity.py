"""Which device, seen through proxies, and what of it Dub gets to see."""

import hmac
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.device_identity import (
    Identity,
    NewIds,
    TrustedProxies,
    answer_key,
    canonical_install_id,
    normal_ip,
    upstream_user_agent,
)

IDENTITY = Identity([b"secret"])


def test_new_ids_begin_with_their_time_and_differ() -> None:
    now = [1_793_000_000.25]
    new_id = NewIds(lambda: now[0])
    earlier = [new_id() for _ in range(200)]
    now[0] += 0.001
    later = [new_id() for _ in range(200)]
    assert all(len(bytes.fromhex(each)) == 16 for each in earlier + later)
    assert {int(each[:12], 16) for each in earlier} == {1_793_000_000_250}
    assert max(earlier) < min(later)
    assert len({each[12:] for each in earlier + later}) == 400


def test_a_device_is_its_install() -> None:
    """With an installId neither address nor User-Agent matters; another install is another device."""
    anna = IDENTITY.device("acme", "install-anna", "203.0.113.7", "ua")
    assert anna == IDENTITY.device("acme", "install-anna", "198.51.100.1", "other")
    assert anna != IDENTITY.device("acme", "install-ben", "203.0.113.7", "ua")
    assert len(anna) == 16
    assert int(anna, 16) >= 0


def test_without_an_install_a_device_is_address_and_user_agent() -> None:
    """As exact as Dub, no more: the same address and User-Agent are one device."""
    one = IDENTITY.device("acme", None, "203.0.113.7", "ua")
    assert one == IDENTITY.device("acme", None, "203.0.113.7", "ua")
    assert one != IDENTITY.device("acme", None, "203.0.113.8", "ua")
    assert one != IDENTITY.device("acme", None, "203.0.113.7", "ua2")


IPHONE_ID = "8d7e6f5a-1234-4abc-9def-001122334455"


@pytest.mark.parametrize(
    ("text", "install_id"),
    [
        (IPHONE_ID, IPHONE_ID),
        (IPHONE_ID.upper(), IPHONE_ID),  # iOS: UUID().uuidString
        (f" {IPHONE_ID}\n", IPHONE_ID),
        (IPHONE_ID.upper().replace("-", ""), IPHONE_ID.replace("-", "")),
        (f"{{{IPHONE_ID.upper()}}}", f"{{{IPHONE_ID}}}"),  # a GUID, as .NET may write it
        ("Install-Anna", "Install-Anna"),  # only of UUIDs it is known that case says nothing
        ("dQw4w9WgXcQ_8fR3kLm2Zt", "dQw4w9WgXcQ_8fR3kLm2Zt"),  # a Firebase installation id
        ("3f2a9c0b7d1e4856", "3f2a9c0b7d1e4856"),  # an ANDROID_ID
        ("00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000001"),
        ("x" * 127 + "y", "x" * 127 + "y"),
    ],
)
def test_an_install_id_has_one_form(text: str, install_id: str) -> None:
    """White space around it and the case of a UUID make no other install."""
    assert canonical_install_id(text) == install_id


@pytest.mark.parametrize(
    "text",
    [
        "00000000-0000-0000-0000-000000000000",  # iOS: advertisingIdentifier without permission
        "{00000000-0000-0000-0000-000000000000}",
        "000000000000000",  # an IMEI that may not be read
        "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
        "02:00:00:00:00:00",  # Android 6 and later: the MAC address that every app is told
        "9774d56d682e549c",  # the ANDROID_ID of many devices with Android 2.2
        "9774D56D682E549C",
        "dead00beef",
        "0123456789ABCDEF",  # Build.SERIAL of devices that were given none
        *("undefined", "UNDEFINED", "null", "nil", "none", "(null)", "<null>", "unknown", "[object Object]"),
        *("NaN", "Optional(nil)", '"undefined"', "********", "xxxxxxxx", "", "        "),
        *("short", "x" * 127 + "yz", "two\nlines", "a\u200bzero-width-space", "\udc00-------"),
    ],
)
def test_a_placeholder_is_no_install_id(text: str) -> None:
    """What many devices send, or no app can have meant, tells no installs apart."""
    assert canonical_install_id(text) is None
    assert canonical_install_id(f" {text}\t") is None


@given(st.text(max_size=140))
def test_a_canonical_install_id_is_its_own_form(text: str) -> None:
    """The canonical form is stable, bounded, and does not depend on white space around the id."""
    install_id = canonical_install_id(text)
    assert canonical_install_id(f"\t{text} ") == install_id
    assert install_id is None or canonical_install_id(install_id) == install_id
    assert install_id is None or 8 <= len(install_id) <= 128


@given(st.uuids())
def test_a_uuid_is_one_install_in_any_case(uuid: UUID) -> None:
    """An upper-case id from iOS and a lower-case one from a backend are one install."""
    assert canonical_install_id(str(uuid).upper()) == canonical_install_id(str(uuid))


def test_apps_and_secrets_keep_devices_apart() -> None:
    """An installId hashes differently for another app and under another secret."""
    anna = IDENTITY.device("acme", "install-anna", None, "")
    assert anna != IDENTITY.device("globex", "install-anna", None, "")
    assert anna != Identity([b"rotated"]).device("acme", "install-anna", None, "")


def test_an_install_is_never_taken_for_an_address() -> None:
    """No installId collides with an address and User-Agent that spell the same."""
    assert IDENTITY.device("acme", "203.0.113.7\0ua", None, "") != IDENTITY.device(
        "acme", None, "203.0.113.7", "ua"
    )


def test_answer_keys_are_bounded_and_distinct() -> None:
    """Keys of long targets stay short, and differ where the targets differ."""
    one, two = (answer_key("acme", "d" * 16, "https://acme.link/" + "x" * n) for n in (30_000, 30_001))
    assert one != two
    assert len(one) < 100


@pytest.mark.parametrize(
    ("client", "sent"),
    [
        ("okhttp/4.12.0", "okhttp/4.12.0 firstopen-device/0123456789abcdef"),
        ("", "firstopen-device/0123456789abcdef"),
        ("a\r\nX-Evil: 1", "aX-Evil: 1 firstopen-device/0123456789abcdef"),
        ("caf\u00e9", "caf firstopen-device/0123456789abcdef"),
        ("x" * 600, "x" * 512 + " firstopen-device/0123456789abcdef"),
    ],
)
def test_upstream_user_agent(client: str, sent: str) -> None:
    """The client's own User-Agent, made safe and cut, and then the device."""
    assert upstream_user_agent(client, "0123456789abcdef") == sent


@given(st.text())
def test_upstream_user_agent_is_always_a_header(client: str) -> None:
    """Whatever a client calls itself, Dub gets printable ASCII of a bounded length."""
    sent = upstream_user_agent(client, "0123456789abcdef")
    assert sent.isascii()
    assert sent.isprintable()
    assert len(sent) <= 512 + len(" firstopen-device/0123456789abcdef")


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded_for", "client"),
    [
        (["127.0.0.0/8"], "203.0.113.7", "", "203.0.113.7"),
        (["127.0.0.0/8"], "203.0.113.7", "198.51.100.1", "203.0.113.7"),  # not a proxy of ours
        (["127.0.0.0/8"], "127.0.0.1", "198.51.100.1", "198.51.100.1"),
        (["127.0.0.0/8"], "127.0.0.1", "6.6.6.6, 198.51.100.1", "198.51.100.1"),  # spoofed to the left
        (["127.0.0.0/8", "10.0.0.0/8"], "127.0.0.1", "198.51.100.1, 10.1.2.3", "198.51.100.1"),
        (["127.0.0.0/8", "10.0.0.0/8"], "127.0.0.1", "10.9.9.9, 10.1.2.3", "10.9.9.9"),  # all ours: the first
        (["127.0.0.0/8"], "127.0.0.1", "unknown", "127.0.0.1"),
        (["127.0.0.0/8", "10.0.0.0/8"], "127.0.0.1", "198.51.100.1, junk, 10.1.2.3", "10.1.2.3"),
        (["127.0.0.0/8"], "127.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
        (["::1"], "::1", "[2001:db8::7]:4711", "2001:db8::7"),
        (["127.0.0.0/8"], "::ffff:127.0.0.1", "::ffff:198.51.100.1", "198.51.100.1"),
        (["*"], "203.0.113.7", "198.51.100.1, 203.0.113.9", "198.51.100.1"),
        (["127.0.0.0/8"], None, "198.51.100.1", None),
    ],
)
def test_client_ip(trusted: list[str], peer: str | None, forwarded_for: str, client: str | None) -> None:
    """The client is the right-most address that is not a trusted proxy's."""
    assert TrustedProxies(trusted).client_ip(peer, forwarded_for) == client


@given(st.text())
def test_normal_ip_never_raises(text: str) -> None:
    """Any text is a normalised address or none."""
    normal = normal_ip(text)
    assert normal is None or normal_ip(normal) == normal


@pytest.mark.parametrize(
    "secret", [b"", b"secret", b"x" * 64, b"a secret longer than a block of SHA-256" * 2]
)
def test_a_device_is_an_hmac_of_its_install(secret: bytes) -> None:
    """Stored hashes stay valid: they are the beginning of the standard library's HMAC-SHA-256."""
    expected = hmac.digest(secret, b"acme\0i\0install-anna", "sha256").hex()[:16]
    assert Identity([secret]).device("acme", "install-anna", None, "") == expected
