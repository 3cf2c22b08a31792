"""Store the counts of shadow matches, by app and day; nothing in them is personal."""

from collections import Counter
from collections.abc import Callable, Sequence

from service.domain.calibration import SHADOW_KEPT_DAYS, Calibration, ShadowMatch, calibration_of
from service.storage.database import Database
from service.storage.days import day_began_ms
from service.storage.statements import Statement

_TIMEOUT_S = 1.0
_NO_CANDIDATE = -1  # as ``percent``: a primary key cannot be null
_ADD = """INSERT INTO shadow_matches (app, day, outcome, percent, agrees, opens) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (app, day, outcome, percent, agrees)
    DO UPDATE SET opens = shadow_matches.opens + excluded.opens"""
_READ = """SELECT outcome, percent, agrees, sum(opens) FROM shadow_matches
    WHERE app = ? AND day > ? GROUP BY outcome, percent, agrees"""
_EXPIRE = "DELETE FROM shadow_matches WHERE day <= ?"


class CalibrationStore:
    """Implements ``ports.KeptCalibration``. ``unix_time`` is Unix seconds."""

    def __init__(self, database: Database, unix_time: Callable[[], float]) -> None:
        self._database = database
        self._unix_time = unix_time

    def add(self, app: str, matches: Sequence[ShadowMatch]) -> None:
        """Count an app's shadow matches, written behind. Never raises."""
        today = day_began_ms(self._unix_time(), 0)
        rows = sorted(
            (
                app,
                today,
                each.outcome,
                _NO_CANDIDATE if each.percent is None else each.percent,
                each.agrees,
                count,
            )
            for each, count in Counter(matches).items()
        )  # in one order on all replicas, which update the same rows
        self._database.write_behind(*(Statement(_ADD, row) for row in rows))

    async def read(self, app: str, days: int = SHADOW_KEPT_DAYS) -> Calibration:
        """Return how good an app's matching was in the last days; raises ``StoreFailed``."""
        rows = await self._database.read(
            _READ, app, day_began_ms(self._unix_time(), days), timeout_s=_TIMEOUT_S
        )
        counted = [
            (ShadowMatch(outcome, None if percent == _NO_CANDIDATE else percent, bool(agrees)), int(opens))
            for outcome, percent, agrees, opens in rows
        ]
        return calibration_of(app, days, counted)

    async def expire(self) -> int:
        """Delete the counts of days that are too long ago. Return 0, because nothing is left to delete."""
        await self._database.write(Statement(_EXPIRE, (day_began_ms(self._unix_time(), SHADOW_KEPT_DAYS),)))
        return 0
