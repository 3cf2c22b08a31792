"""Map a destination URL to a screen of the app.

Patterns are WHATWG URLPatterns, compiled once at start; the first match wins. Routes are cached by
destination, the link's query and fragment, and app version, so that a popular link is matched only once.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Literal

import ada_url
from msgspec import Meta, Struct

from service.domain.errors import FirstopenError
from service.domain.route_patterns import Pattern, compile_pattern, forms_of, percent_decoded
from service.domain.urls import WEB_SCHEMES, merge

NEVER_SCHEMES = frozenset({"about", "blob", "data", "file", "javascript", "vbscript"})

_ROUTES_REMEMBERED = 2048
_LONG_ROUTES_REMEMBERED = 32
_LONGEST_USUAL_CHARS = 1024  # longer URLs have a smaller cache, to bound memory
_VERSION = re.compile(
    r"v?(\d{1,18}(?:\.\d{1,18})*)(?:[-+ (_].*|\.?[a-z].*)?",
    re.IGNORECASE | re.DOTALL,
)

Reason = Literal["matched", "default", "update_required", "unlisted"]


class Route(Struct, frozen=True, gc=False):
    """The screen to show, its parameters, and the routed URL as a fallback."""

    screen: str
    params: dict[str, str]
    url: str | None
    reason: Reason


NonEmpty = Annotated[str, Meta(min_length=1)]


class RouteRule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ``[[apps.*.routes]]`` table: a URLPattern, and the screen for the URLs that it matches."""

    pattern: NonEmpty
    screen: NonEmpty
    query: tuple[NonEmpty, ...] = ()  # query parameters of the URL that become params, if present
    min_version: NonEmpty | None = None
    fallback: NonEmpty | None = None


class RouteTest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ``[[apps.*.route_tests]]`` table: a URL, and the expected screen and, if given, params."""

    url: NonEmpty
    screen: NonEmpty
    params: dict[str, str] | None = None
    app_version: NonEmpty | None = None


class BadRule(FirstopenError):
    """A route cannot be compiled. ``index`` is its position from 0, ``field`` the invalid setting."""

    def __init__(self, index: int, field: str, problem: str) -> None:
        super().__init__(problem)
        self.index = index
        self.field = field


class CompiledRoute(Struct, frozen=True):
    """A compiled route. ``index`` is its position in the settings, from 0."""

    index: int
    rule: RouteRule
    pattern: Pattern
    min_version: tuple[int, ...]


@lru_cache(1024)
def parse_version(text: str) -> tuple[int, ...] | None:
    """Return a version's leading numbers without trailing zeros (``2.10`` > ``2.9``, ``2.0`` = ``2``).

    A build or pre-release suffix is ignored (``2.4.1+45``, ``2.4-beta``, ``2.4 (345)``, ``1.9rc1``,
    ``2.2.9.RELEASE``). Returns None if the text does not start with a version.
    """
    found = _VERSION.fullmatch(text.strip())
    if found is None:
        return None
    numbers = [int(part) for part in found[1].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def shape_of_version(version: str) -> str:
    """Return the format of a version (letters as a, digits as 9), which can be logged safely."""
    return re.sub(r"[^\W\d_]", "a", re.sub(r"\d", "9", version), flags=re.ASCII)


class Router:
    """One app's compiled routes. The constructor raises ``BadRule`` if a route cannot be compiled."""

    def __init__(
        self,
        rules: Sequence[RouteRule],
        *,
        default_screen: str,
        update_screen: str = "update",
        schemes: Sequence[str] = (),
    ) -> None:
        self.default_screen = default_screen
        self.update_screen = update_screen
        self._schemes = WEB_SCHEMES.union(schemes)
        self.routes = [_compile(index, rule, schemes) for index, rule in enumerate(rules)]
        self.nowhere = Route(default_screen, {}, None, "default")
        self._remembered = lru_cache(_ROUTES_REMEMBERED)(self._route)
        self._remembered_long = lru_cache(_LONG_ROUTES_REMEMBERED)(self._route)

    @property
    def own_schemes(self) -> frozenset[str]:
        """Return the app's own URL schemes."""
        return self._schemes - WEB_SCHEMES

    def route(self, destination: str | None, carried: str = "", app_version: str | None = None) -> Route:
        """Return the screen for a destination.

        ``carried`` is the clicked link's query and fragment, which are merged into the destination (see
        ``merge``). A missing or unreadable ``app_version`` counts as new enough for every route. The route
        has no URL if the destination is not a URL, contains user info, or has a scheme other than http, https
        and the app's own schemes.
        """
        if destination is None:
            return self.nowhere
        if len(destination) + len(carried) > _LONGEST_USUAL_CHARS:
            return self._remembered_long(destination, carried, app_version)
        return self._remembered(destination, carried, app_version)

    def _route(self, destination: str, carried: str, app_version: str | None) -> Route:
        url = self._safe_url(merge(destination, carried))
        if url is None:
            return self.nowhere
        found = self.first_match(url)
        if found is None:
            return Route(self.default_screen, {}, url, "unlisted")
        matched, params = found
        version = parse_version(app_version) if app_version else None
        if version is not None and version < matched.min_version:
            fallback = matched.rule.fallback or self.update_screen
            return Route(fallback, params, url, "update_required")
        return Route(matched.rule.screen, params, url, "matched")

    def _safe_url(self, destination: str) -> str | None:
        """Return a destination as a browser normalises it, or None if it must not be sent to the app."""
        try:
            url = ada_url.URL(destination)
        except ValueError:
            return None
        if str(url.protocol).removesuffix(":") not in self._schemes or url.username or url.password:
            return None
        return str(url.href)

    def covers(self, url: str) -> bool:
        """Return True if a parsed URL has one of the app's own schemes, or a host that a route names."""
        if url.partition(":")[0] in self.own_schemes:
            return True
        forms = forms_of(url).forms[0]
        return any(route.pattern.place.test(form) for route in self.routes for form in forms)

    def first_match(self, url: str) -> tuple[CompiledRoute, dict[str, str]] | None:
        """Return the first route whose pattern matches a parsed URL, with its params; None if none does.

        All routes are tried with the URL's trailing slash as given, then with it added or removed:
        ``/category/*`` matches ``/category`` only if no later route matches it exactly.
        """
        target = forms_of(url)
        for forms in target.forms:
            for route in self.routes:
                params = route.pattern.match(target, forms)
                if params is not None:
                    for name in route.rule.query:
                        value = target.parameter(name)
                        if value is not None:
                            params[name] = percent_decoded(value)
                    return route, params
        return None


def _compile(index: int, rule: RouteRule, schemes: Sequence[str]) -> CompiledRoute:
    try:
        pattern = compile_pattern(rule.pattern, schemes)
    except ValueError as exc:
        raise BadRule(index, "pattern", f"is not a usable URLPattern: {exc}") from exc
    twice = sorted(pattern.parts.group_names.intersection(rule.query))
    if twice:
        raise BadRule(index, "query", f"names {twice[0]!r}, which is also a group of the pattern")
    minimum = parse_version(rule.min_version or "0")
    if minimum is None:
        raise BadRule(index, "min_version", "expected dotted numbers, such as 2.10")
    return CompiledRoute(index, rule, pattern, minimum)
