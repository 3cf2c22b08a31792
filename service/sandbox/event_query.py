"""Convert the query string of `GET /events` to SQL.

What can go wrong: a filter is silently ignored, and so matches everything; an exclusion drops events that
have no value; a value becomes part of the SQL (values are always bound as parameters); a default is that of
Dub's documentation instead of Dub's own (100 events of the last 30 days).
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import msgspec

from service.sandbox.errors import DubError, unprocessable
from service.sandbox.event_times import period
from service.sandbox.links import LinkBook
from service.sandbox.metadata_query import parse_query
from service.sandbox.urls import ROOT_KEY

EventKind = Literal["clicks", "leads", "sales"]
LIMIT_MAX = 1_000
LIMIT_DEFAULT = 100
PAGE_MAX = 1_000_000
CONTINENTS = frozenset({"AF", "AN", "AS", "EU", "NA", "OC", "SA"})
TRIGGERS = frozenset({"link", "qr", "pageview", "deeplink"})
OWN_ID_PREFIX = "ext_"
_COUNTRY = re.compile(r"[A-Z]{2}")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def _of_link(field: str) -> str:
    return f"json_extract(l.doc, '$.{field}')"


def _of_url(parameter: str) -> str:
    return f"query_value(c.url, '{parameter}')"


# Every filter that takes one value, a list with commas, or, after a `-`, an exclusion.
COLUMNS = {
    "domain": "l.domain",
    "linkId": "l.id",
    "tenantId": _of_link("tenantId"),
    "folderId": _of_link("folderId"),
    "groupId": _of_link("groupId"),
    "partnerId": _of_link("partnerId"),
    "partnerTagId": "NULL",  # the sandbox's partners have no tags
    "programId": _of_link("programId"),
    "country": "c.country",
    "city": "c.city",
    "region": "c.region",
    "continent": "c.continent",
    "device": "agent(c.ua, 'device')",
    "browser": "agent(c.ua, 'browser')",
    "os": "agent(c.ua, 'os')",
    "trigger": "c.trigger",
    "referer": "c.referer",
    "refererUrl": "c.referer_url",
    "url": "c.url",
    "utm_source": _of_url("utm_source"),
    "utm_medium": _of_url("utm_medium"),
    "utm_campaign": _of_url("utm_campaign"),
    "utm_term": _of_url("utm_term"),
    "utm_content": _of_url("utm_content"),
}

Params = Mapping[str, str]


class Conditions:
    """Builds a WHERE clause: its text consists of constants, its values are bound."""

    def __init__(self) -> None:
        self._clauses: list[str] = []
        self.values: list[Any] = []

    def add(self, clause: str, *values: Any) -> None:
        """Add a condition, with `values` for its question marks."""
        self._clauses.append(clause)
        self.values.extend(values)

    @property
    def sql(self) -> str:
        """Return the SQL after WHERE."""
        return " AND ".join(self._clauses)


class EventsQuery(msgspec.Struct, frozen=True):
    """A validated request for events."""

    kind: EventKind
    where: Conditions
    descending: bool
    limit: int
    offset: int


def parse_events_query(
    params: Params, workspace: str, links: LinkBook, now_ms: int, visible_to_ms: int
) -> EventsQuery:
    """Parse and check every parameter.

    Raises a 422 for the first invalid one, and a 404 for a `key` without a link.
    """
    kind = _choice(params, "event", get_args(EventKind), "clicks")
    _choice(params, "sortBy", ("timestamp",), "timestamp")
    order = _choice(params, "sortOrder", ("asc", "desc"), _choice(params, "order", ("asc", "desc"), "desc"))
    page = _integer(params, "page", 1, PAGE_MAX, 1)
    limit = _integer(params, "limit", 1, LIMIT_MAX, LIMIT_DEFAULT)
    start_ms, end_ms = period(params, now_ms)
    event = "c" if kind == "clicks" else "e"
    where = Conditions()
    where.add("c.workspace = ?", workspace)
    where.add(f"{event}.at BETWEEN ? AND ?", start_ms, min(end_ms, visible_to_ms))
    for name, column in COLUMNS.items():
        if params.get(name):
            _add_filter(where, name, column, params[name])
    _add_link_filters(where, params, workspace, links)
    _add_event_filters(where, params, kind)
    return EventsQuery(kind, where, order == "desc", limit, (page - 1) * limit)


def _add_filter(where: Conditions, name: str, column: str, given: str) -> None:
    excluded, values = _list_of(given)
    normal = _NORMAL.get(name)
    bound = [normal(value) for value in values] if normal else values
    operator = "NOT IN" if excluded else "IN"
    where.add(f"COALESCE({column}, '') {operator} ({_marks(bound)})", *bound)


def _add_link_filters(where: Conditions, params: Params, workspace: str, links: LinkBook) -> None:
    """Add the filters on links that need more than one column."""
    key, own_id, tags = (
        params.get("key"),
        params.get("externalId"),
        params.get("tagId") or params.get("tagIds"),
    )
    if key:
        domain = params.get("domain", "").lower()
        if not domain:
            raise unprocessable("key: expected together with domain")
        link = links.find(domain, key)
        if link is None or link.spec.workspace != workspace:
            raise DubError("not_found", f"no link {domain}/{key}")
        where.add("l.id = ?", link.id)
    if own_id:
        if not own_id.startswith(OWN_ID_PREFIX):
            raise unprocessable(f"externalId: expected the prefix {OWN_ID_PREFIX}")
        where.add(f"{_of_link('externalId')} = ?", own_id.removeprefix(OWN_ID_PREFIX))
    if tags:
        excluded, values = _list_of(tags)
        known = f"SELECT 1 FROM json_each(l.doc, '$.tagIds') WHERE value IN ({_marks(values)})"  # noqa: S608  only question marks are written in
        where.add(f"{'NOT ' if excluded else ''}EXISTS ({known})", *values)
    root = _boolean(params, "root")
    if root is not None:
        where.add(f"l.key {'=' if root else '!='} ?", ROOT_KEY)


def _add_event_filters(where: Conditions, params: Params, kind: EventKind) -> None:
    """Add the filters on events; filters that do not apply to this kind are ignored, as at Dub."""
    customer_id, name, search = params.get("customerId"), params.get("eventName"), params.get("query")
    sale_type = _choice(params, "saleType", ("new", "recurring"), "")
    qr = _boolean(params, "qr")
    if qr is not None:
        where.add(f"c.trigger {'=' if qr else '!='} 'qr'")
    if customer_id and kind == "clicks":
        where.add("c.id IN (SELECT click_id FROM customers WHERE id = ?)", customer_id)
    elif customer_id:
        where.add("e.customer_id = ?", customer_id)
    if search:
        parse_query(search)  # raises for an invalid search, before SQLite calls it for each row
    if kind == "clicks":
        return
    if name:
        excluded, values = _list_of(name)
        where.add(f"e.name {'NOT IN' if excluded else 'IN'} ({_marks(values)})", *values)
    if search:
        where.add("metadata_matches(e.metadata, ?)", search)
    if kind == "sales" and sale_type:
        where.add("e.recurring = ?", sale_type == "recurring")


def _list_of(given: str) -> tuple[bool, list[str]]:
    """Split a filter such as `-US,CA` into whether it excludes, and its values."""
    excluded = given.startswith("-")
    return excluded, [value.strip().removeprefix("-") for value in given.split(",") if value.strip("- ")]


def _marks(values: list[str]) -> str:
    return ", ".join("?" * len(values))


def _capitalised(value: str) -> str:
    return value if value == "iOS" else value[:1].upper() + value[1:]


def _country(value: str) -> str:
    if not _COUNTRY.fullmatch(value.upper()):
        raise unprocessable("country: expected two-letter ISO 3166-1 codes")
    return value.upper()


def _continent(value: str) -> str:
    if value.upper() not in CONTINENTS:
        raise unprocessable(f"continent: expected {', '.join(sorted(CONTINENTS))}")
    return value.upper()


def _trigger(value: str) -> str:
    if value not in TRIGGERS:
        raise unprocessable(f"trigger: expected {', '.join(sorted(TRIGGERS))}")
    return value


_NORMAL: dict[str, Callable[[str], str]] = {
    "domain": str.lower,
    "country": _country,
    "continent": _continent,
    "trigger": _trigger,
    "device": _capitalised,
    "browser": _capitalised,
    "os": _capitalised,
}


def _choice(params: Params, name: str, allowed: tuple[Any, ...], default: str) -> Any:
    value = params.get(name) or default
    if value != default and value not in allowed:
        raise unprocessable(f"{name}: expected {', '.join(allowed)}")
    return value


def _integer(params: Params, name: str, low: int, high: int, default: int) -> int:
    given = params.get(name)
    if not given:
        return default
    if not re.fullmatch(r"\d{1,9}", given, re.ASCII) or not low <= int(given) <= high:
        raise unprocessable(f"{name}: expected an integer from {low} to {high}")
    return int(given)


def _boolean(params: Params, name: str) -> bool | None:
    given = params.get(name)
    if not given:
        return None
    if given.lower() not in _BOOLEANS:
        raise unprocessable(f"{name}: expected true or false")
    return _BOOLEANS[given.lower()]
