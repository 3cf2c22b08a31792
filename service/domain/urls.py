"""Rules for URLs as text: canonical forms, Dub's own query parameters, and merging of queries.

What can go wrong: a link's password (``pw``) reaches the app, a log or a website; a parameter is removed
although it only resembles one of Dub's; the canonical form of a canonical form differs from it; a ``dub_id``
is not a click id.
"""

import re
from collections.abc import Iterator, Sequence
from urllib.parse import unquote_plus

WEB_SCHEMES = frozenset({"http", "https"})
NO_TRACK = "dub-no-track"
DUB_ID = "dub_id"
DUB_PARAMETERS = frozenset(
    {"skip_deeplink_preview", "qr", "redir_url", "pw", "dub-client-reference-id", NO_TRACK, DUB_ID}
)

_CLICK_ID = re.compile(r"[A-Za-z0-9]{16}")
_NAME_MAX_CHARS = 255
_ESCAPE = re.compile(b"%[0-9A-Fa-f]{2}")
_ESCAPED_AMPERSAND = b"\xff"  # no byte of UTF-8
_NO_UTF_8 = "\ufffd".encode()  # the replacement character, which decoding would insert as well
_BYTE_OF = {
    b"%%%c%c" % (high, low): {0x26: _ESCAPED_AMPERSAND, 0xFF: _NO_UTF_8}.get(code, bytes([code]))
    for high in b"0123456789ABCDEFabcdef"
    for low in b"0123456789ABCDEFabcdef"
    for code in [int(bytes([high, low]), 16)]
}
_LAST_DOT = re.compile(r"(?<=[^.])\.\Z")
_LEADING_WWW = re.compile(r"(?:www\.)+(?=.)")
_SLASHES = re.compile("//+")
_LOOSE_ESCAPE = re.compile(  # of an unreserved character; or in lower case; or a % that starts no escape
    "%(?:2[DdEe]|3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa]|5[Ff]|7[Ee]|[0-9A-F][a-f]|[a-f][0-9A-Fa-f]|(?![0-9A-Fa-f]{2}))"
)
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def is_click_id(text: str) -> bool:
    """Return True for a clickId as Dub makes them: 16 letters and digits."""
    return _CLICK_ID.fullmatch(text) is not None


def canonical_host(host: str) -> str:
    """Return a parsed host without the trailing dot of the DNS root and without leading ``www.``."""
    host = without_last_dot(host)
    www = _LEADING_WWW.match(host)
    return host[www.end() :] if www else host


def without_last_dot(host: str) -> str:
    """Return a host without the trailing dot of the DNS root."""
    return _LAST_DOT.sub("", host)


def canonical_path(path: str) -> str:
    """Return a parsed path as Dub's redirect reads it: without doubled and trailing slashes, "/" if empty.

    Escapes are normalised (RFC 3986, 6.2.2): ``%c3%a9`` to ``%C3%A9``, ``%61`` to ``a``.
    """
    return canonical_escapes(collapse_slashes(path)).rstrip("/") or "/"


def collapse_slashes(path: str) -> str:
    """Return a path without doubled slashes."""
    return _SLASHES.sub("/", path) if "//" in path else path


def canonical_escapes(text: str) -> str:
    """Return a text with percent-escapes in upper case and unreserved characters decoded.

    A ``%`` that does not start an escape becomes ``%25``, because decoding could turn it into one.
    """
    return _LOOSE_ESCAPE.sub(_canonical_escape, text) if "%" in text else text


def _canonical_escape(escape: re.Match[str]) -> str:
    if escape[0] == "%":
        return "%25"
    char = chr(int(escape[0][1:], 16))
    return char if char in _UNRESERVED else escape[0].upper()


def without_dub_parameters(query: str) -> str:
    """Return a short link's query without the parameters that are meant for Dub; the rest is unchanged.

    Dub does not pass these to the destination either. Neither argument nor result has a leading ``?``.
    """
    if "%" not in query and not any(name in query for name in DUB_PARAMETERS):
        return query  # fast path: none of these names occurs, not even in escaped form
    pairs = query.split("&")
    names = names_of(pairs)
    return "&".join(pair for pair, name in zip(pairs, names, strict=True) if name not in DUB_PARAMETERS)


def split_dub_id(url: str) -> tuple[str, str | None]:
    """Return a URL without its ``dub_id``, and the click id in that parameter.

    The click id is "" if it is malformed, None if there is no ``dub_id``. Dub adds ``dub_id`` to the
    destinations of links with conversion tracking. The rest of the URL is unchanged.
    """
    if DUB_ID not in url:
        return url, None
    before, hash_mark, fragment = url.partition("#")
    base, question_mark, query = before.partition("?")
    pairs = query.split("&")
    names = names_of(pairs)
    others = [pair for pair, name in zip(pairs, names, strict=True) if name != DUB_ID]
    if len(others) == len(pairs):
        return url, None
    values = (
        unquote_plus(pair.partition("=")[2])
        for pair, name in zip(pairs, names, strict=True)
        if name == DUB_ID
    )
    click_id = next((value for value in values if _CLICK_ID.fullmatch(value)), "")
    return f"{base}{question_mark if others else ''}{'&'.join(others)}{hash_mark}{fragment}", click_id


def has_parameter(query: str, name: str) -> bool:
    """Return True if a query contains this parameter, with or without a value."""
    if "%" not in query and name not in query:
        return False  # fast path, because queries may be 32,000 characters long
    return name in names_of(query.split("&"))


def merge(destination: str, carried: str) -> str:
    """Merge a clicked short link's query and fragment into its destination, as Dub and browsers do.

    ``carried`` is the link's query, then ``#`` and its fragment. A parameter of both URLs gets the link's
    last value, once, at its place in the destination; the link's other parameters are appended. Values are
    unchanged, except that a space becomes ``%20``: not all URL parsers in apps decode ``+``. A destination
    without a fragment gets the link's (Fetch, "HTTP-redirect fetch").
    """
    if not carried:
        return destination
    before, hash_mark, fragment = destination.partition("#")
    query, link_hash_mark, link_fragment = carried.partition("#")
    if not hash_mark:
        hash_mark, fragment = link_hash_mark, link_fragment
    if query:
        base, _, own = before.partition("?")
        merged = "&".join(_merged(own, query)).replace("+", "%20")
        before = f"{base}?{merged}" if merged else base
    return f"{before}{hash_mark}{fragment}"


def _merged(own: str, clicked: str) -> Iterator[str]:
    pairs = [pair for pair in clicked.split("&") if pair]
    overriding = dict(zip(names_of(pairs), pairs, strict=True))
    left = dict(overriding)
    pairs = own.split("&")
    for pair, name in zip(pairs, names_of(pairs), strict=True):
        if pair and name not in overriding:
            yield pair
        elif name in left:
            yield left.pop(name)
    yield from left.values()


def names_of(pairs: Sequence[str]) -> list[str]:
    """Return the names of query parameters (``name=value`` texts), decoded as in HTML forms.

    A name of more than 255 characters is not decoded. All others are decoded in one pass: decoded one by one,
    16,000 names of two characters would take a tenth of a second.
    """
    names = [pair.partition("=")[0] for pair in pairs]
    text = "&".join([name if len(name) <= _NAME_MAX_CHARS else "" for name in names])
    if "%" not in text and "+" not in text:
        return names
    decoded = _ESCAPE.sub(_byte_of, text.replace("+", " ").encode("utf-8", "surrogatepass")).split(b"&")
    return [
        raw.replace(_ESCAPED_AMPERSAND, b"&").decode("utf-8", "replace") if raw else name
        for raw, name in zip(decoded, names, strict=True)
    ]


def _byte_of(escape: re.Match[bytes]) -> bytes:
    return _BYTE_OF[escape[0]]
