"""Limit the analytics calls per second of a workspace, for all replicas that share a database.

Each call that is allowed in a second is a slot, which is free again one second after it was taken, so no
second has more calls. What can go wrong: the database is slow or down (then each replica counts only its own
calls, see ``event_feed.CallBudget``: a sync that Dub throttles is better than no sync).
"""

from hashlib import blake2b

from service.domain.errors import OverBudget, StoreFailed
from service.storage.database import Database
from service.storage.statements import RowStatement, Statement

_TIMEOUT_S = 0.25
_WINDOW_MS = 1000
_WAIT_MIN_MS = 10  # another replica may be taking the slot that is free
_TAKE = """UPDATE call_budgets SET free_at = {now_ms} + ? WHERE workspace = ? AND free_at <= {now_ms}
    AND slot = (SELECT slot FROM call_budgets WHERE workspace = ? AND slot < ? AND free_at <= {now_ms}
    ORDER BY slot LIMIT 1 {skip_locked}) RETURNING slot"""
_NEXT = "SELECT count(*), min(free_at) - {now_ms} FROM call_budgets WHERE workspace = ? AND slot < ?"
_ADD = RowStatement(
    table="call_budgets",
    before="INSERT INTO call_budgets (slot, workspace, free_at) VALUES ",
    row="(?, ?, 0)",
    after=" ON CONFLICT (workspace, slot) DO NOTHING",
)


class SharedCallBudget:
    """Implements ``ports.CallBudget``. ``secret`` keys the hashes of Dub API keys."""

    def __init__(self, database: Database, secret: str) -> None:
        self._database = database
        self._secret = blake2b(secret.encode("utf-8", "surrogateescape"), person=b"firstopen.spent").digest()

    async def spend(self, workspace: str, per_s: int) -> None:
        """Count one call; raises ``OverBudget`` with the seconds until the next one is allowed."""
        name = blake2b(workspace.encode(), digest_size=16, key=self._secret).hexdigest()
        take = Statement(_TAKE, (_WINDOW_MS, name, name, per_s))
        following = Statement(_NEXT, (name, per_s))
        try:
            taken, ((slots, wait_ms),) = await self._database.write(take, following, timeout_s=_TIMEOUT_S)
            if not taken and slots < per_s:  # the workspace's first call, or its limit was raised
                add = [
                    each for unit, _ in _ADD.over([(slot, name) for slot in range(per_s)]) for each in unit
                ]
                *_, taken, ((_, wait_ms),) = await self._database.write(
                    *add, take, following, timeout_s=_TIMEOUT_S
                )
        except StoreFailed:
            return
        if not taken:
            raise OverBudget(max(wait_ms, _WAIT_MIN_MS) / 1000)
