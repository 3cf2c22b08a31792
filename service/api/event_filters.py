"""The query of ``GET /events``, by Dub's published page: checked, and held to the app's own domains.

What is neither on the page nor sent by Dub's own clients is not passed on. A filter that reads like a
list is one: ``US,CA`` is one of, ``-US,CA`` is none of.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from service.resolve.errors import ForeignDomain, InvalidField
from service.resolve.evidence import canonical_domain

VALUE_MAX_CHARS = 10_000
_PAGE_MAX = 1_000_000
_LIMIT_MAX = 1000

Check = Callable[[str, str], str]


def _text(_name: str, value: str) -> str:
    return value


def _one_of(*choices: str) -> Check:
    def check(name: str, value: str) -> str:
        if value not in choices:
            raise InvalidField(name, f"expected one of {', '.join(choices)}")
        return value

    return check


def _each(pattern: str, expected: str) -> Check:
    """Check each value of a list, or of an exclusion."""

    def check(name: str, value: str) -> str:
        for each in value.removeprefix("-").split(","):
            if not re.fullmatch(pattern, each.strip().removeprefix("-"), re.IGNORECASE):
                raise InvalidField(name, f"expected {expected}")
        return value

    return check


def _integer(low: int, high: int) -> Check:
    def check(name: str, value: str) -> str:
        if not re.fullmatch(r"\d{1,9}", value, re.ASCII) or not low <= int(value) <= high:
            raise InvalidField(name, f"expected an integer from {low} to {high}")
        return value

    return check


def _moment(name: str, value: str) -> str:
    try:
        datetime.fromisoformat(value)
    except ValueError:
        raise InvalidField(name, "expected an ISO 8601 date or time") from None
    return value


def _time_zone(name: str, value: str) -> str:
    try:
        ZoneInfo(value)
    except (LookupError, ValueError, OSError):
        raise InvalidField(name, "expected an IANA time zone, such as America/New_York") from None
    return value


def _own_id(name: str, value: str) -> str:
    if not value.startswith("ext_"):
        raise InvalidField(name, "expected the prefix ext_")
    return value


FILTERS: dict[str, Check] = {
    "event": _one_of("clicks", "leads", "sales"),
    "page": _integer(1, _PAGE_MAX),
    "limit": _integer(1, _LIMIT_MAX),
    "sortBy": _one_of("timestamp"),
    "sortOrder": _one_of("asc", "desc"),
    "order": _one_of("asc", "desc"),  # the older name of sortOrder
    "domain": _text,
    "key": _text,
    "linkId": _text,
    "externalId": _own_id,
    "interval": _one_of("1h", "24h", "7d", "30d", "90d", "mtd", "qtd", "ytd", "1y", "all", "all_unfiltered"),
    "start": _moment,
    "end": _moment,
    "timezone": _time_zone,
    "tenantId": _text,
    "programId": _text,
    "tagId": _text,
    "tagIds": _text,  # the older name of tagId
    "folderId": _text,
    "groupId": _text,
    "partnerId": _text,
    "partnerTagId": _text,
    "customerId": _text,
    "country": _each(r"[A-Z]{2}", "two-letter ISO 3166-1 codes"),
    "city": _text,
    "region": _text,
    "continent": _each(r"AF|AN|AS|EU|NA|OC|SA", "continents: AF, AN, AS, EU, NA, OC, SA"),
    "device": _text,
    "browser": _text,
    "os": _text,
    "trigger": _each(r"qr|link|pageview|deeplink", "triggers: qr, link, pageview, deeplink"),
    "referer": _text,
    "refererUrl": _text,
    "utm_source": _text,
    "utm_medium": _text,
    "utm_campaign": _text,
    "utm_term": _text,
    "utm_content": _text,
    "url": _text,
    "qr": _one_of("true", "false"),
    "root": _one_of("true", "false"),
    "saleType": _one_of("new", "recurring"),
    "eventName": _text,
    "query": _text,
}


def events_query(given: Mapping[str, str], domains: tuple[str, ...]) -> str:
    """Return the query to send; raises ``InvalidField`` or ``ForeignDomain``. Blank filters are none."""
    asked = {name: value for name, value in given.items() if name in FILTERS and value}
    for name, value in asked.items():
        if len(value) > VALUE_MAX_CHARS:
            raise InvalidField(name, f"expected at most {VALUE_MAX_CHARS} characters")
        FILTERS[name](name, value)
    if "key" in asked and "domain" not in asked:
        raise InvalidField("key", "expected domain with it")
    if "start" in asked and "end" in asked and _after(asked["start"], asked["end"]):
        raise InvalidField("start", "expected a time before end")
    asked["domain"] = _own_domains(asked.get("domain", ""), domains)
    return urlencode({name: asked[name] for name in FILTERS if name in asked})


def _own_domains(asked: str, own: tuple[str, ...]) -> str:
    """Hold the domain filter to the app's own list: left out, it is all of it."""
    excluded = asked.startswith("-")
    named = [
        canonical_domain(each.strip().removeprefix("-")) for each in asked.split(",") if each.strip("- ")
    ]
    if not named:
        return ",".join(own)
    if excluded:
        left = [domain for domain in own if domain not in named]
        if not left:
            raise InvalidField("domain", "leaves out every domain of this app")
        return ",".join(left)
    if not set(named) <= set(own):
        raise ForeignDomain("domain: names a domain that is not one of this app's")
    return ",".join(named)


def _after(start: str, end: str) -> bool:
    first, last = datetime.fromisoformat(start), datetime.fromisoformat(end)
    if (first.tzinfo is None) != (last.tzinfo is None):
        return False  # only Dub knows, with the timezone
    return first > last
