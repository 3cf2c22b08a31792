"""Routes that no URL can reach, and none that some URL reaches."""

import pytest

from service.config.route_checks import findings
from service.domain.routing import Router, RouteRule

SITE = "https://acme.com"
REACHED = [
    [f"{SITE}/product/:id", f"{SITE}/product/*"],
    [f"{SITE}/product/:id(\\d+)", f"{SITE}/product/:slug"],
    [f"{SITE}/:kind(shirt|shoe)", f"{SITE}/:kind(hat)"],
    [f"{SITE}/search?q=:q", f"{SITE}/search"],
    [f"{SITE}/#/a/:x", f"{SITE}/#/b/:x", f"{SITE}/"],
    [f"{SITE}/a/b", f"{SITE}/a/:x?"],
    ["https://www.shop.acme.com/x", "https://*.acme.com/x"],
    [f"{SITE}/a/:x?", f"{SITE}/a/{{:x}}?"],  # by /a/
    ["acme://product/:id", "acme://*"],
    ["acme://{acme.com/}?product/:id", "acme://a/:x*"],
    ["(acme|exp)://x", "exp://127.0.0.1:8081/--/:x"],
    [f"{SITE}/:a", f"{SITE}/:a/:b(rare[^x]{{7}})"],
]
UNREACHED = [
    ([f"{SITE}/product/*", f"{SITE}/product/:id"], "goes to #0"),
    ([f"{SITE}/:a", f"{SITE}/other/:b", f"{SITE}/x"], "goes to #0"),
    ([f"{SITE}/product/:id", f"{SITE}/product/:slug"], "goes to #0"),
    ([f"{SITE}/product/:id", "http://www.acme.com/product/:id"], "the same pattern as #0"),
    ([f"{SITE}/caf\u00e9", f"{SITE}/caf%c3%a9"], "the same pattern as #0"),
    (["acme://product/:id", "acme:product/:id"], "the same pattern as #0"),
    ([f"{SITE}/search", f"{SITE}/search?q=:q"], "goes to #0"),
    ([f"{SITE}/", f"{SITE}/#/cart/:id"], "goes to #0"),
    ([f"{SITE}/:x(a|b|c)", f"{SITE}/:x(b|c)"], "goes to #0"),
    ([f"{SITE}/a", f"{SITE}/b", f"{SITE}/:x(a|b)"], "goes to #0 and #1"),
    (["acme://*", "acme://product/:id"], "goes to #0"),
    (["other://product/:id"], "its scheme is neither"),
]


def router(patterns: list[str]) -> Router:
    rules = [RouteRule(pattern=pattern, screen="x") for pattern in patterns]
    return Router(rules, default_screen="home", schemes=("acme", "exp"))


@pytest.mark.parametrize("patterns", REACHED)
def test_a_route_that_some_url_reaches_is_not_warned_of(patterns: list[str]) -> None:
    """A warning that is wrong costs the trust in all the others."""
    assert findings(router(patterns)) == []


@pytest.mark.parametrize(("patterns", "why"), UNREACHED)
def test_a_route_that_no_url_reaches_is_named(patterns: list[str], why: str) -> None:
    """With the routes that are before it."""
    last = findings(router(patterns))[-1]
    assert last.index == len(patterns) - 1
    assert last.message.startswith("no URL can reach it: ")
    assert why in last.message
