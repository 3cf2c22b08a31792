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
    landing = await asyncio.to_thread(
        explain_route,
        app.router,
        answer.route,
        destination=opened.destination,
        app_version=opened.app_version,
        shown=shown,
    )
    return ShownDecision(
        landing=landing,
        match=explain_match(answer.match, answer.click_id, opened.credited_to),
        source=SOURCES.get(answer.source, answer.source),
        url=shown,
        params=without_query_values(answer.route.params, _names_in_path(app, url)),
        calls=[] if trace is None else dub_calls(trace.evidence),
        trace=trace,
    )


def _names_in_path(app: App, url: str | None) -> frozenset[str]:
    found = None if url is None else app.router.first_match(url)
    return frozenset() if found is None else found[0].pattern.parts.path_group_names
