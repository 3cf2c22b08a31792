"""Canonical deep links: one link has one name, however it was typed."""

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from msgspec import structs

from service.domain.deep_links import canonical_domain, parse_deep_link
from service.domain.errors import InvalidField

KNOWN = [
    # typed, domain, key, query
    ("https://acme.link/fb-promo", "acme.link", "fb-promo", ""),
    ("http://acme.link/fb-promo", "acme.link", "fb-promo", ""),
    ("acme.link/fb-promo", "acme.link", "fb-promo", ""),
    ("ACME.Link/Fb-Promo", "acme.link", "Fb-Promo", ""),
    ("https://www.acme.link/fb-promo", "acme.link", "fb-promo", ""),
    ("www.acme.link/fb-promo", "acme.link", "fb-promo", ""),
    ("https://acme.link", "acme.link", "_root", ""),
    ("https://acme.link/", "acme.link", "_root", ""),
    ("https://acme.link/?ref=ig", "acme.link", "_root", "ref=ig"),
    ("https://acme.link/_root", "acme.link", "_root", ""),
    ("https://acme.link/fb-promo?ref=ig&a=1#top", "acme.link", "fb-promo", "ref=ig&a=1"),
    ("https://acme.link/fb-promo?", "acme.link", "fb-promo", ""),
    ("http://acme.localhost:8001/fb-promo", "acme.localhost", "fb-promo", ""),
    ("acme.localhost:8001/fb-promo", "acme.localhost", "fb-promo", ""),
    ("  https://acme.link/fb-promo  ", "acme.link", "fb-promo", ""),
    ("https://acme.link/a/b/", "acme.link", "a/b", ""),
    ("https://acme.link/fb-promo/", "acme.link", "fb-promo", ""),
    ("https://acme.link//fb-promo", "acme.link", "fb-promo", ""),
    ("https://acme.link///fb-promo///?a=1", "acme.link", "fb-promo", "a=1"),
    ("https://acme.link//", "acme.link", "_root", ""),
    ("https://acme.link./fb-promo", "acme.link", "fb-promo", ""),
    ("https://www.acme.link./fb-promo", "acme.link", "fb-promo", ""),
    ("https://acme.link/%66b-promo", "acme.link", "fb-promo", ""),
    ("https://acme.link/caf%c3%a9", "acme.link", "caf%C3%A9", ""),
    ("https://acme.link/fb-promo\n", "acme.link", "fb-promo", ""),
    ("\ufeff\u200bhttps://acme.link/fb-promo\u200b", "acme.link", "fb-promo", ""),
    ("https://acme.link/a/../b", "acme.link", "b", ""),
    ("https://acme.link/caf\u00e9", "acme.link", "caf%C3%A9", ""),
    ("https://b\u00fccher.example/x", "xn--bcher-kva.example", "x", ""),
    ("https://acme.link\\fb-promo", "acme.link", "fb-promo", ""),
    ("https:acme.link/fb-promo", "acme.link", "fb-promo", ""),
]

REFUSED = [
    ("", "blank"),
    ("   ", "blank"),
    ("fb-promo", "not a URL"),
    ("hello there.com/x", "not a URL"),
    ("https://", "not a URL"),
    ("https://acme.link:99999/x", "not a URL"),
    ("https://[::1/x", "not a URL"),
    ("https://anna@acme.link/x", "user info"),
    ("https://anna:secret@acme.link/x", "user info"),
    ("https://acme.link@evil.example/x", "user info"),
    ("https://acme.link/\x00x", "control"),
    ("\u200b\n", "blank"),
    ("https://acme.link/a\nb", "control"),
    ("https://acme.link/\ud800", "surrogates"),
]


@pytest.mark.parametrize(("typed", "domain", "key", "query"), KNOWN)
def test_canonical_parts(typed: str, domain: str, key: str, query: str) -> None:
    """Scheme added, host lower-cased, www. and port dropped, path case kept, query kept apart.

    Dub's redirect finds a link whose slashes are doubled or at the end; ``/track/open`` takes the path as it
    is sent (dub-api.md, "POST /track/open"), so it is sent in one form.
    """
    link = parse_deep_link(typed)
    assert (link.domain, link.key, link.query) == (domain, key, query)
    path = "" if key == "_root" else key
    assert link.at_dub == f"https://{domain}/{path}"
    fragment = "#top" if "#top" in typed else ""
    assert link.url == link.at_dub + (f"?{query}" if query else "") + fragment
    assert link.carried == query + fragment


@pytest.mark.parametrize(("typed", "problem"), REFUSED)
def test_refused_with_the_field_named(typed: str, problem: str) -> None:
    """What is no link is refused, naming the field and never repeating the text."""
    with pytest.raises(InvalidField, match=rf"^deepLink: .*{problem}") as refused:
        parse_deep_link(typed)
    assert not typed.strip() or typed not in str(refused.value)


@pytest.mark.parametrize("typed", ["acme://product/5", "mailto:a@b.c", "javascript:alert(1)", "intent:x#y"])
def test_other_schemes_have_no_domain(typed: str) -> None:
    """A link of another scheme never looks like one of Dub's."""
    assert parse_deep_link(typed).domain == ""


@given(
    start=st.sampled_from(["", "https://", "http://", "HTTPS://", "https:/", " https://", "\u200bhttps://"]),
    www=st.sampled_from(["", "www.", "WWW."]),
    host=st.sampled_from(
        ["b\u00fccher.link", "B\u00dcCHER.link", "xn--bcher-kva.link", "XN--BCHER-KVA.LINK"]
    ),
    end_of_host=st.sampled_from(["", ".", ":8443", ".:443"]),
    slashes=st.tuples(st.sampled_from(["/", "//", "///"]), st.sampled_from(["", "/", "//"])),
    key=st.tuples(*(st.sampled_from([c, f"%{ord(c):02x}", f"%{ord(c):02X}"]) for c in "fb-promo")),
    end=st.sampled_from(["", "?", "?pw=x", "#top", "\n", " ", "\ufeff"]),
)
def test_every_form_of_a_link_has_one_name(
    start: str,
    www: str,
    host: str,
    end_of_host: str,
    slashes: tuple[str, str],
    key: tuple[str, ...],
    end: str,
) -> None:
    """However a link is typed, copied or encoded, it is the same domain and key."""
    typed = f"{start}{www}{host}{end_of_host}{slashes[0]}{''.join(key)}{slashes[1]}{end}"
    assume(start or end_of_host != ".:443")
    link = parse_deep_link(typed)
    assert (link.domain, link.key, link.at_dub) == (
        "xn--bcher-kva.link",
        "fb-promo",
        "https://xn--bcher-kva.link/fb-promo",
    )


@given(
    st.text(max_size=80)
    | st.from_regex(r"(https?://)?(www\.){0,3}[a-z0-9.%-]{1,20}(:\d{1,6})?(/\S{0,20})?")
    | st.from_regex(r"https://[a-z0-9.]{1,8}(/|\.|%[0-9a-fA-F]{2}|[a-z?#])*", fullmatch=True)
)
@example("https://www.www.acme.link/x")
@example("https://www./x")
@example("https://acme.link/?")
@example("https://www.com")
@example("HTTP:\\\\www.A.b\\c?d#e")
@example("xn--a.b/%")
@example("https://a/%%32e")
@example("https://1../x")
@example("https://www../x")
@example("https://a/%2e%2e%2e//%2e/")
def test_canonical_is_a_fixed_point(typed: str) -> None:
    """Canonicalising twice changes nothing, and nothing but InvalidField is ever raised."""
    try:
        once = parse_deep_link(typed)
    except InvalidField:
        return
    twice = parse_deep_link(once.url)
    assert twice == structs.replace(once, href=twice.href, no_track=False)


@given(st.text() | st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")))
def test_nothing_else_is_raised(typed: str) -> None:
    """Any text is a deep link or an InvalidField."""
    try:
        parse_deep_link(typed)
    except InvalidField as refused:
        assert refused.field == "deepLink"  # noqa: PT017  both outcomes are fine; the error's field is the claim


@pytest.mark.parametrize(
    ("typed", "domain"),
    [
        ("acme.link", "acme.link"),
        ("WWW.Acme.Link", "acme.link"),
        ("acme.link:8001", "acme.link"),
        ("acme.link.", "acme.link"),
        (" acme.link\n", "acme.link"),
        ("b\u00fccher.link", "xn--bcher-kva.link"),
        ("B\u00dcCHER.link", "xn--bcher-kva.link"),
        ("XN--bcher-kva.link", "xn--bcher-kva.link"),
        ("anna@acme.link", ""),
        ("acme%2elink", ""),
        ("[::1]", ""),
        ("acme.link/x", ""),
        ("a b", ""),
        ("", ""),
        ("*", ""),
        ("acme.*", ""),
    ],
)
def test_canonical_domain(typed: str, domain: str) -> None:
    """A bare domain is compared as a deep link's is."""
    assert canonical_domain(typed) == domain
