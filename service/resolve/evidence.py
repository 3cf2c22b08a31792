"""From what a client reports to a link that Dub would know.

Canonical by Dub's rules (scheme added, host lower-cased, ``www.`` dropped, ``_root``, path case kept,
query kept apart) over a WHATWG parser, so that one link has one name however it was typed. Every
leading ``www.`` goes, not only the first: a canonical link canonicalises to itself.
"""

import re

import ada_url
from msgspec import Struct

from service.resolve.errors import InvalidField
from service.resolve.routing import WEB_SCHEMES
from service.resolve.urls import NO_TRACK, has_parameter, without_dub_parameters

DEEP_LINK_MAX_CHARS = 32_000  # Dub's own limit for ``deepLink``
_REMEMBERED_MAX = 4096  # parsed links
_REMEMBERED_MAX_CHARS = 512

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_HAS_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_DOMAIN = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*(?::\d{1,5})?")
_LEADING_WWW = re.compile(r"^(?:www\.)+(?=.)")
_HOST_AND_PORT = re.compile(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+:\d{1,5}(?:[/?#]|$)")


class DeepLink(Struct, frozen=True, gc=False):
    """A URL that opened an app. ``domain`` and ``key`` are empty unless it is http or https."""

    url: str  # canonical for the web, otherwise as parsed
    href: str  # as parsed: port, ``www.`` and fragment kept
    domain: str
    key: str
    query: str  # without its ``?`` and without the parameters that are meant for Dub
    no_track: bool = False  # ``dub-no-track``: Dub describes the link and records nothing

    @property
    def target(self) -> str:
        """Return what an answer to this link is remembered under: one that was not tracked has no click."""
        return f"{self.url} {NO_TRACK}" if self.no_track else self.url

    @property
    def at_dub(self) -> str:
        """What Dub is asked for: without the query, which it ignores."""
        return self.url.partition("?")[0]


def canonical_domain(text: str) -> str:
    """Canonicalise a bare domain as a deep link's: lower case, no ``www.``, no port; "" if it is none.

    Only letters, digits, ``-``, ``_`` and dots: Dub reads a domain as a glob, where ``*`` is anybody's.
    """
    if not _DOMAIN.fullmatch(text):
        return ""
    try:
        return parse_deep_link(f"https://{text}/").domain
    except InvalidField:
        return ""


def control_free(text: str) -> bool:
    """Whether a string holds no control character and no lone surrogate."""
    return _CONTROL.search(text) is None


def parse_deep_link(text: str, field: str = "deepLink") -> DeepLink:
    """Parse and canonicalise a deep link; raises ``InvalidField`` (never anything else) for what is none.

    The message names the field and never repeats the link: on iOS it may be somebody's clipboard.
    """
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
    if str(url.protocol).removesuffix(":") not in WEB_SCHEMES:
        return DeepLink(href, href, "", "", "")
    return _canonical(str(url.hostname), str(url.pathname), str(url.search), href)


def _canonical(hostname: str, path: str, search: str, href: str) -> DeepLink:
    domain = _LEADING_WWW.sub("", hostname)
    key = path[1:] or "_root"
    query = without_dub_parameters(search[1:])
    shown = "" if key == "_root" else key
    url = f"https://{domain}/{shown}" + (f"?{query}" if query else "")
    return DeepLink(url, href, domain, key, query, has_parameter(search[1:], NO_TRACK))


class ParsedLinks:
    """How links that Dub knows are parsed: hot links are remembered, clipboard text that is none is not."""

    def __init__(self) -> None:
        self._links: dict[str, DeepLink] = {}

    def parse(self, text: str) -> DeepLink:
        """Parse a deep link; raises ``InvalidField``."""
        return self._links.get(text) or parse_deep_link(text)

    def remember(self, text: str | None, link: DeepLink | None) -> None:
        """Remember how a link that Dub knows is parsed, if there is one, unless it is a long one."""
        if text is not None and link is not None and len(text) <= _REMEMBERED_MAX_CHARS:
            if len(self._links) >= _REMEMBERED_MAX:
                self._links.clear()
            self._links[text] = link
