"""Clicks that Dub made a moment ago: it finds them at once, without asking its slower store."""

from collections import OrderedDict
from collections.abc import Callable

KNOWN_S = 280.0  # Dub keeps a deep-link open's click 5 minutes in its fast store; 20 s are ours, to send in
_CLICKS_MAX = 50_000


class RecentClicks:
    """Remembers when clicks were made, bounded by age and count. ``clock`` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._made: OrderedDict[str, float] = (
            OrderedDict()
        )  # a dict walks over what was deleted before its first

    def add(self, click_id: str, asked: float) -> None:
        """Remember a click that a call begun at ``asked`` (clock seconds) has made."""
        if len(self._made) >= _CLICKS_MAX:
            self._made.popitem(last=False)
        self._made.setdefault(click_id, asked)

    def known_for_s(self, click_id: str) -> float:
        """Return for how many seconds more Dub knows this click for certain; 0 if we cannot say."""
        made = self._made.get(click_id)
        return 0 if made is None else max(made + KNOWN_S - self._clock(), 0)
