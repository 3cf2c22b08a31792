"""Compile a route's pattern and match URLs: WHATWG URLPatterns that tolerate variants of a URL.

By the standard, ``https://acme.com/product/:id`` does not match ``http://www.acme.com/product/1/``, and
``acme://product/:id`` does not match ``acme:///product/1``. So patterns and URLs are normalised first:
``https`` for both web schemes, no ``www.``, no dot after the host, no doubled slashes, escapes in one form;
after an app's own scheme, everything is the path. The path is tried with its trailing slash as given, then
with the slash added or removed. Query parameters are matched one by one, in any order; parameters that the
pattern does not name are ignored.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from urllib.parse import unquote

from msgspec import Struct
from urlpattern import URLPattern

from service.domain.urls import (
    WEB_SCHEMES,
    canonical_escapes,
    canonical_host,
    collapse_slashes,
    names_of,
    without_last_dot,
)

WEB = "https"  # stands for http, too
OWN = "http"  # stands for the app's own schemes, written as hosts: URLPattern splits only paths of web URLs
SCHEME_AS_HOST = ".own"  # appended, because a host that ends in a number would be parsed as an IP address

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/*")
_PORT = re.compile(r":\d+\Z")
_COLON_OF_PORT = re.compile(r"(?<!\\):(?=\d)")
_QUERY_PIECE = re.compile(r"(?:\\.|\((?:\\.|[^()\\]|\((?:\\.|[^()\\])*\))*\)|\{[^{}]*\}|[^&\\])+", re.DOTALL)
_PLAIN_NAME = re.compile(r"(?:\\.|[^\\:*(){}?+])+", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_GROUP_NAME = re.compile(r"(?<!\\):([A-Za-z_$][\w$]*)")


class Parts(Struct, frozen=True):
    """The normalised parts of a pattern, each in URLPattern's syntax."""

    protocol: str  # WEB or OWN
    host: str  # the app's own schemes, for OWN
    port: str
    path: str
    fragment: str
    query: tuple[tuple[str, str], ...]  # parameters and their values

    @property
    def group_names(self) -> frozenset[str]:
        """Return the names of the pattern's groups, which become the route's params."""
        return _groups_in(self.host, self.path, self.fragment, *(value for _, value in self.query))

    @property
    def path_group_names(self) -> frozenset[str]:
        """Return the names of the groups whose values come from the host or the path."""
        return _groups_in(self.host, self.path)


class UrlForms(Struct, frozen=True):
    """The normalised forms of a URL that patterns are matched against."""

    forms: tuple[tuple[str, ...], ...]  # with the trailing slash as given, then with it added or removed
    parameters: dict[str, str]  # the last value of each query parameter, still escaped

    def parameter(self, name: str) -> str | None:
        """Return a parameter's last value with canonical escapes and ``%20`` for a space."""
        value = self.parameters.get(name)
        return None if value is None else canonical_escapes(value.replace("+", "%20"))


class Pattern(Struct, frozen=True):
    """A compiled pattern."""

    parts: Parts
    url: URLPattern
    place: URLPattern  # matches the host only, or the app's own scheme
    query: tuple[tuple[str, URLPattern], ...]

    def match(self, target: UrlForms, forms: tuple[str, ...]) -> dict[str, str] | None:
        """Return the decoded named groups if one of these forms of the URL matches, else None."""
        result = next(filter(None, map(self.url.exec, forms)), None)
        if result is None:
            return None
        groups = dict(_named_groups(result))
        for name, expected in self.query:
            value = target.parameter(name)
            found = None if value is None else expected.exec({"hash": value})
            if found is None:
                return None
            groups.update(_named_groups(found))
        return groups


def _groups_in(*texts: str) -> frozenset[str]:
    return frozenset(name for text in texts for name in _GROUP_NAME.findall(text))


def compile_pattern(text: str, schemes: Collection[str]) -> Pattern:
    """Compile a route's pattern for an app with these URL schemes; raises ``ValueError`` if it is invalid."""
    parts = parts_of(text, schemes)
    url = URLPattern(
        {
            "protocol": parts.protocol,
            "hostname": parts.host,
            "port": parts.port,
            "pathname": parts.path,
            "hash": parts.fragment,
        }
    )
    place = URLPattern({"protocol": parts.protocol, "hostname": parts.host})
    query = tuple((name, URLPattern({"hash": value})) for name, value in parts.query)
    return Pattern(parts, url, place, query)


def parts_of(text: str, schemes: Collection[str]) -> Parts:
    """Split a pattern into normalised parts; raises ``ValueError`` if it is invalid.

    A pattern for several schemes, such as ``*://…``, is a web pattern if it matches http or https.
    """
    scheme = _SCHEME.match(text)
    if scheme:
        start, rest = re.escape(scheme[1].lower()), text[scheme.end() :]
    else:
        start, slashes, rest = text.partition("://")
        if not slashes:
            raise ValueError("it has no scheme")
    rest = canonical_escapes(rest)
    protocol = URLPattern({"protocol": start})
    if any(protocol.test({"protocol": each}) for each in WEB_SCHEMES):
        written = URLPattern(f"https://{rest}")
        side, host = WEB, canonical_host(written.hostname)
    else:
        path = _COLON_OF_PORT.sub(r"\:", rest.lstrip("/"))
        written = URLPattern(f"https://own/{path}")
        covered = [re.escape(each) for each in schemes if protocol.test({"protocol": each})]
        side, host = OWN, f"({'|'.join(covered)}){SCHEME_AS_HOST}" if covered else ""
    return Parts(
        protocol=side,
        host=host,
        port=written.port,
        path=collapse_slashes(written.pathname),
        fragment=written.hash,
        query=tuple(_parameters(written.search)),
    )


def forms_of(href: str) -> UrlForms:
    """Return the normalised forms of a parsed URL, which must not contain user info."""
    before, _, fragment = href.partition("#")
    address, _, search = before.partition("?")
    if fragment.startswith(("/", "!/")):  # a client-side route such as #/product?id=1, with a query
        fragment, _, own_search = fragment.partition("?")
        search = f"{own_search}&{search}"
    scheme, _, rest = address.partition(":")
    path = rest.lstrip("/")
    if scheme in WEB_SCHEMES:
        authority, _, path = path.partition("/")
        host = _PORT.sub("", authority)
        port = authority[len(host) :]
        hosts = dict.fromkeys((without_last_dot(host), canonical_host(host)))
        starts = [f"{WEB}://{each}{port}" for each in hosts]
    else:
        starts = [f"{OWN}://{scheme}{SCHEME_AS_HOST}"]
    path = canonical_escapes(collapse_slashes(f"/{path}"))
    paths = (path, path.removesuffix("/") if path.endswith("/") else f"{path}/")
    end = f"#{canonical_escapes(fragment)}" if fragment else ""
    forms = tuple(tuple(f"{start}{each}{end}" for start in starts) for each in paths)
    pairs = [pair for pair in search.split("&") if pair]
    values = [pair.partition("=")[2] for pair in pairs]
    return UrlForms(forms, dict(zip(names_of(pairs), values, strict=True)))


def percent_decoded(value: str) -> str:
    """Percent-decode a value; return it unchanged if the result is not UTF-8."""
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        return value


def _parameters(search: str) -> Iterator[tuple[str, str]]:
    """Split a pattern's query into parameters. Skip a bare ``*``: other parameters are always allowed."""
    for piece in _QUERY_PIECE.findall(search):
        name, equals, value = piece.partition("=")
        if piece == "*":
            continue
        if not equals or not _PLAIN_NAME.fullmatch(name):
            raise ValueError("its query is matched by parameter, such as ?id=:id&lang=*")
        yield names_of([_ESCAPED.sub(r"\1", name)])[0], value


def _named_groups(result: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield the named groups of every component, without unnamed (``*``) and unmatched groups."""
    for component in result.values():
        if isinstance(component, dict):
            for name, value in component["groups"].items():
                if value is not None and not name.isdigit():
                    yield name, percent_decoded(value)
