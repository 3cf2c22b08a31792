"""Store what an app's first opens say of its installs: counters by app and day, nothing personal.

What can go wrong: a batch is written again after the connection broke in its commit, and counts twice. That
changes an estimate by a little, and no row is locked for it.
"""

from collections.abc import Callable, Mapping

from service.domain.learned_rates import LEARNED_DAYS
from service.storage.database import Database
from service.storage.days import day_began_ms
from service.storage.statements import Statement

_TIMEOUT_S = 1.0
_ADD = """INSERT INTO learned_counts (app, day, name, total) VALUES (?, ?, ?, ?)
    ON CONFLICT (app, day, name) DO UPDATE SET total = learned_counts.total + excluded.total"""
_READ = "SELECT app, name, sum(total) FROM learned_counts WHERE day > ? GROUP BY app, name"
_EXPIRE = "DELETE FROM learned_counts WHERE day <= ?"


class RateStore:
    """Implements ``ports.KeptRates``. ``unix_time`` is Unix seconds."""

    def __init__(self, database: Database, unix_time: Callable[[], float]) -> None:
        self._database = database
        self._unix_time = unix_time

    def add(self, app: str, counts: Mapping[str, int]) -> None:
        """Add to an app's counters of today, written behind. Never raises."""
        today = day_began_ms(self._unix_time(), 0)
        rows = sorted((app, today, name, total) for name, total in counts.items())
        self._database.write_behind(*(Statement(_ADD, row) for row in rows))

    async def read(self) -> Mapping[str, Mapping[str, int]]:
        """Return the counters of the last days, by app and name; raises ``StoreFailed``."""
        rows = await self._database.read(
            _READ, day_began_ms(self._unix_time(), LEARNED_DAYS), timeout_s=_TIMEOUT_S
        )
        counted: dict[str, dict[str, int]] = {}
        for app, name, total in rows:
            counted.setdefault(app, {})[name] = int(total)
        return counted

    async def expire(self) -> int:
        """Delete the counters of days that are too long ago. Return 0, because nothing is left to delete."""
        await self._database.write(Statement(_EXPIRE, (day_began_ms(self._unix_time(), LEARNED_DAYS),)))
        return 0
