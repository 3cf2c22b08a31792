"""Parse the deep link that a client reports into the form in which Dub knows the link.

A WHATWG parser reads the URL; Dub's rules make it canonical (scheme added, host lower-cased, ``www.``
removed, ``_root`` for an empty key, path case kept, query kept apart). Variants that browsers and Dub's
redirect accept (trailing or doubled slashes, a dot after the host, escapes in either case) become one form,
so that every spelling of a link has the same cache key.
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
_LONG_KEY_CHARS = 200

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_HAS_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_DOMAIN = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_NOT_IN_DOMAIN = re.compile(r"[/\\?#@%\s]")
_HOST_AND_PORT = re.compile(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+:\d{1,5}(?:[/?#]|$)")


def link_name(domain: str, key: str) -> str:
    """Return the cache key of a link. Long link keys are hashed, so that they cannot fill memory."""
    if len(key) > _LONG_KEY_CHARS:
        key = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{domain}/{key}"


class DeepLink(Struct, frozen=True, gc=False):
    """A URL that opened an app. ``domain`` and ``key`` are empty unless the URL is http or https."""

    url: str  # canonical for http and https, otherwise as parsed
    href: str  # as parsed: port, ``www.``, slashes and Dub's own parameters kept
    domain: str
    key: str
    query: str  # without the ``?`` and without the parameters that are meant for Dub
    fragment: str = ""  # without the ``#``
    no_track: bool = False  # ``dub-no-track`` is present: Dub describes the link and records no click

    @property
    def target(self) -> str:
        """Return the link's part of the answer's cache key. Untracked opens, which have no click, differ."""
        return f"{self.url} {NO_TRACK}" if self.no_track else self.url

    @property
    def carried(self) -> str:
        """Return what ``urls.merge`` adds to the destination: the query, then ``#`` and the fragment."""
        return f"{self.query}#{self.fragment}" if self.fragment else self.query

    @property
    def at_dub(self) -> str:
        """Return the URL to send to Dub: without the fragment and the query, which Dub ignores."""
        return self.url.partition("#")[0].partition("?")[0]


def canonical_domain(text: str) -> str:
    """Return a bare domain in canonical form: punycode, lower case, without ``www.`` and port.

    Returns "" if the text is not a domain. Only letters, digits, ``-``, ``_`` and dots are accepted: Dub
    interprets a domain as a glob, in which ``*`` would match every domain.
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
    """Remove white space, control and zero-width characters around a text. Copy and paste adds them."""
    return text.strip().strip(_INVISIBLE).strip()


def control_free(text: str) -> bool:
    """Return True if a string contains neither control characters nor lone surrogates."""
    return _CONTROL.search(text) is None


def parse_deep_link(text: str, field: str = "deepLink") -> DeepLink:
    """Parse a deep link and bring it into canonical form.

    White space, control and zero-width characters around it are removed. Raises only ``InvalidField``, if
    the text is not a URL. The message names the field and never contains the link: on iOS the text may be
    a user's clipboard.
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
