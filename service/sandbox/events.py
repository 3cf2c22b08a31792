"""`GET /events`: list clicks, leads and sales.

What can go wrong: an event is listed too early; a page is refilled after the events of deleted links were
dropped (Dub drops them after paging, so a short page need not be the last one); the IP address of a person in
the EU is shown; the top-level `timestamp` is in ISO format, but Dub writes a JavaScript date text there (only
`click.timestamp` is ISO).
"""

from collections.abc import Callable
from functools import lru_cache
from sqlite3 import Row
from typing import Any

import msgspec
from litestar import Request, get
from litestar.handlers import HTTPRouteHandler

from service.sandbox.agents import agent_of
from service.sandbox.clock import SandboxClock, iso, javascript_text
from service.sandbox.event_query import EventsQuery, parse_events_query
from service.sandbox.limits import Gate, SandboxSettings
from service.sandbox.links import LinkBook
from service.sandbox.store import Store

LinkView = Callable[[str], dict[str, Any]]

_CLICK = (
    "c.id AS click_id, c.at AS clicked_at, c.link_id, c.trigger, c.url, c.ip, c.country, c.region, c.city,"
    " c.continent, c.ua, c.referer, c.referer_url, l.deleted"
)
_CUSTOMER = (
    "k.id AS customer_id, k.external_id, k.name AS customer_name, k.email, k.avatar,"
    " k.country AS customer_country, k.created_at,"
    " (SELECT count(*) FROM sales s WHERE s.customer_id = k.id) AS bought,"
    " (SELECT total(amount) FROM sales s WHERE s.customer_id = k.id) AS spent"
)
_EVENT = f"e.at AS at, e.id, e.name, e.metadata, {_CLICK}, {_CUSTOMER}"
_COLUMNS = {
    "clicks": f"c.at AS at, {_CLICK}",
    "leads": _EVENT,
    "sales": f"e.amount, e.currency, e.processor, e.invoice_id, {_EVENT}",
}
_CAUSE = (
    "JOIN clicks c ON c.id = e.click_id JOIN links l ON l.id = e.link_id"
    " JOIN customers k ON k.id = e.customer_id"
)
_TABLES = {
    "clicks": "clicks c JOIN links l ON l.id = c.link_id",
    "leads": f"leads e {_CAUSE}",
    "sales": f"sales e {_CAUSE}",
}


def event_routes(
    gate: Gate, store: Store, links: LinkBook, clock: SandboxClock, settings: SandboxSettings
) -> list[HTTPRouteHandler]:
    """Build the route that lists events."""

    @get("/events")
    async def list_events(request: Request[Any, Any, Any]) -> list[dict[str, Any]]:
        """Return one page of events."""
        workspace = gate.analytics(request)
        now_ms = clock.now_ms()
        visible_to_ms = now_ms - int(settings.events_delay_s * 1_000)
        params = _first_values(request)
        query = parse_events_query(params, workspace, links, now_ms, visible_to_ms)
        view = lru_cache(maxsize=None)(links.view)
        return [_event(query, row, view) for row in _page(store, query) if not row["deleted"]]

    return [list_events]


def _first_values(request: Request[Any, Any, Any]) -> dict[str, str]:
    """Return the query's parameters; of a repeated one, the first value."""
    return dict(reversed(list(request.query_params.multi_items())))


def _page(store: Store, query: EventsQuery) -> list[Row]:
    event = "c" if query.kind == "clicks" else "e"
    direction = "DESC" if query.descending else "ASC"
    sql = (
        f"SELECT {_COLUMNS[query.kind]} FROM {_TABLES[query.kind]} WHERE {query.where.sql}"  # noqa: S608  constants; the caller's values are bound
        f" ORDER BY {event}.at {direction}, {event}.rowid {direction} LIMIT ? OFFSET ?"
    )
    return store.all(sql, (*query.where.values, query.limit, query.offset))


def _event(query: EventsQuery, row: Row, view: LinkView) -> dict[str, Any]:
    """Return one event as JSON data, with the deprecated flat fields that Dub's SDKs still require."""
    click, link = _click(row), view(row["link_id"])
    event: dict[str, Any] = {
        "event": query.kind.removesuffix("s"),
        "timestamp": javascript_text(row["at"]),
        "click": click,
        "link": link,
    }
    if query.kind != "clicks":
        stored = row["metadata"]
        event |= {
            "eventId": row["id"],
            "eventName": row["name"],
            "metadata": msgspec.json.decode(stored) if stored else None,
            "customer": _customer(row),
        }
    if query.kind == "sales":
        event |= {
            "sale": {
                "amount": row["amount"],
                "currency": row["currency"],
                "invoiceId": row["invoice_id"],
                "paymentProcessor": row["processor"],
            },
            "saleAmount": row["amount"],
            "invoice_id": row["invoice_id"] or "",
            "payment_processor": row["processor"],
        }
    same = ("url", "continent", "country", "city", "device", "browser", "os", "ip")
    return event | {
        "click_id": click["id"],
        "link_id": link["id"],
        "domain": link["domain"],
        "key": link["key"],
        "qr": int(click["qr"]),
        **{name: click[name] for name in same},
    }


def _click(row: Row) -> dict[str, Any]:
    agent = agent_of(row["ua"])
    return {
        "id": row["click_id"],
        "timestamp": iso(row["clicked_at"]),
        "url": row["url"],
        "country": row["country"],
        "city": row["city"],
        "region": row["region"],
        "continent": row["continent"],
        "device": agent.device,
        "browser": agent.browser,
        "os": agent.os,
        "ua": row["ua"],
        "trigger": row["trigger"],
        "referer": row["referer"],
        "refererUrl": row["referer_url"],
        "qr": row["trigger"] == "qr",
        "ip": row["ip"],
    }


def _customer(row: Row) -> dict[str, Any]:
    return {
        "id": row["customer_id"],
        "externalId": row["external_id"],
        "name": row["customer_name"],
        "email": row["email"],
        "avatar": row["avatar"],
        "country": row["customer_country"],
        "sales": row["bought"],
        "saleAmount": int(row["spent"]),
        "createdAt": iso(row["created_at"]),
    }
