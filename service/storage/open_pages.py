"""Read opens page by page, with a bounded number of rows read per page, also for an app with few opens."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from service.domain.open_listing import UNSETTLED_S, ListedOpen, OpenPage, Position, rfc3339
from service.storage.statements import Row, Statement

PAGE_TIMEOUT_S = 5.0

_LOOKED_AT_MAX = 10_000  # opens of all apps that are read for one page of one app
_PENDING_MS = 7 * 86_400_000  # after this time, an answer no longer changes
_COLUMNS = """o.open_id, o.app, o.opened_at, o.updated_at, o.match_type, o.guaranteed, o.confidence,
    o.match_reason, o.source, o.pending, o.click_id, o.link_id, o.link_domain, o.link_key, o.app_version"""
_LOOK_NO_FURTHER = """SELECT opened_at, open_id FROM opens WHERE (opened_at, open_id) > (?, ?)
    AND opened_at < ? ORDER BY opened_at, open_id LIMIT 1 OFFSET ?"""
_PAGE = f"""SELECT {_COLUMNS} FROM opens AS o WHERE (o.opened_at, o.open_id) > (?, ?)
    AND (o.opened_at, o.open_id) <= (?, ?) AND (o.app = ? OR ? = '')
    AND NOT EXISTS (SELECT 1 FROM erasures AS e WHERE e.device = o.device AND e.erased_at >= o.opened_at)
    ORDER BY o.opened_at, o.open_id LIMIT ?"""  # noqa: S608  constants

Read: TypeAlias = Callable[[Statement], Awaitable[list[Row]]]


class OpenPages:
    """Implements ``ports.OpenPages``. ``unix_time`` returns Unix seconds."""

    def __init__(self, read: Read, unix_time: Callable[[], float]) -> None:
        self._read = read
        self._unix_time = unix_time

    async def page(
        self, app: str | None, after: Position, limit: int, *, before_ms: int | None = None
    ) -> OpenPage:
        """Return opens after a position, of one app or of all; raises what ``read`` raises."""
        settled_ms = int((self._unix_time() - UNSETTLED_S) * 1000)
        end_ms = settled_ms if before_ms is None else min(before_ms, settled_ms)
        start = (after.opened_at_ms, after.open_id)
        found = await self._read(Statement(_LOOK_NO_FURTHER, (*start, end_ms, _LOOKED_AT_MAX - 1)))
        bound = Position(found[0][0], bytes(found[0][1])) if found else None
        last = Position(end_ms) if bound is None else bound
        name = app or ""
        values = (*start, last.opened_at_ms, last.open_id, name, name, limit)
        rows = await self._read(Statement(_PAGE, values))
        opens = [self._listed(row) for row in rows]
        if len(rows) == limit:
            end, has_more = Position(rows[-1][2], bytes(rows[-1][0])), True
        elif bound is not None:
            end, has_more = bound, True
        else:
            end = Position(rows[-1][2], bytes(rows[-1][0])) if rows else after
            has_more = False
        return OpenPage(opens, end.cursor(), has_more)

    def _listed(self, row: Row) -> ListedOpen:
        open_id, app, opened_at, updated_at, match_type, guaranteed, confidence, reason = row[:8]
        source, pending, click_id, link_id, link_domain, link_key, app_version = row[8:]
        return ListedOpen(
            open_id=bytes(open_id).hex(),
            app=app,
            opened_at=rfc3339(opened_at),
            updated_at=rfc3339(updated_at),
            match_type=match_type,
            guaranteed=bool(guaranteed),
            confidence=confidence,
            reason=reason,
            source=source,
            pending=bool(pending) and updated_at > self._unix_time() * 1000 - _PENDING_MS,
            click_id=click_id,
            link_id=link_id,
            link_domain=link_domain,
            link_key=link_key,
            app_version=app_version,
        )
