"""The pages about opens: the latest ones, and one in detail."""

from typing import Annotated, cast, get_args
from urllib.parse import urlencode

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import PathParameter

from service.api.console.decisions import decision_of
from service.api.console.sessions import PATH
from service.api.console.shell import ConsoleRequest, Shell
from service.attribution.recent_opens import OpenFilter, RecentOpens
from service.attribution.resolver import Resolver
from service.domain.models import MatchType
from service.domain.open_explanations import MATCH_TYPES, OUTCOMES
from service.domain.open_listing import read_cursor
from service.domain.outbox_entries import install_name, settling_name
from service.domain.ports import OutboxDesk
from service.domain.routing import Reason


def opens_pages(
    shell: Shell, recent: RecentOpens, resolver: Resolver, outbox: OutboxDesk
) -> list[HTTPRouteHandler]:
    """Build the handlers of the pages about opens."""
    shell.add("Opens", f"{PATH}/opens")

    @get(f"{PATH}/opens", before_request=shell.signed_in)
    async def opens(request: ConsoleRequest) -> Response[bytes]:
        """List the latest opens that fit the filter."""
        query = request.query_params
        wanted = filter_of(query.get("match", ""), query.get("outcome", ""))
        before = read_cursor(query.get("before", ""))
        page = await recent.page(request.app_of_session, wanted, before)
        older = None
        if page.older is not None:
            kept = {"match": wanted.match_type, "outcome": wanted.outcome, "before": page.older.cursor()}
            older = f"{PATH}/opens?" + urlencode({name: value for name, value in kept.items() if value})
        return await shell.page(
            request,
            "opens.html",
            page=page,
            wanted=wanted,
            older=older,
            match_types=MATCH_TYPES,
            outcomes=OUTCOMES,
        )

    @get(f"{PATH}/opens/{{openId:str}}", before_request=shell.signed_in)
    async def one(
        request: ConsoleRequest, open_id: Annotated[str, PathParameter(name="openId")]
    ) -> Response[bytes]:
        """Explain one open."""
        app = request.app_of_session
        opened = await resolver.opened(app, open_id)
        answer = await resolver.recall(app, open_id)
        trace = resolver.trace_of(open_id)
        names = [open_id, opened.device, install_name(opened.device), settling_name(open_id)]
        return await shell.page(
            request,
            "open.html",
            open=opened,
            answer=answer,
            decision=await decision_of(app, opened, answer, trace),
            owed=await outbox.concerning(app.name, names),
            outcomes=OUTCOMES,
            match_types=MATCH_TYPES,
        )

    return [opens, one]


def filter_of(match_type: str, outcome: str) -> OpenFilter:
    """Return the filter of a query; unknown values count as none."""
    return OpenFilter(
        cast("MatchType", match_type) if match_type in get_args(MatchType) else None,
        cast("Reason", outcome) if outcome in get_args(Reason) else None,
    )
