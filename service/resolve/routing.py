"""From a destination URL to a screen of the app.

Patterns are WHATWG URLPatterns, compiled once at boot; the first that matches wins. Routes are
remembered per (destination, query, version), so a hot link is matched once and its ``Route`` shared.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Literal
from urllib.parse import parse_qsl, unquote, urlencode

import ada_url
from msgspec import Meta, Struct
from urlpattern import URLPattern

from service.resolve.errors import FirstopenError

WEB_SCHEMES = frozenset({"http", "https"})
NEVER_SCHEMES = frozenset({"about", "blob", "data", "file", "javascript", "vbscript"})

_ROUTES_REMEMBERED = 4096
_LONG_ROUTES_REMEMBERED = 64
_LONGEST_USUAL_CHARS = 2048  # of longer URLs fewer are remembered: memory stays bounded
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
    min_version: NonEmpty | None = None
    fallback: NonEmpty | None = None


class BadRule(FirstopenError):
    """A route that cannot be compiled: ``index`` counts from 0, ``field`` is the setting at fault."""

    def __init__(self, index: int, field: str, problem: str) -> None:
        super().__init__(problem)
        self.index = index
        self.field = field


class _Compiled(Struct, frozen=True):
    rule: RouteRule
    pattern: URLPattern
    place: URLPattern  # where its URLs are: its scheme, and on the web its host
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


def lay_over(destination: str, query: str) -> str:
    """Override the destination's query parameters with those of the clicked link, as Dub does on the web.

    Both queries are read as forms are (bytes that are no UTF-8 become U+FFFD). A parameter that both
    have takes the clicked link's last value, once, in its old place; others are appended. Fragments stay.
    """
    if not query:
        return destination
    before, hash_mark, fragment = destination.partition("#")
    base, _, own = before.partition("?")
    clicked = dict(_form(query))
    merged: set[str] = set()
    pairs: list[tuple[str, str]] = []
    for name, value in _form(own):
        if name not in clicked:
            pairs.append((name, value))
        elif name not in merged:
            merged.add(name)
            pairs.append((name, clicked[name]))
    pairs += [(name, value) for name, value in clicked.items() if name not in merged]
    written = urlencode(pairs, safe="*").replace("~", "%7E")
    return f"{base}?{written}{hash_mark}{fragment}" if written else f"{base}{hash_mark}{fragment}"


def _form(query: str) -> list[tuple[str, str]]:
    return parse_qsl(query, keep_blank_values=True, errors="replace")


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
        self._schemes = WEB_SCHEMES | {scheme.lower() for scheme in schemes}
        self._compiled = [_compile(index, rule) for index, rule in enumerate(rules)]
        self.nowhere = Route(default_screen, {}, None, "default")
        self._remembered = lru_cache(_ROUTES_REMEMBERED)(self._route)
        self._remembered_long = lru_cache(_LONG_ROUTES_REMEMBERED)(self._route)

    def route(self, destination: str | None, query: str = "", app_version: str | None = None) -> Route:
        """Decide the screen for a destination with the clicked link's query (no ``?``) laid over it.

        A missing or unreadable ``app_version`` is new enough for every route. A destination that is no
        URL, carries user info, or has any scheme but http, https and the app's own is never handed out.
        """
        if destination is None:
            return self.nowhere
        if len(destination) + len(query) > _LONGEST_USUAL_CHARS:
            return self._remembered_long(destination, query, app_version)
        return self._remembered(destination, query, app_version)

    def _route(self, destination: str, query: str, app_version: str | None) -> Route:
        url = self._handed_out(lay_over(destination, query))
        if url is None:
            return self.nowhere
        found = self.first_match(url)
        if found is None:
            return Route(self.default_screen, {}, url, "unlisted")
        compiled, params = found
        version = parse_version(app_version) if app_version else None
        if version is not None and version < compiled.min_version:
            fallback = compiled.rule.fallback or self.update_screen
            return Route(fallback, params, url, "update_required")
        return Route(compiled.rule.screen, params, url, "matched")

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
        """Return True for a URL with a scheme of the app's own, or on a host that one of its routes names.

        With or without ``www.``.
        """
        try:
            parsed = ada_url.URL(url)
        except ValueError:
            return False
        scheme, host = str(parsed.protocol).removesuffix(":"), str(parsed.hostname)
        if scheme in self._schemes - WEB_SCHEMES:
            return True
        hosts = {host, f"www.{host}", host.removeprefix("www.")}
        return any(
            compiled.place.test({"protocol": scheme, "hostname": each})
            for compiled in self._compiled
            for each in hosts
        )

    def first_match(self, url: str) -> tuple[_Compiled, dict[str, str]] | None:
        """Return the first rule whose pattern matches the URL, with its named groups, percent-decoded."""
        for compiled in self._compiled:
            result = compiled.pattern.exec(url)
            if result is not None:
                return compiled, _named_groups(result)
        return None


def _compile(index: int, rule: RouteRule) -> _Compiled:
    try:
        pattern = URLPattern(rule.pattern)
    except ValueError as exc:
        raise BadRule(index, "pattern", f"is not a URLPattern with a scheme and host: {exc}") from exc
    minimum = parse_version(rule.min_version or "0")
    if minimum is None:
        raise BadRule(index, "min_version", "expected dotted numbers, such as 2.10")
    place = URLPattern({"protocol": pattern.protocol})
    if any(place.test({"protocol": scheme}) for scheme in WEB_SCHEMES):
        place = URLPattern({"protocol": pattern.protocol, "hostname": pattern.hostname})
    return _Compiled(rule, pattern, place, minimum)


def _named_groups(result: Mapping[str, object]) -> dict[str, str]:
    """Collect the named groups of every component; unnamed ones (``*``) and unmatched ones are left out."""
    named: dict[str, str] = {}
    for component in result.values():
        if isinstance(component, dict):
            for name, value in component["groups"].items():
                if value is not None and not name.isdigit():
                    named[name] = _percent_decoded(value)
    return named


def _percent_decoded(value: str) -> str:
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        return value
