"""The query of ``GET /events``: which parameters go on to Dub, and how it is held to the app's own domains.

Dub checks the values itself, and its 404 or 422 passes on. What can go wrong here: a query that shows another
app's events. So ``domain`` always goes along, with nothing in it but the app's own domains, and only the
parameters of ``PARAMETERS`` are passed on: a parameter that nobody looked at may choose links in another way.
"""

from urllib.parse import parse_qsl, urlencode

from service.domain.deep_links import canonical_domain
from service.domain.errors import ForeignDomain, InvalidField

# Those of Dub's published page, and what Dub's own clients send besides.
PARAMETERS = (
    *("event", "page", "limit", "sortBy", "sortOrder", "order"),
    *("domain", "key", "linkId", "externalId", "interval", "start", "end", "timezone"),
    *("tenantId", "programId", "tagId", "tagIds", "folderId", "groupId", "partnerId", "partnerTagId"),
    *("customerId", "country", "city", "region", "continent", "device", "browser", "os", "trigger"),
    *("referer", "refererUrl", "utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content"),
    *("url", "qr", "root", "saleType", "eventName", "query"),
)
_PARAMETERS_MAX = 100
_DOMAINS_MAX = 100


def events_query(query_string: bytes, domains: tuple[str, ...]) -> str:
    """Return the query to send; a parameter without a value is left out, of a repeated one the last counts.

    Raises ``ForeignDomain`` for a domain that is not one of ``domains``, the app's own, and ``InvalidField``
    for a query that would leave no domain, that has a ``key`` without a ``domain`` (which Dub cannot refuse
    once the domains are there), or that names more than 100 parameters or domains.
    """
    try:
        given = dict(
            parse_qsl(query_string.decode("latin-1"), errors="replace", max_num_fields=_PARAMETERS_MAX)
        )
    except ValueError:
        raise InvalidField("query", f"expected at most {_PARAMETERS_MAX} parameters") from None
    asked = {name: given[name] for name in PARAMETERS if name in given}
    if "key" in asked and "domain" not in asked:
        raise InvalidField("key", "expected domain with it")
    asked["domain"] = _own_domains(asked.get("domain", ""), domains)
    return urlencode(asked)


def _own_domains(asked: str, own: tuple[str, ...]) -> str:
    """Hold the domain filter to the app's own list: left out, it is all of it."""
    excluded = asked.startswith("-")
    listed = asked.split(",", _DOMAINS_MAX)
    if len(listed) > _DOMAINS_MAX:
        raise InvalidField("domain", f"expected at most {_DOMAINS_MAX} domains")
    named = [canonical_domain(each.strip().removeprefix("-")) for each in listed if each.strip("- ")]
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
