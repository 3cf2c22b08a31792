"""Parse and build URLs.

Deep links are parsed by a WHATWG parser, as at Dub (`new URL`); queries are merged with the standard library,
because a link's destination need not be a web address.
"""

from functools import lru_cache
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit

import ada_url

ROOT_KEY = "_root"
STORE_HOSTS = frozenset({"apps.apple.com", "itunes.apple.com"})
PLAY_HOST = "play.google.com"

Query = list[tuple[str, str]]


def split_deep_link(text: str) -> tuple[str, str] | None:
    """Return the domain and key of a deep link by Dub's rules; None if it is not a URL."""
    url = _parse(text)
    if url is None and "." in text and " " not in text:
        url = _parse(f"https://{text}")
    if url is None:
        return None
    domain = url.hostname.lower().removeprefix("www.")
    return domain, url.pathname.removeprefix("/") or ROOT_KEY


def short_link(domain: str, key: str) -> str:
    """Return the URL of a short link as in Dub's API."""
    return f"https://{domain}{link_path(key)}"


def link_path(key: str) -> str:
    """Return the URL path of a link's key, percent-encoded."""
    return "/" if key == ROOT_KEY else "/" + quote(key, safe="/:@!$&'()*+,;=~-._")


def merge_query(url: str, query: Query) -> str:
    """Return `url` with the parameters of `query` added; they replace those with the same name."""
    if not query:
        return url
    parts = urlsplit(url)
    merged = dict(parse_qsl(parts.query, keep_blank_values=True)) | dict(query)
    return parts._replace(query=urlencode(merged)).geturl()


def is_app_store(url: str) -> bool:
    """Return True if `url` is an App Store page."""
    return _web_host(url) in STORE_HOSTS


def is_play_store(url: str) -> bool:
    """Return True if `url` is a Google Play page."""
    return _web_host(url) == PLAY_HOST


def with_install_referrer(play_url: str, link: str) -> str:
    """Add a short link to the install referrer of a Play URL; the app reads it by the Install Referrer API.

    The link is added after a referrer that the URL already has.
    """
    parts = urlsplit(play_url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    deep_link = f"deepLink={quote(link, safe='')}"
    query["referrer"] = "&".join(part for part in (query.get("referrer", ""), deep_link) if part)
    return parts._replace(query=urlencode(query, quote_via=quote, safe="")).geturl()


def header_safe(url: str) -> str:
    """Return `url` for a Location header: anything other than printable ASCII is percent-encoded."""
    return quote(url, safe="%/:=&?~#+!$,;'@()*[]|")


def hostname(url: str) -> str:
    """Return the host of a web address without `www.`; "" if it has none."""
    return _web_host(url).removeprefix("www.")


@lru_cache(maxsize=10_000)
def query_value(url: str, name: str) -> str:
    """Return the last value of a query parameter; "" if there is none."""
    return parse_qs(urlsplit(url).query).get(name, [""])[-1]


def _parse(text: str) -> ada_url.URL | None:
    try:
        return ada_url.URL(text)
    except ValueError:
        return None


def _web_host(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return (parts.hostname or "") if parts.scheme in {"http", "https"} else ""
