"""Find an app's short links inside other texts and URLs: chat apps, trackers and share sheets wrap links.

What can go wrong: private text, or a URL that only resembles one of the app's links, is taken for a link; a
text takes long to search (the search is linear in the text's length, and unwraps one level only).
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from urllib.parse import unquote

import ada_url

from service.domain.deep_links import ZERO_WIDTH, DeepLink, parse_deep_link, trimmed
from service.domain.errors import InvalidField

_SEARCHED_MAX_CHARS = 8192  # the maximum length of an install referrer; longer texts are not searched
_PARAMETERS_MAX = 50  # of a wrapping URL; further ones are not searched
_FOUND_MAX = 10  # links in a text; further ones are not tried
_REMEMBERED_MAX = 4096  # parsed links
_REMEMBERED_MAX_CHARS = 512

_HOLDS_MORE = re.compile(":|%3A|%20")  # in a link's key: it contains another URL, or words
_WHITE_SPACE = re.compile(r"\s")
_QUOTES = r"\"'`\u2018-\u201f\u00ab\u00bb\u2039\u203a\u300c\u300d"
_BREAKS = rf"\s<>{_QUOTES}{ZERO_WIDTH}\u3001\u3002\uff0c"  # before or after a link in a text
_SENTENCE_ENDS = ".,;:!?)]*_~\u2026"


def find_deep_link(text: str, domains: tuple[str, ...], field: str = "deepLink") -> DeepLink:
    """Parse a deep link; if it wraps a short link on one of ``domains``, return the short link instead.

    Unwraps one level: a percent-encoded link; a link in a parameter (``https://l.facebook.com/l.php?u=…``,
    ``acme://open?link=…``); a link after another scheme (``acme://acme.link/fb-promo``); a link in a text of
    up to 8,192 characters. Takes time linear in the text's length.

    Raises ``InvalidField`` if the text is neither a link nor contains a short link on ``domains``.
    """
    link = _parsed(text)
    if link is not None and link.domain in domains and not _HOLDS_MORE.search(link.key):
        return link
    if len(text) <= _SEARCHED_MAX_CHARS:
        for inner in map(_parsed, _inner_texts(trimmed(text), link, domains)):
            if inner is not None and inner.domain in domains:
                return inner
    return link or parse_deep_link(text, field)  # raises InvalidField with the problem


def _parsed(text: str) -> DeepLink | None:
    try:
        return parse_deep_link(text)
    except InvalidField:
        return None


def _inner_texts(text: str, link: DeepLink | None, domains: tuple[str, ...]) -> Iterator[str]:
    """Yield the parts of a text that may be links; ``link`` is the text as parsed, if it is a link."""
    if _WHITE_SPACE.search(text):
        yield from _links_in_words(text, domains)
        return
    if link is not None and link.domain in domains:  # Dub's SDKs append the text that they find
        yield unquote(link.key)
        yield from _parameter_values(link.key)
        return
    if link is None:
        yield unquote(text)
    elif not link.domain:
        behind_scheme = text.partition(":")[2].lstrip("/")
        yield behind_scheme
        if "%" in behind_scheme:
            yield unquote(behind_scheme)
    yield from _parameter_values(text.partition("?")[2] or text)
    yield from _links_in_words(text, domains)


def _parameter_values(query: str) -> Iterator[str]:
    for pair in query.split("&", _PARAMETERS_MAX)[:_PARAMETERS_MAX]:
        value = pair.partition("=")[2]
        if "." in value:
            yield unquote(value)


def _links_in_words(text: str, domains: tuple[str, ...]) -> Iterator[str]:
    names, pattern = _search_for(domains)
    lowered = text.lower()
    if any(name in lowered for name in names):
        for found in islice(pattern.finditer(text), _FOUND_MAX):
            yield found[0].rstrip(_SENTENCE_ENDS)


@lru_cache(256)
def _search_for(domains: tuple[str, ...]) -> tuple[tuple[str, ...], re.Pattern[str]]:
    """Return the domains in punycode and Unicode, and a pattern that finds links on them in a text.

    The pattern finds links with a scheme, and links without a scheme that have a path after the host.
    """
    names = tuple(dict.fromkeys(name for each in domains for name in (each, ada_url.idna.decode(each))))
    host = rf"(?:www\.)?(?:{'|'.join(map(re.escape, names))})\.?(?::\d{{1,5}})?"
    tail = rf"[/?#][^{_BREAKS}|\\^{{}}]*"
    with_scheme = rf"(?<![A-Za-z0-9])https?://{host}(?:{tail}|(?![\w@:.-]))"
    with_path = rf"(?<![^{_BREAKS}(\[{{,;:\uff1a]){host}{tail}"
    return names, re.compile(f"{with_scheme}|{with_path}", re.IGNORECASE)


class ParsedLinks:
    """Caches the parsing of links that Dub knows. Clipboard text that is not a link is never cached."""

    def __init__(self) -> None:
        self._links: dict[tuple[tuple[str, ...], str], DeepLink] = {}

    def parse(self, text: str, domains: tuple[str, ...]) -> DeepLink:
        """Parse a deep link as ``find_deep_link`` does, using the cache; raises ``InvalidField``."""
        return self._links.get((domains, text)) or find_deep_link(text, domains)

    def remember(self, text: str | None, domains: tuple[str, ...], link: DeepLink | None) -> None:
        """Cache the parsed form of a link that Dub knows, unless the text is absent or long."""
        if text is not None and link is not None and len(text) <= _REMEMBERED_MAX_CHARS:
            if len(self._links) >= _REMEMBERED_MAX:
                self._links.clear()
            self._links[domains, text] = link
