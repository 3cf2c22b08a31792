"""What is sealed says nothing, and opens under any secret that is still listed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.store.sealing import Seal, Unsealable

SECRET = "a secret of some length, for tests"
OLDER = "the secret before that one, for tests"


@given(st.binary(max_size=2000))
def test_what_is_sealed_opens_again(text: bytes) -> None:
    """Every text comes back as it was."""
    seal = Seal([SECRET])
    assert seal.open(seal.seal(text)) == text


@given(st.binary(min_size=8, max_size=200))
def test_what_is_sealed_says_nothing(text: bytes) -> None:
    """The text is not in it, and sealing twice gives two different results."""
    seal = Seal([SECRET])
    one, two = seal.seal(text), seal.seal(text)
    assert text not in one
    assert one != two


def test_older_secrets_still_open() -> None:
    """After a rotation, what was sealed before opens; what is sealed now needs the current secret."""
    before, after = Seal([OLDER]), Seal([SECRET, OLDER])
    assert after.open(before.seal(b"anna@example.com")) == b"anna@example.com"
    assert Seal([SECRET]).open(after.seal(b"anna@example.com")) == b"anna@example.com"
    with pytest.raises(Unsealable):
        before.open(after.seal(b"anna@example.com"))


def test_another_secret_does_not_open() -> None:
    """A secret that is not listed opens nothing, and the message repeats nothing."""
    with pytest.raises(Unsealable, match="FIRSTOPEN_SECRET") as raised:
        Seal(["nobody's secret"]).open(Seal([SECRET]).seal(b"anna@example.com"))
    assert "anna" not in str(raised.value)
    assert SECRET not in str(raised.value)


@given(st.data())
def test_damage_is_noticed(data: st.DataObject) -> None:
    """Any byte that is changed, dropped or added makes it unsealable: never another text."""
    seal = Seal([SECRET])
    sealed = seal.seal(b"anna@example.com")
    at = data.draw(st.integers(0, len(sealed) - 1))
    change = data.draw(st.integers(1, 255))
    kind = data.draw(st.sampled_from(["cut", "changed", "longer"]))
    damaged = {
        "cut": sealed[:at],
        "changed": sealed[:at] + bytes([sealed[at] ^ change]) + sealed[at + 1 :],
        "longer": sealed[:at] + b"A" + sealed[at:],
    }[kind]
    try:
        opened = seal.open(damaged)
    except Unsealable:
        return
    assert opened == b"anna@example.com"  # base64 leaves two bits of its last letter unread


@pytest.mark.parametrize("junk", [b"", b"x", b"\x00" * 100, b"{}", b"gAAAAA" * 30])
def test_junk_is_unsealable(junk: bytes) -> None:
    """What was never sealed raises Unsealable, and nothing else."""
    with pytest.raises(Unsealable):
        Seal([SECRET]).open(junk)
