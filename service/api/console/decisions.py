"""What a page shows of how an open was decided: of one that came, or of a dry run."""

import asyncio

from msgspec import Struct

from service.domain.models import Answer, App, Open
from service.domain.open_explanations import (
    SOURCES,
    DubCall,
    dub_calls,
    explain_match,
    without_query_values,
    without_values,
)
from service.domain.route_explanations import explain_route
from service.domain.routing import Route
from service.domain.trace import Trace


class ShownDecision(Struct, frozen=True, kw_only=True):
    """A decision, in words and as facts. ``trace`` is None if it is no longer kept."""

    landing: str
    match: str
    source: str
    url: str | None
    params: dict[str, str]
    calls: list[DubCall]
    trace: Trace | None


async def decision_of(app: App, opened: Open, answer: Answer, trace: Trace | None) -> ShownDecision:
    """Return what to show of an open that came, without the values of queries, which may be personal."""
    url = answer.route.url
    shown = None if url is None else without_values(url)
    return ShownDecision(
        landing=await _explain(app, answer.route, opened.destination, opened.app_version, shown),
        match=explain_match(answer.match, answer.click_id, opened.credited_to),
        source=SOURCES.get(answer.source, answer.source),
        url=shown,
        params=without_query_values(answer.route.params, _names_in_path(app, url)),
        calls=[] if trace is None else dub_calls(trace.evidence),
        trace=trace,
    )


async def dry_decision(app: App, answer: Answer, trace: Trace, app_version: str | None) -> ShownDecision:
    """Return what to show of a dry run, whose reporter is the reader: nothing is hidden."""
    route = answer.route
    destination = route.url or (None if answer.link is None else answer.link.url)
    return ShownDecision(
        landing=await _explain(app, route, destination, app_version, route.url),
        match=explain_match(answer.match, answer.click_id, dry=True),
        source=SOURCES.get(answer.source, answer.source),
        url=route.url,
        params=route.params,
        calls=dub_calls(trace.evidence),
        trace=trace,
    )


async def _explain(
    app: App, route: Route, destination: str | None, app_version: str | None, shown: str | None
) -> str:
    """Explain a route in a thread: an app may have hundreds of them."""
    return await asyncio.to_thread(
        explain_route, app.router, route, destination=destination, app_version=app_version, shown=shown
    )


def _names_in_path(app: App, url: str | None) -> frozenset[str]:
    found = None if url is None else app.router.first_match(url)
    return frozenset() if found is None else found[0].pattern.parts.path_group_names
