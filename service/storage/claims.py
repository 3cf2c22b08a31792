"""Which install a click was given to: one install's alone, and committed before the answer leaves."""

from collections.abc import Callable, Mapping, Sequence

from service.storage.database import Database
from service.storage.hashes import device_name, device_number
from service.storage.statements import Statement, placeholders

CLAIM_TIMEOUT_S = 0.25  # an open waits no longer: without its claim it is answered as pending

_EXPIRED_AT_A_TIME = 1000
_CLAIM = """INSERT INTO claims (click_id, device, claimed_at) VALUES (?, ?, ?)
    ON CONFLICT (click_id) DO NOTHING"""
_OWNER = "SELECT device FROM claims WHERE click_id = ?"
_OWNERS = "SELECT click_id, device FROM claims WHERE click_id IN ({ids})"
_RELEASE = "DELETE FROM claims WHERE click_id = ? AND device = ?"
_EXPIRE = """DELETE FROM claims WHERE click_id IN
    (SELECT click_id FROM claims WHERE claimed_at < ? LIMIT ?) RETURNING 1"""


class ClaimStore:
    """Fills ``resolve.ports.Claims``; its methods raise ``StoreFailed``. ``unix_time`` is Unix seconds."""

    def __init__(self, database: Database, unix_time: Callable[[], float]) -> None:
        self._database = database
        self._unix_time = unix_time

    async def owners(self, click_ids: Sequence[str]) -> Mapping[str, str]:
        """Return the installs that have claimed any of these clicks, by click."""
        if not click_ids:
            return {}
        sql = _OWNERS.format(ids=placeholders(len(click_ids)))
        rows = await self._database.read(sql, *click_ids, timeout_s=CLAIM_TIMEOUT_S)
        return {click_id: device_name(device) for click_id, device in rows}

    async def claim(self, click_id: str, install: str) -> bool:
        """Give a click to an install, durably, if it is free or its own; return whether it is its own now.

        A claim that fails may have been committed all the same: it is the install's own when it asks again.
        """
        device = device_number(install)
        claim = Statement(_CLAIM, (click_id, device, int(self._unix_time() * 1000)))
        owner = Statement(_OWNER, (click_id,))
        (_, rows) = await self._database.write(claim, owner, timeout_s=CLAIM_TIMEOUT_S)
        return bool(rows) and rows[0][0] == device

    async def release(self, click_id: str, install: str) -> None:
        """Free a click, if it is the install's own."""
        await self._database.write(Statement(_RELEASE, (click_id, device_number(install))))

    async def forget(self, devices: Sequence[str]) -> int:
        """Delete a device's claims; return how many."""
        sql = f"DELETE FROM claims WHERE device IN ({placeholders(len(devices))}) RETURNING 1"  # noqa: S608  placeholders
        (rows,) = await self._database.write(Statement(sql, tuple(map(device_number, devices))))
        return len(rows)

    async def expire(self, before_ms: int) -> int:
        """Delete some claims from before a time; return how many."""
        (rows,) = await self._database.write(Statement(_EXPIRE, (before_ms, _EXPIRED_AT_A_TIME)))
        return len(rows)
