"""What is encrypted says nothing, and is decrypted under any secret that is still listed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.storage.encryption import Cipher, Undecryptable

SECRET = "a secret of some length, for tests"
OLDER = "the secret before that one, for tests"


@given(st.binary(max_size=2000))
def test_what_is_encrypted_is_decrypted_again(text: bytes) -> None:
    """Every text comes back as it was."""
    cipher = Cipher([SECRET])
    assert cipher.decrypt(cipher.encrypt(text)) == text


@given(st.binary(min_size=8, max_size=200))
def test_what_is_encrypted_says_nothing(text: bytes) -> None:
    """The text is not in it, and encrypting twice gives two different results."""
    cipher = Cipher([SECRET])
    one, two = cipher.encrypt(text), cipher.encrypt(text)
    assert text not in one
    assert one != two


def test_older_secrets_still_decrypt() -> None:
    """After a rotation, what was encrypted before is read; what is encrypted now needs the current secret."""
    before, after = Cipher([OLDER]), Cipher([SECRET, OLDER])
    assert after.decrypt(before.encrypt(b"anna@example.com")) == b"anna@example.com"
    assert Cipher([SECRET]).decrypt(after.encrypt(b"anna@example.com")) == b"anna@example.com"
    with pytest.raises(Undecryptable):
        before.decrypt(after.encrypt(b"anna@example.com"))


def test_another_secret_does_not_decrypt() -> None:
    """A secret that is not listed decrypts nothing, and the message repeats nothing."""
    with pytest.raises(Undecryptable, match="FIRSTOPEN_SECRET") as raised:
        Cipher(["nobody's secret"]).decrypt(Cipher([SECRET]).encrypt(b"anna@example.com"))
    assert "anna" not in str(raised.value)
    assert SECRET not in str(raised.value)


@given(st.data())
def test_damage_is_noticed(data: st.DataObject) -> None:
    """Any byte that is changed, dropped or added makes it undecryptable: never another text."""
    cipher = Cipher([SECRET])
    encrypted = cipher.encrypt(b"anna@example.com")
    at = data.draw(st.integers(0, len(encrypted) - 1))
    change = data.draw(st.integers(1, 255))
    kind = data.draw(st.sampled_from(["cut", "changed", "longer"]))
    damaged = {
        "cut": encrypted[:at],
        "changed": encrypted[:at] + bytes([encrypted[at] ^ change]) + encrypted[at + 1 :],
        "longer": encrypted[:at] + b"A" + encrypted[at:],
    }[kind]
    with pytest.raises(Undecryptable):
        cipher.decrypt(damaged)


@pytest.mark.parametrize("junk", [b"", b"x", b"\x00" * 100, b"{}", b"gAAAAA" * 30])
def test_junk_is_undecryptable(junk: bytes) -> None:
    """What was never encrypted raises Undecryptable, and nothing else."""
    with pytest.raises(Undecryptable):
        Cipher([SECRET]).decrypt(junk)
