"""Which install a click was given to: one install's alone, and committed before the answer leaves."""

from collections.abc import Callable, Mapping, Sequence

from service.storage.database import Database
from service.storage.hashes import device_name, device_number
from service.storage.statements import RowStatement, Statement, placeholders

CLAIM_TIMEOUT_S = 0.25  # an open waits no longer: without its claim it is answered as pending

_EXPIRED_AT_A_TIME = 1000
_CLAIM = RowStatement(
    table="claims",
    before="INSERT INTO claims (click_id, device, evidence, claimed_at) VALUES ",
    row="(?, ?, ?, ?)",
    after=" ON CONFLICT (click_id) DO NOTHING",
)
_OWNERS = "SELECT click_id, device FROM claims WHERE click_id IN ({ids})"
_RELEASE = "DELETE FROM claims WHERE device = ? AND click_id IN ({ids}) RETURNING click_id"
_EXPIRE = """DELETE FROM claims WHERE click_id IN
    (SELECT click_id FROM claims WHERE claimed_at < ? LIMIT ?) RETURNING 1"""


class ClaimStore:
    """Claims on clicks. ``unix_time`` is wall clock seconds. Every method raises ``StoreFailed``."""

    def __init__(self, database: Database, unix_time: Callable[[], float]) -> None:
        self._database = database
        self._unix_time = unix_time

    async def owners(self, click_ids: Sequence[str]) -> Mapping[str, str]:
        """Return the installs that hold any of these clicks, by click."""
        if not click_ids:
            return {}
        rows = await self._database.read(*_in(_OWNERS, click_ids), timeout_s=CLAIM_TIMEOUT_S)
        return {click_id: device_name(device) for click_id, device in rows}

    async def claim(self, click_ids: Sequence[str], install: str, evidence: str) -> frozenset[str]:
        """Give an install those of the clicks that are free; return all of them that are its own now."""
        if not click_ids:
            return frozenset()
        now = int(self._unix_time() * 1000)
        device = device_number(install)
        rows = [(each, device, evidence, now) for each in sorted(click_ids)]  # one order: no deadlocks
        insert = [statement for statement, _ in _CLAIM.over(rows)]
        sql, *ids = _in(_OWNERS, click_ids)
        found = await self._database.write(
            *insert, Statement(str(sql), tuple(ids)), timeout_s=CLAIM_TIMEOUT_S
        )
        return frozenset(click_id for click_id, owner in found[-1] if owner == device)

    async def release(self, click_ids: Sequence[str], install: str) -> frozenset[str]:
        """Give clicks back that an install holds; return those that it held."""
        if not click_ids:
            return frozenset()
        sql, *ids = _in(_RELEASE, click_ids)
        (rows,) = await self._database.write(Statement(str(sql), (device_number(install), *ids)))
        return frozenset(click_id for (click_id,) in rows)

    async def expire(self, before_ms: int) -> int:
        """Delete some claims from before a time; return how many."""
        (rows,) = await self._database.write(Statement(_EXPIRE, (before_ms, _EXPIRED_AT_A_TIME)))
        return len(rows)


def _in(sql: str, values: Sequence[str]) -> tuple[str, *tuple[object, ...]]:
    return sql.format(ids=placeholders(len(values))), *values
