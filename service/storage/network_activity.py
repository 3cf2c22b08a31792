"""Collect the recent opens and clicks of a network, for matching by IP address.

What can go wrong: a recent open is not in the database yet (opens are written after they are answered, so
this process's opens of the last seconds are added from memory); a network has very many opens (only the
newest are read, because few clicks can be matched on a network with so many installs).
"""

import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec
from msgspec import Struct

from service.domain.device_traits import Traits
from service.domain.match_odds import ACTIVITY_S
from service.domain.match_rules import CLOCK_DIFFERENCE_S, SECOND_CLICK_S, NetworkView, Retirement, Rules
from service.storage.clicks import ClickStore
from service.storage.database import Database
from service.storage.hashes import device_name, device_number, to_signed
from service.storage.statements import Row, Statement

CLICKS_MAX = 64  # per network, the newest
INSTALLS_MAX = 128  # counted per network: a click of a minute ago is a guess among so many

_TIMEOUT_S = 0.25  # after this time, an open is answered as pending
_OPENS_MAX = 1024  # read from a network with many opens, the newest
_RECENT_S = 10.0  # longer than it takes to write an open to the database
_RECENT_NETWORKS_MAX = 10_000
# A second click this soon after the first in the window is used up together with the first.
CLICK_SLACK_S = SECOND_CLICK_S
_OPEN_SLACK_MS = 2 * CLOCK_DIFFERENCE_S * 1000  # an open uses up clicks that are later by Dub's clock

# An open counts at the time of its last answer, not of its first, because an install that is opened every day
# without a link has only one row.
_OPENS = """SELECT DISTINCT device, counts, traits,
    CASE WHEN traits IS NULL THEN NULL ELSE link_id END,
    CASE WHEN traits IS NULL THEN NULL ELSE opened_at END
    FROM (SELECT o.device, o.updated_at >= ? AS counts, o.link_id, o.opened_at,
        CASE WHEN o.updated_at >= ? THEN o.device_traits END AS traits
        FROM opens AS o WHERE o.network = ? AND o.updated_at >= ? AND o.app = ?
        ORDER BY o.updated_at DESC LIMIT ?) AS newest
    WHERE NOT EXISTS (SELECT 1 FROM erasures AS e
        WHERE e.device = newest.device AND e.erased_at >= newest.opened_at)"""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Traits).decode


def encode_traits(traits: Traits) -> str:
    """Return device traits as compact JSON."""
    return _encode(traits).decode()


def decode_traits(text: str) -> Traits:
    """Return device traits from JSON; raises ``msgspec.DecodeError``."""
    return _decode(text)


class _Recent(Struct):
    """The activity of a network in the last seconds, on this process."""

    installs: dict[int, int] = {}  # time of each install's last open, in Unix milliseconds
    retirements: list[Retirement] = []  # one for each install and link; nearly always one in all
    until: float = 0.0  # clock seconds


class NetworkActivity:
    """Implements ``ports.NetworkActivity`` for one app. ``clock`` returns monotonic seconds."""

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
        self._clock = clock
        # By time of the last open. A TTLCache takes ten times as long, which is 2 % of a cache miss.
        self._recent: OrderedDict[int, _Recent] = OrderedDict()

    def record_open(self, network: int, install: str, at_ms: int) -> None:
        """Remember an open until it is in the database."""
        self._note(network, install, at_ms)

    def record_install(self, network: int, retirement: Retirement) -> None:
        """Remember an install whose click is certain, until its open is in the database."""
        recent = self._note(network, retirement.install, retirement.at_ms)
        kept = recent.retirements
        for at, each in enumerate(kept):
            if each.install == retirement.install and each.link_id == retirement.link_id:
                del kept[at]
                break
        if len(kept) >= INSTALLS_MAX:
            del kept[0]
        kept.append(retirement)

    async def view(self, network: int, install: str, at_ms: int) -> NetworkView:
        """Return the clicks and installs of a network, as seen by an open of ``install``.

        ``at_ms`` is the time of the open, in Unix milliseconds. Raises ``StoreFailed``.
        """
        clicks_since_ms = at_ms - self._window_ms - CLICK_SLACK_S * 1000
        opens_since_ms = at_ms - self._window_ms - _OPEN_SLACK_MS
        active_since_ms = at_ms - ACTIVITY_S * 1000
        since_ms = min(opens_since_ms, active_since_ms)
        values = (active_since_ms, opens_since_ms, to_signed(network), since_ms, self._app, _OPENS_MAX)
        opens = Statement(_OPENS, values)
        clicked, opened = await self._database.read_all(
            self._clicks.on_network(network, clicks_since_ms, CLICKS_MAX), opens, timeout_s=_TIMEOUT_S
        )
        clicks, owners = self._clicks.clicks(clicked)
        installs = {device_number(install), *(device for device, counts, *_ in opened if counts)}
        retirements = [_retirement(row) for row in opened if row[2] is not None and row[3] is not None]
        recent = self._recent.get(network)
        if recent is not None and recent.until > self._clock():
            installs.update(
                device for device, seen_ms in recent.installs.items() if seen_ms >= active_since_ms
            )
            retirements += [each for each in recent.retirements if each.at_ms >= opens_since_ms]
        return NetworkView(clicks, owners, min(len(installs), INSTALLS_MAX), tuple(retirements))

    def _note(self, network: int, install: str, at_ms: int) -> _Recent:
        recent, now = self._recent.pop(network, None), self._clock()
        if recent is None or recent.until <= now:
            recent = _Recent()
        recent.until = now + _RECENT_S
        self._recent[network] = recent
        while len(self._recent) > _RECENT_NETWORKS_MAX or next(iter(self._recent.values())).until <= now:
            self._recent.popitem(last=False)
        device, installs = device_number(install), recent.installs
        installs.pop(device, None)
        if len(installs) >= INSTALLS_MAX:
            del installs[next(iter(installs))]
        installs[device] = at_ms
        return recent


def _retirement(row: Row) -> Retirement:
    device, _, traits, link_id, opened_at = row
    return Retirement(device_name(device), link_id, opened_at, decode_traits(traits))
