"""From a destination to a screen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.routing import BadRule, Route, Router, RouteRule, parse_version

ROUTER = Router(
    [
        RouteRule(pattern="https://acme.com/product/:id", screen="product"),
        RouteRule(pattern="https://acme.com/product/*", screen="never"),
        RouteRule(
            pattern="https://acme.com/invite/:from", screen="invite", min_version="2.10", fallback="old"
        ),
        RouteRule(pattern="https://acme.com/gift/:id", screen="gift", min_version="3"),
        RouteRule(pattern="https://:shop.acme.com/item/:id?", screen="item"),
        RouteRule(pattern="acme://product/:id", screen="product"),
        RouteRule(pattern="https://acme.com/search?q=:words", screen="search"),
    ],
    default_screen="home",
    update_screen="update",
    schemes=["acme"],
)


@pytest.mark.parametrize(
    ("destination", "screen", "params", "reason"),
    [
        ("https://acme.com/product/123", "product", {"id": "123"}, "matched"),
        ("https://acme.com/product/123?a=1#top", "product", {"id": "123"}, "matched"),
        ("https://acme.com/product/red%20shoe", "product", {"id": "red shoe"}, "matched"),
        ("https://acme.com/product/%ff", "product", {"id": "%FF"}, "matched"),
        ("https://acme.com/product/1/2", "never", {}, "matched"),
        ("https://eu.acme.com/item/7", "item", {"shop": "eu", "id": "7"}, "matched"),
        ("https://eu.acme.com/item", "item", {"shop": "eu"}, "matched"),
        ("https://acme.com/search?q=red", "search", {"words": "red"}, "matched"),
        ("acme://product/5", "product", {"id": "5"}, "matched"),
        ("HTTPS://ACME.COM/product/123", "product", {"id": "123"}, "matched"),
        ("https://acme.com/press", "home", {}, "unlisted"),
        ("ftp://acme.com/product/123", "home", {}, "default"),
    ],
)
def test_screens(destination: str, screen: str, params: dict[str, str], reason: str) -> None:
    """The first pattern that matches wins, and its named groups become params."""
    route = ROUTER.route(destination)
    assert (route.screen, route.params, route.reason) == (screen, params, reason)
    if reason != "default":
        assert route.url == destination.replace("HTTPS://ACME.COM", "https://acme.com")


def test_nothing_to_match() -> None:
    """With no destination the app lands on its default screen."""
    assert ROUTER.route(None) == Route("home", {}, None, "default")


@pytest.mark.parametrize(
    "destination",
    [
        "javascript:alert(1)",
        " JavaScript:alert(1)",
        "java\nscript:alert(1)",
        "\x01javascript:alert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
        "other://x",
        "acme.com/product/1",
        "https://anna:secret@acme.com/product/1",
        "https:",
        "https://[bad",
        "",
    ],
)
def test_unsafe_destinations_are_never_handed_out(destination: str) -> None:
    """Only http, https and the app's own schemes leave as a url."""
    assert ROUTER.route(destination, "a=1") == Route("home", {}, None, "default")


@pytest.mark.parametrize(
    ("version", "screen", "reason"),
    [
        ("2.10", "invite", "matched"),
        ("2.10.0", "invite", "matched"),
        ("2.9", "old", "update_required"),
        ("2.9.99", "old", "update_required"),
        ("3", "invite", "matched"),
        ("2.10-beta", "invite", "matched"),
        ("v2.11+45", "invite", "matched"),
        ("2.4 (345)", "old", "update_required"),
        ("1.9b2", "old", "update_required"),
        ("1.9rc1", "old", "update_required"),
        ("2.0.beta", "old", "update_required"),
        ("2.2.9.RELEASE", "old", "update_required"),
        ("2.10rc1", "invite", "matched"),
        ("2.11.0.RELEASE", "invite", "matched"),
        (None, "invite", "matched"),
        ("", "invite", "matched"),
        ("nightly", "invite", "matched"),
        ("2..9", "invite", "matched"),
    ],
)
def test_min_version(version: str | None, screen: str, reason: str) -> None:
    """Versions compare as numbers; a missing or unreadable one is new enough."""
    route = ROUTER.route("https://acme.com/invite/anna", "", version)
    assert (route.screen, route.reason) == (screen, reason)


def test_update_screen_where_a_route_has_no_fallback() -> None:
    """A build too old for a route without a fallback lands on the app's update screen, params kept."""
    route = ROUTER.route("https://acme.com/gift/7", "", "2.99")
    assert (route.screen, route.params, route.reason) == ("update", {"id": "7"}, "update_required")


@given(
    st.lists(st.integers(0, 99), min_size=1, max_size=4), st.lists(st.integers(0, 99), min_size=1, max_size=4)
)
def test_versions_order_as_numbers(one: list[int], two: list[int]) -> None:
    """Dotted versions order as the padded lists of their numbers do."""
    size = max(len(one), len(two))
    padded = [numbers + [0] * (size - len(numbers)) for numbers in (one, two)]
    read = [parse_version(".".join(map(str, numbers))) for numbers in (one, two)]
    assert read[0] is not None
    assert read[1] is not None
    assert (read[0] < read[1]) == (padded[0] < padded[1])


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        (RouteRule(pattern="https://acme.com/(", screen="x"), "pattern"),
        (RouteRule(pattern="/product/:id", screen="x"), "pattern"),
        (RouteRule(pattern="https://acme.com/:id/:id", screen="x"), "pattern"),
        (RouteRule(pattern="https://acme.com/x?:name=1", screen="x"), "pattern"),
        (RouteRule(pattern="https://acme.com/x?word", screen="x"), "pattern"),
        (RouteRule(pattern="https://acme.com/:id", screen="x", query=("id",)), "query"),
        (RouteRule(pattern="https://acme.com/x?q=:words", screen="x", query=("words",)), "query"),
        (RouteRule(pattern="https://acme.com/x", screen="x", min_version="two"), "min_version"),
    ],
)
def test_bad_rules_are_named(rule: RouteRule, field: str) -> None:
    """A route that cannot be compiled says which one it is, and which setting."""
    with pytest.raises(BadRule) as bad:
        Router([RouteRule(pattern="https://acme.com/ok", screen="ok"), rule], default_screen="home")
    assert (bad.value.index, bad.value.field) == (1, field)


FRAGMENTS = st.lists(
    st.sampled_from(
        ["%ff", "%E9", "%00", "%", "&", "=", "+", "a", "b", "~", "*", "#", "?", ";", "\u00e9", "\n"]
    ),
    max_size=12,
).map("".join)


@given(st.sampled_from(["https://acme.com/p", "acme://x", "javascript:", "x", ""]), FRAGMENTS, FRAGMENTS)
def test_routing_never_raises(destination: str, own: str, clicked: str) -> None:
    """Whatever Dub says a destination is, there is a route, and an unsafe scheme never leaves."""
    for version in (None, "2.9", "x" * 64, "9" * 64):
        route = ROUTER.route(f"{destination}?{own}", clicked, version)
        assert route.screen
        assert route.url is None or route.url.startswith(("http:", "https:", "acme:"))


def test_versions_of_absurd_length_are_unreadable_not_fatal() -> None:
    """Digits beyond any version are not read."""
    assert parse_version("1" * 5000) is None
    assert parse_version("1." + "2" * 18) == (1, int("2" * 18))
