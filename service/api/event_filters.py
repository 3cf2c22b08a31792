"""The query of ``GET /events``: which parameters go on to Dub, and how it is held to the app's own domains.

Dub checks the values itself, and its 404 or 422 passes on. What can go wrong here: a query that shows another
app's events. So ``domain`` always goes along, with nothing in it but the app's own domains, and only the
parameters of ``PARAMETERS`` are passed on: a parameter that nobody looked at may choose links in another way.
"""

from collections.abc import Mapping
from urllib.parse import urlencode

from service.resolve.errors import ForeignDomain, InvalidField
from service.resolve.evidence import canonical_domain

# Those of Dub's published page, and what Dub's own clients send besides.
PARAMETERS = (
    *("event", "page", "limit", "sortBy", "sortOrder", "order"),
    *("domain", "key", "linkId", "externalId", "interval", "start", "end", "timezone"),
    *("tenantId", "programId", "tagId", "tagIds", "folderId", "groupId", "partnerId", "partnerTagId"),
    *("customerId", "country", "city", "region", "continent", "device", "browser", "os", "trigger"),
    *("referer", "refererUrl", "utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content"),
    *("url", "qr", "root", "saleType", "eventName", "query"),
)


def events_query(given: Mapping[str, str], domains: tuple[str, ...]) -> str:
    """Return the query to send; a parameter without a value is left out.

    Raises ``ForeignDomain`` for a domain that is not one of ``domains``, the app's own, and ``InvalidField``
    for a query that would leave no domain, or that has a ``key`` without a ``domain`` (which Dub could not
    refuse any more, once the domains are there).
    """
    asked = {name: given[name] for name in PARAMETERS if given.get(name)}
    if "key" in asked and "domain" not in asked:
        raise InvalidField("key", "expected domain with it")
    asked["domain"] = _own_domains(asked.get("domain", ""), domains)
    return urlencode(asked)


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
