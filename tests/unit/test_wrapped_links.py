"""An app's own short link inside what is reported: how it is found, and what is not taken for one."""

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.errors import InvalidField
from service.domain.wrapped_links import find_deep_link

DOMAINS = ("acme.link", "go.acme.com", "xn--bcher-kva.link")
WRAPPED = [
    # encoded
    "https%3A%2F%2Facme.link%2Ffb-promo",
    "acme.link%2Ffb-promo",
    # in a parameter, as Facebook, Instagram, Google and Slack pass links on
    "https://l.facebook.com/l.php?u=https%3A%2F%2Facme.link%2Ffb-promo&h=AT0fXq1dG",
    "https://l.instagram.com/?u=https%3A%2F%2Facme.link%2Ffb-promo&e=AT0",
    "https://www.google.com/url?sa=t&url=https%3A%2F%2Facme.link%2Ffb-promo&usg=AOvVaw0",
    "https://slack-redir.net/link?url=https://acme.link/fb-promo",
    "acme://open?link=https%3A%2F%2Facme.link%2Ffb-promo",
    "acme://open?a=1&url=acme.link/fb-promo",
    # behind the app's own scheme
    "acme://acme.link/fb-promo",
    "acme:///acme.link/fb-promo/",
    "acme://https://acme.link/fb-promo",
    "acme://https%3A%2F%2Facme.link%2Ffb-promo",
    # behind the domain, as Dub's SDKs send what they find (dub-api.md, "What the web side of a link does")
    "https://acme.link/https://acme.link/fb-promo",
    "https://acme.link/utm_source=x&deepLink=https%3A%2F%2Facme.link%2Ffb-promo",
    # in a text
    '"https://acme.link/fb-promo"',
    "\u201chttps://acme.link/fb-promo\u201d",
    "(https://acme.link/fb-promo)",
    "<https://acme.link/fb-promo>",
    "\u200bhttps://acme.link/fb-promo\u200b\u200b",
    "https://acme.link/fb-promo is great",
    "Look at this: https://acme.link/fb-promo!",
    "Try acme.link/fb-promo.",
    "Join me\nhttps://acme.link/fb-promo\nCode: 4711",
    "\u770bhttps://acme.link/fb-promo\uff0c\u597d",
    "https://other.example/x and https://www.acme.link./fb-promo",
]
NOT_OURS = [
    "https://acme.com/product/7",
    "acme://product/7",
    "exp://127.0.0.1:8081/--/product/7",
    "https://acme.link.evil.example/fb-promo",
    "https://notacme.link/fb-promo",
    "https://evil.example/acme.link/fb-promo",
    "https://evil.example/?u=https%3A%2F%2Fevil.example%2F%3Fu%3Dhttps%253A%252F%252Facme.link%252Ffb-promo",
]
NO_LINK = [
    "anna@acme.link/fb-promo",
    "write to anna@acme.link, please",
    "acme.link is our domain",
    "https://acme.link@evil.example/fb-promo",
    "Dear Anna, the code is 4711.",
]


@pytest.mark.parametrize("text", WRAPPED)
def test_an_own_link_inside_is_found(text: str) -> None:
    """Whatever passed the link on, it is the link that was shared."""
    link = find_deep_link(text, DOMAINS)
    assert (link.domain, link.key, link.query) == ("acme.link", "fb-promo", "")


def test_what_the_wrapped_link_carries_is_kept() -> None:
    """The parameters are the short link's, not its wrapper's."""
    wrapper = (
        "https://l.facebook.com/l.php?u=https%3A%2F%2Facme.link%2Ffb-promo%3Fref%3Dig%26q%3Da%2520b&h=AT0"
    )
    assert find_deep_link(wrapper, DOMAINS).query == "ref=ig&q=a%20b"


@pytest.mark.parametrize(
    "host", ["b\u00fccher.link", "B\u00dcCHER.link", "xn--bcher-kva.link", "b%C3%BCcher.link"]
)
@pytest.mark.parametrize("around", ["{}", "see https://{}", "acme://open?link=https://{}", "acme://{}"])
def test_international_domains_are_found_in_either_form(around: str, host: str) -> None:
    """Unicode and punycode are one domain, wrapped or not."""
    if around.startswith("see") and "%" in host:
        host = "xn--bcher-kva.link"  # words are not encoded
    assert find_deep_link(around.format(f"{host}/x"), DOMAINS).domain == "xn--bcher-kva.link"


@pytest.mark.parametrize("text", NOT_OURS)
def test_another_link_is_left_as_it_is(text: str) -> None:
    """Neither another host, nor a link two levels deep, is one of ours."""
    link = find_deep_link(text, DOMAINS)
    assert link.domain not in DOMAINS
    assert link.href == text


@pytest.mark.parametrize("text", NO_LINK)
def test_words_are_no_link(text: str) -> None:
    """An address, a mention and a letter are nobody's business."""
    with pytest.raises(InvalidField) as refused:
        find_deep_link(text, DOMAINS, "clipboard")
    assert refused.value.field == "clipboard"
    assert text not in str(refused.value)


@pytest.mark.parametrize(
    "outer",
    ["https://acme.link/promo?u=https://acme.link/other", "https://acme.link/a:b", "https://acme.link/a%20b"],
)
def test_an_own_link_is_taken_as_it_is(outer: str) -> None:
    """A short link's own parameters are its own, whatever they hold."""
    assert find_deep_link(outer, DOMAINS).href == outer


@given(
    st.text(max_size=200)
    | st.lists(
        st.sampled_from(
            ["https://", "acme.link", "/", "?", "=", "&", "%", "3A", "2F", ".", " ", "a", "#", ":", "@"]
        ),
        max_size=30,
    ).map("".join)
)
def test_nothing_but_a_refusal_is_raised(text: str) -> None:
    """Any text is a link or an ``InvalidField``."""
    try:
        find_deep_link(text, DOMAINS, "clipboard")
    except InvalidField as refused:
        assert refused.field == "clipboard"  # noqa: PT017  both outcomes are fine; the field is the claim


HARD = [
    *(
        "https://",
        "acme.link",
        "acme.link/",
        " acme.link",
        "https://acme.link ",
        "https://acme.link@",
        "www.",
    ),
    *(
        "%25",
        "%",
        "%&",
        "https%3A%2F%2F",
        "a=.&",
        "pw=1&",
        "&",
        ".",
        ":",
        "x:",
        "@",
        "/",
        "../",
        "?",
        "#",
        '"',
        " ",
    ),
    *("\u200b", "\u6f22"),
]


@pytest.mark.parametrize("piece", HARD)
@pytest.mark.parametrize("start", ["", "a ", "https://acme.link/", "https://x.example/?u="])
def test_time_grows_with_the_texts_length(start: str, piece: str) -> None:
    """Eight times the text takes at most some eight times as long: no work grows with the square.

    Up to 8 kB a text is searched, beyond that only parsed: 64 kB is what a request may hold.
    """
    bytes_each = len(piece.encode())
    texts = {size: start + piece * (size // bytes_each) + "x.y" for size in (1_000, 8_000, 64_000)}
    took = {size: _took_s(text) for size, text in texts.items()}
    print(f"{start + piece!r}: 64 kB in {took[64_000] * 1000:.1f} ms, 8 kB in {took[8_000] * 1000:.1f} ms")  # noqa: T201  pytest -s shows it
    assert took[8_000] < 32 * max(took[1_000], 0.0005)
    assert took[64_000] < 32 * max(took[8_000], 0.0005)


def _took_s(text: str) -> float:
    """Return the CPU time of the quickest of three searches."""
    took = []
    for _ in range(3):
        began = time.process_time()
        with contextlib.suppress(InvalidField):
            find_deep_link(text, DOMAINS)
        took.append(time.process_time() - began)
    return min(took)
