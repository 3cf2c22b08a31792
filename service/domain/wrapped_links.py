"""Find an app's own short links in what it reports: chat apps, trackers and share sheets wrap links.

What can go wrong: somebody's private text, or a link that only looks like one of ours, taken for a link; a
text that takes long to search (all of this is linear in its length, and looks one level deep).
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from urllib.parse import unquote

import ada_url

from service.domain.deep_links import ZERO_WIDTH, DeepLink, parse_deep_link, trimmed
from service.domain.errors import InvalidField

_SEARCHED_MAX_CHARS = 8192  # as long as an install referrer may be; a longer text is not looked into
_PARAMETERS_MAX = 50  # of a wrapping URL: more are not looked into
_FOUND_MAX = 10  # links in a text: more are not tried
_REMEMBERED_MAX = 4096  # parsed links
_REMEMBERED_MAX_CHARS = 512

_HOLDS_MORE = re.compile(":|%3A|%20")  # than a key: another URL, or words
_WHITE_SPACE = re.compile(r"\s")
_QUOTES = r"\"'`\u2018-\u201f\u00ab\u00bb\u2039\u203a\u300c\u300d"
_BREAKS = rf"\s<>{_QUOTES}{ZERO_WIDTH}\u3001\u3002\uff0c"  # before or after a link in a text
_SENTENCE_ENDS = ".,;:!?)]*_~\u2026"


def find_deep_link(text: str, domains: tuple[str, ...], field: str = "deepLink") -> DeepLink:
    """Parse a deep link; a short link on one of ``domains`` that it wraps is taken in its place.

    Found one level deep: an encoded link; one in a parameter (``https://l.facebook.com/l.php?u=…``,
    ``acme://open?link=…``); one behind another scheme (``acme://acme.link/fb-promo``); one in a text of up to
    8,192 characters. Takes time linear in the text's length.

    Raises ``InvalidField`` if the text is no link and holds none of ours.
    """
    link = _parsed(text)
    if link is not None and link.domain in domains and not _HOLDS_MORE.search(link.key):
        return link
    if len(text) <= _SEARCHED_MAX_CHARS:
        for inner in map(_parsed, _inner_texts(trimmed(text), link, domains)):
            if inner is not None and inner.domain in domains:
                return inner
    return link or parse_deep_link(text, field)  # which says what is wrong with it


def _parsed(text: str) -> DeepLink | None:
    try:
        return parse_deep_link(text)
    except InvalidField:
        return None


def _inner_texts(text: str, link: DeepLink | None, domains: tuple[str, ...]) -> Iterator[str]:
    """Yield what may be a link inside a text; ``link`` is the text itself as parsed, if it is one."""
    if _WHITE_SPACE.search(text):
        yield from _links_in_words(text, domains)
        return
    if link is not None and link.domain in domains:  # Dub's SDKs append what they find to the domain
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
    """Compile a search for links on these domains in a text: with a scheme, or with a path after the host.

    Return the domains, in punycode and in Unicode, and the search.
    """
    names = tuple(dict.fromkeys(name for each in domains for name in (each, ada_url.idna.decode(each))))
    host = rf"(?:www\.)?(?:{'|'.join(map(re.escape, names))})\.?(?::\d{{1,5}})?"
    tail = rf"[/?#][^{_BREAKS}|\\^{{}}]*"
    with_scheme = rf"(?<![A-Za-z0-9])https?://{host}(?:{tail}|(?![\w@:.-]))"
    with_path = rf"(?<![^{_BREAKS}(\[{{,;:\uff1a]){host}{tail}"
    return names, re.compile(f"{with_scheme}|{with_path}", re.IGNORECASE)


class ParsedLinks:
    """How links that Dub knows are parsed: hot links are remembered, clipboard text that is none is not."""

    def __init__(self) -> None:
        self._links: dict[tuple[tuple[str, ...], str], DeepLink] = {}

    def parse(self, text: str, domains: tuple[str, ...]) -> DeepLink:
        """Find a deep link as ``find_deep_link`` does; raises ``InvalidField``."""
        return self._links.get((domains, text)) or find_deep_link(text, domains)

    def remember(self, text: str | None, domains: tuple[str, ...], link: DeepLink | None) -> None:
        """Remember how a link that Dub knows is parsed, if there is one, unless it is a long one."""
        if text is not None and link is not None and len(text) <= _REMEMBERED_MAX_CHARS:
            if len(self._links) >= _REMEMBERED_MAX:
                self._links.clear()
            self._links[domains, text] = link
