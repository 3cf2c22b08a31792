"""URLs as text: which forms are the same, which query parameters are Dub's own, and what is handed on.

What can go wrong: a link's password (``pw``) that reaches the app, a log or a website; a parameter that is
removed although it only looks like one of Dub's; a canonical form that is not its own canonical form; a
``dub_id`` that is no click's.
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
_NO_UTF_8 = "\ufffd".encode()  # decoding would put it there, too
_BYTE_OF = {
    b"%%%c%c" % (high, low): {0x26: _ESCAPED_AMPERSAND, 0xFF: _NO_UTF_8}.get(code, bytes([code]))
    for high in b"0123456789ABCDEFabcdef"
    for low in b"0123456789ABCDEFabcdef"
    for code in [int(bytes([high, low]), 16)]
}
_LAST_DOT = re.compile(r"(?<=[^.])\.\Z")
_LEADING_WWW = re.compile(r"(?:www\.)+(?=.)")
_SLASHES = re.compile("//+")
_LOOSE_ESCAPE = re.compile(  # of a letter, a digit or one of -._~; in lower case; or a % that begins none
    "%(?:2[DdEe]|3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa]|5[Ff]|7[Ee]|[0-9A-F][a-f]|[a-f][0-9A-Fa-f]|(?![0-9A-Fa-f]{2}))"
)
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def canonical_host(host: str) -> str:
    """Return a parsed host without the root's dot at its end and without any leading ``www.``."""
    host = without_last_dot(host)
    www = _LEADING_WWW.match(host)
    return host[www.end() :] if www else host


def without_last_dot(host: str) -> str:
    """Return a host without the dot that stands for the root of all names."""
    return _LAST_DOT.sub("", host)


def canonical_path(path: str) -> str:
    """Return a parsed path as Dub's redirect reads it: no doubled slashes, and none at the end but the first.

    Escapes are written in one way (RFC 3986, 6.2.2): ``%c3%a9`` as ``%C3%A9``, ``%61`` as ``a``.
    """
    return canonical_escapes(collapse_slashes(path)).rstrip("/") or "/"


def collapse_slashes(path: str) -> str:
    """Return a path without doubled slashes."""
    return _SLASHES.sub("/", path) if "//" in path else path


def canonical_escapes(text: str) -> str:
    """Return a text with its percent-escapes in upper case, and none of a character that needs none.

    A ``%`` that begins no escape is escaped itself, or it might begin one afterwards.
    """
    return _LOOSE_ESCAPE.sub(_canonical_escape, text) if "%" in text else text


def _canonical_escape(escape: re.Match[str]) -> str:
    if escape[0] == "%":
        return "%25"
    char = chr(int(escape[0][1:], 16))
    return char if char in _UNRESERVED else escape[0].upper()


def without_dub_parameters(query: str) -> str:
    """Return a short link's query without the parameters that are meant for Dub; the rest stays as written.

    Dub does not hand these on to the destination either. Neither argument nor result has a leading ``?``.
    """
    if "%" not in query and not any(name in query for name in DUB_PARAMETERS):
        return query  # no name of theirs, and none that is written with escapes
    pairs = query.split("&")
    names = names_of(pairs)
    return "&".join(pair for pair, name in zip(pairs, names, strict=True) if name not in DUB_PARAMETERS)


def split_dub_id(url: str) -> tuple[str, str | None]:
    """Return a URL without its ``dub_id``, and the click that this names.

    The click is "" if it is no clickId, ``None`` if there is no ``dub_id``. Dub adds one to the destinations
    of links with conversion tracking. The rest of the URL stays as it is written.
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
    """Return True if a query names this parameter, with any value or none."""
    if "%" not in query and name not in query:
        return False  # quickly: queries may be 32,000 characters long
    return name in names_of(query.split("&"))


def merge(destination: str, carried: str) -> str:
    """Lay what a clicked short link carried over its destination, as Dub and browsers do on the web.

    ``carried`` is the link's query, and its fragment behind a ``#``. A parameter that both have takes the
    link's last value, once, in its old place; others are appended. Values stay as they were written, but a
    space is ``%20``: not everything that reads a URL in an app takes ``+`` for one. A destination that has
    no fragment inherits the link's (Fetch, "HTTP-redirect fetch").
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
    """Return the names of a query's parameters (what ``&`` separates), decoded as in forms.

    One of over 255 characters stays as it was written. The others are decoded together: one by one, 16,000
    names of two characters would take a tenth of a second.
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
