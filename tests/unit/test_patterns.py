"""Route patterns match what a person would expect of them: forgiving in form, by parameter in queries."""

import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.routing import Router, RouteRule

SCHEMES = ("acme", "exp", "web+acme", "com.acme.2")


def routed(url: str, *rules: RouteRule | str, carried: str = "") -> tuple[str, dict[str, str]] | None:
    """Return the screen and params, None if no rule matches; a bare pattern's screen is the pattern."""
    known = [RouteRule(pattern=rule, screen=rule) if isinstance(rule, str) else rule for rule in rules]
    route = Router(known, default_screen="home", schemes=("acme", "exp", "web+acme", "com.acme.2")).route(
        url, carried
    )
    return (route.screen, route.params) if route.reason == "matched" else None


WEB = "https://acme.com/product/:id"
OWN = "acme://product/:id"
FORGIVING = [
    (WEB, "https://acme.com/product/1/"),
    (WEB, "http://acme.com/product/1"),
    (WEB, "https://www.acme.com/product/1"),
    (WEB, "http://WWW.ACME.com//product//1//?a=1#top"),
    (WEB, "https://acme.com./product/1"),
    (WEB, "https://acme.com:443/product/1"),
    (WEB, "https://acme.com/%70roduct/1"),
    ("http://www.acme.com/product/:id/", "https://acme.com/product/1"),
    ("http{s}?://{www.}?acme.com/product/:id{/}?", "http://www.acme.com/product/1/"),
    ("https://acme.com./product/:id", "https://acme.com/product/1"),
    ("http://acme.com:8080/product/:id", "http://acme.com:8080/product/1"),
    (OWN, "acme://product/1"),
    (OWN, "acme:///product/1"),
    (OWN, "acme:/product/1"),
    (OWN, "acme:product/1"),
    (OWN, "ACME://product/1/?a=1#top"),
    ("ACME://product/:id", "acme://product/1"),
    ("acme:product/:id", "acme://product/1"),
    ("acme:///product/:id", "acme://product/1"),
    ("(acme|exp)://product/:id", "exp://product/1"),
    ("exp://127.0.0.1:8081/--/product/:id", "exp://127.0.0.1:8081/--/product/1"),
    ("web+acme://product/:id", "web+acme://product/1"),
    ("com.acme.2://product/:id", "com.acme.2:/product/1"),
    ("acme://{acme.com/}?product/:id", "acme://acme.com/product/1"),
]
STRICT = [
    (WEB, "https://acme.com/product/1/2"),
    (WEB, "https://acme.com/Product/1"),
    (WEB, "https://shop.acme.com/product/1"),
    (WEB, "https://acme.com:8080/product/1"),
    (WEB, "acme://acme.com/product/1"),
    (OWN, "acme://product/1/2"),
    (OWN, "exp://product/1"),
    (OWN, "https://product/1"),
    (OWN, "https://acme/product/1"),
    ("acme://product", "acme://product/1"),
    ("other://product/:id", "acme://product/1"),
    ("https://acme.own/product/:id", "acme://product/1"),
    (OWN, "http://acme.own/product/1"),
    (WEB, "https://./acme.com/product/1"),
]


@pytest.mark.parametrize(("pattern", "url"), FORGIVING)
def test_forms_of_one_url_take_the_same_route(pattern: str, url: str) -> None:
    """Scheme, ``www.``, slashes, escapes and a dot after the host make no other page of it."""
    assert routed(url, pattern) == (pattern, {"id": "1"})


@pytest.mark.parametrize(("pattern", "url"), STRICT)
def test_another_url_takes_another_route(pattern: str, url: str) -> None:
    """What is another host, path, port or scheme is not forgiven."""
    assert routed(url, pattern) is None


@pytest.mark.parametrize(
    ("pattern", "url"),
    [
        ("https://acme.com/caf\u00e9/:x", "https://acme.com/caf%c3%a9/1"),
        ("https://acme.com/caf%c3%a9/:x", "https://acme.com/caf\u00e9/1"),
        ("https://acme.com/caf%C3%A9/:x", "https://acme.com/%63af%C3%a9/1"),
        ("acme://caf%c3%a9/:x", "acme://caf%C3%A9/1"),
        ("https://b\u00fccher.example/:x", "https://xn--bcher-kva.example/1"),
        ("https://xn--bcher-kva.example/:x", "https://www.B\u00dcCHER.example/1"),
        ("https://acme.com/100%/:x", "https://acme.com/100%25/1"),
    ],
)
def test_escapes_and_international_names_have_many_spellings(pattern: str, url: str) -> None:
    """Percent-encoding and punycode say the same thing in other letters."""
    assert routed(url, pattern) == (pattern, {"x": "1"})


def test_a_slash_at_the_end_is_taken_as_it_is_first() -> None:
    """A route that matches the URL as it ends goes before one that matches it with the other ending."""
    rules = ("https://acme.com/category/*", "https://acme.com/category")
    assert routed("https://acme.com/category", *rules) == (rules[1], {})
    assert routed("https://acme.com/category/", *rules) == (rules[0], {})
    assert routed("https://acme.com/category", rules[0]) == (rules[0], {})


def test_a_subdomain_that_is_www() -> None:
    """A pattern for any subdomain takes ``www`` for one where no other route does."""
    assert routed("https://www.acme.com/x", "https://:shop.acme.com/x") == (
        "https://:shop.acme.com/x",
        {"shop": "www"},
    )


@pytest.mark.parametrize(
    "url", ["acme:", "acme://", "acme:///", "acme://a", "acme://a/b/c?x=1#y", "acme:a:b", "acme:a%zz"]
)
def test_a_pattern_for_all_of_a_scheme(url: str) -> None:
    """``acme://*`` covers whatever has the scheme."""
    assert routed(url, "acme://*") == ("acme://*", {})


SEARCH = RouteRule(pattern="https://acme.com/search", screen="search", query=("q", "sort"))


@pytest.mark.parametrize(
    ("query", "params"),
    [
        ("", {}),
        ("?q=red", {"q": "red"}),
        ("?sort=new&q=red%20shoes&utm_source=ig", {"q": "red shoes", "sort": "new"}),
        ("?q=red+shoes", {"q": "red shoes"}),
        ("?q=", {"q": ""}),
        ("?q", {"q": ""}),
        ("?%71=1%2B1", {"q": "1+1"}),
        ("?q=a&q=b", {"q": "b"}),
        ("?q=%ff", {"q": "%FF"}),
        ("?q=caf\u00e9&sort=%F0%9F%91%9F", {"q": "caf\u00e9", "sort": "\U0001f45f"}),
        ("?Q=red", {}),
    ],
)
def test_parameters_of_the_query_become_params(query: str, params: dict[str, str]) -> None:
    """Those that the route names: decoded, in any order, absent where they are absent."""
    assert routed(f"https://acme.com/search{query}", SEARCH) == ("search", params)


def test_what_the_link_carried_becomes_params_too() -> None:
    """Merged with the destination, as on the web, and not encoded once more."""
    assert routed("https://acme.com/search?q=red%20shoes&sort=old", SEARCH, carried="sort=new&fbclid=1") == (
        "search",
        {"q": "red shoes", "sort": "new"},
    )


@pytest.mark.parametrize(
    ("pattern", "url", "params"),
    [
        ("https://acme.com/p?id=:id", "https://acme.com/p?id=7", {"id": "7"}),
        ("https://acme.com/p?id=:id", "https://acme.com/p?fbclid=1&id=7&ref=ig", {"id": "7"}),
        ("https://acme.com/p?page=item&id=:id", "https://acme.com/p/?id=7&page=item", {"id": "7"}),
        ("https://acme.com/p?page=item&id=:id", "https://acme.com/p?id=7&page=other", None),
        ("https://acme.com/p?page=item&id=:id", "https://acme.com/p?id=7", None),
        ("https://acme.com/p?id=:id(\\d+)", "https://acme.com/p?id=x", None),
        ("https://acme.com/p?id=:id(\\d+)", "https://acme.com/p?id=12", {"id": "12"}),
        ("https://acme.com/p?tab=(a|b&c)&id=:id", "https://acme.com/p?id=7&tab=a", {"id": "7"}),
        ("https://acme.com/p?id=*", "https://acme.com/p?id=", {}),
        ("https://acme.com/p?q=red shoes&id=:id", "https://acme.com/p?id=7&q=red+shoes", {"id": "7"}),
        ("https://acme.com/p?a%5Bb%5D=:id", "https://acme.com/p?a[b]=7", {"id": "7"}),
        ("https://acme.com/p?*", "https://acme.com/p", {}),
        ("https://acme.com/p?id=:id&*", "https://acme.com/p?a=1&id=7%20b", {"id": "7 b"}),
        ("acme://open?screen=item&id=:id", "acme:///open/?id=7&x=1&screen=item", {"id": "7"}),
    ],
)
def test_a_pattern_that_names_a_query(pattern: str, url: str, params: dict[str, str] | None) -> None:
    """Each parameter that it names is needed, wherever it stands; others do not matter."""
    found = routed(url, pattern)
    assert (found and found[1]) == params


@pytest.mark.parametrize(
    ("url", "carried", "params"),
    [
        ("https://acme.com/#/product/1", "", {"id": "1"}),
        ("https://acme.com/#/product/1", "fbclid=1&ref=ig", {"id": "1", "ref": "ig"}),
        ("https://acme.com?ref=a#/product/1?ref=b&x=1", "", {"id": "1", "ref": "a"}),
        ("https://acme.com/#/product/1?ref=b", "fbclid=1", {"id": "1", "ref": "b"}),
        ("https://acme.com/", "fbclid=1#/product/1", {"id": "1"}),
        ("https://acme.com/#product/1", "", None),
        ("https://acme.com/", "", None),
    ],
)
def test_routes_in_the_fragment(url: str, carried: str, params: dict[str, str] | None) -> None:
    """A hash route survives a merged query, has a query of its own, and may be inherited from the link."""
    rule = RouteRule(pattern="https://acme.com/#/product/:id", screen="product", query=("ref",))
    found = routed(url, rule, carried=carried)
    assert (found and found[1]) == params


VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@given(
    st.dictionaries(st.sampled_from(["q", "sort", "page", "id", "utm_source", "fb clid"]), VALUES).flatmap(
        lambda given: st.tuples(st.permutations(list(given.items())), st.permutations(list(given.items())))
    )
)
def test_the_order_of_parameters_does_not_matter(orders: tuple[list[tuple[str, str]], ...]) -> None:
    """A route's outcome, params included, is the same in every order; values arrive as they were."""
    rules = (
        RouteRule(pattern="https://acme.com/?page=item&id=:id", screen="item", query=("q",)),
        RouteRule(pattern="https://acme.com/", screen="front", query=("q", "id")),
    )
    one, other = (
        routed("https://acme.com/?" + "&".join(f"{quote(k)}={quote(v)}" for k, v in order), *rules)
        for order in orders
    )
    assert one is not None
    assert one == other
    given_values = dict(orders[0])
    assert all(value == given_values[name] for name, value in one[1].items())


@given(
    scheme=st.sampled_from(["http", "https", "HTTPS"]),
    www=st.sampled_from(["", "www.", "WWW."]),
    dot=st.sampled_from(["", "."]),
    slashes=st.tuples(
        st.sampled_from(["/", "//"]), st.sampled_from(["/", "//"]), st.sampled_from(["", "/", "//"])
    ),
    name=st.tuples(*(st.sampled_from([c, f"%{ord(c):02x}", f"%{ord(c):02X}"]) for c in "item")),
    end=st.sampled_from(["", "?", "?fbclid=1", "#top", "?a=1&b#x"]),
    written=st.sampled_from(
        ["https://acme.com/item/:id", "http://www.acme.com/item/:id/", "https://acme.com/{item}/:id(\\d+)"]
    ),
)
def test_every_form_takes_the_same_route(
    scheme: str, www: str, dot: str, slashes: tuple[str, ...], name: tuple[str, ...], end: str, written: str
) -> None:
    """However a URL and a pattern are written, a person takes them for the same."""
    url = f"{scheme}://{www}acme.com{dot}{slashes[0]}{''.join(name)}{slashes[1]}7{slashes[2]}{end}"
    assert routed(url, written) == (written, {"id": "7"})


HARD_PATTERNS = [
    "https://acme.com/*/*/*/*/x",
    "https://acme.com/:a*/x/:b*/y",
    "https://acme.com/x?a=:a&b=:b",
    "acme://:rest*",
    "https://acme.com/(a+)+b",
    "https://acme.com/#/:x*/y",
]


@pytest.mark.parametrize("piece", ["/", "a", "a/", "%", "%2e/", "&", "a=b&", "#", "?", "+", "\u6f22", "//x"])
@pytest.mark.parametrize(
    "start", ["https://acme.com/", "https://acme.com/x?", "acme:", "https://acme.com/#/"]
)
def test_time_grows_with_the_urls_length(start: str, piece: str) -> None:
    """Eight times the URL takes at most some eight times as long: no work grows with the square."""
    router = Router(
        [RouteRule(pattern=each, screen="x", query=("q",)) for each in HARD_PATTERNS],
        default_screen="home",
        schemes=("acme",),
    )
    took = {size: _took_s(router, start + piece * (size // len(piece.encode()))) for size in (8_000, 64_000)}
    print(f"{start + piece!r}: 64 kB in {took[64_000] * 1000:.1f} ms")  # noqa: T201  shown by pytest -s
    assert took[64_000] < 32 * max(took[8_000], 0.0005)


def _took_s(router: Router, url: str) -> float:
    """Return the CPU time of the quickest of three routings, none of them remembered."""
    took = []
    for number in range(3):
        began = time.process_time()
        router.route(url, f"n={number}")
        took.append(time.process_time() - began)
    return min(took)
