"""Filter the query of ``GET /events``: allow known parameters only, and restrict it to the app's domains.

Dub validates the values, and its 404 or 422 is passed on. What can go wrong here: a query returns another
app's events. So ``domain`` is always sent, with the app's own domains only, and only the parameters of
``PARAMETERS`` are passed on, because an unknown parameter may select links in another way.
"""

from urllib.parse import parse_qsl, urlencode

from service.domain.deep_links import canonical_domain
from service.domain.errors import ForeignDomain, InvalidField

# The parameters on Dub's published page, and further ones that Dub's own clients send.
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
    """Return the query to send to Dub. Empty parameters are dropped; of a repeated one the last counts.

    ``domains`` are the app's own; raises ``ForeignDomain`` for any other. Raises ``InvalidField`` for a query
    that excludes all domains, that has a ``key`` without a ``domain`` (Dub itself refuses this, but not after
    the domains are added), or that has more than 100 parameters or domains.
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
    """Return the domain filter, restricted to the app's own domains; by default all of them."""
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
            raise InvalidField("domain", "excludes every domain of this app")
        return ",".join(left)
    if not set(named) <= set(own):
        raise ForeignDomain("domain: is not one of this app's domains")
    return ",".join(named)
