"""URLs as text: Dub's own parameters, escapes, and what a clicked link lays over its destination."""

import re
from urllib.parse import parse_qsl, unquote_plus, unquote_to_bytes

import ada_url
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.domain.urls import (
    DUB_PARAMETERS,
    canonical_escapes,
    has_parameter,
    merge,
    names_of,
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


@given(
    st.lists(st.sampled_from(["%", "2", "5", "6", "%26", "%25", "%3D", "+", "a", "%ff", "%c3", "%a9", "é"])),
    st.lists(st.sampled_from(["a", "%26", "%"])),
)
def test_names_are_decoded_as_in_forms(name: list[str], other: list[str]) -> None:
    """Each is what the standard library makes of it alone, whatever stands beside it."""
    names = ["".join(name), "".join(other)]
    assert names_of([f"{each}=%41" for each in names]) == [unquote_plus(each) for each in names]


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


@pytest.mark.parametrize(
    ("destination", "carried", "expected"),
    [
        ("https://acme.com/p", "", "https://acme.com/p"),
        ("https://acme.com/p", "ref=ig", "https://acme.com/p?ref=ig"),
        ("https://acme.com/p?a=1&b=2", "a=3", "https://acme.com/p?a=3&b=2"),
        ("https://acme.com/p?a=1", "b=2&b=3", "https://acme.com/p?a=1&b=3"),
        ("https://acme.com/p?a=1&a=2&b=~", "a=3", "https://acme.com/p?a=3&b=~"),
        ("https://acme.com/p?%61=1", "a=3", "https://acme.com/p?a=3"),
        ("https://acme.com/p?", "&&=&a", "https://acme.com/p?=&a"),
        ("https://acme.com/p?", "&", "https://acme.com/p"),
        ("acme://product/5", "ref=ig", "acme://product/5?ref=ig"),
        # as it was written, but for a space
        ("https://acme.com/p?q=red%20shoes", "ref=ig", "https://acme.com/p?q=red%20shoes&ref=ig"),
        ("https://acme.com/p?q=red+shoes", "ref=a+b", "https://acme.com/p?q=red%20shoes&ref=a%20b"),
        ("https://acme.com/p?q=red+shoes", "", "https://acme.com/p?q=red+shoes"),
        ("https://acme.com/p?a=%E9", "n=Ren%E9", "https://acme.com/p?a=%E9&n=Ren%E9"),
        # fragments
        ("https://acme.com/p?a=1#top", "b=2", "https://acme.com/p?a=1&b=2#top"),
        ("https://acme.com/#/product/1", "fbclid=1", "https://acme.com/?fbclid=1#/product/1"),
        ("https://acme.com/#/find?q=a", "fbclid=1", "https://acme.com/?fbclid=1#/find?q=a"),
        ("https://acme.com/p", "#reviews", "https://acme.com/p#reviews"),
        ("https://acme.com/p", "a=1#reviews", "https://acme.com/p?a=1#reviews"),
        ("https://acme.com/p#top", "a=1#reviews", "https://acme.com/p?a=1#top"),
        ("https://acme.com/p#", "#reviews", "https://acme.com/p#"),
    ],
)
def test_what_a_clicked_link_lays_over_its_destination(destination: str, carried: str, expected: str) -> None:
    """Its parameters override the destination's (dub-api.md, "What the web side of a link does").

    The rest stays as it was written; a fragment is inherited by a destination that has none, as browsers do.
    """
    assert merge(destination, carried) == expected


PIECES = st.lists(
    st.sampled_from(
        ["%ff", "%E9", "%00", "%", "&", "=", "+", "a", "b", "~", "*", "#", "?", ";", "\u00e9", "\n"]
    ),
    max_size=12,
).map("".join)


@given(PIECES, PIECES)
def test_merging_is_what_a_browser_would_do(own: str, clicked: str) -> None:
    """It agrees with ada's URLSearchParams in what each parameter is, where the queries are UTF-8."""
    own, clicked = (re.sub(r"[#\n]", "", query) for query in (own, clicked))
    for query in (own, clicked):
        assume(unquote_to_bytes(query).decode("utf-8", "replace").count("\ufffd") == 0)
    params = ada_url.URLSearchParams(f"?{own}")
    for name, value in ada_url.URLSearchParams(f"?{clicked}").items():
        params.set(name, value)
    merged = merge(f"https://acme.com/p?{own}", clicked).partition("?")[2]
    assert sorted(parse_qsl(merged, keep_blank_values=True)) == sorted(params.items())


@given(PIECES, PIECES)
def test_merging_twice_changes_nothing_more(own: str, carried: str) -> None:
    """A browser that follows the merged URL by the same link ends where it was."""
    once = merge(f"https://acme.com/p?{own}", carried)
    assert merge(once, carried) == once


def test_a_long_query_costs_no_more_than_its_length() -> None:
    """Thousands of parameters are merged in one pass: no work that grows with their square."""
    own = "&".join(f"a{n}=1" for n in range(4000))
    clicked = "&".join(f"b{n}=2" for n in range(4000))
    assert merge(f"https://acme.com/p?{own}", clicked).count("&") == 7999
