"""Store claims: each click belongs to one install, and a claim is committed before the answer is sent."""

from collections.abc import Callable, Mapping, Sequence

from service.storage.database import Database
from service.storage.hashes import device_name, device_number
from service.storage.statements import RowStatement, Statement, placeholders

CLAIM_TIMEOUT_S = 0.25  # after this time, an open is answered as pending

_EXPIRED_AT_A_TIME = 1000
# An existing claim is written again. PostgreSQL shows rows of a commit that has given up waiting for its
# synchronous standby, and only another commit that writes waits until the standby has them.
_CLAIM = RowStatement(
    table="claims",
    before="INSERT INTO claims (click_id, device, claimed_at) VALUES ",
    row="(?, ?, ?)",
    after=""" ON CONFLICT (click_id) DO UPDATE SET device = excluded.device
        WHERE claims.device = excluded.device""",
    query="SELECT click_id, device FROM claims WHERE click_id IN ({ids})",
)
_OWNERS = "SELECT click_id, device FROM claims WHERE click_id IN ({ids})"
_RELEASE = "DELETE FROM claims WHERE click_id = ? AND device = ?"
_EXPIRE = """DELETE FROM claims WHERE click_id IN
    (SELECT click_id FROM claims WHERE claimed_at < ? LIMIT ?) RETURNING 1"""


class ClaimStore:
    """Implements ``ports.Claims``; its methods raise ``StoreFailed``. ``unix_time`` is in Unix seconds."""

    def __init__(self, database: Database, unix_time: Callable[[], float]) -> None:
        self._database = database
        self._unix_time = unix_time

    async def owners(self, click_ids: Sequence[str]) -> Mapping[str, str]:
        """Return which installs have claimed these clicks, by click id."""
        if not click_ids:
            return {}
        sql = _OWNERS.format(ids=placeholders(len(click_ids)))
        rows = await self._database.read(sql, *click_ids, timeout_s=CLAIM_TIMEOUT_S)
        return {click_id: device_name(device) for click_id, device in rows}

    async def claim(self, click_id: str, install: str) -> bool:
        """Commit an install's claim of a click; return True if the click is the install's.

        Return False if another install has claimed it. If this raises, the claim may still have been
        committed; the install then gets True when it claims the click again.
        """
        device = device_number(install)
        row = (click_id, device, int(self._unix_time() * 1000))
        _, rows = await self._database.write_row(_CLAIM, row, timeout_s=CLAIM_TIMEOUT_S)
        return rows == [(click_id, device)]

    async def release(self, click_id: str, install: str) -> None:
        """Delete the claim of a click, if this install has it."""
        await self._database.write(Statement(_RELEASE, (click_id, device_number(install))))

    async def forget(self, devices: Sequence[str]) -> int:
        """Delete the claims of these devices; return how many."""
        sql = f"DELETE FROM claims WHERE device IN ({placeholders(len(devices))}) RETURNING 1"  # noqa: S608  placeholders
        (rows,) = await self._database.write(Statement(sql, tuple(map(device_number, devices))))
        return len(rows)

    async def expire(self, before_ms: int) -> int:
        """Delete a batch of claims from before a time (Unix milliseconds); return how many."""
        (rows,) = await self._database.write(Statement(_EXPIRE, (before_ms, _EXPIRED_AT_A_TIME)))
        return len(rows)
