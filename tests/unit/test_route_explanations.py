"""Where a URL lands, in words: which pattern matches, or which is nearest and how it differs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.route_explanations import explain_route, nearest, verdicts
from service.domain.routing import Router, RouteRule

RULES = (
    RouteRule(pattern="https://acme.com/product/:id", screen="product"),
    RouteRule(pattern="https://acme.com/category/:name", screen="category"),
    RouteRule(pattern="https://acme.com/invite/:from", screen="invite", min_version="2.3"),
    RouteRule(pattern="acme://product/:id", screen="product"),
    RouteRule(pattern=r"https://acme.com/o/:id(\d+)", screen="order"),
    RouteRule(pattern="https://shop.acme.com/basket", screen="basket"),
    RouteRule(pattern="https://acme.com/p?id=:id", screen="product"),
    RouteRule(pattern="https://acme.com/files/*/raw", screen="file"),
    RouteRule(pattern="https://acme.com/de/angebote", screen="offers"),
    RouteRule(pattern="https://acme.com/#/cart", screen="cart"),
    RouteRule(pattern="https://acme.com/gift/:id", screen="gift", min_version="3", fallback="old_gift"),
    RouteRule(pattern=r"https://acme.com/a\:b/c.d", screen="escaped"),
)
OTHER_CASE = "has /product where the URL has /Product (upper and lower case differ)"
ROUTER = Router(RULES, default_screen="home", schemes=["acme"])


def explained(url: str | None, version: str | None = None, router: Router = ROUTER) -> str:
    route = router.route(url, "", version)
    return explain_route(router, route, destination=url, app_version=version)


@pytest.mark.parametrize(
    ("url", "pattern", "differs"),
    [
        (
            "https://acme.com/c/shoes/",
            "https://acme.com/category/:name",
            "has /category where the URL has /c",
        ),
        (
            "https://acme.com/Product/1",
            "https://acme.com/product/:id",
            OTHER_CASE,
        ),
        (
            "https://acme.com/produkt/1",
            "https://acme.com/product/:id",
            "has /product where the URL has /produkt",
        ),
        ("https://acme.com/product/1/reviews", "https://acme.com/product/:id", "ends before /reviews"),
        ("https://acme.com/product/1/a/b", "https://acme.com/product/:id", "ends before /a/b"),
        ("https://acme.com/product", "https://acme.com/product/:id", "goes on with /:id"),
        ("https://acme.com/angebote", "https://acme.com/de/angebote", "has a further /de"),
        ("https://acme.com/de/neu/angebote", "https://acme.com/de/angebote", "has no /neu"),
        ("https://acme.org/product/1", "https://acme.com/product/:id", "is for the host acme.com"),
        ("https://acme.com/basket", "https://shop.acme.com/basket", "is for the host shop.acme.com"),
        ("https://acme.com:8443/product/1", "https://acme.com/product/:id", "has no port"),
        (
            "https://acme.com/o/abc",
            r"https://acme.com/o/:id(\d+)",
            r"has :id(\d+), which does not match abc",
        ),
        ("https://acme.com/p", "https://acme.com/p?id=:id", "needs the parameter id"),
        ("https://acme.com/files/a/b/raw/x", "https://acme.com/files/*/raw", "ends before /x"),
        ("acme://products/1", "acme://product/:id", "has /product where the URL has /products"),
        ("https://acme.com/product/%C3%A9/x", "https://acme.com/product/:id", "ends before /x"),
        (
            "https://acme.org/Product/1",
            "https://acme.com/product/:id",
            f"is for the host acme.com and {OTHER_CASE}",
        ),
        (
            "https://acme.com/a:B/c.d",
            r"https://acme.com/a\:b/c.d",
            r"has /a\:b where the URL has /a:B (upper and lower case differ)",
        ),
    ],
)
def test_the_nearest_pattern_is_named_with_the_difference(url: str, pattern: str, differs: str) -> None:
    assert explained(url) == (
        f"Landed on home because no pattern covers {url}: the nearest is {pattern}, which {differs}."
    )


@pytest.mark.parametrize("url", ["https://example.org/x/y/z", "acme://x/y/z/q", "https://acme.net/"])
def test_a_pattern_with_nothing_in_common_is_not_called_near(url: str) -> None:
    assert explained(url) == f"Landed on home because no pattern covers {url}, and none is near it."


def test_an_app_without_routes() -> None:
    said = explained("https://acme.com/x", router=Router((), default_screen="home"))
    assert said == (
        "Landed on home because the app has no routes, so https://acme.com/x is not one of its screens."
    )


PRODUCT = "https://acme.com/product/:id is the first pattern that covers https://acme.com/product/1"
INVITE = "https://acme.com/invite/:from is the first pattern that covers https://acme.com/invite/anna"
OLD_INVITE = "https://acme.com/invite/:from leads to invite in 2.3 and newer only, and this build is 2.1"
OLD_GIFT = "https://acme.com/gift/:id leads to gift in 3 and newer only, and this build is 2.1"
SCHEMES = "only http, https and the app's own schemes (acme) are returned"


@pytest.mark.parametrize(
    ("url", "version", "screen", "why"),
    [
        ("https://acme.com/product/1", None, "product", PRODUCT),
        ("https://acme.com/invite/anna", "2.4", "invite", f"{INVITE}; 2.4 is new enough for 2.3"),
        (
            "https://acme.com/invite/anna",
            "2.1",
            "update",
            f"{OLD_INVITE}: it gets update, which is the app's update screen",
        ),
        (
            "https://acme.com/gift/7",
            "2.1",
            "old_gift",
            f"{OLD_GIFT}: it gets old_gift, which is its fallback",
        ),
        (None, None, "home", "there is no URL to route"),
        ("nonsense", None, "home", "its destination is not a URL"),
        ("https://a:b@acme.com/", None, "home", "its destination contains a user name or password"),
        ("javascript:alert(1)", None, "home", f"{SCHEMES}, and its destination has javascript"),
    ],
)
def test_where_it_lands_and_why(url: str | None, version: str | None, screen: str, why: str) -> None:
    assert explained(url, version) == f"Landed on {screen} because {why}."


def test_the_url_may_be_written_otherwise() -> None:
    """A page hides a query, which may be personal."""
    url = "https://acme.com/x/y?email=anna@example.com"
    route = ROUTER.route(url)
    shown = "https://acme.com/x/y?email=…"
    said = explain_route(ROUTER, route, destination=url, app_version=None, shown=shown)
    assert shown in said
    assert "anna" not in said


def test_each_route_has_a_verdict() -> None:
    """The first that matches takes the URL; the others say what differs, or that they come later."""
    router = Router(
        (
            RouteRule(pattern="https://acme.com/a/*", screen="any"),
            RouteRule(pattern="https://acme.com/a/:x", screen="one"),
            RouteRule(pattern="https://acme.com/b", screen="other"),
            RouteRule(pattern="acme://a/:x", screen="own"),
            RouteRule(pattern="https://acme.com/a", screen="exact", min_version="2"),
        ),
        default_screen="home",
        schemes=["acme"],
    )

    def said(url: str, version: str | None = None) -> list[tuple[str, str]]:
        return [(each.outcome, each.words) for each in verdicts(router, url, version)]

    assert said("https://acme.com/a/1") == [
        ("taken", "matches"),
        ("later", "matches, too, but #0 comes first"),
        ("differs", "has the path /b"),
        ("differs", "is for the app's own scheme acme"),
        ("differs", "ends before /1"),
    ]
    assert said("https://acme.com/a", "1.9") == [
        ("later", "matches, but for the slash at the end; #4 matches the URL as it is"),
        ("differs", "goes on with /:x"),
        ("differs", "has the path /b"),
        ("differs", "is for the app's own scheme acme and goes on with /:x"),
        ("too_new", "matches, but needs 2 or newer"),
    ]
    assert said("https://acme.com/b/")[2] == ("taken", "matches, but for the slash at the end")


SEGMENTS = st.lists(
    st.sampled_from(["product", "category", "1", "a", "Product", "de", "%C3%A9", "x" * 100]), max_size=20
)


@given(
    st.sampled_from(["https://acme.com", "https://acme.org", "http://www.acme.com:81", "acme:/"]),
    SEGMENTS,
    st.sampled_from(["", "/", "?id=1", "#/cart", "?id="]),
)
def test_a_verdict_agrees_with_the_router(start: str, segments: list[str], end: str) -> None:
    """Exactly the route that the router takes is called taken, and the nearest is one that does not match."""
    route = ROUTER.route("/".join([start, *segments]) + end)
    assert route.url is not None
    found = ROUTER.first_match(route.url)
    taken = [each.route for each in verdicts(ROUTER, route.url, None) if each.outcome == "taken"]
    assert taken == ([] if found is None else [found[0]])
    near = nearest(ROUTER, route.url)
    matching = {each.route.index for each in verdicts(ROUTER, route.url, None) if each.outcome != "differs"}
    assert near is None or near[0].index not in matching


@given(st.text(max_size=80))
def test_it_explains_anything(text: str) -> None:
    """Whatever was routed, there is a sentence."""
    for url in (text, f"https://acme.com/{text}", f"acme://{text}"):
        said = explained(url)
        assert said.startswith("Landed on ")
        assert said.endswith(".")
