"""URLs, as the web reads them.

Deep links go through a WHATWG parser, because Dub's server does (`new URL`); queries are laid over each
other with the standard library, because a link's destination need not be a web address.
"""

from functools import lru_cache
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit

import ada_url

ROOT_KEY = "_root"
STORE_HOSTS = frozenset({"apps.apple.com", "itunes.apple.com"})
PLAY_HOST = "play.google.com"

Query = list[tuple[str, str]]


def split_deep_link(text: str) -> tuple[str, str] | None:
    """Return the (domain, key) that a deep link names by Dub's rules, or None when it is no URL."""
    url = _parse(text)
    if url is None and "." in text and " " not in text:
        url = _parse(f"https://{text}")
    if url is None:
        return None
    domain = url.hostname.lower().removeprefix("www.")
    return domain, url.pathname.removeprefix("/") or ROOT_KEY


def short_link(domain: str, key: str) -> str:
    """Write a short link as Dub's API shows it."""
    return f"https://{domain}{link_path(key)}"


def link_path(key: str) -> str:
    """Return the path of a link's key, percent-encoded where it must be."""
    return "/" if key == ROOT_KEY else "/" + quote(key, safe="/:@!$&'()*+,;=~-._")


def lay_over(url: str, query: Query) -> str:
    """Return `url` with `query` laid over its own: a parameter that is in both takes the new value."""
    if not query:
        return url
    parts = urlsplit(url)
    merged = dict(parse_qsl(parts.query, keep_blank_values=True)) | dict(query)
    return parts._replace(query=urlencode(merged)).geturl()


def is_app_store(url: str) -> bool:
    """Tell whether `url` is an App Store page."""
    return _web_host(url) in STORE_HOSTS


def is_play_store(url: str) -> bool:
    """Tell whether `url` is a Google Play page."""
    return _web_host(url) == PLAY_HOST


def with_install_referrer(play_url: str, link: str) -> str:
    """Hand the short link through the Play Store: an app reads it back through the Install Referrer API.

    It comes last: a referrer that the store's URL has already stays before it.
    """
    parts = urlsplit(play_url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    deep_link = f"deepLink={quote(link, safe='')}"
    query["referrer"] = "&".join(part for part in (query.get("referrer", ""), deep_link) if part)
    return parts._replace(query=urlencode(query, quote_via=quote, safe="")).geturl()


def header_safe(url: str) -> str:
    """Return `url` fit for a Location header: anything that is not printable ASCII is percent-encoded."""
    return quote(url, safe="%/:=&?~#+!$,;'@()*[]|")


def hostname(url: str) -> str:
    """Return a web address's host without `www.`; "" when it has none."""
    return _web_host(url).removeprefix("www.")


@lru_cache(maxsize=10_000)
def query_value(url: str, name: str) -> str:
    """Return the last value of a query parameter; "" when there is none."""
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
