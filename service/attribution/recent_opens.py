"""Find an app's latest opens, and where each of them lands, for operators.

What can go wrong: an app has few opens among many of other apps, or few that fit a filter (each page reads a
bounded number of rows, and says where the next one continues).
"""

from msgspec import Struct

from service.domain.models import App, MatchType, Open
from service.domain.open_listing import Position
from service.domain.ports import OpenHistory
from service.domain.routing import Reason, Route

PAGE_OPENS = 50
_READ_AT_A_TIME = 200
_READS_MAX = 5


class OpenFilter(Struct, frozen=True):
    """Which opens are wanted; None: all."""

    match_type: MatchType | None = None
    outcome: Reason | None = None


class LandedOpen(Struct, frozen=True):
    """An open, and where it lands by the routes that are in force now."""

    open: Open
    route: Route


class RecentPage(Struct, frozen=True):
    """Opens, newest first. ``older`` is where the next page begins; None: there are no older opens."""

    opens: list[LandedOpen]
    older: Position | None


class RecentOpens:
    """Reads the latest opens."""

    def __init__(self, history: OpenHistory) -> None:
        self._history = history

    async def page(self, app: App, wanted: OpenFilter, before: Position | None = None) -> RecentPage:
        """Return the latest opens before a position; raises ``StoreFailed``."""
        found: list[LandedOpen] = []
        for _ in range(_READS_MAX):
            some, older = await self._history.before(app.name, before, wanted.match_type, _READ_AT_A_TIME)
            for opened in some:
                landed = LandedOpen(opened, land(app, opened))
                if wanted.outcome in (None, landed.route.reason):
                    found.append(landed)
                if len(found) == PAGE_OPENS:
                    return RecentPage(found, position_of(opened))
            if older is None:
                return RecentPage(found, None)
            before = older
        return RecentPage(found, before)


def land(app: App, opened: Open) -> Route:
    """Return where an open lands by the app's routes."""
    return app.router.route(opened.destination, opened.carried, opened.app_version)


def position_of(opened: Open) -> Position:
    """Return the position of an open in the order of time."""
    return Position(round(opened.opened_at * 1000), bytes.fromhex(opened.open_id))
