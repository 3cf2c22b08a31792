"""Store touches beside the clicks, and know whether an app has any.

What can go wrong: somebody floods a network with touches, so that its clicks are not read any more (a network
keeps few of them); a touch that names somebody else's click moves that click to another network (a click that
is stored on another network is left alone, and Dub's own event corrects a touch that came first).
"""

import time
from collections.abc import Callable, Sequence

from cachetools import TTLCache

from service.domain.match_rules import Click
from service.storage.clicks import encode_click
from service.storage.database import Database
from service.storage.encryption import Cipher
from service.storage.hashes import device_number, to_signed
from service.storage.statements import Statement, placeholders

PER_NETWORK_MAX = 24  # of an app, within its window; matching reads the newest 64 clicks and touches

_TIMEOUT_S = 0.25
_NONE_KNOWN_S = 0.5  # a touch is found by other replicas after this
_SOME_KNOWN_S = 30.0
_APPS_MAX = 10_000

_COUNT = """SELECT count(*) FROM (SELECT 1 FROM clicks
    WHERE app = ? AND network = ? AND clicked_at >= ? AND is_touch LIMIT ?) AS counted"""
_ADD = """INSERT INTO clicks (click_id, app, network, clicked_at, record, is_touch)
    VALUES (?, ?, ?, ?, ?, TRUE)
    ON CONFLICT (app, click_id) DO UPDATE SET record = excluded.record, is_touch = TRUE
    WHERE clicks.network = excluded.network RETURNING 1"""
_ANY = "SELECT 1 FROM clicks WHERE app = ? AND is_touch AND clicked_at >= ? LIMIT 1"
_FORGET = """DELETE FROM clicks WHERE is_touch AND click_id IN
    (SELECT click_id FROM claims WHERE device IN ({devices})) RETURNING 1"""


class TouchStore:
    """Implements ``ports.TouchStore``; its methods raise ``StoreFailed``. ``clock`` is monotonic seconds."""

    def __init__(
        self, database: Database, cipher: Cipher, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._cipher = cipher
        self._none: TTLCache[str, bool] = TTLCache(_APPS_MAX, _NONE_KNOWN_S, clock)
        self._some: TTLCache[str, bool] = TTLCache(_APPS_MAX, _SOME_KNOWN_S, clock)

    async def add(self, app: str, network: int, touch: Click, since_ms: int) -> bool:
        """Commit a touch; return False if the network has too many since a time (Unix milliseconds)."""
        hashed = to_signed(network)
        ((count,),) = await self._database.read(
            _COUNT, app, hashed, since_ms, PER_NETWORK_MAX, timeout_s=_TIMEOUT_S
        )
        if count >= PER_NETWORK_MAX:
            return False
        record = encode_click(touch, self._cipher)
        add = Statement(_ADD, (touch.id, app, hashed, touch.at_ms, record))
        (rows,) = await self._database.write(add, timeout_s=_TIMEOUT_S)
        self._some[app] = True
        self._none.pop(app, None)
        return bool(rows)

    async def exist(self, app: str, since_ms: int) -> bool:
        """Return whether the app has touches since a time; another replica's first one half a second late."""
        if app in self._some:
            return True
        if app in self._none:
            return False
        found = bool(await self._database.read(_ANY, app, since_ms, timeout_s=_TIMEOUT_S))
        (self._some if found else self._none)[app] = True
        return found

    async def forget(self, devices: Sequence[str]) -> int:
        """Delete the touches that these devices have claimed; return how many."""
        sql = _FORGET.format(devices=placeholders(len(devices)))
        (rows,) = await self._database.write(Statement(sql, tuple(map(device_number, devices))))
        return len(rows)
