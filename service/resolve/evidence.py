"""From what a client reports to a link that Dub would know.

Canonical by Dub's rules (scheme added, host lower-cased, ``www.`` dropped, ``_root``, path case kept,
query kept apart) over a WHATWG parser, so that one link has one name however it was typed. Every
leading ``www.`` goes, not only the first: a canonical link canonicalises to itself.
"""

import re
from functools import lru_cache

import ada_url
from msgspec import Struct

from service.resolve.errors import InvalidField
from service.resolve.routing import WEB_SCHEMES

DEEP_LINK_MAX_CHARS = 32_000  # Dub's own limit for ``deepLink``

_LINKS_REMEMBERED = 4096
_LONGEST_REMEMBERED_CHARS = 512
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_HAS_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_DOMAIN = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_LEADING_WWW = re.compile(r"^(?:www\.)+(?=.)")
_HOST_AND_PORT = re.compile(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+:\d{1,5}(?:[/?#]|$)")


class DeepLink(Struct, frozen=True, gc=False):
    """A URL that opened an app. ``domain`` and ``key`` are empty unless it is http or https."""

    url: str  # canonical for the web, otherwise as parsed
    href: str  # as parsed: port, ``www.`` and fragment kept
    domain: str
    key: str
    query: str  # without its ``?``


def parse_deep_link(text: str, field: str = "deepLink") -> DeepLink:
    """Parse and canonicalise a deep link; raises ``InvalidField`` (never anything else) for what is none.

    The message names the field and never repeats the link: on iOS it may be somebody's clipboard.
    """
    if len(text) <= _LONGEST_REMEMBERED_CHARS:
        return _remembered(text, field)
    return _parse(text, field)


def canonical_domain(text: str) -> str:
    """Canonicalise a bare domain as a deep link's: lower case, no ``www.``, no port; "" if it is none.

    Only letters, digits, ``-``, ``_`` and dots: Dub reads a domain as a glob, where ``*`` is anybody's.
    """
    try:
        link = parse_deep_link(f"https://{text}/", "domain")
    except InvalidField:
        return ""
    plain = link.key == "_root" and not link.query and _DOMAIN.fullmatch(link.domain)
    return link.domain if plain else ""


def control_free(text: str) -> bool:
    """Whether a string holds no control character and no lone surrogate."""
    return _CONTROL.search(text) is None


def _parse(text: str, field: str) -> DeepLink:
    if not text or text.isspace():
        raise InvalidField(field, "must not be blank")
    if not control_free(text):
        raise InvalidField(field, "must not contain control characters or lone surrogates")
    text = text.strip()
    if not _HAS_SCHEME.match(text) or _HOST_AND_PORT.match(text):
        if "." not in text or " " in text:
            raise InvalidField(field, "is not a URL (no scheme, and not a domain name with a path)")
        text = f"https://{text}"
    try:
        url = ada_url.URL(text)
    except ValueError as exc:
        raise InvalidField(field, "is not a URL") from exc
    if url.username or url.password:
        raise InvalidField(field, "must not contain user info (a name or password before the host)")
    href = str(url.href)
    scheme = str(url.protocol).removesuffix(":")
    if scheme not in WEB_SCHEMES:
        link = DeepLink(href, href, "", "", "")
    else:
        link = _canonical(str(url.hostname), str(url.pathname), str(url.search), href)
    if len(link.url) > DEEP_LINK_MAX_CHARS:
        raise InvalidField(field, f"must be at most {DEEP_LINK_MAX_CHARS} characters once percent-encoded")
    return link


def _canonical(hostname: str, path: str, search: str, href: str) -> DeepLink:
    domain = _LEADING_WWW.sub("", hostname)
    key = path[1:] or "_root"
    query = search[1:]
    shown = "" if key == "_root" else key
    return DeepLink(f"https://{domain}/{shown}" + (f"?{query}" if query else ""), href, domain, key, query)


_remembered = lru_cache(_LINKS_REMEMBERED)(_parse)
