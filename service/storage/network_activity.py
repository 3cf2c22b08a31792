"""What the opens and clicks of a network tell matching: who opened the app there, and what was clicked.

What can go wrong: an open of a moment ago is not in the database yet (opens are written behind, when they are
answered: those that this process saw in the last seconds are added from memory); a network with very many
opens (only the newest are read: with that many installs nothing is matched there anyway).
"""

import time
from collections.abc import Callable
from typing import TypeVar

import msgspec
from cachetools import TTLCache
from msgspec import Struct

from service.domain.device_traits import Traits
from service.domain.match_rules import CLOCK_DIFFERENCE_S, SECOND_CLICK_S, NetworkView, Retirement, Rules
from service.storage.clicks import ClickStore
from service.storage.database import Database
from service.storage.hashes import device_name, device_number, to_signed
from service.storage.statements import Row, Statement

CLICKS_MAX = 64  # of a network, the newest
INSTALLS_MAX = 64  # counted at least; more where an app's crowd_limit is higher

_TIMEOUT_S = 0.25  # an open waits no longer: it is answered as pending
_OPENS_PER_INSTALL = 16  # that are read, of a network that has many
_RECENT_S = 10.0  # longer than an open takes from here into the database
_RECENT_NETWORKS_MAX = 10_000
# A click that was made up to so much later than the window's first is used up together with that one.
CLICK_SLACK_S = SECOND_CLICK_S
_OPEN_SLACK_MS = 2 * CLOCK_DIFFERENCE_S * 1000  # an open uses up clicks that Dub's clock says are later

# An open counts when it was last answered, not when it was first: an install that is opened every day without
# a link has one row.
_OPENS = """SELECT DISTINCT device, seen_in_window, device_traits,
    CASE WHEN device_traits IS NULL THEN NULL ELSE link_id END,
    CASE WHEN device_traits IS NULL THEN NULL ELSE opened_at END
    FROM (SELECT o.device, o.updated_at >= ? AS seen_in_window, o.link_id, o.opened_at, o.device_traits
        FROM opens AS o WHERE o.network = ? AND o.updated_at >= ? AND o.app = ?
        ORDER BY o.updated_at DESC LIMIT ?) AS newest
    WHERE NOT EXISTS (SELECT 1 FROM erasures AS e
        WHERE e.device = newest.device AND e.erased_at >= newest.opened_at)"""

K = TypeVar("K")
V = TypeVar("V")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Traits).decode


def encode_traits(traits: Traits) -> str:
    """Write device traits as compact JSON."""
    return _encode(traits).decode()


def decode_traits(text: str) -> Traits:
    """Read device traits; raises ``msgspec.DecodeError``."""
    return _decode(text)


class _Recent(Struct):
    """What this process saw of a network in the last seconds."""

    installs: dict[int, int]  # when each opened, in Unix milliseconds
    retirements: dict[tuple[str, str], Retirement]  # by install and link


class NetworkActivity:
    """Fills ``resolve.ports.NetworkActivity`` for one app. ``clock`` is monotonic seconds, in real time."""

    def __init__(
        self,
        database: Database,
        clicks: ClickStore,
        app: str,
        rules: Rules,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._clicks = clicks
        self._app = app
        self._window_ms = rules.window_s * 1000
        self._installs_max = max(INSTALLS_MAX, rules.crowd_limit) + 1
        self._recent: TTLCache[int, _Recent] = TTLCache(_RECENT_NETWORKS_MAX, _RECENT_S, clock)

    def record_open(self, network: int, install: str, at_ms: int) -> None:
        """Note an open until the database has it."""
        self._note(network, install, at_ms)

    def record_install(self, network: int, retirement: Retirement) -> None:
        """Note an install that was found by certain evidence, until the database has its open."""
        recent = self._note(network, retirement.install, retirement.at_ms)
        _put(recent.retirements, (retirement.install, retirement.link_id), retirement, self._installs_max)

    async def view(self, network: int, install: str, at_ms: int) -> NetworkView:
        """Return what is known of a network, for an install that opened from it; raises ``StoreFailed``.

        ``at_ms`` is when it opened, in Unix milliseconds.
        """
        since_ms = at_ms - self._window_ms
        clicks_since_ms = since_ms - CLICK_SLACK_S * 1000
        opens_since_ms = since_ms - _OPEN_SLACK_MS
        rows_max = _OPENS_PER_INSTALL * self._installs_max
        opens = Statement(_OPENS, (since_ms, to_signed(network), opens_since_ms, self._app, rows_max))
        clicked, opened = await self._database.read_all(
            self._clicks.on_network(network, clicks_since_ms, CLICKS_MAX), opens, timeout_s=_TIMEOUT_S
        )
        clicks, owners = self._clicks.clicks(clicked)
        installs = {device_number(install), *(device for device, in_window, *_ in opened if in_window)}
        retirements = [_retirement(row) for row in opened if row[2] is not None and row[3] is not None]
        recent = self._recent.get(network)
        if recent is not None:
            installs.update(device for device, seen_ms in recent.installs.items() if seen_ms >= since_ms)
            retirements += [each for each in recent.retirements.values() if each.at_ms >= opens_since_ms]
        return NetworkView(clicks, owners, min(len(installs), self._installs_max), tuple(retirements))

    def _note(self, network: int, install: str, at_ms: int) -> _Recent:
        recent = self._recent.get(network)
        if recent is None:
            recent = _Recent({}, {})
        self._recent[network] = recent  # and for some seconds more
        _put(recent.installs, device_number(install), at_ms, self._installs_max)
        return recent


def _put(kept: dict[K, V], key: K, value: V, at_most: int) -> None:
    """Keep the newest of what was put in."""
    kept.pop(key, None)
    if len(kept) >= at_most:
        del kept[next(iter(kept))]
    kept[key] = value


def _retirement(row: Row) -> Retirement:
    device, _, traits, link_id, opened_at = row
    return Retirement(device_name(device), link_id, opened_at, decode_traits(traits))
