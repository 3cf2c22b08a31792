"""From a destination URL to a screen of the app.

Patterns are WHATWG URLPatterns, compiled once at boot; the first that matches wins. Routes are remembered
per (destination, what the link carried, version), so a hot link is matched once and its ``Route`` shared.
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
_LONGEST_USUAL_CHARS = 1024  # of longer URLs fewer are remembered: memory stays bounded
_VERSION = re.compile(
    r"v?(\d{1,18}(?:\.\d{1,18})*)(?:[-+ (_].*|\.?[a-z].*)?",
    re.IGNORECASE | re.DOTALL,
)

Reason = Literal["matched", "default", "update_required", "unlisted"]


class Route(Struct, frozen=True, gc=False):
    """Where to land: a screen of the app, its parameters, and the URL to fall back on."""

    screen: str
    params: dict[str, str]
    url: str | None
    reason: Reason


NonEmpty = Annotated[str, Meta(min_length=1)]


class RouteRule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ``[[apps.*.routes]]`` table: a URLPattern, and the screen that shows what it matches."""

    pattern: NonEmpty
    screen: NonEmpty
    query: tuple[NonEmpty, ...] = ()  # parameters of the URL that become params, where it has them
    min_version: NonEmpty | None = None
    fallback: NonEmpty | None = None


class RouteTest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ``[[apps.*.route_tests]]`` table: a URL, and where it must land. Params are compared if given."""

    url: NonEmpty
    screen: NonEmpty
    params: dict[str, str] | None = None
    app_version: NonEmpty | None = None


class BadRule(FirstopenError):
    """A route that cannot be compiled: ``index`` counts from 0, ``field`` is the setting at fault."""

    def __init__(self, index: int, field: str, problem: str) -> None:
        super().__init__(problem)
        self.index = index
        self.field = field


class CompiledRoute(Struct, frozen=True):
    """A route that is ready to be matched. ``index`` counts from 0."""

    index: int
    rule: RouteRule
    pattern: Pattern
    min_version: tuple[int, ...]


@lru_cache(1024)
def parse_version(text: str) -> tuple[int, ...] | None:
    """Return a version's leading numbers, trailing zeros dropped (``2.10`` > ``2.9``, ``2.0`` = ``2``).

    A build or pre-release suffix is not compared (``2.4.1+45``, ``2.4-beta``, ``2.4 (345)``, ``1.9rc1``,
    ``2.2.9.RELEASE``). Return ``None`` if the text does not start with a version.
    """
    found = _VERSION.fullmatch(text.strip())
    if found is None:
        return None
    numbers = [int(part) for part in found[1].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def shape_of_version(version: str) -> str:
    """Show how a version is written (letters as a, digits as 9): its text is the caller's."""
    return re.sub(r"[^\W\d_]", "a", re.sub(r"\d", "9", version), flags=re.ASCII)


class Router:
    """One app's routes, compiled; raises ``BadRule`` for one that cannot be."""

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

    def route(self, destination: str | None, carried: str = "", app_version: str | None = None) -> Route:
        """Decide the screen for a destination merged with what the clicked link carried (see ``merge``).

        A missing or unreadable ``app_version`` is new enough for every route. A destination that is no
        URL, carries user info, or has any scheme but http, https and the app's own is never handed out.
        """
        if destination is None:
            return self.nowhere
        if len(destination) + len(carried) > _LONGEST_USUAL_CHARS:
            return self._remembered_long(destination, carried, app_version)
        return self._remembered(destination, carried, app_version)

    def _route(self, destination: str, carried: str, app_version: str | None) -> Route:
        url = self._handed_out(merge(destination, carried))
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

    def _handed_out(self, destination: str) -> str | None:
        """Parse a destination as a browser would, and return it normalised, or ``None`` if it is not safe."""
        try:
            url = ada_url.URL(destination)
        except ValueError:
            return None
        if str(url.protocol).removesuffix(":") not in self._schemes or url.username or url.password:
            return None
        return str(url.href)

    def covers(self, url: str) -> bool:
        """Return True for a parsed URL with a scheme of the app's own, or on a host that a route names."""
        if url.partition(":")[0] in self._schemes - WEB_SCHEMES:
            return True
        forms = forms_of(url).forms[0]
        return any(route.pattern.place.test(form) for route in self.routes for form in forms)

    def first_match(self, url: str) -> tuple[CompiledRoute, dict[str, str]] | None:
        """Return the first route whose pattern matches a parsed URL, with its params.

        Those that match the URL as it ends go before those that match it with its last slash added or
        left out: ``/category/*`` takes ``/category`` only where no later route does.
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
        raise BadRule(index, "pattern", f"is no URLPattern that can be used: {exc}") from exc
    twice = sorted(pattern.parts.group_names.intersection(rule.query))
    if twice:
        raise BadRule(index, "query", f"names {twice[0]!r}, and so does the pattern")
    minimum = parse_version(rule.min_version or "0")
    if minimum is None:
        raise BadRule(index, "min_version", "expected dotted numbers, such as 2.10")
    return CompiledRoute(index, rule, pattern, minimum)
