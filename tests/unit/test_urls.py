"""URLs as text: Dub's own parameters, escapes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.resolve.urls import (
    DUB_PARAMETERS,
    canonical_escapes,
    has_parameter,
    without_dub_parameters,
)


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("", ""),
        ("utm_source=ig", "utm_source=ig"),
        ("pw=x&qr=1&skip_deeplink_preview=1&utm_source=ig", "utm_source=ig"),
        ("a=1&redir_url=https%3A%2F%2Fx.example&b=%20+", "a=1&b=%20+"),
        ("pw", ""),
        ("pw=", ""),
        ("%70%77=x&dub%2dno%2Dtrack=1&dub-client-reference-id=c", ""),
        ("pw%20=x&Pw=x&pwd=x&q=pw", "pw%20=x&Pw=x&pwd=x&q=pw"),
        ("&&a=1&", "&&a=1&"),
    ],
)
def test_dubs_own_parameters_are_removed(query: str, left: str) -> None:
    """Dub never hands its own parameters on (dub-api.md, "What the web side of a link does").

    What else a query holds stays as it was written.
    """
    assert without_dub_parameters(query) == left


@given(st.lists(st.sampled_from(["a=1", "b", "%70w=x", "=", "", "q=a+b", *sorted(DUB_PARAMETERS)])))
def test_nothing_but_dubs_own_parameters_is_removed(pairs: list[str]) -> None:
    """Removing them twice changes nothing more, and none is left."""
    left = without_dub_parameters("&".join(pairs))
    assert without_dub_parameters(left) == left
    assert not any(has_parameter(left, name) for name in DUB_PARAMETERS)
    assert [each for each in left.split("&") if each] == [
        each for each in pairs if each and each not in DUB_PARAMETERS and each != "%70w=x"
    ]


def test_each_escape_has_one_form() -> None:
    """RFC 3986, 6.2.2: in upper case, and none of a character that needs none."""
    for code in range(256):
        char = chr(code)
        plain = char if char.isascii() and (char.isalnum() or char in "-._~") else f"%{code:02X}"
        assert canonical_escapes(f"a%{code:02x}b%{code:02X}") == f"a{plain}b{plain}"


@given(
    st.lists(st.sampled_from(["%", "%2", "%2e", "%7E", "%c3", "%32", "%65", "a", "F", "2", "5", "~"])).map(
        "".join
    )
)
def test_escapes_are_written_once_and_for_all(text: str) -> None:
    """Writing them in one way twice changes nothing more."""
    assert canonical_escapes(canonical_escapes(text)) == canonical_escapes(text)
