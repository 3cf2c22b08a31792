"""From what a client reports to a link that Dub would know.

Canonical by Dub's rules (scheme added, host lower-cased, ``www.`` dropped, ``_root``, path case kept, query
kept apart) over a WHATWG parser, and forgiving as browsers and Dub's redirect are (slashes at the end or
doubled, a dot after the host, escapes in either case), so that one link has one name however it was typed.
"""

import re
from hashlib import blake2b

import ada_url
from msgspec import Struct

from service.domain.errors import InvalidField
from service.domain.urls import (
    NO_TRACK,
    WEB_SCHEMES,
    canonical_host,
    canonical_path,
    has_parameter,
    without_dub_parameters,
)

DEEP_LINK_MAX_CHARS = 32_000  # Dub's own limit for ``deepLink``
ZERO_WIDTH = "".join(
    map(chr, (*range(0x200B, 0x2010), *range(0x2028, 0x202F), *range(0x2060, 0x206A), 0xFEFF))
)

_INVISIBLE = "".join(map(chr, range(0x20))) + "\x7f" + ZERO_WIDTH
_BEHIND_PATH = re.compile("[?#]")
_LONG_KEY_CHARS = 200

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_HAS_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_DOMAIN = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_NOT_IN_DOMAIN = re.compile(r"[/\\?#@%\s]")
_HOST_AND_PORT = re.compile(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+:\d{1,5}(?:[/?#]|$)")


def link_name(domain: str, key: str) -> str:
    """Return a name for a link in caches: long keys are hashed, so that they cannot fill memory."""
    if len(key) > _LONG_KEY_CHARS:
        key = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{domain}/{key}"


class DeepLink(Struct, frozen=True, gc=False):
    """A URL that opened an app. ``domain`` and ``key`` are empty unless it is http or https."""

    url: str  # canonical for the web, otherwise as parsed
    href: str  # as parsed: port, ``www.``, slashes and Dub's own parameters kept
    domain: str
    key: str
    query: str  # without its ``?`` and without the parameters that are meant for Dub
    fragment: str = ""  # without its ``#``
    no_track: bool = False  # ``dub-no-track``: Dub describes the link and records nothing

    @property
    def target(self) -> str:
        """Return what an answer to this link is remembered under: one that was not tracked has no click."""
        return f"{self.url} {NO_TRACK}" if self.no_track else self.url

    @property
    def carried(self) -> str:
        """Return what is merged with the destination: the query, and the fragment behind a ``#``."""
        return f"{self.query}#{self.fragment}" if self.fragment else self.query

    @property
    def at_dub(self) -> str:
        """Return what Dub is asked for: without the query, which it ignores, and the fragment."""
        return _BEHIND_PATH.split(self.url, maxsplit=1)[0]


def canonical_domain(text: str) -> str:
    """Canonicalise a bare domain as a deep link's: punycode, lower case, no ``www.``, no port.

    Return "" if the text is no domain. Only letters, digits, ``-``, ``_`` and dots are taken: Dub reads a
    domain as a glob, in which ``*`` would match every domain.
    """
    text = trimmed(text)
    if _NOT_IN_DOMAIN.search(text):
        return ""
    try:
        domain = parse_deep_link(f"https://{text}/").domain
    except InvalidField:
        return ""
    return domain if _DOMAIN.fullmatch(domain) else ""


def trimmed(text: str) -> str:
    """Drop white space, control and zero-width characters around a text, as copying and typing add them."""
    return text.strip().strip(_INVISIBLE).strip()


def control_free(text: str) -> bool:
    """Whether a string holds no control character and no lone surrogate."""
    return _CONTROL.search(text) is None


def parse_deep_link(text: str, field: str = "deepLink") -> DeepLink:
    """Parse and canonicalise a deep link; raises ``InvalidField`` (never anything else) for what is none.

    White space, control and zero-width characters around it are dropped. The message names the field and
    never repeats the link: on iOS it may be somebody's clipboard.
    """
    text = trimmed(text)
    if not text:
        raise InvalidField(field, "must not be blank")
    if not control_free(text):
        raise InvalidField(field, "must not contain control characters or lone surrogates")
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
    return _canonical(url, href)


def _canonical(url: ada_url.URL, href: str) -> DeepLink:
    domain = canonical_host(str(url.hostname))
    path = canonical_path(str(url.pathname))
    key = path[1:] or "_root"
    search = str(url.search)[1:]
    query = without_dub_parameters(search)
    fragment = str(url.hash)[1:]
    canonical = f"https://{domain}{'/' if key == '_root' else path}"
    canonical += (f"?{query}" if query else "") + (f"#{fragment}" if fragment else "")
    no_track = query != search and has_parameter(search, NO_TRACK)
    return DeepLink(canonical, href, domain, key, query, fragment, no_track)
